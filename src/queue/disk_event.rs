//! What the queue worker reports of its disk, so that the caller can count it.

use std::time::Duration;

/// The outcome of a disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskEvent {
    /// Entries were made durable in this time.
    Flushed(Duration),
    /// This operation failed.
    Failed(&'static str),
}

/// Receives each event on the queue worker's thread; must not block.
pub type DiskObserver = fn(DiskEvent);

//! The events of its disk that the queue worker reports, so that the caller can count them.

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

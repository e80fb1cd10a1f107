//! An entry on its way into the queue, and what became of it.

use super::ledger::DropReason;
use crate::entry::{CapturedAt, Seq, Situation};

/// An entry from a source. The queue assigns its position and stint.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Defines the order of the queue: strictly later than the `captured_at` of the previous entry,
    /// for all streams together.
    pub captured_at: CapturedAt,
    /// The time of capture if it differs from `captured_at`: entries relayed from another agent may
    /// arrive hours late.
    pub driven_at: Option<CapturedAt>,
    pub content: Content,
    pub json: String,
}

/// The content of a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Frame(Situation),
    /// A setup is accepted if its fingerprint differs from that of the stint's last setup.
    Setup {
        fingerprint: u64,
    },
}

/// The outcome of an append, for one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Stored, with the durability that `queue.durability` promises.
    Stored(Seq),
    /// The setup equals the previous one and was not stored again.
    Unchanged,
    /// Not stored; counted under this reason.
    Dropped(DropReason),
    /// Buffered in memory because the disk is slow or failing. It will be stored, or counted as
    /// dropped or downsampled.
    Buffered,
}

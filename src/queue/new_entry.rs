//! An entry on its way into the queue, and what became of it.

use std::time::Duration;

use super::Stamp;
use super::ledger::DropReason;
use crate::entry::{CapturedAt, Seq, Situation};

/// An entry from a source. The queue assigns its position and stint.
#[derive(Clone, Debug)]
pub struct NewEntry {
    pub stamp: Stamp,
    /// The time of capture: the stamp's wall clock, unless the source knows better.
    pub captured_at: CapturedAt,
    /// For an entry relayed from another agent, its position in that agent's queue.
    pub origin: Option<Seq>,
    /// The pause of the recording before this entry. If it is long enough, the entry begins a stint,
    /// although a recording may be read faster than it was made.
    pub pause: Duration,
    pub content: Content,
    pub json: String,
}

impl NewEntry {
    /// An entry that is captured now.
    pub fn new(stamp: Stamp, content: Content, json: String) -> Self {
        let pause = Duration::ZERO;
        Self { stamp, captured_at: stamp.wall, origin: None, pause, content, json }
    }
}

/// The content of a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Frame(Situation),
    /// A setup is accepted if its fingerprint differs from the fingerprint of the stint's last setup.
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

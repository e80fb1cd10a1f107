//! The operator's handle for a queue: inspects it and edits it by hand.
//!
//! The readers are not affected. Each call is one short step of the queue worker; longer work takes
//! several calls.

use tokio::sync::mpsc;

use super::disposition::DestinationFate;
pub use super::engine::{Peeked, PurgeStep, StintSession};
use super::error::QueueError;
use super::fsck::{Repaired, SegmentReport};
use super::limits::Limit;
use super::reader::ask;
use super::worker::Request;
use crate::entry::{CapturedAt, CarId, Seq};

/// The maximum entries, and bytes of their records, that a queue tool reads at once; a larger entry
/// is read alone. The queue worker does nothing else meanwhile.
pub(crate) const PAGE_ENTRIES: usize = 1024;
pub(crate) const PAGE_BYTES: usize = 1 << 20;

/// The operator's handle for a queue. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Operator {
    requests: mpsc::Sender<Request>,
}

impl Operator {
    pub(super) fn new(commands: mpsc::Sender<Request>) -> Self {
        Self { requests: commands }
    }

    /// Reads entries from `from`: at most `entries`, and no more than a page of [`PAGE_ENTRIES`]
    /// and [`PAGE_BYTES`]. Empty at the end of the queue.
    pub async fn peek(&self, from: Seq, entries: usize) -> Result<Vec<Peeked>, QueueError> {
        let limit = Limit { entries: entries.clamp(1, PAGE_ENTRIES), bytes: PAGE_BYTES };
        ask(&self.requests, |reply| Request::Peek { from, limit, reply }).await
    }

    /// The disposition of the entry at `seq` for each destination.
    pub async fn dispositions(&self, seq: Seq) -> Result<Vec<DestinationFate>, QueueError> {
        ask(&self.requests, |reply| Request::Fates { seq, reply }).await
    }

    /// Reads every byte of the segment that contains `from`, or else of the next one, without
    /// changing it; `None` at the end of the queue.
    pub async fn scan(&self, from: Seq) -> Result<Option<SegmentReport>, QueueError> {
        ask(&self.requests, |reply| Request::Scan { from, reply }).await
    }

    /// Repairs the segment that contains `from`, or else the next one, by reading it as a reader
    /// would: a damaged segment is moved to quarantine, readable records are kept, and the rest is
    /// counted as lost.
    pub async fn repair(&self, from: Seq) -> Result<Option<Repaired>, QueueError> {
        ask(&self.requests, |reply| Request::Repair { from, reply }).await
    }

    /// Drops entries from `first` to `last` inclusive, as many as fit in one step. The result
    /// contains the range that remains to be dropped.
    pub async fn purge(&self, first: Seq, last: Seq) -> Result<PurgeStep, QueueError> {
        ask(&self.requests, |reply| Request::Purge { first, last, reply }).await
    }

    /// The dead letters, oldest first, and the head of the queue: a dead letter below the head has
    /// left the queue, the others are still queued.
    pub async fn dead_letters(&self) -> Result<(String, Seq), QueueError> {
        ask(&self.requests, |reply| Request::DeadLetters { reply }).await
    }

    /// The known sessions that servers assigned to stints, newest last.
    pub async fn sessions(&self) -> Result<Vec<StintSession>, QueueError> {
        ask(&self.requests, |reply| Request::Sessions { reply }).await
    }

    /// Makes the stream's next entry, captured at about `at`, continue existing sessions:
    /// `sessions` are pairs of a server name and the session that it assigned to the stint
    /// elsewhere.
    pub async fn continue_stint(
        &self,
        stream: &CarId,
        at: CapturedAt,
        sessions: Vec<(String, String)>,
    ) -> Result<(), QueueError> {
        let stream = stream.clone();
        ask(&self.requests, |reply| Request::ContinueStint { stream, at, sessions, reply }).await
    }

    /// Returns the dead letters like [`Operator::dead_letters`] and archives them, in place of the
    /// previous archive.
    pub async fn archive_dead_letters(&self) -> Result<(String, Seq), QueueError> {
        ask(&self.requests, |reply| Request::ArchiveDeadLetters { reply }).await
    }
}

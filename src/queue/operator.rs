//! The operator's handle for a queue: inspects it and edits it by hand.
//!
//! The readers are not affected. Each call is one short step of the queue worker; longer work takes
//! several calls.

use super::disposition::DestinationDisposition;
use super::engine::Engine;
pub use super::engine::{Peeked, PurgeStep, StintSession};
use super::fsck::{self, Repaired, SegmentReport};
use super::worker::Requests;
use super::{Limit, QueueError};
use crate::entry::{CarId, QueueTime, Seq};

/// The maximum entries, and bytes of their records, that a queue tool reads at once; a larger entry
/// is read alone. The queue worker does nothing else meanwhile.
pub(crate) const PAGE_ENTRIES: usize = 1024;
pub(crate) const PAGE_BYTES: usize = 1 << 20;

/// The operator's handle for a queue. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Operator {
    requests: Requests,
}

impl Operator {
    pub(super) fn new(requests: Requests) -> Self {
        Self { requests }
    }

    /// Reads entries from `from`: at most `entries`, and no more than a page of `PAGE_ENTRIES`
    /// and `PAGE_BYTES`. Empty at the end of the queue.
    pub async fn peek(&self, from: Seq, entries: usize) -> Result<Vec<Peeked>, QueueError> {
        let limit = Limit { entries: entries.clamp(1, PAGE_ENTRIES), bytes: PAGE_BYTES };
        self.requests.read(move |engine| engine.peek(from, limit)).await
    }

    /// The disposition of the entry at `seq` for each destination.
    pub async fn dispositions(&self, seq: Seq) -> Result<Vec<DestinationDisposition>, QueueError> {
        self.requests.ask(move |engine| engine.dispositions(seq)).await
    }

    /// Reads every byte of the segment that contains `from`, or else of the next one, without
    /// changing it; `None` at the end of the queue.
    pub async fn scan(&self, from: Seq) -> Result<Option<SegmentReport>, QueueError> {
        self.requests.read(move |engine| fsck::scan(engine, from)).await
    }

    /// Repairs the segment that contains `from`, or else the next one, by reading it as a reader
    /// would: a damaged segment is moved to quarantine, readable records are kept, and the rest is
    /// counted as lost.
    pub async fn repair(&self, from: Seq) -> Result<Option<Repaired>, QueueError> {
        self.requests.change("read", move |engine| fsck::repair(engine, from)).await
    }

    /// Drops entries from `first` to `last` inclusive, as many as fit in one step. The result
    /// contains the range that remains to be dropped.
    pub async fn purge(&self, first: Seq, last: Seq) -> Result<PurgeStep, QueueError> {
        self.requests.change("remove", move |engine| engine.drop_between(first, last)).await
    }

    /// The dead letters, oldest first, and the head of the queue: a dead letter below the head has
    /// left the queue, the others are still queued.
    pub async fn dead_letters(&self) -> Result<(String, Seq), QueueError> {
        self.requests.ask(Engine::dead_letters).await
    }

    /// The known sessions that servers assigned to stints, newest last.
    pub async fn sessions(&self) -> Result<Vec<StintSession>, QueueError> {
        self.requests.ask(|engine| engine.sessions()).await
    }

    /// Makes the stream's next entry, queued at about `at`, continue existing sessions:
    /// `sessions` are pairs of a server name and the session that it assigned to the stint
    /// elsewhere.
    pub async fn continue_stint(
        &self,
        stream: &CarId,
        at: QueueTime,
        sessions: Vec<(String, String)>,
    ) -> Result<(), QueueError> {
        let stream = stream.clone();
        let continued = move |engine: &mut Engine| engine.continue_stint(&stream, at, &sessions);
        self.requests.change("append", continued).await
    }

    /// Returns the dead letters like [`Operator::dead_letters`] and archives them, in place of the
    /// previous archive.
    pub async fn archive_dead_letters(&self) -> Result<(String, Seq), QueueError> {
        self.requests.ask(Engine::archive_dead_letters).await
    }
}

//! The read end of the queue.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::engine::Index;
pub use super::engine::LookedAhead;
use super::worker::Request;
use super::{Limit, QueueError, QueueStatus};
use crate::entry::{Entry, Kind, Seq, StintId};

/// Entries in flight: hand them back to [`Reader::ack`] once the server has them.
///
/// A batch that is dropped instead stays in the queue and is read again after a [`Reader::rewind`].
#[derive(Debug, Default)]
#[must_use = "a batch that is not removed stays in the queue"]
pub struct Batch {
    pub(super) entries: Vec<Entry>,
    /// Entries that the server does not take; they become dead letters when the batch is removed.
    pub(super) refused: Vec<Refused>,
    /// Position and size of every record read, including records that failed to decode.
    pub(super) records: Vec<(Seq, u32)>,
}

/// An entry that becomes a dead letter.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) entry: Entry,
    pub(super) reason: String,
}

impl Batch {
    /// The entries, oldest first. Empty if none of the records could be decoded.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The first and last position of the batch, including records that failed to decode.
    pub fn ends(&self) -> Option<(Seq, Seq)> {
        Some((self.records.first()?.0, self.records.last()?.0))
    }

    /// Frees the memory of the frames, which are still in the queue. Setups are kept because
    /// [`Reader::ack`] needs them.
    pub fn forget_frames(&mut self) {
        let frames = self.entries.iter_mut().filter(|entry| entry.kind == Kind::Frame);
        frames.for_each(|entry| entry.json = String::new());
    }

    /// Marks entries that the server does not take: they become dead letters with this reason and do
    /// not count as delivered.
    pub fn mark_refused(&mut self, refused: &[Seq], reason: &str) {
        let refused = self.entries.extract_if(.., |entry| refused.contains(&entry.seq));
        self.refused.extend(refused.map(|entry| Refused { entry, reason: reason.to_owned() }));
        self.refused.sort_by_key(|refused| refused.entry.seq);
    }
}

/// The read end for one destination.
#[derive(Debug)]
pub struct Reader {
    requests: mpsc::Sender<Request>,
    index: Index,
    destination: Arc<str>,
    /// The next batch starts here. Entries from the head up to here are in flight.
    cursor: Seq,
    status: watch::Receiver<QueueStatus>,
}

impl Reader {
    pub(super) fn new(
        commands: mpsc::Sender<Request>,
        of: Index,
        destination: Arc<str>,
        status: watch::Receiver<QueueStatus>,
    ) -> Self {
        Self { requests: commands, index: of, destination, cursor: Seq(0), status }
    }

    /// Waits for entries that may be sent and returns those after the last batch. Cancel-safe.
    pub async fn next_batch(&mut self, limit: Limit) -> Result<Batch, QueueError> {
        let (of, from) = (self.index, self.cursor);
        let batch = self.ask(|reply| Request::Read { of, from, limit, reply }).await?;
        if let Some(&(last, _)) = batch.records.last() {
            self.cursor = Seq(last.0 + 1);
        }
        Ok(batch)
    }

    /// Reads undelivered entries of this destination starting at `from`, in flight or not, without
    /// advancing the cursor.
    pub async fn look_ahead(&self, from: Seq, limit: Limit) -> Result<LookedAhead, QueueError> {
        let of = self.index;
        self.ask(|reply| Request::LookAhead { of, from, limit, reply }).await
    }

    /// Returns all in-flight batches to the queue: the next batch starts with the oldest entry.
    pub fn rewind(&mut self) {
        self.cursor = Seq(0);
    }

    /// Acknowledges a batch whose entries the server has. Batches must be acknowledged in the order
    /// in which they were read; any other order is an error.
    pub async fn ack(&mut self, batch: Batch) -> Result<(), QueueError> {
        let of = self.index;
        self.ask(|reply| Request::Ack { of, batch, reply: Some(reply) }).await
    }

    /// Acknowledges a batch without waiting for the disk; a failure is returned by the next
    /// [`Reader::next_batch`]. Saves a live frame one thread switch.
    pub async fn ack_unconfirmed(&mut self, batch: Batch) -> Result<(), QueueError> {
        let remove = Request::Ack { of: self.index, batch, reply: None };
        self.requests.send(remove).await.map_err(|_| QueueError::Closed)
    }

    /// The stint of the oldest undelivered entry, or of the next entry if everything is delivered.
    pub async fn stint(&mut self) -> Result<StintId, QueueError> {
        let of = self.index;
        self.ask(|reply| Request::Stint { of, reply }).await
    }

    /// The setup that was in force in `stint` just before the oldest undelivered entry.
    pub async fn setup_in_force(&mut self, stint: StintId) -> Result<Option<Entry>, QueueError> {
        let of = self.index;
        self.ask(|reply| Request::SetupInForce { of, stint, reply }).await
    }

    /// The session that `server` assigned to `stint`, if it is known.
    pub async fn session(
        &mut self,
        stint: StintId,
        server: &str,
    ) -> Result<Option<String>, QueueError> {
        self.ask(|reply| Request::Session { stint, server: server.into(), reply }).await
    }

    /// Stores the session that `server` assigned to `stint`; survives restarts.
    pub async fn set_session(
        &mut self,
        stint: StintId,
        server: &str,
        session: &str,
    ) -> Result<(), QueueError> {
        let (server, session) = (server.into(), session.into());
        self.ask(|reply| Request::SetSession { stint, server, session, reply }).await
    }

    /// The status as of the queue worker's last step.
    pub fn status(&self) -> QueueStatus {
        self.status.borrow().clone()
    }

    /// The name of the destination.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Entries not yet delivered to this destination.
    pub fn queued(&self) -> u64 {
        let status = self.status.borrow();
        status.destinations.get(self.index).map_or(0, |destination| destination.queued)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, QueueError>>) -> Request,
    ) -> Result<T, QueueError> {
        ask(&self.requests, command).await
    }
}

/// Sends a command to the queue worker and waits for the reply.
pub(super) async fn ask<T>(
    commands: &mpsc::Sender<Request>,
    command: impl FnOnce(oneshot::Sender<Result<T, QueueError>>) -> Request,
) -> Result<T, QueueError> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.map_err(|_| QueueError::Closed)?;
    answer.await.map_err(|_| QueueError::Closed)?
}

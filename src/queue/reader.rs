//! The read end of the queue.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::batch::Batch;
use super::engine::{Index, LookedAhead};
use super::error::QueueError;
use super::limits::Limit;
use super::status::QueueStatus;
use super::worker::Request;
use crate::entry::{Entry, Seq, StintId};

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

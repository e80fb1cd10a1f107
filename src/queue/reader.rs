//! The read end of the queue.

use std::sync::Arc;

use tokio::sync::watch;

use super::engine::{Index, LookedAhead};
use super::worker::{ParkedRead, Requests};
use super::{Batch, Limit, QueueError, QueueStatus};
use crate::entry::{Entry, Seq, StintId};

/// The read end for one destination.
#[derive(Debug)]
pub struct Reader {
    requests: Requests,
    index: Index,
    destination: Arc<str>,
    /// The next batch starts here. Entries from the head up to here are in flight.
    cursor: Seq,
    status: watch::Receiver<QueueStatus>,
}

impl Reader {
    pub(super) fn new(
        requests: Requests,
        of: Index,
        destination: Arc<str>,
        status: watch::Receiver<QueueStatus>,
    ) -> Self {
        Self { requests, index: of, destination, cursor: Seq(0), status }
    }

    /// Waits for entries that may be sent and returns those after the last batch. Cancel-safe.
    pub async fn next_batch(&mut self, limit: Limit) -> Result<Batch, QueueError> {
        let (of, from) = (self.index, self.cursor);
        let batch = self
            .requests
            .call(move |worker, reply| worker.park(ParkedRead { of, from, limit, reply }))
            .await?;
        if let Some(&(last, _)) = batch.records.last() {
            self.cursor = Seq(last.0 + 1);
        }
        Ok(batch)
    }

    /// Reads undelivered entries of this destination starting at `from`, in flight or not, without
    /// advancing the cursor.
    pub async fn look_ahead(&self, from: Seq, limit: Limit) -> Result<LookedAhead, QueueError> {
        let of = self.index;
        self.requests.read(move |engine| engine.look_ahead(of, from, limit)).await
    }

    /// Returns all in-flight batches to the queue: the next batch starts with the oldest entry.
    pub fn rewind(&mut self) {
        self.cursor = Seq(0);
    }

    /// Acknowledges a batch whose entries the server has. Batches must be acknowledged in the order
    /// in which they were read; any other order is an error.
    pub async fn ack(&mut self, batch: Batch) -> Result<(), QueueError> {
        let of = self.index;
        self.requests.change("remove", move |engine| engine.ack(of, &batch)).await
    }

    /// Acknowledges a batch without waiting for the disk; a failure is returned by the next
    /// [`Reader::next_batch`]. Saves a live frame one thread switch.
    pub async fn ack_unconfirmed(&mut self, batch: Batch) -> Result<(), QueueError> {
        let of = self.index;
        self.requests.send(move |worker| worker.ack_unconfirmed(of, &batch)).await
    }

    /// The stint of the oldest undelivered entry, or of the next entry if everything is delivered.
    pub async fn stint(&mut self) -> Result<StintId, QueueError> {
        let of = self.index;
        self.requests.ask(move |engine| engine.stint(of)).await
    }

    /// The setup that was in force in `stint` just before the oldest undelivered entry.
    pub async fn setup_in_force(&mut self, stint: StintId) -> Result<Option<Entry>, QueueError> {
        let of = self.index;
        self.requests.ask(move |engine| engine.setup_in_force(of, stint)).await
    }

    /// The session that `server` assigned to `stint`, if it is known.
    pub async fn session(
        &mut self,
        stint: StintId,
        server: &str,
    ) -> Result<Option<String>, QueueError> {
        let server = server.to_owned();
        self.requests.ask(move |engine| engine.session(stint, &server)).await
    }

    /// Stores the session that `server` assigned to `stint`; survives restarts.
    pub async fn set_session(
        &mut self,
        stint: StintId,
        server: &str,
        session: &str,
    ) -> Result<(), QueueError> {
        let (server, session) = (server.to_owned(), session.to_owned());
        self.requests.ask(move |engine| engine.set_session(stint, &server, &session)).await
    }

    /// The state that the delivery to this destination restores after a restart: the bytes last
    /// stored with [`Reader::set_delivery_state`].
    pub async fn delivery_state(&mut self) -> Result<Option<Vec<u8>>, QueueError> {
        let of = self.index;
        self.requests.ask(move |engine| engine.delivery_state(of)).await
    }

    /// Stores the state of the delivery to this destination durably.
    pub async fn set_delivery_state(&mut self, state: Vec<u8>) -> Result<(), QueueError> {
        let of = self.index;
        self.requests.ask(move |engine| engine.set_delivery_state(of, &state)).await
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
}

//! The write end of the queue.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::buffer::Buffer;
use super::operator::Operator;
use super::worker::{QueueWorker, Requests};
use super::{Appended, DestinationStatus, Limits, NewEntry, QueueError, QueueStatus, Stamps};
use crate::entry::{CarId, QueueTime};

/// The write end of a queue. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Writer {
    requests: Requests,
    buffer: Arc<Buffer>,
    status: watch::Receiver<QueueStatus>,
}

impl Writer {
    pub(super) fn new(
        requests: Requests,
        buffer: Arc<Buffer>,
        status: watch::Receiver<QueueStatus>,
    ) -> Self {
        Self { requests, buffer, status }
    }

    /// Appends the entries that `make` returns, in order, and returns the outcome of each.
    ///
    /// The order in which `make` draws stamps is the order in the queue. Returns when the entries
    /// are as durable as `queue.durability` promises or, if the disk does not keep up, after
    /// [`APPEND_TIMEOUT`](super::APPEND_TIMEOUT) with [`Buffered`](Appended::Buffered).
    /// Never waits for the network.
    pub async fn append(
        &self,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        self.append_from(&CarId::default(), make).await
    }

    /// Appends entries of a stream other than the agent's own; see [`Writer::append`].
    pub async fn append_from(
        &self,
        stream: &CarId,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        self.buffer.append(stream, None, make).await
    }

    /// Appends `entries` entries, waiting without a timeout until they are on disk and, with
    /// `when_full = "block"`, until the queue has room. For sources that lose nothing by waiting.
    pub async fn append_blocking(
        &self,
        entries: usize,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        self.append_blocking_from(&CarId::default(), entries, make).await
    }

    /// Appends entries of a stream other than the agent's own; see [`Writer::append_blocking`].
    pub async fn append_blocking_from(
        &self,
        stream: &CarId,
        entries: usize,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        self.buffer.append(stream, Some(entries as u64), make).await
    }

    /// The status as of the queue worker's last step, combined with the current state of the memory
    /// buffer.
    pub fn status(&self) -> QueueStatus {
        let mut status = self.status.borrow().clone();
        let (buffered, stalled, discarded) = self.buffer.status();
        status.buffered = buffered;
        status.stuck = self.buffer.heartbeat.stuck(Instant::now());
        status.undurable_since = match (status.undurable_since, stalled) {
            (Some(since), Some(stalled)) => Some(since.min(stalled)),
            (since, stalled) => since.or(stalled),
        };
        // Losses in memory are recorded on disk later; add them here so that the ledger balances.
        for DestinationStatus { appended, ledger, .. } in &mut status.destinations {
            *appended += discarded.downsampled + discarded.dropped;
            ledger.unplaced += discarded.downsampled + discarded.dropped;
            ledger.downsampled += discarded.downsampled;
            ledger.storage += discarded.dropped;
        }
        status
    }

    /// The queue time now.
    pub fn now(&self) -> QueueTime {
        self.buffer.now()
    }

    /// An operator handle for the same queue.
    pub fn operator(&self) -> Operator {
        Operator::new(self.requests.clone())
    }

    /// Replaces the limits and evicts whatever no longer fits.
    pub async fn limit(&self, limits: Limits) -> Result<(), QueueError> {
        self.requests.send(move |worker| worker.limit(limits)).await
    }

    /// Closes the queue for all its ends. Entries handed in so far are stored and flushed; later
    /// calls fail with [`QueueError::Closed`]. [`Closed`](super::Closed) resolves when this is
    /// done.
    pub async fn close(&self) {
        // A send error means that the queue is already closed.
        let _ = self.requests.send(QueueWorker::close).await;
    }

    /// Whether the queue worker has ended, so that nothing can be stored any more.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

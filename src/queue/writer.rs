//! The end of the queue that appends.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::buffer::Buffer;
use super::keeper::Command;
use super::operator::Operator;
use super::{Appended, Limits, NewEntry, QueueError, QueueStatus};
use crate::entry::{CapturedAt, Stream};
use crate::planted::planted;

/// Gives each entry its moment of capture, strictly later than the one before.
#[derive(Debug)]
pub struct Stamps {
    last: Option<CapturedAt>,
}

impl Stamps {
    pub(super) fn after(last: Option<CapturedAt>) -> Self {
        Self { last }
    }

    /// `at`, or the first moment after the last stamp if the clock stood still or went back.
    pub fn next(&mut self, at: CapturedAt) -> CapturedAt {
        let stamp = match self.last {
            Some(last) if at <= last && !planted("moments_go_back") => {
                CapturedAt(last.0.saturating_add(1))
            }
            _ => at,
        };
        self.last = Some(stamp);
        stamp
    }
}

/// The end that appends. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Writer {
    commands: mpsc::Sender<Command>,
    buffer: Arc<Buffer>,
    status: watch::Receiver<QueueStatus>,
}

impl Writer {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        buffer: Arc<Buffer>,
        status: watch::Receiver<QueueStatus>,
    ) -> Self {
        Self { commands, buffer, status }
    }

    /// Appends the entries that `make` gives, in their order, and says what became of each.
    ///
    /// The order in which `make` draws stamps is the order in the queue. Returns when the entries
    /// are as durable as the configuration promises or, where the disk does not keep up,
    /// [`APPEND_TIMEOUT`](crate::config::APPEND_TIMEOUT) later: they are [buffered](Appended::Buffered)
    /// then. Never waits for the network.
    pub async fn append(
        &self,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        self.append_from(&Stream::default(), make).await
    }

    /// Likewise, entries of a stream that is not the agent's own.
    pub async fn append_from(
        &self,
        stream: &Stream,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        self.buffer.append(stream, None, make).await
    }

    /// Likewise for so many entries, but waits for as long as it takes until the disk has them and,
    /// with `when_full = "block"`, until there is room: for sources that lose nothing by waiting.
    pub async fn append_patiently(
        &self,
        entries: usize,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        self.append_patiently_from(&Stream::default(), entries, make).await
    }

    /// Likewise, entries of a stream that is not the agent's own.
    pub async fn append_patiently_from(
        &self,
        stream: &Stream,
        entries: usize,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        self.buffer.append(stream, Some(entries as u64), make).await
    }

    /// How the queue stands, as of the keeper's last step, and what waits in memory now.
    pub fn status(&self) -> QueueStatus {
        let mut status = self.status.borrow().clone();
        let (buffered, stalled, shed) = self.buffer.status();
        status.buffered = buffered;
        status.stuck = self.buffer.heartbeat.stuck(Instant::now());
        status.undurable_since = match (status.undurable_since, stalled) {
            (Some(since), Some(stalled)) => Some(since.min(stalled)),
            (since, stalled) => since.or(stalled),
        };
        // Booked when the disk takes the books again.
        let others = status.others.iter_mut().map(|other| (&mut other.appended, &mut other.ledger));
        for (appended, ledger) in
            [(&mut status.appended, &mut status.ledger)].into_iter().chain(others)
        {
            *appended += shed.thinned + shed.dropped;
            ledger.unplaced += shed.thinned + shed.dropped;
            ledger.thinned += shed.thinned;
            ledger.storage += shed.dropped;
        }
        status
    }

    /// The end for a person, of the same queue.
    pub fn operator(&self) -> Operator {
        Operator::new(self.commands.clone())
    }

    /// Has other limits from here on: what is over a lower one gives way, as at a start.
    pub async fn limit(&self, limits: Limits) -> Result<(), QueueError> {
        self.commands.send(Command::Limit(limits)).await.map_err(|_| QueueError::Closed)
    }

    /// Closes the queue for all its ends: what was handed in so far is stored and flushed,
    /// everything later finds it [closed](QueueError::Closed). [`Closed`](super::Closed) tells when
    /// it is done.
    pub async fn close(&self) {
        // Closed already if it cannot be sent.
        let _ = self.commands.send(Command::Close).await;
    }

    /// Whether the keeper is gone, so that nothing can be stored any more.
    pub fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }
}

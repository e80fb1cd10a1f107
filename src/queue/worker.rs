//! The queue worker: the task that owns the queue engine. It handles one request at a time; entries
//! that arrive together share one flush.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::buffer::{Buffer, Discarded, Group};
use super::engine::{Engine, Index};
use super::ledger::DropReason;
use super::storage::disk::is_full;
use super::{
    Appended, Batch, DestinationStatus, DiskEvent, DiskObserver, Limit, Limits, QueueError,
    QueueStatus,
};
use crate::config::Durability;
use crate::entry::Seq;

/// The capacity of the channel from the ends of the queue to the worker; a full channel makes them
/// wait.
const MAX_WAITING_REQUESTS: usize = 256;

/// A removal is flushed with the next append, or after this long. If power fails before that, the
/// entry is sent again.
pub const REMOVE_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The interval between attempts to write entries again after a disk failure.
pub const STORAGE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often the ledger is checked.
const LEDGER_CHECK_INTERVAL: Duration = Duration::from_secs(60);

type Reply<T> = oneshot::Sender<Result<T, QueueError>>;

/// A request from a reader or writer to the worker.
pub(super) type Request = Box<dyn FnOnce(&mut QueueWorker) + Send>;

/// The side of the ends of the channel to the worker.
#[derive(Clone, Debug)]
pub(super) struct Requests(mpsc::Sender<Request>);

impl Requests {
    pub(super) fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (requests, inbox) = mpsc::channel(MAX_WAITING_REQUESTS);
        (Self(requests), inbox)
    }

    /// Asks the engine for something that it knows.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Engine) -> io::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.call(move |worker, reply| answer(reply, ask(&mut worker.engine))).await
    }

    /// Reads from the disk; a failure counts as one of the disk.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Engine) -> io::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.call(move |worker, reply| {
            let result = read(&mut worker.engine);
            worker.answer("read", reply, result);
        })
        .await
    }

    /// Changes the queue, and returns once the status includes the change. A failure counts as one
    /// of the disk, in the operation `op`.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        op: &'static str,
        change: impl FnOnce(&mut Engine) -> io::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.call(move |worker, reply| {
            let result = change(&mut worker.engine);
            worker.answer_later(op, reply, result);
        })
        .await
    }

    /// Makes a call that the worker answers by `reply`.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut QueueWorker, Reply<T>) + Send + 'static,
    ) -> Result<T, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.send(move |worker| call(worker, reply)).await?;
        answer.await.map_err(|_| QueueError::Closed)?
    }

    /// Sends a request that has no answer.
    pub(super) async fn send(
        &self,
        request: impl FnOnce(&mut QueueWorker) + Send + 'static,
    ) -> Result<(), QueueError> {
        self.0.send(Box::new(request)).await.map_err(|_| QueueError::Closed)
    }

    /// Whether the worker has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// A read request that waits for an entry.
pub(super) struct ParkedRead {
    pub(super) of: Index,
    pub(super) from: Seq,
    pub(super) limit: Limit,
    pub(super) reply: Reply<Batch>,
}

/// Runs until both ends of the queue are dropped or one of them closes it, then flushes once more.
pub(super) async fn run(
    engine: Engine,
    durability: Durability,
    buffer: Arc<Buffer>,
    mut inbox: mpsc::Receiver<Request>,
    status: watch::Sender<QueueStatus>,
    observer: DiskObserver,
) {
    let mut worker = QueueWorker {
        engine,
        durability,
        buffer: Arc::clone(&buffer),
        observer,
        unflushed: VecDeque::new(),
        settled: VecDeque::new(),
        changed: Vec::new(),
        parked: Vec::new(),
        failed_acks: Vec::new(),
        flush_at: None,
        retry_at: None,
        undurable_since: None,
        storage_error: None,
        disk_is_full: false,
        ledger_checked_at: Instant::now(),
        is_closing: false,
    };
    let mut requests: Vec<Request> = Vec::new();
    loop {
        buffer.heartbeat.idle();
        tokio::select! {
            biased;
            () = until(worker.flush_at) => worker.flush(),
            () = until(worker.retry_at) => worker.retry(),
            count = inbox.recv_many(&mut requests, MAX_WAITING_REQUESTS) => {
                // Both ends are dropped: no more entries can arrive.
                if count == 0 {
                    break;
                }
            }
            () = buffer.appended() => {}
        }
        for request in requests.drain(..) {
            buffer.heartbeat.begin("answering a request");
            request(&mut worker);
        }
        worker.step(&status);
        if worker.is_closing {
            // Requests and entries handed in before the close are still processed.
            inbox.close();
            buffer.close();
        }
    }
    buffer.close();
    // This is the last attempt; do not wait for the retry time.
    worker.retry_at = None;
    worker.step(&status);
    worker.flush();
    worker.maintain(&status);
    worker.drop_unstored();
    worker.report(&status);
    worker.log_lost();
    buffer.heartbeat.idle();
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

pub(super) struct QueueWorker {
    engine: Engine,
    durability: Durability,
    buffer: Arc<Buffer>,
    observer: DiskObserver,
    /// Appended but not yet flushed; answered after the next flush.
    unflushed: VecDeque<Group>,
    /// Entry groups to be answered once the published status includes them.
    settled: VecDeque<Group>,
    /// Replies to requests, sent once the published status includes their effect.
    changed: Vec<Box<dyn FnOnce() + Send>>,
    /// At most one waiting read per destination.
    parked: Vec<ParkedRead>,
    /// The last error of a removal without a reply, per destination.
    failed_acks: Vec<(Index, io::Error)>,
    flush_at: Option<Instant>,
    /// After a disk error: when to try the disk again. Until then it is not touched.
    retry_at: Option<Instant>,
    /// Arrival time of the oldest entry that a power cut would lose.
    undurable_since: Option<Instant>,
    /// The last disk error; cleared when the disk works again.
    storage_error: Option<String>,
    disk_is_full: bool,
    ledger_checked_at: Instant,
    is_closing: bool,
}

impl QueueWorker {
    /// Answers the read once there is an entry.
    pub(super) fn park(&mut self, read: ParkedRead) {
        self.parked.retain(|parked| parked.of != read.of);
        self.parked.push(read);
    }

    /// Acknowledges a batch; a failure is reported by the destination's next read.
    pub(super) fn ack_unconfirmed(&mut self, of: Index, batch: &Batch) {
        let acked = self.engine.ack(of, batch);
        self.note_failure("remove", &acked);
        if let Err(error) = acked {
            self.failed_acks.retain(|(other, _)| *other != of);
            self.failed_acks.push((of, error));
        }
    }

    /// Replaces the limits.
    pub(super) fn limit(&mut self, limits: Limits) {
        self.durability = limits.durability;
        let limited = self.engine.limit(limits);
        self.note_failure("maintain", &limited);
    }

    /// Ends the worker after this step.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Does all pending work.
    fn step(&mut self, status: &watch::Sender<QueueStatus>) {
        if self.retry_at.is_none() {
            self.store_buffered();
        }
        if !self.unflushed.is_empty() {
            self.flush();
        }
        self.serve_parked();
        self.flush_at = self.flush_due();
        self.report(status);
        // Maintenance runs after the replies, so that it delays no caller.
        self.maintain(status);
        // Report recovery only after all pending work has succeeded.
        if self.retry_at.is_none() && self.storage_error.take().is_some() {
            self.disk_is_full = false;
            tracing::info!("the queue's disk works again");
            self.report(status);
        }
        self.check_ledger(status);
    }

    /// Rotates the active segment or deletes released segments if that is due.
    fn maintain(&mut self, status: &watch::Sender<QueueStatus>) {
        if self.retry_at.is_some() {
            return;
        }
        self.buffer.heartbeat.begin("sealing or removing a segment");
        let had_unflushed_entries = self.engine.has_unflushed_entries();
        let maintained = self.engine.maintain();
        self.note_failure("maintain", &maintained);
        if maintained.is_err() || self.engine.has_unflushed_entries() != had_unflushed_entries {
            self.report(status);
        }
    }

    /// Stores the entries in the memory buffer.
    fn store_buffered(&mut self) {
        self.buffer.heartbeat.begin("storing entries");
        let (mut groups, discarded) = self.buffer.take();
        if let Err(error) = self.engine.record_discarded(discarded) {
            self.failed("append", &error);
            self.buffer.put_back(groups, discarded);
            return;
        }
        while let Some(mut group) = groups.pop_front() {
            self.buffer.heartbeat.begin("storing entries");
            match self.store(&mut group) {
                Ok(()) => match self.durability {
                    Durability::Entry => self.unflushed.push_back(group),
                    Durability::Within(_) | Durability::Os => self.settled.push_back(group),
                },
                Err(error) => {
                    self.failed("append", &error);
                    groups.push_front(group);
                    self.buffer.put_back(groups, Discarded::default());
                    return;
                }
            }
        }
    }

    fn store(&mut self, group: &mut Group) -> io::Result<()> {
        for entry in &mut group.entries {
            // After a disk error, an entry that was being written may or may not be on disk.
            entry.outcome = match (entry.outcome, self.engine.has(entry)?) {
                (None, Some(newest)) => Some(Appended::Stored(newest)),
                (None | Some(Appended::Stored(_)), None) => {
                    Some(self.engine.append(&group.stream, entry)?)
                }
                (outcome, _) => outcome,
            };
        }
        Ok(())
    }

    fn flush_due(&self) -> Option<Instant> {
        let after = match self.durability {
            _ if !self.engine.is_dirty() || self.retry_at.is_some() => return None,
            // Only removals are pending; entries are already flushed.
            Durability::Entry => REMOVE_FLUSH_INTERVAL,
            Durability::Within(within) if self.engine.has_unflushed_entries() => within,
            Durability::Within(_) => REMOVE_FLUSH_INTERVAL,
            Durability::Os => return None,
        };
        let due = Instant::now() + after;
        Some(self.flush_at.map_or(due, |earlier| earlier.min(due)))
    }

    fn flush(&mut self) {
        self.buffer.heartbeat.begin("flushing to the disk");
        self.flush_at = None;
        let started = Instant::now();
        match self.engine.flush() {
            Ok(()) => {
                (self.observer)(DiskEvent::Flushed(started.elapsed()));
                self.settled.append(&mut self.unflushed);
            }
            Err(error) => {
                self.failed("flush", &error);
                self.buffer.put_back(std::mem::take(&mut self.unflushed), Discarded::default());
            }
        }
    }

    /// Tries the disk again after an error; the first flush reopens the store.
    fn retry(&mut self) {
        self.retry_at = None;
        self.flush();
    }

    /// Publishes the status, then sends the replies: a caller that has its reply sees the effect in
    /// the status.
    fn report(&mut self, status: &watch::Sender<QueueStatus>) {
        self.settled.iter().for_each(|group| self.buffer.settle(group));
        self.buffer.set_room(self.engine.room());
        if !self.engine.has_unflushed_entries() {
            self.undurable_since = None;
        } else if self.undurable_since.is_none() {
            self.undurable_since = Some(Instant::now());
        }
        status.send_replace(QueueStatus {
            storage_error: self.storage_error.clone(),
            disk_is_full: self.disk_is_full,
            undurable_since: self.undurable_since,
            ..self.engine.status()
        });
        for group in self.settled.drain(..) {
            let outcomes = group.outcomes();
            if let Some(reply) = group.reply {
                let _ = reply.send(Ok(outcomes));
            }
        }
        self.changed.drain(..).for_each(|answer| answer());
    }

    /// Logs a ledger that does not balance. The imbalance is recomputed with every status.
    fn check_ledger(&mut self, status: &watch::Sender<QueueStatus>) {
        if self.ledger_checked_at.elapsed() < LEDGER_CHECK_INTERVAL {
            return;
        }
        self.ledger_checked_at = Instant::now();
        for DestinationStatus { name, imbalance, .. } in status.borrow().imbalanced() {
            tracing::error!(
                destination = name,
                entries = imbalance,
                "the ledger of the destination does not balance"
            );
        }
    }

    /// Counts entries that could not be stored before shutdown as dropped. This usually works even
    /// on a full disk: the ballast leaves room for the ledger.
    fn drop_unstored(&mut self) {
        self.buffer.heartbeat.begin("counting what could not be stored");
        let (mut groups, discarded) = self.buffer.take();
        if groups.is_empty() && discarded == Discarded::default() {
            return;
        }
        let mut lost = 0;
        let recorded = groups
            .iter_mut()
            .flat_map(|group| &mut group.entries)
            .try_for_each(|entry| {
                // The entry may have reached the disk before the error.
                match (entry.outcome, self.engine.has(entry)?) {
                    (None, Some(newest)) => entry.outcome = Some(Appended::Stored(newest)),
                    (None | Some(Appended::Stored(_)), None) => {
                        entry.outcome = Some(Appended::Dropped(DropReason::Storage));
                        lost += 1;
                    }
                    _ => {}
                }
                Ok(())
            })
            .and_then(|()| {
                self.engine
                    .record_discarded(Discarded { dropped: discarded.dropped + lost, ..discarded })
            })
            .and_then(|()| self.engine.flush());
        match recorded {
            Ok(()) => {
                let error = self.storage_error.as_deref().unwrap_or_default();
                if lost > 0 {
                    tracing::error!(
                        entries = lost,
                        error,
                        "entries could not be stored before shutdown: they are lost and counted as \
                         dropped (storage)",
                    );
                }
                self.settled.extend(groups);
            }
            Err(error) => {
                self.failed("append", &error);
                self.buffer.put_back(groups, discarded);
            }
        }
    }

    /// At shutdown, logs entries that are neither on disk nor in the ledger.
    fn log_lost(&self) {
        let (entries, _, discarded) = self.buffer.status();
        let lost = entries + discarded.dropped + discarded.downsampled;
        if lost > 0 {
            let error = self.storage_error.as_deref().unwrap_or_default();
            tracing::error!(
                entries = lost,
                error,
                "entries could not be stored before shutdown: they are lost and missing from the \
                 ledger",
            );
        }
    }

    /// Replies immediately, and records a disk error.
    fn answer<T>(&mut self, op: &'static str, reply: Reply<T>, result: io::Result<T>) {
        self.note_failure(op, &result);
        answer(reply, result);
    }

    /// Records a disk error, and replies once the published status includes the change.
    fn answer_later<T: Send + 'static>(
        &mut self,
        op: &'static str,
        reply: Reply<T>,
        result: io::Result<T>,
    ) {
        self.note_failure(op, &result);
        self.changed.push(Box::new(move || answer(reply, result)));
    }

    fn note_failure<T>(&mut self, op: &'static str, result: &io::Result<T>) {
        // `InvalidInput` means a batch that is not the oldest: a caller's error, not the disk's.
        if let Err(error) = result
            && error.kind() != io::ErrorKind::InvalidInput
        {
            self.failed(op, error);
        }
    }

    fn failed(&mut self, op: &'static str, error: &io::Error) {
        (self.observer)(DiskEvent::Failed(op));
        self.retry_at.get_or_insert_with(|| Instant::now() + STORAGE_RETRY_INTERVAL);
        self.flush_at = None;
        self.disk_is_full = is_full(error);
        let text = error.to_string();
        if self.storage_error.as_ref() != Some(&text) {
            tracing::error!(op, %error, "the queue's disk fails");
            self.storage_error = Some(text);
        }
    }

    fn serve_parked(&mut self) {
        for parked in std::mem::take(&mut self.parked) {
            self.buffer.heartbeat.begin("reading a batch");
            self.serve_reader(parked);
        }
    }

    fn serve_reader(&mut self, parked: ParkedRead) {
        let ParkedRead { of, from, limit, reply } = parked;
        if reply.is_closed() {
            return;
        }
        let not_removed = self.failed_acks.iter().position(|(other, _)| *other == of);
        let not_removed = not_removed.map(|index| self.failed_acks.swap_remove(index));
        // A reader that was rewound (`from` is 0) reads the entries again anyway.
        if let Some((_, error)) = not_removed.filter(|_| from > Seq(0)) {
            return answer(reply, Err(error));
        }
        match self.engine.read(of, from, limit) {
            Ok(None) => self.parked.push(ParkedRead { of, from, limit, reply }),
            // Sent with the other replies, so that a task that waits for several is woken once.
            Ok(Some(batch)) => self.answer_later("read", reply, Ok(batch)),
            Err(error) => self.answer("read", reply, Err(error)),
        }
    }
}

/// Sends a reply; a caller that was dropped is ignored.
fn answer<T>(reply: Reply<T>, result: io::Result<T>) {
    let _ = reply.send(result.map_err(QueueError::from));
}

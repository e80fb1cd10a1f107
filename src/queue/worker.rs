//! The queue worker: the task that owns the queue engine. It handles one command at a time; entries
//! that arrive together share one flush.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::batch::Batch;
use super::buffer::{Buffer, Discarded, Group};
use super::disk_event::{DiskEvent, DiskObserver};
use super::disposition::DestinationFate;
use super::engine::{Engine, Index, LookedAhead, Peeked, PurgeStep, StintSession};
use super::error::QueueError;
use super::fsck::{self, Repaired, SegmentReport};
use super::ledger::DropReason;
use super::limits::{Limit, Limits};
use super::new_entry::Appended;
use super::status::{DestinationStatus, QueueStatus};
use super::storage::Store;
use super::storage::disk::is_full;
use crate::config::Durability;
use crate::entry::{CapturedAt, CarId, Entry, Seq, StintId};

/// The capacity of the channel from the session to the queue worker; a full channel makes the
/// session wait.
pub(super) const QUEUE_CHANNEL_COMMANDS: usize = 256;

/// A removal is flushed with the next append, or after this long. If power fails before that, the
/// entry is sent again.
pub const REMOVE_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The interval between attempts to write entries again after a disk failure.
pub const STORAGE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often the ledger is checked.
const LEDGER_CHECK_INTERVAL: Duration = Duration::from_secs(60);

type Reply<T> = oneshot::Sender<Result<T, QueueError>>;
/// A read request that waits for an entry.
#[derive(Debug)]
struct Parked {
    of: Index,
    from: Seq,
    limit: Limit,
    reply: Reply<Batch>,
}

/// Requests from the readers and the operator. A failed removal without a reply is reported by the
/// next read.
#[derive(Debug)]
pub(super) enum Request {
    Read {
        of: Index,
        from: Seq,
        limit: Limit,
        reply: Reply<Batch>,
    },
    Ack {
        of: Index,
        batch: Batch,
        reply: Option<Reply<()>>,
    },
    Stint {
        of: Index,
        reply: Reply<StintId>,
    },
    SetupInForce {
        of: Index,
        stint: StintId,
        reply: Reply<Option<Entry>>,
    },
    Session {
        stint: StintId,
        server: String,
        reply: Reply<Option<String>>,
    },
    SetSession {
        stint: StintId,
        server: String,
        session: String,
        reply: Reply<()>,
    },
    Sessions {
        reply: Reply<Vec<StintSession>>,
    },
    ContinueStint {
        stream: CarId,
        at: CapturedAt,
        sessions: Vec<(String, String)>,
        reply: Reply<()>,
    },
    Fates {
        seq: Seq,
        reply: Reply<Vec<DestinationFate>>,
    },
    LookAhead {
        of: Index,
        from: Seq,
        limit: Limit,
        reply: Reply<LookedAhead>,
    },
    Peek {
        from: Seq,
        limit: Limit,
        reply: Reply<Vec<Peeked>>,
    },
    Scan {
        from: Seq,
        reply: Reply<Option<SegmentReport>>,
    },
    Repair {
        from: Seq,
        reply: Reply<Option<Repaired>>,
    },
    Purge {
        first: Seq,
        last: Seq,
        reply: Reply<PurgeStep>,
    },
    DeadLetters {
        reply: Reply<(String, Seq)>,
    },
    ArchiveDeadLetters {
        reply: Reply<(String, Seq)>,
    },
    Limit(Limits),
    Close,
}

/// Runs until both ends of the queue are dropped or one of them closes it, then flushes once more.
pub(super) async fn run<S: Store>(
    engine: Engine<S>,
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
    let mut commands = Vec::new();
    loop {
        buffer.heartbeat.idle();
        tokio::select! {
            biased;
            () = until(worker.flush_at) => worker.flush(),
            () = until(worker.retry_at) => worker.retry(),
            count = inbox.recv_many(&mut commands, QUEUE_CHANNEL_COMMANDS) => {
                // Both ends are dropped: no more entries can arrive.
                if count == 0 {
                    break;
                }
            }
            () = buffer.appended() => {}
        }
        commands.drain(..).for_each(|command| worker.handle(command));
        worker.step(&status);
        if worker.is_closing {
            // Commands and entries handed in before the close are still processed.
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

struct QueueWorker<S> {
    engine: Engine<S>,
    durability: Durability,
    buffer: Arc<Buffer>,
    observer: DiskObserver,
    /// Appended but not yet flushed; answered after the next flush.
    unflushed: VecDeque<Group>,
    /// Entry groups to be answered once the published status includes them.
    settled: VecDeque<Group>,
    /// Replies to commands, sent once the published status includes their effect.
    changed: Vec<Box<dyn FnOnce() + Send>>,
    /// At most one waiting read per destination.
    parked: Vec<Parked>,
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

impl<S: Store> QueueWorker<S> {
    fn handle(&mut self, command: Request) {
        self.buffer.heartbeat.begin("answering a command");
        match command {
            Request::Read { of, from, limit, reply } => {
                self.parked.retain(|parked| parked.of != of);
                self.parked.push(Parked { of, from, limit, reply });
            }
            Request::Ack { of, batch, reply } => {
                let removed = self.engine.ack(of, &batch);
                match reply {
                    Some(reply) => self.answer_later("remove", reply, removed),
                    None => {
                        self.note_failure("remove", &removed);
                        if let Err(error) = removed {
                            self.failed_acks.retain(|(other, _)| *other != of);
                            self.failed_acks.push((of, error));
                        }
                    }
                }
            }
            Request::Stint { of, reply } => answer(reply, self.engine.stint(of)),
            Request::SetupInForce { of, stint, reply } => {
                answer(reply, self.engine.setup_in_force(of, stint));
            }
            Request::Session { stint, server, reply } => {
                answer(reply, self.engine.session(stint, &server));
            }
            Request::SetSession { stint, server, session, reply } => {
                answer(reply, self.engine.set_session(stint, &server, &session));
            }
            Request::Sessions { reply } => answer(reply, self.engine.sessions()),
            Request::ContinueStint { stream, at, sessions, reply } => {
                let gone_on = self.engine.continue_stint(&stream, at, &sessions);
                self.answer_later("append", reply, gone_on);
            }
            Request::Fates { seq, reply } => answer(reply, self.engine.dispositions(seq)),
            Request::LookAhead { of, from, limit, reply } => {
                let read = self.engine.look_ahead(of, from, limit);
                self.answer("read", reply, read);
            }
            Request::Peek { from, limit, reply } => {
                let peeked = self.engine.peek(from, limit);
                self.answer("read", reply, peeked);
            }
            Request::Scan { from, reply } => {
                let examined = fsck::scan(&mut self.engine, from);
                self.answer("read", reply, examined);
            }
            Request::Repair { from, reply } => {
                let mended = fsck::repair(&mut self.engine, from);
                self.answer_later("read", reply, mended);
            }
            Request::Purge { first, last, reply } => {
                let dropped = self.engine.drop_between(first, last);
                self.answer_later("remove", reply, dropped);
            }
            Request::DeadLetters { reply } => answer(reply, self.engine.dead_letters()),
            Request::ArchiveDeadLetters { reply } => {
                answer(reply, self.engine.archive_dead_letters())
            }
            Request::Limit(limits) => {
                self.durability = limits.durability;
                let limited = self.engine.limit(limits);
                self.note_failure("maintain", &limited);
            }
            Request::Close => self.is_closing = true,
        }
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
        let booked = groups
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
        match booked {
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

    fn serve_reader(&mut self, parked: Parked) {
        let Parked { of, from, limit, reply } = parked;
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
            Ok(None) => self.parked.push(Parked { of, from, limit, reply }),
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

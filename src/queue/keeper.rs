//! The task that owns the log: one command after the other, commands that are there together
//! share one flush.

use std::future::pending;
use std::io;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::log::Log;
use super::store::Store;
use super::{Appended, Batch, Limit, NewEntry, QueueError, QueueStatus};
use crate::config::{Durability, QUEUE_CHANNEL_COMMANDS, REMOVE_FLUSH_INTERVAL};
use crate::entry::{Entry, Seq, StintId};
use crate::metrics;

type Reply<T> = oneshot::Sender<Result<T, QueueError>>;
/// What became of entries, and who is to know.
type Outcome<T> = (Reply<Vec<Appended>>, T);
/// A read that waits for an entry.
type Parked = (Seq, Limit, Reply<Batch>);

#[derive(Debug)]
pub(super) enum Command {
    Append { entries: Vec<NewEntry>, reply: Reply<Vec<Appended>> },
    Read { from: Seq, limit: Limit, reply: Reply<Batch> },
    Remove { batch: Batch, reply: Reply<()> },
    Stint { reply: Reply<StintId> },
    SetupInForce { stint: StintId, reply: Reply<Option<Entry>> },
    Session { stint: StintId, server: String, reply: Reply<Option<String>> },
    SetSession { stint: StintId, server: String, session: String, reply: Reply<()> },
    Close,
}

/// Serves commands until both ends of the queue are gone or one closed it, then flushes once more.
pub(super) async fn run<S: Store>(
    log: Log<S>,
    durability: Durability,
    mut inbox: mpsc::Receiver<Command>,
    status: watch::Sender<QueueStatus>,
) {
    let mut keeper = Keeper {
        log,
        durability,
        held: Vec::new(),
        settled: Vec::new(),
        parked: None,
        flush_at: None,
        storage_error: None,
        is_closing: false,
    };
    let mut commands = Vec::new();
    loop {
        let due = keeper.flush_at;
        let count = tokio::select! {
            biased;
            () = until(due) => {
                keeper.flush();
                0
            }
            count = inbox.recv_many(&mut commands, QUEUE_CHANNEL_COMMANDS) => match count {
                0 => break,
                count => count,
            },
        };
        for command in commands.drain(..count) {
            keeper.handle(command);
        }
        if keeper.is_closing {
            // What was handed in before is still served.
            inbox.close();
        }
        keeper.settle();
        keeper.report(&status);
        keeper.maintain();
    }
    keeper.flush();
    keeper.report(&status);
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

struct Keeper<S> {
    log: Log<S>,
    durability: Durability,
    /// Appends that wait for a flush.
    held: Vec<Outcome<Vec<Appended>>>,
    /// Appends that wait for the status to show them.
    settled: Vec<Outcome<Result<Vec<Appended>, QueueError>>>,
    parked: Option<Parked>,
    flush_at: Option<Instant>,
    /// Why the disk failed the last time, until it works again.
    storage_error: Option<String>,
    is_closing: bool,
}

impl<S: Store> Keeper<S> {
    fn handle(&mut self, command: Command) {
        match command {
            Command::Append { entries, reply } => self.append(entries, reply),
            Command::Read { from, limit, reply } => self.parked = Some((from, limit, reply)),
            Command::Remove { batch, reply } => {
                let removed = self.log.remove(&batch);
                self.answer("remove", reply, removed);
            }
            Command::Stint { reply } => answer(reply, self.log.stint()),
            Command::SetupInForce { stint, reply } => {
                answer(reply, self.log.setup_in_force(stint));
            }
            Command::Session { stint, server, reply } => {
                answer(reply, self.log.session(stint, &server));
            }
            Command::SetSession { stint, server, session, reply } => {
                answer(reply, self.log.set_session(stint, &server, &session));
            }
            Command::Close => self.is_closing = true,
        }
    }

    /// Nobody waits: the time to begin a segment or to remove one.
    fn maintain(&mut self) {
        if self.storage_error.is_none()
            && let Err(error) = self.log.maintain()
        {
            self.failed("maintain", &error);
        }
    }

    fn append(&mut self, entries: Vec<NewEntry>, reply: Reply<Vec<Appended>>) {
        // What does not become durable is handed in again: it must not pile up meanwhile.
        if self.storage_error.is_some() {
            self.flush();
        }
        let outcomes = match &self.storage_error {
            Some(error) => Err(io::Error::other(error.clone())),
            None => entries.into_iter().map(|entry| self.log.append(entry)).collect(),
        };
        match (outcomes, self.durability) {
            (Ok(outcomes), Durability::Entry) => self.held.push((reply, outcomes)),
            (Ok(outcomes), Durability::Within(_)) => self.settled.push((reply, Ok(outcomes))),
            (Err(error), _) => {
                self.failed("append", &error);
                self.settled.push((reply, Err(error.into())));
            }
        }
    }

    /// What the commands just handled have left to do.
    fn settle(&mut self) {
        if !self.held.is_empty() || (self.parked.is_some() && self.log.has_unflushed_entries()) {
            self.flush();
        }
        self.serve_parked();
        self.flush_at = self.log.is_dirty().then(|| {
            let due = Instant::now() + self.flush_after();
            self.flush_at.map_or(due, |earlier| earlier.min(due))
        });
    }

    fn flush_after(&self) -> std::time::Duration {
        match self.durability {
            Durability::Within(interval) if self.log.has_unflushed_entries() => interval,
            _ => REMOVE_FLUSH_INTERVAL,
        }
    }

    fn flush(&mut self) {
        self.flush_at = None;
        let started = Instant::now();
        match self.log.flush() {
            Ok(()) => {
                metrics::fsync(started.elapsed());
                self.storage_error = None;
                let held = self.held.drain(..);
                self.settled.extend(held.map(|(reply, outcomes)| (reply, Ok(outcomes))));
            }
            Err(error) => {
                self.failed("flush", &error);
                let error = QueueError::from(error);
                let held = self.held.drain(..);
                self.settled.extend(held.map(|(reply, _)| (reply, Err(error.clone()))));
            }
        }
    }

    /// Shows how the queue stands, then answers the appends: whoever has an answer finds its
    /// entries in the status.
    fn report(&mut self, status: &watch::Sender<QueueStatus>) {
        let storage_error = self.storage_error.clone();
        status.send_replace(QueueStatus { storage_error, ..self.log.status() });
        for (reply, outcome) in self.settled.drain(..) {
            let _ = reply.send(outcome);
        }
    }

    /// Answers, and notes a failure of the disk.
    fn answer<T>(&mut self, op: &'static str, reply: Reply<T>, result: io::Result<T>) {
        if let Err(error) = &result {
            self.failed(op, error);
        }
        answer(reply, result);
    }

    fn failed(&mut self, op: &'static str, error: &io::Error) {
        metrics::storage_error(op);
        let text = error.to_string();
        if self.storage_error.as_ref() != Some(&text) {
            tracing::error!(op, %error, "the queue's disk fails");
            self.storage_error = Some(text);
        }
    }

    fn serve_parked(&mut self) {
        let Some((from, limit, reply)) = self.parked.take() else { return };
        if reply.is_closed() {
            return;
        }
        match self.log.read(from, limit) {
            Ok(None) => self.parked = Some((from, limit, reply)),
            Ok(Some(batch)) => answer(reply, Ok(batch)),
            Err(error) => self.answer("read", reply, Err(error)),
        }
    }
}

/// A caller that is gone does not want the answer any more.
fn answer<T>(reply: Reply<T>, result: io::Result<T>) {
    let _ = reply.send(result.map_err(QueueError::from));
}

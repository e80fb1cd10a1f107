//! The end of the queue that reads and removes.

use tokio::sync::{mpsc, oneshot, watch};

use super::keeper::Command;
use super::log::Index;
pub use super::log::LookedAhead;
use super::{Limit, QueueError, QueueStatus};
use crate::entry::{Entry, Kind, Seq, StintId};

/// Entries that are out: handed back to [`Reader::remove`] once the server has them.
///
/// A batch that is dropped instead stays in the queue and is read again after a
/// [`Reader::rewind`].
#[derive(Debug, Default)]
#[must_use = "a batch that is not removed stays in the queue"]
pub struct Batch {
    pub(super) entries: Vec<Entry>,
    /// Entries that the server refuses: set aside when the batch is removed.
    pub(super) refused: Vec<Entry>,
    /// Position and size of every record that was read, also of those that did not decode.
    pub(super) records: Vec<(Seq, u32)>,
}

impl Batch {
    /// The entries, oldest first. Empty when not one of the records could be read back.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where it begins and ends, also when no entry could be read back.
    pub fn ends(&self) -> Option<(Seq, Seq)> {
        Some((self.records.first()?.0, self.records.last()?.0))
    }

    /// Gives up the memory of the frames, which are still in the queue. Setups are kept: what
    /// follows their removal needs them.
    pub fn forget_frames(&mut self) {
        let frames = self.entries.iter_mut().filter(|entry| entry.kind == Kind::Frame);
        frames.for_each(|entry| entry.json = String::new());
    }

    /// Marks entries as refused by the server: they will not count as delivered.
    pub fn quarantine(&mut self, refused: &[Seq]) {
        self.refused.extend(self.entries.extract_if(.., |entry| refused.contains(&entry.seq)));
    }
}

/// The end that reads and removes. There is one for each destination.
#[derive(Debug)]
pub struct Reader {
    commands: mpsc::Sender<Command>,
    of: Index,
    destination: String,
    /// The next batch begins here; what lies between it and the head is out.
    cursor: Seq,
    status: watch::Receiver<QueueStatus>,
}

impl Reader {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        of: Index,
        destination: String,
        status: watch::Receiver<QueueStatus>,
    ) -> Self {
        Self { commands, of, destination, cursor: Seq(0), status }
    }

    /// The entries that follow those already out, as soon as there is one that may be sent. Safe to
    /// cancel.
    pub async fn next_batch(&mut self, limit: Limit) -> Result<Batch, QueueError> {
        let (of, from) = (self.of, self.cursor);
        let batch = self.ask(|reply| Command::Read { of, from, limit, reply }).await?;
        if let Some(&(last, _)) = batch.records.last() {
            self.cursor = Seq(last.0 + 1);
        }
        Ok(batch)
    }

    /// Entries from `from` on that this destination has not had, out or not. Does not give them out.
    pub async fn look_ahead(&self, from: Seq, limit: Limit) -> Result<LookedAhead, QueueError> {
        let of = self.of;
        self.ask(|reply| Command::LookAhead { of, from, limit, reply }).await
    }

    /// Puts all batches that are out back: the next one begins with the oldest entry.
    pub fn rewind(&mut self) {
        self.cursor = Seq(0);
    }

    /// Gives up a batch whose entries the server has. Batches are removed in the order in which
    /// they were read; one that is not the oldest is refused.
    pub async fn remove(&mut self, batch: Batch) -> Result<(), QueueError> {
        let of = self.of;
        self.ask(|reply| Command::Remove { of, batch, reply: Some(reply) }).await
    }

    /// Likewise, but without waiting for the disk: if that fails, the next [`Reader::next_batch`] says
    /// so. Spares a live frame a change of threads.
    pub async fn remove_soon(&mut self, batch: Batch) -> Result<(), QueueError> {
        let remove = Command::Remove { of: self.of, batch, reply: None };
        self.commands.send(remove).await.map_err(|_| QueueError::Closed)
    }

    /// The stint that the next batch, or if the queue is empty the next entry, belongs to.
    pub async fn stint(&mut self) -> Result<StintId, QueueError> {
        let of = self.of;
        self.ask(|reply| Command::Stint { of, reply }).await
    }

    /// The setup that was in force in `stint` just before the oldest entry.
    pub async fn setup_in_force(&mut self, stint: StintId) -> Result<Option<Entry>, QueueError> {
        let of = self.of;
        self.ask(|reply| Command::SetupInForce { of, stint, reply }).await
    }

    /// The session that `server` gave to `stint`, if it is remembered.
    pub async fn session(
        &mut self,
        stint: StintId,
        server: &str,
    ) -> Result<Option<String>, QueueError> {
        self.ask(|reply| Command::Session { stint, server: server.into(), reply }).await
    }

    /// Remembers the session that `server` gave to `stint`, over restarts.
    pub async fn set_session(
        &mut self,
        stint: StintId,
        server: &str,
        session: &str,
    ) -> Result<(), QueueError> {
        let (server, session) = (server.into(), session.into());
        self.ask(|reply| Command::SetSession { stint, server, session, reply }).await
    }

    /// How the queue stands, as of the keeper's last step.
    pub fn status(&self) -> QueueStatus {
        self.status.borrow().clone()
    }

    /// The name of the destination; none for `[server]`.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Entries that wait for this destination.
    pub fn queued(&self) -> u64 {
        let status = self.status.borrow();
        match self.of {
            0 => status.queued,
            of => status.others.get(of - 1).map_or(0, |other| other.queued),
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, QueueError>>) -> Command,
    ) -> Result<T, QueueError> {
        ask(&self.commands, command).await
    }
}

/// Hands the keeper a command and waits for its answer.
pub(super) async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T, QueueError>>) -> Command,
) -> Result<T, QueueError> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.map_err(|_| QueueError::Closed)?;
    answer.await.map_err(|_| QueueError::Closed)?
}

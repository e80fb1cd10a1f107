//! The queue: a bounded, durable log of entries on a disk.
//!
//! [`open`] gives a [`Writer`] for the sources and a [`Reader`] for the session; they meet nowhere
//! else. One task, the keeper, owns the [`Store`] and runs on a thread of its own, so that no fsync
//! ever holds up another task.
//!
//! Invariants, each checked by a test:
//! - A position names one entry for ever; positions grow by one and survive power cuts.
//! - An entry is read only once it is durable.
//! - An entry leaves by [`Reader::remove`] of the batch it was read in, or under a [`DropReason`].
//! - The [ledger] balances against the positions at all times.

mod bytes;
mod disk;
mod journal;
mod keeper;
pub mod ledger;
mod lock;
mod log;
mod quarantine;
pub mod record;
pub mod segments;
mod sled;
pub mod store;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use self::keeper::Command;
use self::ledger::{DropReason, Ledger};
use self::log::Log;
use self::store::Store;
use crate::config::{self, Durability, QUEUE_CHANNEL_COMMANDS, WhenFull};
use crate::entry::{CapturedAt, Entry, Kind, Seq, StintId};

/// The first position of a new queue.
pub const FIRST: Seq = Seq(1);

/// The bounds of a queue and what it does at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_entries: u64,
    /// Bytes of the records; the store takes more on the disk.
    pub max_bytes: u64,
    pub max_age: Duration,
    pub when_full: WhenFull,
    pub durability: Durability,
    /// Silence up to this long continues a stint; a longer one begins another.
    pub resume_after: Duration,
}

impl Limits {
    /// What the configuration says.
    pub fn new(queue: &config::QueueConfig, stint: &config::StintConfig) -> Self {
        Self {
            max_entries: queue.max_entries,
            max_bytes: queue.max_bytes,
            max_age: queue.max_age,
            when_full: queue.when_full,
            durability: queue.durability,
            resume_after: stint.resume_after,
        }
    }

    /// Whether an entry at `next` belongs to the stint whose newest entry is at `newest`.
    fn continues(&self, newest: CapturedAt, next: CapturedAt) -> bool {
        i128::from(next.0) - i128::from(newest.0) <= self.resume_after.as_millis() as i128
    }

    fn max_age_ms(&self) -> i64 {
        i64::try_from(self.max_age.as_millis()).unwrap_or(i64::MAX)
    }
}

/// How much to read at once; both bounds hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub entries: usize,
    pub bytes: usize,
}

impl Limit {
    /// One record, however large.
    pub const ONE: Self = Self { entries: 1, bytes: usize::MAX };
}

/// An entry that a source hands in; position and stint are the queue's to give.
#[derive(Clone, Debug)]
pub struct NewEntry {
    pub captured_at: CapturedAt,
    pub content: Content,
    pub json: String,
}

/// What a new entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Frame,
    /// A setup is accepted when its fingerprint differs from that of the stint's last setup.
    Setup {
        fingerprint: u64,
    },
}

/// What became of a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in the queue, as durable as `queue.durability` promises.
    Stored(Seq),
    /// A setup that is the same as the one before: nothing to do.
    Unchanged,
    /// It is not in the queue, and counted under the reason.
    Dropped(DropReason),
}

/// Entries that are out: handed back to [`Reader::remove`] once the server has them.
///
/// A batch that is dropped instead stays in the queue and is read again after a
/// [`Reader::rewind`].
#[derive(Debug)]
#[must_use = "a batch that is not removed stays in the queue"]
pub struct Batch {
    stint: StintId,
    entries: Vec<Entry>,
    /// Entries that the server refuses: set aside when the batch is removed.
    refused: Vec<Entry>,
    /// Position and size of every record that was read, also of those that did not decode.
    records: Vec<(Seq, u32)>,
}

impl Batch {
    fn new(stint: StintId) -> Self {
        Self { stint, entries: Vec::new(), refused: Vec::new(), records: Vec::new() }
    }

    /// The stint of all its entries.
    pub fn stint(&self) -> StintId {
        self.stint
    }

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

/// How a queue stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// Position of the oldest entry; `tail` when there is none.
    pub head: Seq,
    /// Position that the next entry takes.
    pub tail: Seq,
    pub entries: u64,
    /// Bytes of the records.
    pub bytes: u64,
    /// Bytes on the disk.
    pub disk_bytes: u64,
    pub oldest: Option<CapturedAt>,
    /// The newest entry that was ever appended, also when it has been delivered.
    pub newest: Option<CapturedAt>,
    /// The stint that the next entry is expected to belong to.
    pub stint: StintId,
    /// Entries accepted since the queue was made.
    pub appended: u64,
    pub ledger: Ledger,
    /// appended - (delivered + dropped + quarantined) - queued; anything but 0 is a fault of this
    /// program.
    pub imbalance: i64,
    /// Why the disk failed the last time, until it works again.
    pub storage_error: Option<String>,
}

/// Why the queue did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// The disk failed. Trying again later may succeed, and store an entry twice: one whose flush
    /// failed may be there already.
    #[error("the queue's disk failed: {0}")]
    Storage(Arc<io::Error>),
    /// The queue has been closed.
    #[error("the queue is closed")]
    Closed,
}

impl From<io::Error> for QueueError {
    fn from(error: io::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

/// Why a queue did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the queue {path} is in use by another pitwire (process {owner})")]
    InUse { path: String, owner: String },
    #[error("the queue {path} does not open: {source}")]
    Storage { path: String, source: io::Error },
}

/// Opens the queue in the folder `queue.path`, making it if need be, and starts its keeper.
///
/// Blocks for as long as the disk takes. `now` is the wall clock's moment: it decides whether the
/// last stint goes on. [`Closed`] tells when both ends are dropped and the folder is free again.
pub fn open(
    queue: &config::QueueConfig,
    stint: &config::StintConfig,
    now: CapturedAt,
) -> Result<(Writer, Reader, Closed), OpenError> {
    let limits = Limits::new(queue, stint);
    let path = || queue.path.display().to_string();
    let storage = |source| OpenError::Storage { path: path(), source };
    std::fs::create_dir_all(&queue.path).map_err(storage)?;
    let lock = lock::Lock::take(&queue.path)
        .map_err(storage)?
        .map_err(|owner| OpenError::InUse { path: path(), owner })?;
    let options = segments::Options::new(queue.max_bytes);
    let store = segments::SegmentStore::open(&queue.path, options).map_err(storage)?;
    let ((writer, reader), keeper) = with_store(store, limits, now).map_err(storage)?;
    let (done, closed) = oneshot::channel();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(storage)?;
    std::thread::Builder::new()
        .name("pitwire-queue".into())
        .spawn(move || {
            runtime.block_on(keeper);
            drop(lock);
            drop(done);
        })
        .map_err(storage)?;
    Ok((writer, reader, Closed(closed)))
}

/// Resolves when a queue is closed: flushed, and its folder free for another agent.
#[derive(Debug)]
pub struct Closed(oneshot::Receiver<Infallible>);

impl Closed {
    pub async fn wait(self) {
        let _ = self.0.await;
    }
}

/// The two ends of a queue over any store, and the keeper that must be run for them to work. The
/// keeper ends when both ends are dropped, after a last flush.
pub fn with_store<S: Store>(
    store: S,
    limits: Limits,
    now: CapturedAt,
) -> io::Result<((Writer, Reader), impl Future<Output = ()> + Send)> {
    let durability = limits.durability;
    let mut log = Log::open(store, limits, now)?;
    let status = log.status();
    let stamps = Stamps { last: status.newest };
    let head = status.head;
    let (commands, inbox) = mpsc::channel(QUEUE_CHANNEL_COMMANDS);
    let (publisher, status) = watch::channel(status);
    let writer = Writer {
        commands: commands.clone(),
        stamps: Arc::new(Mutex::new(stamps)),
        status: status.clone(),
    };
    let reader = Reader { commands, cursor: head, status };
    Ok(((writer, reader), keeper::run(log, durability, inbox, publisher)))
}

/// Gives each entry its moment of capture, strictly later than the one before.
#[derive(Debug)]
pub struct Stamps {
    last: Option<CapturedAt>,
}

impl Stamps {
    /// `at`, or the first moment after the last stamp if the clock stood still or went back.
    pub fn next(&mut self, at: CapturedAt) -> CapturedAt {
        let stamp = match self.last {
            Some(last) if at <= last => CapturedAt(last.0.saturating_add(1)),
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
    stamps: Arc<Mutex<Stamps>>,
    status: watch::Receiver<QueueStatus>,
}

impl Writer {
    /// Appends the entries that `make` gives, in their order, and says what became of each.
    ///
    /// `make` is called once there is room in the channel; the order in which it draws stamps is
    /// the order in the queue. Returns when the entries are as durable as the configuration
    /// promises. Waits for the disk, never for the network.
    pub async fn append(
        &self,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        let room = self.commands.reserve().await.map_err(|_| QueueError::Closed)?;
        let (reply, answer) = oneshot::channel();
        {
            let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
            room.send(Command::Append { entries: make(&mut stamps), reply });
        }
        answer.await.map_err(|_| QueueError::Closed)?
    }

    /// How the queue stands, as of the keeper's last step.
    pub fn status(&self) -> QueueStatus {
        self.status.borrow().clone()
    }

    /// Closes the queue for all its ends: what was handed in so far is stored and flushed,
    /// everything later finds it [closed](QueueError::Closed). [`Closed`] tells when it is done.
    pub async fn close(&self) {
        // Closed already if it cannot be sent.
        let _ = self.commands.send(Command::Close).await;
    }

    /// Whether the keeper is gone, so that nothing can be stored any more.
    pub fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }
}

/// The end that reads and removes. There is one.
#[derive(Debug)]
pub struct Reader {
    commands: mpsc::Sender<Command>,
    /// The next batch begins here; what lies between it and the head is out.
    cursor: Seq,
    status: watch::Receiver<QueueStatus>,
}

impl Reader {
    /// The entries that follow those already out, all of one stint, as soon as there is one that
    /// is durable. Safe to cancel.
    pub async fn next_batch(&mut self, limit: Limit) -> Result<Batch, QueueError> {
        let from = self.cursor;
        let batch = self.ask(|reply| Command::Read { from, limit, reply }).await?;
        if let Some(&(last, _)) = batch.records.last() {
            self.cursor = Seq(last.0 + 1);
        }
        Ok(batch)
    }

    /// Puts all batches that are out back: the next one begins with the oldest entry.
    pub fn rewind(&mut self) {
        self.cursor = Seq(0);
    }

    /// Gives up a batch whose entries the server has. Batches are removed in the order in which
    /// they were read; one that is not the oldest is refused.
    pub async fn remove(&mut self, batch: Batch) -> Result<(), QueueError> {
        self.ask(|reply| Command::Remove { batch, reply }).await
    }

    /// The stint that the next batch, or if the queue is empty the next entry, belongs to.
    pub async fn stint(&mut self) -> Result<StintId, QueueError> {
        self.ask(|reply| Command::Stint { reply }).await
    }

    /// The setup that was in force just before the oldest entry of `stint`.
    pub async fn setup_in_force(&mut self, stint: StintId) -> Result<Option<Entry>, QueueError> {
        self.ask(|reply| Command::SetupInForce { stint, reply }).await
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

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, QueueError>>) -> Command,
    ) -> Result<T, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| QueueError::Closed)?;
        answer.await.map_err(|_| QueueError::Closed)?
    }
}

//! The queue: a bounded, durable log of entries on a disk.
//!
//! [`open`] gives a [`Writer`] for the sources and a [`Reader`] for the session; they meet nowhere
//! else. A person looks in with an [`Operator`](operator::Operator). One task, the keeper, owns the [`Store`] and runs on a thread of its own, so that no fsync
//! ever holds up another task.
//!
//! Invariants, each checked by a test:
//! - A position names one entry for ever; positions grow and survive power cuts.
//! - An entry leaves by [`Reader::remove`] of the batch it was read in, under a [`DropReason`], or
//!   because thinning left it out.
//! - The [ledger] balances against the positions at all times.

mod buffer;
mod bytes;
mod disk;
mod examine;
pub mod fates;
pub(crate) mod free_space;
pub mod inspect;
mod journal;
mod keeper;
pub mod ledger;
mod lock;
mod log;
mod notes;
pub mod operator;
mod owner;
mod reader;
pub mod record;
pub mod segments;
mod sled;
pub mod store;
mod thinning;
mod watchdog;
mod writer;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::buffer::Buffer;
pub(crate) use self::disk::replace_undurably;
use self::ledger::{DropReason, Ledger};
use self::log::Log;
pub use self::reader::{Batch, LookedAhead, Reader};
use self::store::Store;
pub use self::watchdog::Stuck;
pub use self::writer::{Stamps, Writer};
use crate::config::{self, Durability, QUEUE_CHANNEL_COMMANDS, WhenFull};
use crate::entry::{CapturedAt, Seq, Situation, StintId, Stream};

/// The first position of a new queue.
pub const FIRST: Seq = Seq(1);

/// The bounds of a queue and what it does at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_entries: u64,
    /// Bytes on the disk, as `du` counts them, all included.
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

    /// Records that a stretch is to hold, about.
    fn stretch_entries(&self) -> u64 {
        segments::segment_entries(self.max_entries)
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
    /// What the store reads together.
    const ALL_OF_A_STRETCH: Self = Self { entries: usize::MAX, bytes: usize::MAX };
}

/// An entry that a source hands in; position and stint are the queue's to give.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Strictly later than that of the entry before, whoever drove: the queue's order.
    pub captured_at: CapturedAt,
    /// The moment of capture, where the queue's order is not that: another agent's, which may come
    /// hours late.
    pub driven_at: Option<CapturedAt>,
    pub content: Content,
    pub json: String,
}

/// What a new entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Frame(Situation),
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
    /// It waits in memory: the disk does not keep up, or fails. It will be stored, or counted as
    /// dropped or thinned.
    Buffered,
}

/// A stream and the stint that it is in.
pub type StreamStint = (Stream, StintId);

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
    /// The bounds of entries and of bytes on the disk.
    pub max_entries: u64,
    pub max_bytes: u64,
    /// Entries that wait in memory for the disk; they are not in the other numbers.
    pub buffered: u64,
    /// When the oldest entry came that a power cut now would lose; `None` when it would lose none.
    pub undurable_since: Option<Instant>,
    pub oldest: Option<CapturedAt>,
    /// The newest entry that was ever appended, also when it has been delivered.
    pub newest: Option<CapturedAt>,
    /// The stint that the next entry is expected to belong to.
    pub stint: StintId,
    /// The stint that each stream is in, of those that were used last.
    pub stints: Arc<[StreamStint]>,
    /// Of the entries those that `[server]` has not had: all of them, where it is the slowest.
    pub queued: u64,
    /// Entries accepted since the queue was made.
    pub appended: u64,
    /// Of `[server]`.
    pub ledger: Ledger,
    /// appended - (delivered + dropped + thinned + quarantined) - queued; anything but 0 is a fault
    /// of this program.
    pub imbalance: i64,
    /// The other destinations.
    pub others: Vec<Standing>,
    /// Why the disk failed the last time, until it works again.
    pub storage_error: Option<String>,
    /// It failed because there is no room on it.
    pub disk_is_full: bool,
    /// The queue worker makes no progress.
    pub stuck: Option<Stuck>,
}

impl QueueStatus {
    /// How `[server]` stands.
    pub fn server(&self) -> Standing {
        Standing::server(self.queued, self.appended, self.ledger, self.imbalance)
    }
}

/// How one destination stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub name: String,
    /// Entries that it has not had.
    pub queued: u64,
    /// Entries accepted since the queue knows it, and those that it held then.
    pub appended: u64,
    pub ledger: Ledger,
    /// As in [`QueueStatus`].
    pub imbalance: i64,
}

impl Standing {
    /// That of `[server]`, which has no name.
    pub fn server(queued: u64, appended: u64, ledger: Ledger, imbalance: i64) -> Self {
        Self { name: String::new(), queued, appended, ledger, imbalance }
    }
}

/// Who gets the entries besides `[server]`.
#[derive(Clone, Copy, Debug)]
pub enum Destinations<'a> {
    /// Those of these names, each of which is a few of `a-z 0-9 _ -`. One that was there and is not
    /// named is given up, and what was only kept for it.
    These(&'a [String]),
    /// Those that the queue knows.
    AsTheyAre,
}

/// Why the queue did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// The disk failed. Trying again later may succeed.
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
    #[error("there is no queue in {path}")]
    Missing { path: String },
}

impl OpenError {
    /// Whether the disk, not what is on it, is in a bad way: full, read-only, not there. That may
    /// pass without a person.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Storage { source, .. } if disk::is_circumstance(source))
    }
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
    let (writer, readers, closed) = open_within(limits, queue, Destinations::These(&[]), now)?;
    Ok((writer, readers.0, closed))
}

/// Likewise, for other destinations besides `[server]`: a [`Reader`] for each of them.
pub fn open_for(
    others: &[String],
    queue: &config::QueueConfig,
    stint: &config::StintConfig,
    now: CapturedAt,
) -> Result<(Writer, Readers, Closed), OpenError> {
    open_within(Limits::new(queue, stint), queue, Destinations::These(others), now)
}

/// Opens a queue that is there already, for a person to look into: nothing makes room and nothing
/// expires, whatever the limits say.
pub fn open_as_it_is(
    queue: &config::QueueConfig,
    stint: &config::StintConfig,
    now: CapturedAt,
) -> Result<(Writer, Reader, Closed), OpenError> {
    let limits = Limits {
        max_entries: u64::MAX,
        max_bytes: u64::MAX,
        max_age: Duration::MAX,
        ..Limits::new(queue, stint)
    };
    if !segments::inspect::is_store(&queue.path) {
        return Err(OpenError::Missing { path: queue.path.display().to_string() });
    }
    let (writer, readers, closed) = open_within(limits, queue, Destinations::AsTheyAre, now)?;
    Ok((writer, readers.0, closed))
}

/// The end for `[server]`, and those for the other destinations in their order.
pub type Readers = (Reader, Vec<Reader>);

fn open_within(
    limits: Limits,
    queue: &config::QueueConfig,
    destinations: Destinations<'_>,
    now: CapturedAt,
) -> Result<(Writer, Readers, Closed), OpenError> {
    let path = || queue.path.display().to_string();
    let storage = |source| OpenError::Storage { path: path(), source };
    disk::create_folder(&queue.path).map_err(storage)?;
    let lock = lock::Lock::take(&queue.path)
        .map_err(storage)?
        .map_err(|owner| OpenError::InUse { path: path(), owner })?;
    let options = segments::Options::new(queue.max_entries, queue.max_bytes);
    owner::Owner::set_place(&queue.path).map_err(storage)?;
    let mut store = segments::SegmentStore::open(&queue.path, options).map_err(storage)?;
    store.guard(lock);
    let ((writer, readers), keeper) =
        with_store_for(destinations, store, limits, now).map_err(storage)?;
    let (done, closed) = oneshot::channel();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(storage)?;
    std::thread::Builder::new()
        .name("pitwire-queue".into())
        .spawn(move || {
            runtime.block_on(keeper);
            drop(done);
        })
        .map_err(storage)?;
    Ok((writer, readers, Closed(closed)))
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
    let destinations = Destinations::These(&[]);
    let ((writer, readers), keeper) = with_store_for(destinations, store, limits, now)?;
    Ok(((writer, readers.0), keeper))
}

/// Likewise, with an end for each destination.
pub fn with_store_for<S: Store>(
    destinations: Destinations<'_>,
    store: S,
    limits: Limits,
    now: CapturedAt,
) -> io::Result<((Writer, Readers), impl Future<Output = ()> + Send + use<S>)> {
    let durability = limits.durability;
    let mut log = Log::open(store, limits, destinations, now)?;
    let status = log.status();
    let buffer = Arc::new(Buffer::new(Stamps::after(status.newest)));
    let (commands, inbox) = mpsc::channel(QUEUE_CHANNEL_COMMANDS);
    let (publisher, status) = watch::channel(status);
    let writer = Writer::new(commands.clone(), Arc::clone(&buffer), status.clone());
    let reader = |(of, name): (usize, &String)| {
        Reader::new(commands.clone(), of, name.clone(), status.clone())
    };
    let mut all = log.destinations().iter().enumerate().map(reader);
    let server = all.next().ok_or(io::ErrorKind::InvalidInput)?;
    let readers = (server, all.collect());
    Ok(((writer, readers), keeper::run(log, durability, buffer, inbox, publisher)))
}

//! The queue: a bounded, durable FIFO of entries on disk.
//!
//! [`open`] returns a [`Writer`] for the sources and a [`Reader`] for the session of each
//! destination; the queue is the only link between them. An [`Operator`](operator::Operator)
//! inspects and edits the queue by hand. One task, the queue worker, owns the [`Store`] and runs on
//! its own thread, so that an fsync never blocks another task.
//!
//! Invariants, each checked by a test:
//! - A position identifies one entry forever; positions only increase, also across power cuts.
//! - An entry leaves the queue in one of three ways: [`Reader::ack`] of the batch in which it was
//!   read, a drop with a [`DropReason`], or downsampling.
//! - The [ledger] balances against the positions at all times.

mod buffer;
mod disk;
pub mod disposition;
mod downsampling;
mod engine;
mod framing;
pub(crate) mod free_space;
pub mod inspect;
pub mod ledger;
mod lock;
pub mod operator;
mod owner;
mod reader;
pub mod record;
mod report;
pub mod segments;
mod side_log;
mod sled;
pub mod store;
mod wal;
mod watchdog;
mod worker;
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
use self::engine::Engine;
use self::ledger::{DropReason, Ledger};
pub use self::reader::{Batch, LookedAhead, Reader};
use self::store::Store;
pub use self::watchdog::Stuck;
pub use self::writer::{Stamps, Writer};
use crate::config::{self, Durability, SERVER, WhenFull};
use crate::entry::{CapturedAt, CarId, Seq, Situation, StintId};

/// How long a source waits for the disk before its entries count as buffered.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The capacity of the channel from the session to the queue worker; a full channel makes the
/// session wait.
pub(crate) const QUEUE_CHANNEL_COMMANDS: usize = 256;

/// A removal is flushed with the next append, or after this long. If power fails before that, the
/// entry is sent again.
pub const REMOVE_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The interval between attempts to write entries again after a disk failure.
pub const STORAGE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The interval between attempts to open a queue whose disk is full or read-only.
pub(crate) const STORAGE_OPEN_INTERVAL: Duration = Duration::from_secs(2);

/// The maximum entries, and bytes of JSON, that wait in memory while the disk is slow, full or
/// missing. One request of a source may exceed it.
pub const BUFFER_ENTRIES: usize = 16_384;
pub const BUFFER_BYTES: usize = 12 << 20;

/// Entries younger than this, relative to the newest, are never downsampled.
pub const RECENT: Duration = Duration::from_secs(60);

/// The maximum entries, and bytes of their records, that one step drops from the head of the queue.
pub const DROP_STEP_ENTRIES: usize = 1024;
pub(crate) const DROP_STEP_BYTES: usize = 1 << 20;

/// The maximum entries, and bytes of their records, that a queue tool reads at once; a larger entry
/// is read alone. The queue worker does nothing else meanwhile.
pub(crate) const PAGE_ENTRIES: usize = 1024;
pub(crate) const PAGE_BYTES: usize = 1 << 20;

/// The maximum number of findings that are listed for one segment.
pub(crate) const MAX_FINDINGS: usize = 100;

/// The first position of a new queue.
pub const FIRST: Seq = Seq(1);

/// The limits of a queue, and its policy when it reaches them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_entries: u64,
    /// Total disk usage in bytes, as `du` counts it.
    pub max_bytes: u64,
    pub max_age: Duration,
    pub when_full: WhenFull,
    pub durability: Durability,
    /// A pause of up to this length continues a stint; a longer one starts a new stint.
    pub resume_after: Duration,
}

impl Limits {
    /// The limits from the configuration.
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

    /// Whether an entry captured at `next` belongs to the stint whose newest entry was captured at
    /// `newest`.
    fn continues(&self, newest: CapturedAt, next: CapturedAt) -> bool {
        i128::from(next.0) - i128::from(newest.0) <= self.resume_after.as_millis() as i128
    }

    /// The approximate number of records in a segment.
    fn segment_entries(&self) -> u64 {
        segments::segment_entries(self.max_entries)
    }

    fn max_age_ms(&self) -> i64 {
        i64::try_from(self.max_age.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The maximum size of one read; both bounds apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub entries: usize,
    pub bytes: usize,
}

impl Limit {
    /// One record, however large.
    pub const ONE: Self = Self { entries: 1, bytes: usize::MAX };
    /// Everything that the store returns in one read: at most one segment.
    const WHOLE_SEGMENT: Self = Self { entries: usize::MAX, bytes: usize::MAX };
}

/// An entry from a source. The queue assigns its position and stint.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Defines the order of the queue: strictly later than the `captured_at` of the previous entry,
    /// for all streams together.
    pub captured_at: CapturedAt,
    /// The time of capture if it differs from `captured_at`: entries relayed from another agent may
    /// arrive hours late.
    pub driven_at: Option<CapturedAt>,
    pub content: Content,
    pub json: String,
}

/// The content of a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Frame(Situation),
    /// A setup is accepted if its fingerprint differs from that of the stint's last setup.
    Setup {
        fingerprint: u64,
    },
}

/// The outcome of an append, for one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Stored, with the durability that `queue.durability` promises.
    Stored(Seq),
    /// The setup equals the previous one and was not stored again.
    Unchanged,
    /// Not stored; counted under this reason.
    Dropped(DropReason),
    /// Buffered in memory because the disk is slow or failing. It will be stored, or counted as
    /// dropped or downsampled.
    Buffered,
}

/// A stream and its current stint.
pub type StreamStint = (CarId, StintId);

/// A snapshot of the queue's state and counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Position of the oldest entry; equals `tail` if the queue is empty.
    pub head: Seq,
    /// Position of the next entry to be appended.
    pub tail: Seq,
    pub entries: u64,
    /// Total size of the records in bytes.
    pub bytes: u64,
    /// Bytes used on disk.
    pub disk_bytes: u64,
    /// The configured limits on entries and on disk usage.
    pub max_entries: u64,
    pub max_bytes: u64,
    /// Entries buffered in memory until the disk accepts them; not included in the other numbers.
    pub buffered: u64,
    /// Arrival time of the oldest entry that a power cut would lose now; `None` if all entries are
    /// durable.
    #[serde(skip)]
    pub undurable_since: Option<Instant>,
    /// Capture time of the oldest entry.
    pub oldest: Option<CapturedAt>,
    /// Capture time of the newest entry ever appended, even if it was delivered since.
    pub newest: Option<CapturedAt>,
    /// The stint to which the next entry is expected to belong.
    pub stint: StintId,
    /// The current stint of each recently used stream.
    #[serde(skip)]
    pub stints: Arc<[StreamStint]>,
    pub destinations: Vec<DestinationStatus>,
    /// The last disk error; cleared when the disk works again.
    pub storage_error: Option<String>,
    /// Whether the last disk error was a full disk.
    pub disk_is_full: bool,
    /// Set while the queue worker makes no progress.
    #[serde(skip)]
    pub stuck: Option<Stuck>,
}

impl QueueStatus {
    /// The status of the destination with this name.
    pub fn destination(&self, name: &str) -> Option<&DestinationStatus> {
        self.destinations.iter().find(|destination| destination.name == name)
    }

    /// The status of the destination `server`; empty if there is none.
    pub fn server(&self) -> DestinationStatus {
        self.destination(SERVER).cloned().unwrap_or_default()
    }

    /// Entries accepted since the queue was created, or since its oldest destination was configured.
    pub fn appended(&self) -> u64 {
        self.destinations.iter().map(|destination| destination.appended).max().unwrap_or_default()
    }

    /// Entries lost to damage; if the destinations differ, the most that one of them lost.
    pub fn corrupt(&self) -> u64 {
        let corrupt = self.destinations.iter().map(|destination| destination.ledger.corrupt);
        corrupt.max().unwrap_or_default()
    }

    /// The destinations whose ledger does not balance.
    pub fn imbalanced(&self) -> impl Iterator<Item = &DestinationStatus> {
        self.destinations.iter().filter(|destination| destination.imbalance != 0)
    }
}

/// The status of one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationStatus {
    pub name: String,
    /// Entries not yet delivered to this destination.
    pub queued: u64,
    /// Capture time of the oldest of these entries.
    pub oldest: Option<CapturedAt>,
    /// Entries accepted since the destination was configured, plus the entries queued at that time.
    pub appended: u64,
    pub ledger: Ledger,
    /// appended - (delivered + dropped + downsampled + dead letters) - queued. Anything but 0 is a
    /// bug in pitwire.
    pub imbalance: i64,
}

/// The destinations that receive the entries of a queue.
#[derive(Clone, Copy, Debug)]
pub enum Destinations<'a> {
    /// Exactly these destinations; a name is a few of `a-z 0-9 _ -`. A destination that the queue
    /// knows but that is not listed is removed, together with the entries that were kept only for
    /// it.
    Configured(&'a [String]),
    /// The destinations that the queue already knows; `server` if it knows none.
    Stored,
}

/// Why a queue operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// The disk failed. A later attempt may succeed.
    #[error("queue disk error: {0}")]
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

/// Why a queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the queue {path} is in use by another pitwire (process {owner})")]
    InUse { path: String, owner: String },
    #[error("cannot open the queue {path}: {source}")]
    Storage { path: String, source: io::Error },
    #[error("there is no queue in {path}")]
    Missing { path: String },
}

impl OpenError {
    /// Whether the cause is the state of the disk (full, read-only, missing) rather than its
    /// content. Such an error may clear without intervention.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Storage { source, .. } if disk::is_circumstance(source))
    }
}

/// Opens an existing queue for an operator, with the destinations that it knows. Nothing is evicted
/// or expired, whatever the configured limits are.
pub fn open_existing(
    queue: &config::QueueConfig,
    stint: &config::StintConfig,
    now: CapturedAt,
) -> Result<(Writer, Vec<Reader>, Closed), OpenError> {
    if !segments::scan::is_store(&queue.path) {
        return Err(OpenError::Missing { path: queue.path.display().to_string() });
    }
    let limits = Limits {
        max_entries: u64::MAX,
        max_bytes: u64::MAX,
        max_age: Duration::MAX,
        ..Limits::new(queue, stint)
    };
    open(queue, limits, Destinations::Stored, now)
}

/// Opens the queue in the folder `queue.path`, creating it if necessary, and starts its worker.
/// Returns a [`Reader`] for each destination, in the given order.
///
/// Blocks until the disk has been read. `now` is the wall-clock time; it decides whether the last
/// stint continues. [`Closed`] resolves when all ends are dropped and the folder is unlocked.
pub fn open(
    queue: &config::QueueConfig,
    limits: Limits,
    destinations: Destinations<'_>,
    now: CapturedAt,
) -> Result<(Writer, Vec<Reader>, Closed), OpenError> {
    let path = || queue.path.display().to_string();
    let storage = |source| OpenError::Storage { path: path(), source };
    disk::create_folder(&queue.path).map_err(storage)?;
    let lock = lock::Lock::take(&queue.path)
        .map_err(storage)?
        .map_err(|owner| OpenError::InUse { path: path(), owner })?;
    let options = segments::Options::new(queue.max_entries, queue.max_bytes);
    // The file only tells a copied queue from its original: a full disk must not prevent a start.
    if let Err(error) = owner::Owner::set_place(&queue.path) {
        tracing::warn!(%error, "cannot write where this queue is");
    }
    let mut store = segments::SegmentStore::open(&queue.path, options).map_err(storage)?;
    store.guard(lock);
    let ((writer, readers), worker) =
        with_store(store, limits, destinations, now).map_err(storage)?;
    let (done, closed) = oneshot::channel();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(storage)?;
    std::thread::Builder::new()
        .name("pitwire-queue".into())
        .spawn(move || {
            runtime.block_on(worker);
            drop(done);
        })
        .map_err(storage)?;
    Ok((writer, readers, Closed(closed)))
}

/// Resolves when a queue is closed: flushed, and its folder unlocked for another agent.
#[derive(Debug)]
pub struct Closed(oneshot::Receiver<Infallible>);

impl Closed {
    pub async fn wait(self) {
        let _ = self.0.await;
    }
}

/// Creates a queue over any store. Returns its write end, a read end for each destination, and its
/// worker: a future that must be polled for them to work. It completes after a last flush when all
/// ends are dropped.
pub fn with_store<S: Store>(
    store: S,
    limits: Limits,
    destinations: Destinations<'_>,
    now: CapturedAt,
) -> io::Result<((Writer, Vec<Reader>), impl Future<Output = ()> + Send + use<S>)> {
    let durability = limits.durability;
    let mut engine = Engine::open(store, limits, destinations, now)?;
    let status = engine.status();
    let buffer = Arc::new(Buffer::new(Stamps::after(status.newest)));
    let (commands, inbox) = mpsc::channel(QUEUE_CHANNEL_COMMANDS);
    let (publisher, status) = watch::channel(status);
    let writer = Writer::new(commands.clone(), Arc::clone(&buffer), status.clone());
    let names = engine.destinations().into_iter().enumerate();
    let readers =
        names.map(|(of, name)| Reader::new(commands.clone(), of, name, status.clone())).collect();
    Ok(((writer, readers), worker::run(engine, durability, buffer, inbox, publisher)))
}

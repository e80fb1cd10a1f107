//! Opens a queue and starts its worker.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::buffer::Buffer;
use super::engine::Engine;
use super::reader::Reader;
use super::storage::owner::Owner;
use super::storage::{self, Options, SegmentStore, Store, disk};
use super::worker::{self, Requests};
use super::writer::Writer;
use super::{DiskObserver, Limits, OpenError, Stamps};
use crate::config::{QueueConfig, StintConfig};
use crate::platform::clock::Clock;

/// The interval between attempts to open a queue whose disk is full or read-only.
pub(crate) const STORAGE_OPEN_INTERVAL: Duration = Duration::from_secs(2);

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

/// Opens the queue in the folder `queue.path`, creating it if necessary, and starts its worker.
/// Returns a [`Reader`] for each destination, in the given order.
///
/// Blocks until the disk has been read. `clock` decides whether the last stint continues. `observer` receives the outcome of each disk operation. [`Closed`] resolves when all ends are dropped and the folder is unlocked.
pub fn open(
    queue: &QueueConfig,
    limits: Limits,
    destinations: Destinations<'_>,
    clock: Clock,
    observer: DiskObserver,
) -> Result<(Writer, Vec<Reader>, Closed), OpenError> {
    let storage = |source| OpenError::storage(&queue.path, source);
    disk::create_folder(&queue.path).map_err(storage)?;
    let lock = OpenError::lock(&queue.path)?;
    let options = Options::new(queue.max_entries, queue.max_bytes);
    // The file only tells a copied queue from its original: a full disk must not prevent a start.
    if let Err(error) = Owner::set_place(&queue.path) {
        tracing::warn!(%error, "cannot write where this queue is");
    }
    let mut store = SegmentStore::open(&queue.path, options).map_err(storage)?;
    store.guard(lock);
    let ((writer, readers), worker) =
        with_store(Box::new(store), limits, destinations, clock, observer).map_err(storage)?;
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

/// Opens an existing queue for an operator, with the destinations that it knows. Nothing is evicted
/// or expired, whatever the configured limits are.
pub fn open_existing(
    queue: &QueueConfig,
    stint: &StintConfig,
    clock: Clock,
) -> Result<(Writer, Vec<Reader>, Closed), OpenError> {
    if !storage::names::is_store(&queue.path) {
        return Err(OpenError::Missing { path: queue.path.display().to_string() });
    }
    let limits = Limits {
        max_entries: u64::MAX,
        max_bytes: u64::MAX,
        max_age: Duration::MAX,
        ..Limits::new(queue, stint)
    };
    open(queue, limits, Destinations::Stored, clock, |_| {})
}

/// Creates a queue over any store. Returns its write end, a read end for each destination, and its
/// worker: a future that must be polled for them to work. It completes after a last flush when all
/// ends are dropped.
pub fn with_store(
    store: Box<dyn Store>,
    limits: Limits,
    destinations: Destinations<'_>,
    clock: Clock,
    observer: DiskObserver,
) -> io::Result<((Writer, Vec<Reader>), impl Future<Output = ()> + Send + use<>)> {
    let durability = limits.durability;
    let mut engine = Engine::open(store, limits, destinations, &clock)?;
    let status = engine.status();
    let (offset, newest) = engine.clock();
    let buffer = Arc::new(Buffer::new(Stamps::new(clock, offset, newest)));
    let (requests, inbox) = Requests::channel();
    let (publisher, status) = watch::channel(status);
    let writer = Writer::new(requests.clone(), Arc::clone(&buffer), status.clone());
    let names = engine.destinations().into_iter().enumerate();
    let readers =
        names.map(|(of, name)| Reader::new(requests.clone(), of, name, status.clone())).collect();
    Ok(((writer, readers), worker::run(engine, durability, buffer, inbox, publisher, observer)))
}

/// Resolves when a queue is closed: flushed, and its folder unlocked for another agent.
#[derive(Debug)]
pub struct Closed(oneshot::Receiver<Infallible>);

impl Closed {
    pub async fn wait(self) {
        let _ = self.0.await;
    }
}

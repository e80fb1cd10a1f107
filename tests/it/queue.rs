//! The queue against a model: its guarantees hold whatever happens to it and to its disk.
//!
//! Time is paused and only the steps are random, so a failure is reproducible.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pitwire::config::{Durability, WhenFull};
use pitwire::entry::{CapturedAt, Entry, Seq, Situation, StintId};
use pitwire::queue::ledger::DropReason;
use pitwire::queue::storage::{Options, SegmentStore, Store};
use pitwire::queue::{
    APPEND_TIMEOUT, Appended, BUFFER_ENTRIES, Batch, Content, DROP_STEP_ENTRIES, Limit, Limits,
    NewEntry, QueueError, QueueStatus, REMOVE_FLUSH_INTERVAL, Reader, STORAGE_RETRY_INTERVAL,
    Stamps, Writer, record,
};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::disk::Disk;
use crate::single;

const RESUME_AFTER: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_millis(200);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_queue_matches_its_model_on_a_faulty_disk(
        limits in limits(),
        steps in prop::collection::vec(prop_oneof![5 => queue_operation(), 1 => fault()], 1..80),
    ) {
        check(Disk::default(), limits, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_queue_matches_its_model_on_the_segment_store(
        limits in limits(),
        steps in prop::collection::vec(
            prop_oneof![9 => queue_operation(), 1 => Just(Step::Restart)], 1..60,
        ),
    ) {
        // The smallest size limit that a store on a real disk accepts is far above these few
        // records.
        check(tempfile::tempdir().unwrap(), Limits { max_bytes: 64 << 20, ..limits }, steps);
    }
}

#[tokio::test(start_paused = true)]
async fn entries_are_buffered_while_the_disk_fails_and_stored_once() {
    let disk = Disk::default();
    let (queue, _) = Life::open(&disk, &roomy(), 0);
    queue.append("old").await.unwrap();
    disk.fail_flushes(true);
    for _ in 0..100 {
        assert_eq!(queue.append("new").await.unwrap(), [Appended::Buffered]);
        sleep(Duration::from_secs(1)).await;
    }
    let status = queue.writer.status();
    assert_eq!(status.buffered, 100, "{status:?}");
    assert!(status.storage_error.is_some() && status.undurable_since.is_some(), "{status:?}");
    assert!(!status.disk_is_full, "{status:?}");
    disk.fail_flushes(false);
    sleep(STORAGE_RETRY_INTERVAL).await;
    let outcome = queue.append("newest").await.unwrap();
    assert_eq!(outcome, [Appended::Stored(Seq(102))]);
    let status = queue.writer.status();
    assert_eq!(
        (status.entries, status.buffered, status.server().imbalance),
        (102, 0, 0),
        "{status:?}"
    );
    assert_eq!((status.storage_error, status.undurable_since), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_disk_failure_without_pending_entries_leaves_no_loss_window() {
    let disk = Disk::default();
    let (mut queue, _) = Life::open(&disk, &roomy(), 0);
    queue.append("only").await.unwrap();
    disk.fail_flushes(true);
    let batch = queue.reader.next_batch(Limit::ONE).await.unwrap();
    queue.reader.ack(batch).await.unwrap();
    sleep(REMOVE_FLUSH_INTERVAL * 2).await;
    assert!(queue.writer.status().storage_error.is_some());
    disk.fail_flushes(false);
    sleep(STORAGE_RETRY_INTERVAL * 2).await;
    assert_eq!(queue.writer.status().undurable_since, None);
    assert_eq!(queue.append("next").await.unwrap(), [Appended::Stored(Seq(2))]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_removal_is_reported_by_the_next_read() {
    let disk = Disk::default();
    let (mut queue, _) = Life::open(&disk, &roomy(), 0);
    queue.append_many(2).await.unwrap();
    let oldest = queue.reader.next_batch(Limit::ONE).await.unwrap();
    let expected = oldest.entries().to_vec();
    disk.fail(1);
    queue.reader.ack_unconfirmed(oldest).await.unwrap();
    let next = queue.reader.next_batch(Limit::ONE).await;
    assert!(matches!(next, Err(QueueError::Storage(_))), "{next:?}");
    queue.reader.rewind();
    let again = queue.reader.next_batch(Limit::ONE).await.unwrap();
    assert_eq!(again.entries(), expected);
    queue.reader.ack(again).await.unwrap();
    assert_eq!(queue.writer.status().entries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_memory_buffer_downsamples_then_drops_and_counts_both() {
    let disk = Disk::default();
    let limits = Limits { max_entries: 1_000_000, max_bytes: 1 << 30, ..roomy() };
    let (mut queue, _) = Life::open(&disk, &limits, 0);
    disk.fail_flushes(true);
    let total = 4 * BUFFER_ENTRIES as u64;
    for _ in 0..total / 64 {
        queue.append_many(64).await.unwrap();
    }
    let status = queue.writer.status();
    assert!(status.buffered <= BUFFER_ENTRIES as u64 + 64, "{status:?}");
    assert!(status.server().ledger.downsampled > total / 2, "{status:?}");
    assert_eq!(
        status.buffered + status.server().ledger.downsampled + status.server().ledger.storage,
        total
    );
    // Setups cannot be downsampled.
    for n in 0..BUFFER_ENTRIES as u64 {
        queue.append_setup(n).await.unwrap();
    }
    let status = queue.writer.status();
    assert!(status.server().ledger.storage > 0, "{status:?}");
    disk.fail_flushes(false);
    sleep(STORAGE_RETRY_INTERVAL * 2).await;
    let status = queue.writer.status();
    assert_eq!((status.buffered, status.server().imbalance), (0, 0), "{status:?}");
    assert_eq!(status.appended(), total + BUFFER_ENTRIES as u64);
    let mut read = 0;
    while status.entries > read {
        let batch = queue.reader.next_batch(Limit { entries: 1000, bytes: 1 << 20 }).await.unwrap();
        assert!(batch.entries().windows(2).all(|two| two[0].captured_at < two[1].captured_at));
        read += batch.entries().len() as u64;
    }
}

#[tokio::test]
async fn a_stalled_disk_does_not_block_the_source() {
    let disk = Disk::default();
    let ((writer, _reader), worker) =
        single::with_store(disk.clone(), roomy(), single::at(0)).unwrap();
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(worker);
    });
    disk.stall(Duration::from_secs(4));
    let content = Content::Frame(Situation::default());
    let entry = |stamp| NewEntry::new(stamp, content, "{}".into());
    let append = || writer.append(|stamps| vec![entry(stamps.stamp_at(single::reading(0)))]);
    let started = std::time::Instant::now();
    assert_eq!(append().await.unwrap(), [Appended::Buffered]);
    assert!(started.elapsed() < APPEND_TIMEOUT + Duration::from_millis(900));
    let started = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(append().await.unwrap(), [Appended::Buffered]);
    }
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    let status = writer.status();
    assert_eq!(status.buffered, 101);
    assert!(status.undurable_since.is_some_and(|since| since.elapsed() < Duration::from_secs(4)));
    disk.stall(Duration::ZERO);
    writer.close().await;
    worker.join().unwrap();
    let status = writer.status();
    assert_eq!(
        (status.entries, status.buffered, status.server().imbalance),
        (101, 0, 0),
        "{status:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_source_waits_for_space_but_a_live_source_does_not() {
    let disk = Disk::default();
    let limits = Limits { max_entries: 3, when_full: WhenFull::Block, ..roomy() };
    let (mut queue, _) = Life::open(&disk, &limits, 0);
    let writer = queue.writer.clone();
    let file = tokio::spawn(async move {
        let content = Content::Frame(Situation::default());
        let entry = |stamp| NewEntry::new(stamp, content, "file".into());
        for _ in 0..3 {
            let make = |stamps: &mut Stamps| {
                (0..2).map(|_| entry(stamps.stamp_at(single::reading(0)))).collect::<Vec<_>>()
            };
            writer.append_blocking(2, make).await.unwrap();
        }
    });
    sleep(Duration::from_secs(100)).await;
    assert!(!file.is_finished());
    assert_eq!(queue.writer.status().entries, 2);
    for seq in 3..5 {
        // A live source evicts the oldest entry where downsampling frees no space.
        assert_eq!(queue.append("live").await.unwrap(), [Appended::Stored(Seq(seq))]);
    }
    let mut seen = Vec::new();
    for _ in 0..7 {
        let batch = queue.reader.next_batch(Limit::ONE).await.unwrap();
        assert!(batch.entries().windows(2).all(|two| two[0].captured_at < two[1].captured_at));
        seen.extend(batch.entries().iter().map(|entry| entry.json.clone()));
        queue.reader.ack(batch).await.unwrap();
    }
    file.await.unwrap();
    assert_eq!(seen, ["file", "live", "live", "file", "file", "file", "file"]);
    let status = queue.writer.status();
    assert_eq!(
        (status.server().ledger.queue_full, status.server().imbalance),
        (1, 0),
        "{status:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_logged_once_and_reported_until_it_recovers() {
    let log = Lines::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let disk = Disk::default();
    let (queue, _) = Life::open(&disk, &roomy(), 0);
    disk.fill(true);
    assert_eq!(queue.append("1").await.unwrap(), [Appended::Buffered]);
    sleep(STORAGE_RETRY_INTERVAL * 60).await;
    let status = queue.writer.status();
    assert!(status.storage_error.is_some() && status.disk_is_full, "{status:?}");
    disk.fill(false);
    sleep(STORAGE_RETRY_INTERVAL * 2).await;
    let status = queue.writer.status();
    assert_eq!((status.entries, status.buffered, status.storage_error), (1, 0, None));
    assert!(!status.disk_is_full);
    assert_eq!(log.containing("disk fails"), 1);
    assert_eq!(log.containing("works again"), 1);
}

/// A power cut would lose nothing: an unchanged setup is not an entry.
#[tokio::test(start_paused = true)]
async fn the_loss_window_closes_once_all_entries_are_durable() {
    let durability = Durability::Within(WITHIN);
    let (queue, _) = Life::open(&Disk::default(), &Limits { durability, ..roomy() }, 0);
    queue.append_setup(1).await.unwrap();
    sleep(WITHIN * 2).await;
    assert_eq!(queue.append_setup(1).await.unwrap(), [Appended::Unchanged]);
    assert_eq!(queue.writer.status().undurable_since, None);
    // Sealing a segment writes it to the disk, even without a flush.
    let place = tempfile::tempdir().unwrap();
    let options = Options { segment_entries: 16, ..Options::new(1000, 64 << 20) };
    let store = SegmentStore::open(place.path(), options).unwrap();
    let limits = Limits { durability: Durability::Os, max_bytes: 64 << 20, ..roomy() };
    let ((writer, reader), worker) = single::with_store(store, limits, single::at(0)).unwrap();
    let queue = Life { writer, reader, worker: tokio::spawn(worker) };
    queue.append_many(13).await.unwrap();
    assert!(queue.writer.status().undurable_since.is_some());
    queue.append_many(1).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(queue.writer.status().undurable_since, None);
}

/// Collects the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn containing(&self, text: &str) -> usize {
        let bytes = self.0.lock().unwrap();
        String::from_utf8_lossy(&bytes).lines().filter(|line| line.contains(text)).count()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A fast source next to a temporarily slow disk: it waits, and no entry is lost.
#[tokio::test]
async fn a_slow_disk_throttles_a_fast_source() {
    let disk = Disk::default();
    let limits = Limits { max_entries: 1_000_000, max_bytes: 1 << 30, ..roomy() };
    let ((writer, _reader), worker) =
        single::with_store(disk.clone(), limits, single::at(0)).unwrap();
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(worker);
    });
    disk.stall(APPEND_TIMEOUT + Duration::from_millis(300));
    let content = Content::Frame(Situation::default());
    let entry = |stamp| NewEntry::new(stamp, content, "{}".into());
    let total = 2 * BUFFER_ENTRIES as u64;
    for number in 0..total / 256 {
        if number == 4 {
            disk.stall(Duration::from_millis(50));
        }
        let make = |stamps: &mut Stamps| {
            (0..256).map(|_| entry(stamps.stamp_at(single::reading(0)))).collect::<Vec<_>>()
        };
        writer.append(make).await.unwrap();
    }
    writer.close().await;
    worker.join().unwrap();
    let status = writer.status();
    assert_eq!((status.entries, status.server().ledger.gone()), (total, 0), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn an_append_does_not_wait_for_all_expired_entries_to_be_dropped() {
    let disk = Disk::default();
    let limits = Limits { max_entries: 1_000_000, max_bytes: 1 << 30, ..roomy() };
    let (queue, _) = Life::open(&disk, &limits, 0);
    let old = 3 * DROP_STEP_ENTRIES as u64;
    queue.append_many(old as usize).await.unwrap();
    let now = CapturedAt(roomy().max_age.as_millis() as i64 + 2 * old as i64);
    let mut expired = Vec::new();
    for _ in 0..3 {
        let appended = queue.append_many_at(now, 1).await.unwrap();
        assert!(matches!(appended[..], [Appended::Stored(_)]), "{appended:?}");
        expired.push(queue.writer.status().server().ledger.expired);
    }
    let most = 2 * DROP_STEP_ENTRIES as u64;
    assert!(0 < expired[0] && expired[0] < most, "{expired:?}");
    assert_eq!(expired[1..], [old, old]);
    let status = queue.writer.status();
    assert_eq!((status.entries, status.server().imbalance), (3, 0), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lowered_limit_evicts_only_the_excess_entries() {
    let disk = Disk::default();
    let limits = Limits { max_entries: 1_000_000, max_bytes: 1 << 30, ..roomy() };
    let (queue, _) = Life::open(&disk, &limits, 0);
    let total = 3 * DROP_STEP_ENTRIES as u64;
    queue.append_many(total as usize).await.unwrap();
    queue.end().await;
    let (queue, _) = Life::open(&disk, &Limits { max_entries: 10, ..limits }, 0);
    let status = queue.writer.status();
    assert_eq!((status.entries, status.server().ledger.queue_full), (10, total - 10), "{status:?}");
    assert_eq!(status.server().imbalance, 0);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_counter_shows_as_a_ledger_imbalance() {
    let disk = Disk::default();
    let (queue, _) = Life::open(&disk, &roomy(), 0);
    queue.append("1").await.unwrap();
    assert_eq!(queue.writer.status().server().imbalance, 0);
    disk.miscount(3);
    queue.append("2").await.unwrap();
    assert_eq!(queue.writer.status().server().imbalance, 3);
}

#[tokio::test(start_paused = true)]
async fn entries_appended_before_the_queue_closes_are_flushed() {
    let disk = Disk::default();
    let durability = Durability::Within(WITHIN);
    let (mut queue, _) = Life::open(&disk, &Limits { durability, ..roomy() }, 0);
    let (appended, ()) = tokio::join!(queue.append("1"), queue.writer.close());
    assert_eq!(appended.unwrap(), [Appended::Stored(Seq(1))]);
    queue.worker.await.unwrap();
    assert!(disk.is_durable(Seq(1)));
    let read = queue.reader.next_batch(Limit::ONE).await;
    assert!(matches!(read, Err(QueueError::Closed)));
}

/// One operation on a queue.
#[derive(Clone, Debug)]
enum Step {
    /// Frames of this size, appended together, this long after the previous entry.
    Append {
        frames: usize,
        bytes: usize,
        after: Duration,
    },
    Setup {
        fingerprint: u64,
        after: Duration,
    },
    /// Waits for the longest time that an entry may take to become durable.
    Wait,
    Read(Limit),
    /// Removes the oldest batch in flight.
    Remove,
    /// Removes the oldest batch in flight, with its first entry marked as refused.
    Refuse,
    /// Drops the oldest batch in flight without removing its entries.
    Forget,
    Rewind,
    /// This many disk calls fail.
    Fail(u32),
    /// This many unflushed changes survive.
    CutPower(usize),
    Kill,
    Restart,
}

fn queue_operation() -> impl Strategy<Value = Step> {
    let after = || {
        let ms = [0, 0, 500, 9_999, 10_001, 61_000];
        prop::sample::select(ms.to_vec()).prop_map(Duration::from_millis)
    };
    prop_oneof![
        4 => (1_usize..4, 0_usize..300, after())
            .prop_map(|(frames, bytes, after)| Step::Append { frames, bytes, after }),
        2 => (0_u64..2, after())
            .prop_map(|(fingerprint, after)| Step::Setup { fingerprint, after }),
        1 => Just(Step::Wait),
        3 => (1_usize..6, 0_usize..1000)
            .prop_map(|(entries, bytes)| Step::Read(Limit { entries, bytes })),
        3 => Just(Step::Remove),
        1 => Just(Step::Refuse),
        1 => Just(Step::Forget),
        1 => Just(Step::Rewind),
    ]
}

fn fault() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u32..6).prop_map(Step::Fail),
        Just(Step::CutPower(0)),
        (1_usize..8).prop_map(Step::CutPower),
        Just(Step::Kill),
        Just(Step::Restart),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let when_full = prop::sample::select(vec![WhenFull::DropOldest, WhenFull::DropNewest]);
    let durability = prop::sample::select(vec![Durability::Entry, Durability::Within(WITHIN)]);
    let limits = |(when_full, durability)| Limits {
        max_entries: 8,
        max_bytes: 1200,
        max_age: Duration::from_secs(60),
        when_full,
        durability,
        ..roomy()
    };
    (when_full, durability).prop_map(limits)
}

fn roomy() -> Limits {
    Limits {
        max_entries: 1000,
        max_bytes: 1 << 20,
        max_age: Duration::from_hours(1),
        when_full: WhenFull::DropOldest,
        durability: Durability::Entry,
        resume_after: RESUME_AFTER,
    }
}

/// Storage on which a queue is opened repeatedly.
trait Medium {
    type Store: Store;

    fn store(&self) -> Self::Store;

    /// The simulated disk, if this is one: it can be inspected and made to fail.
    fn disk(&self) -> Option<&Disk> {
        None
    }
}

impl Medium for Disk {
    type Store = Self;

    fn store(&self) -> Self {
        self.clone()
    }

    fn disk(&self) -> Option<&Disk> {
        Some(self)
    }
}

impl Medium for TempDir {
    type Store = SegmentStore;

    fn store(&self) -> SegmentStore {
        SegmentStore::open(self.path(), Options::new(1_000_000, 64 << 20)).unwrap()
    }
}

/// A queue from opening to shutdown.
#[derive(Debug)]
struct Life {
    writer: Writer,
    reader: Reader,
    worker: JoinHandle<()>,
}

impl Life {
    /// Opens the queue, retrying while the disk fails, and returns its first status.
    fn open(medium: &impl Medium, limits: &Limits, now: i64) -> (Self, QueueStatus) {
        let ((writer, reader), worker) = loop {
            match single::with_store(medium.store(), limits.clone(), single::at(now)) {
                Ok(opened) => break opened,
                Err(error) => assert!(error.to_string().contains("on demand"), "{error}"),
            }
        };
        let status = writer.status();
        (Self { writer, reader, worker: tokio::spawn(worker) }, status)
    }

    async fn append_many(&self, count: usize) -> Result<Vec<Appended>, QueueError> {
        self.append_many_at(CapturedAt(0), count).await
    }

    async fn append_many_at(
        &self,
        now: CapturedAt,
        count: usize,
    ) -> Result<Vec<Appended>, QueueError> {
        let content = Content::Frame(Situation::default());
        let entry = |stamp| NewEntry::new(stamp, content, "{}".into());
        let make = |stamps: &mut Stamps| {
            (0..count).map(|_| entry(stamps.stamp_at(single::reading(now.0)))).collect::<Vec<_>>()
        };
        self.writer.append(make).await
    }

    async fn append_setup(&self, fingerprint: u64) -> Result<Vec<Appended>, QueueError> {
        let content = Content::Setup { fingerprint };
        let entry = |stamp| NewEntry::new(stamp, content, "{}".into());
        self.writer.append(|stamps| vec![entry(stamps.stamp_at(single::reading(0)))]).await
    }

    async fn append(&self, json: &str) -> Result<Vec<Appended>, QueueError> {
        let entry = |stamp| NewEntry::new(stamp, Content::Frame(Situation::default()), json.into());
        self.writer.append(|stamps| vec![entry(stamps.stamp_at(single::reading(0)))]).await
    }

    /// Aborts the queue worker wherever it is.
    async fn kill(self) {
        self.worker.abort();
        assert!(
            self.worker.await.is_err_and(|error| error.is_cancelled()),
            "the queue worker panicked"
        );
    }

    async fn end(self) {
        drop((self.writer, self.reader));
        self.worker.await.unwrap();
    }
}

fn check(medium: impl Medium, limits: Limits, steps: Vec<Step>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut trial = Trial::new(medium, limits);
        for step in steps {
            trial.take(step).await;
            trial.check().await;
        }
        trial.drain().await;
    });
}

/// A queue, and the model of its state.
struct Trial<M> {
    medium: M,
    limits: Limits,
    /// `None` only between two lives.
    life: Option<Life>,
    /// The wall clock, in ms.
    now: i64,
    /// Entries made so far; the number in each entry makes it unique.
    made: u64,
    /// The entry at each position, including removed ones.
    history: BTreeMap<Seq, Known>,
    /// Entries that were read or reported durable: they must never change.
    fixed: BTreeMap<Seq, String>,
    stints: BTreeMap<Seq, StintId>,
    /// The start of the next batch, if it is past the head.
    cursor: Seq,
    out: VecDeque<Batch>,
    removed: BTreeSet<Seq>,
    /// The removed entries that the server refused.
    refused: BTreeSet<Seq>,
    highest_head: Seq,
    /// Entries in memory because the disk failed; they are stored in this order when it recovers.
    pending: VecDeque<Known>,
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    captured_at: CapturedAt,
    json: String,
    fingerprint: Option<u64>,
}

impl<M: Medium> Trial<M> {
    fn new(medium: M, limits: Limits) -> Self {
        let (life, _) = Life::open(&medium, &limits, 0);
        Self {
            medium,
            limits,
            life: Some(life),
            now: 0,
            made: 0,
            history: BTreeMap::new(),
            fixed: BTreeMap::new(),
            stints: BTreeMap::new(),
            cursor: Seq(0),
            out: VecDeque::new(),
            removed: BTreeSet::new(),
            refused: BTreeSet::new(),
            highest_head: Seq(0),
            pending: VecDeque::new(),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Append { frames, bytes, after } => {
                self.append(&vec![Content::Frame(Situation::default()); frames], bytes, after)
                    .await;
            }
            Step::Setup { fingerprint, after } => {
                self.append(&[Content::Setup { fingerprint }], 40, after).await;
            }
            Step::Wait => self.wait().await,
            Step::Read(limit) => drop(self.read(limit).await),
            Step::Remove => self.remove(false).await,
            Step::Refuse => self.remove(true).await,
            Step::Forget => drop(self.out.pop_front()),
            Step::Rewind => self.rewind(),
            Step::Fail(calls) => self.medium.disk().iter().for_each(|disk| disk.fail(calls)),
            Step::CutPower(survivors) => {
                self.end_life().kill().await;
                self.medium.disk().iter().for_each(|disk| disk.cut_power(survivors));
                self.revive();
            }
            Step::Kill => {
                let before = self.status();
                self.end_life().kill().await;
                let after = self.revive();
                self.is_like(&before, &after);
            }
            Step::Restart => {
                let before = self.status();
                let healthy = !self.is_failing();
                self.end_life().end().await;
                if healthy {
                    self.medium.disk().iter().for_each(|disk| disk.cut_power(0));
                }
                let after = self.revive();
                self.is_like(&before, &after);
            }
        }
    }

    /// A life that ends without a power cut keeps all stored entries; buffered ones may have been
    /// stored meanwhile.
    fn is_like(&self, before: &QueueStatus, after: &QueueStatus) {
        if before.buffered == 0 {
            assert_eq!((after.entries, after.head), (before.entries, before.head));
        }
        assert!(after.tail >= before.tail, "{before:?} {after:?}");
    }

    /// Adds entries to the history that were buffered in memory and have since reached the disk.
    fn learn(&mut self) {
        let Some(disk) = self.medium.disk() else { return };
        let newest = self.history.last_key_value().map_or(0, |(seq, _)| seq.0);
        for seq in (newest + 1..self.status().tail.0).map(Seq) {
            let Some(bytes) = disk.record(seq) else { continue };
            let entry = record::decode(seq, &bytes).unwrap();
            // Skip unchanged setups and entries that the full queue refused.
            let mut known = self.pending.pop_front().unwrap();
            while known.json != entry.json {
                assert!(known.is_setup() || self.limits.when_full == WhenFull::DropNewest);
                known = self.pending.pop_front().unwrap();
            }
            self.history.insert(seq, known);
        }
        if self.status().buffered == 0 {
            self.pending.clear();
        }
    }

    async fn append(&mut self, contents: &[Content], bytes: usize, after: Duration) {
        self.learn();
        let failing = self.is_unwell();
        let mut tail = self.status().tail;
        self.now += after.as_millis() as i64;
        let mut handed_in = Vec::new();
        let (now, made) = (self.now, &mut self.made);
        let life = self.life.as_ref().unwrap();
        let outcome = life
            .writer
            .append(|stamps| {
                let mut entry = |content: &Content| {
                    *made += 1;
                    let json = format!(r#"{{"n":{made},"pad":"{}"}}"#, "x".repeat(bytes));
                    let fingerprint = match *content {
                        Content::Frame(_) => None,
                        Content::Setup { fingerprint } => Some(fingerprint),
                    };
                    let stamp = stamps.stamp_at(single::reading(now));
                    // Distinguishes the entries of all runs.
                    let captured_at = CapturedAt(stamp.queued_at.0);
                    handed_in.push(Known { captured_at, json: json.clone(), fingerprint });
                    NewEntry { captured_at, ..NewEntry::new(stamp, *content, json) }
                };
                contents.iter().map(&mut entry).collect()
            })
            .await;
        self.now = handed_in.last().unwrap().captured_at.0;
        match outcome {
            Ok(outcomes) => {
                for (known, outcome) in handed_in.into_iter().zip(outcomes) {
                    let repeats = self.repeats_setup(&known);
                    match outcome {
                        Appended::Stored(seq) => {
                            assert_eq!(seq, tail, "positions increase by one");
                            assert!(!repeats, "{known:?} twice");
                            tail = Seq(seq.0 + 1);
                            self.history.insert(seq, known);
                            if self.limits.durability == Durability::Entry {
                                self.is_durable(seq);
                            }
                        }
                        Appended::Buffered => {
                            assert!(failing, "{known:?} waits");
                            self.pending.push_back(known);
                        }
                        Appended::Unchanged => assert!(repeats, "{known:?} is lost"),
                        Appended::Dropped(reason) => {
                            assert_eq!(self.limits.when_full, WhenFull::DropNewest);
                            assert_eq!(reason, DropReason::QueueFull);
                        }
                    }
                }
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn wait(&mut self) {
        let failing = self.is_unwell();
        sleep(WITHIN + Duration::from_millis(1)).await;
        if !failing && matches!(self.limits.durability, Durability::Within(_)) {
            let all: Vec<_> = self.history.keys().copied().collect();
            all.into_iter().for_each(|seq| self.is_durable(seq));
        }
    }

    /// Returns the number of entries read.
    async fn read(&mut self, limit: Limit) -> usize {
        self.learn();
        let failing = self.is_failing();
        let QueueStatus { head, tail, .. } = self.status();
        let from = self.cursor.max(head);
        let reader = &mut self.life.as_mut().unwrap().reader;
        let batch = match timeout(Duration::from_millis(50), reader.next_batch(limit)).await {
            Ok(Ok(batch)) => batch,
            Ok(Err(QueueError::Storage(_))) if failing => return 0,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => {
                assert!(
                    failing || self.history.range(from..tail).next().is_none(),
                    "nothing from {from} to {tail}"
                );
                return 0;
            }
        };
        let entries = batch.entries();
        self.learn();
        // Storing buffered entries may have evicted others meanwhile.
        let from = self.cursor.max(self.status().head);
        let seqs: Vec<_> = entries.iter().map(|entry| entry.seq).collect();
        let expected: Vec<_> = self.history.range(from..).map(|(seq, _)| *seq).collect();
        assert!(expected.starts_with(&seqs), "from {from}: {entries:?}");
        assert!((1..=limit.entries).contains(&entries.len()), "{limit:?}: {entries:?}");
        let bytes: usize = entries.iter().map(|entry| entry.json.len()).sum();
        assert!(entries.len() == 1 || bytes <= limit.bytes, "{limit:?}: {entries:?}");
        for entry in batch.entries() {
            self.was_read(entry);
        }
        self.cursor = Seq(seqs.last().unwrap().0 + 1);
        let count = seqs.len();
        self.out.push_back(batch);
        count
    }

    fn was_read(&mut self, entry: &Entry) {
        let Entry { seq, stint, captured_at, json, .. } = entry;
        let known = &self.history[seq];
        assert_eq!((json, captured_at), (&known.json, &known.captured_at), "at {seq}");
        if self.limits.durability == Durability::Entry {
            self.is_durable(*seq);
        }
        if let Some((before, earlier)) = self.stints.range(..seq).next_back() {
            let same = self.is_one_stint(*before, *captured_at, *seq);
            assert_eq!(
                stint == earlier,
                same,
                "the stints {earlier} at {before}, {stint} at {seq}"
            );
            assert!(stint >= earlier);
        }
        assert_eq!(*self.stints.entry(*seq).or_insert(*stint), *stint);
    }

    async fn remove(&mut self, refuse: bool) {
        let Some(mut batch) = self.out.pop_front() else { return };
        let failing = self.is_failing();
        let head = self.status().head;
        let seqs: Vec<_> = batch.entries().iter().map(|entry| entry.seq).collect();
        // A setup that comes back after a power cut may be in force already.
        let refused = if refuse && seqs[0] >= self.highest_head { &seqs[..1] } else { &[] };
        batch.mark_refused(refused, "a test");
        // Not the next batch if an earlier one was dropped.
        let is_next = seqs[0] <= head;
        match self.life.as_mut().unwrap().reader.ack(batch).await {
            Ok(()) => {
                assert!(is_next, "{seqs:?} removed, but the queue begins at {head}");
                let held = |seq: &&Seq| **seq >= head;
                self.refused.extend(refused.iter().filter(held));
                self.removed.extend(seqs.iter().filter(held));
            }
            Err(QueueError::Storage(_)) if failing || !is_next => self.rewind(),
            Err(error) => panic!("{error}"),
        }
    }

    fn rewind(&mut self) {
        self.out.clear();
        self.cursor = Seq(0);
        self.life.as_mut().unwrap().reader.rewind();
    }

    fn end_life(&mut self) -> Life {
        // Storing buffered entries may have evicted others since the last check.
        self.highest_head = self.highest_head.max(self.status().head);
        self.out.clear();
        self.cursor = Seq(0);
        self.life.take().unwrap()
    }

    fn revive(&mut self) -> QueueStatus {
        let (life, status) = Life::open(&self.medium, &self.limits, self.now);
        self.life = Some(life);
        self.learn();
        self.pending.clear();
        if let Some(disk) = self.medium.disk() {
            self.history.retain(|seq, _| disk.record(*seq).is_some());
            self.stints.retain(|seq, _| disk.record(*seq).is_some());
            self.removed.retain(|seq| disk.record(*seq).is_some());
            self.refused.retain(|seq| disk.record(*seq).is_some());
        }
        // Unflushed removals are undone.
        self.removed.split_off(&status.head);
        self.refused.split_off(&status.head);
        let last_fixed = self.fixed.last_key_value().map(|(seq, _)| *seq);
        assert!(last_fixed < Some(status.tail), "{last_fixed:?} is lost: {status:?}");
        status
    }

    async fn check(&mut self) {
        self.learn();
        let status = self.status();
        let Limits { max_entries, max_bytes, max_age, .. } = self.limits;
        self.highest_head = self.highest_head.max(status.head);
        assert_eq!(status.server().imbalance, 0, "{status:?}");
        let held = self.history.range(status.head..).count() as u64;
        assert_eq!(status.entries, held, "{status:?}");
        assert!(status.entries <= max_entries && status.bytes <= max_bytes, "{status:?}");
        let newest = self.history.last_key_value().map(|(_, known)| known.captured_at);
        assert_eq!(status.newest, newest);
        let oldest = self.history.get(&status.head).map(|known| known.captured_at);
        assert!(status.oldest == oldest || self.is_failing(), "{status:?}");
        if let (Some(oldest), Some(newest)) = (oldest, newest) {
            assert!(newest.0 - oldest.0 <= max_age.as_millis() as i64, "{status:?}");
        }
        if let Some(disk) = self.medium.disk() {
            let (held, most) = (disk.held(), disk.most_held());
            assert_eq!((status.entries, status.bytes), (held.entries, held.bytes));
            assert!(most.entries <= max_entries && most.bytes <= max_bytes, "{most:?}");
        }
        let ledger = status.server().ledger;
        let dropped: u64 = DropReason::ALL.map(|reason| ledger.dropped(reason)).iter().sum();
        assert_eq!(ledger.delivered + ledger.dead_letters, self.removed.len() as u64);
        let gone = self.history.range(..status.head).count() as u64;
        assert_eq!(dropped - ledger.unplaced, gone - self.removed.len() as u64);
        self.check_setup_in_force(&status).await;
    }

    /// Checks the setup in force: the last one before the head that no server refused, if it
    /// belongs to the head's stint.
    async fn check_setup_in_force(&mut self, status: &QueueStatus) {
        if status.entries == 0 {
            return;
        }
        let failing = self.is_failing();
        let head = self.history[&status.head].captured_at;
        let is_setup = |seq, known: &Known| known.is_setup() && !self.refused.contains(seq);
        let setup = self.history.range(..status.head).rfind(|(seq, known)| is_setup(seq, known));
        let expected = setup
            .filter(|(seq, _)| self.is_one_stint(**seq, head, status.head))
            .map(|(seq, known)| (*seq, known.json.clone()));
        let reader = &mut self.life.as_mut().unwrap().reader;
        let in_force = async {
            let stint = reader.stint().await?;
            reader.setup_in_force(stint).await
        };
        let in_force = in_force.await;
        if self.status().head != status.head {
            // Buffered entries were stored meanwhile and evicted others.
            return;
        }
        match in_force {
            Ok(setup) => assert_eq!(setup.map(|entry| (entry.seq, entry.json)), expected),
            Err(error) => assert!(failing, "{error}"),
        }
    }

    /// Repairs the disk, then reads and removes all remaining entries without a restart.
    async fn drain(mut self) {
        self.medium.disk().iter().for_each(|disk| disk.fail(0));
        self.rewind();
        while self.read(Limit { entries: 5, bytes: 1000 }).await > 0 {
            self.remove(false).await;
            self.check().await;
        }
        let status = self.status();
        assert_eq!((status.entries, status.bytes, status.oldest), (0, 0, None));
        self.end_life().end().await;
    }

    /// From now on this position must keep this entry.
    fn is_durable(&mut self, seq: Seq) {
        assert!(self.medium.disk().is_none_or(|disk| disk.is_durable(seq)), "{seq}");
        let json = &self.history[&seq].json;
        assert_eq!(self.fixed.entry(seq).or_insert_with(|| json.clone()), json, "at {seq}");
    }

    /// True if `next` has the same settings as the stint's last setup.
    fn repeats_setup(&self, next: &Known) -> bool {
        let last = self.history.iter().rfind(|(_, known)| known.is_setup());
        last.is_some_and(|(seq, known)| {
            known.fingerprint == next.fingerprint
                && self.is_one_stint(*seq, next.captured_at, Seq(u64::MAX))
        })
    }

    /// True if no gap between the entry at `first` and the one at `last`, captured at `at`, is long
    /// enough to start a new stint.
    fn is_one_stint(&self, first: Seq, at: CapturedAt, last: Seq) -> bool {
        let moments = self.history.range(first..last).map(|(_, known)| known.captured_at);
        let ends = moments.clone().skip(1).chain([at]);
        moments.zip(ends).all(|(from, to)| to.0 - from.0 <= RESUME_AFTER.as_millis() as i64)
    }

    fn status(&self) -> QueueStatus {
        self.life.as_ref().unwrap().writer.status()
    }

    /// True if the disk is failing, or failed and has not been retried yet.
    fn is_unwell(&self) -> bool {
        let status = self.status();
        self.is_failing() || status.buffered > 0 || status.storage_error.is_some()
    }

    fn is_failing(&self) -> bool {
        self.medium.disk().is_some_and(Disk::is_failing)
    }
}

impl Known {
    fn is_setup(&self) -> bool {
        self.fingerprint.is_some()
    }
}

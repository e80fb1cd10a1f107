//! Entries that an operator drops are removed and counted; remaining entries keep the setup they
//! were driven with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pitwire::config::{Durability, WhenFull};
use pitwire::entry::{Entry, Kind, Seq, Situation, StintId};
use pitwire::queue::disposition::Disposition;
use pitwire::queue::ledger::DropReason;
use pitwire::queue::storage::{Options, SegmentStore, Store};
use pitwire::queue::{self, Content, Limit, Limits, NewEntry, Reader, Stamps, Writer};
use proptest::prelude::*;
use tokio::task::JoinHandle;

use crate::disk::Disk;
use crate::single;

const OPERATOR: Disposition = Disposition::Dropped(DropReason::Operator);

/// One operation on a queue.
#[derive(Clone, Debug)]
enum Step {
    Drive(usize),
    Setup,
    /// Advances the clock beyond the longest pause within a stint.
    Break,
    /// Reads a batch of at most this many entries and delivers it.
    Deliver(usize),
    /// Reads a batch of at most this many entries and leaves it in flight.
    Read(usize),
    /// Returns the batches in flight to the queue.
    Rewind,
    /// Drops a range; both ends in thousandths of all entries ever appended.
    Drop(u64, u64),
    DropAll,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_usize..40).prop_map(Step::Drive),
        3 => Just(Step::Setup),
        1 => Just(Step::Break),
        2 => (1_usize..20).prop_map(Step::Deliver),
        1 => (1_usize..20).prop_map(Step::Read),
        1 => Just(Step::Rewind),
        4 => (0_u64..1000, 0_u64..1000).prop_map(|(a, b)| Step::Drop(a.min(b), a.max(b))),
        1 => Just(Step::DropAll),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_purge_in_memory_counts_entries_and_keeps_setups(steps in steps()) {
        check(&Disk::default(), steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn a_purge_on_the_segment_store_counts_entries_and_keeps_setups(steps in steps()) {
        check(&tempfile::tempdir().unwrap(), steps);
    }
}

#[test]
fn a_setup_in_a_purged_range_stays_unless_another_follows() {
    use Step::{Drive, Restart, Setup};
    for (steps, first, last, stays) in [
        (vec![Drive(5), Setup, Drive(5)], 3, 8, Some(6)),
        (vec![Drive(5), Setup, Drive(5), Setup, Drive(5)], 3, 11, None),
        (vec![Drive(5), Setup, Drive(5), Setup, Drive(5)], 3, 13, Some(12)),
        (vec![Drive(5), Setup, Drive(5), Step::Break, Drive(5)], 3, 11, None),
        // The last stint may continue after the restart, so its setup is still needed.
        (vec![Drive(5), Setup, Drive(5), Restart], 3, 11, Some(6)),
        (vec![Drive(5), Setup, Drive(5)], 1, 11, None),
    ] {
        run(async {
            let disk = Disk::default();
            let mut trial = Trial::new(&disk);
            for step in steps.clone() {
                trial.take(step).await;
            }
            let (dropped, setup) = trial.drop_between(first, last).await;
            assert_eq!(setup, stays.map(Seq), "{steps:?} {first} to {last}");
            assert_eq!(dropped, last - first + 1 - u64::from(stays.is_some()));
            trial.drain().await;
        });
    }
}

/// Whether a setup is still needed depends on all later segments, not only on the next one.
#[test]
fn a_purge_does_not_keep_the_setup_of_an_ended_stint() {
    use Step::{Break, Drive, Drop, Setup};
    // Segments have 16 entries here; the dropped range reaches beyond the end of the first stint.
    let steps = vec![Drive(40), Setup, Break, Setup, Drive(60), Setup, Drive(20), Drop(300, 900)];
    check(&tempfile::tempdir().unwrap(), steps);
}

/// Dropping entries in flight would count them twice.
#[test]
fn a_purge_skips_entries_in_flight_unless_they_are_the_oldest() {
    run(async {
        let disk = Disk::default();
        let mut trial = Trial::new(&disk);
        trial.take(Step::Drive(100)).await;
        trial.take(Step::Read(20)).await;
        let step = trial.operator().purge(Seq(5), Seq(30)).await.unwrap();
        assert_eq!((step.dropped, step.in_flight_below), (10, Some(Seq(21))));
        let step = trial.operator().purge(Seq(1), Seq(4)).await.unwrap();
        assert_eq!((step.dropped, step.in_flight_below), (4, None));
        for batch in std::mem::take(&mut trial.out) {
            trial.life.as_mut().unwrap().reader.ack(batch).await.unwrap();
        }
        let status = trial.writer().status();
        assert_eq!((status.entries, status.server().imbalance), (70, 0), "{status:?}");
        assert_eq!(
            (status.server().ledger.operator, status.server().ledger.delivered),
            (14, 16),
            "{status:?}"
        );
    });
}

#[test]
fn peeking_does_not_mark_entries_as_in_flight() {
    run(async {
        let disk = Disk::default();
        let mut trial = Trial::new(&disk);
        trial.take(Step::Drive(100)).await;
        let before = trial.writer().status();
        let operator = trial.operator();
        let seqs = async |from, entries| {
            let peeked = operator.peek(Seq(from), entries).await.unwrap();
            peeked.iter().map(|one| one.entry.as_ref().unwrap().seq.0).collect::<Vec<_>>()
        };
        assert_eq!(seqs(1, 1000).await, Vec::from_iter(1..=100));
        assert_eq!(seqs(40, 3).await, [40, 41, 42]);
        assert_eq!(seqs(101, 3).await, Vec::<u64>::new());
        assert_eq!(trial.writer().status(), before);
        // A peek must not mark entries as in flight, or they could not be dropped.
        let step = operator.purge(Seq(50), Seq(60)).await.unwrap();
        assert_eq!((step.dropped, step.in_flight_below), (11, None));
        // Nor does a peek move the reader's cursor.
        let batch = trial.read(10).await.unwrap();
        assert_eq!(batch.ends(), Some((Seq(1), Seq(10))));
    });
}

/// A failing drop removes some of the entries, and the ledger counts exactly those.
#[test]
fn the_ledger_balances_when_the_disk_fails_during_a_purge() {
    for calls in 1..40 {
        run(async {
            let disk = Disk::default();
            let mut trial = Trial::new(&disk);
            for _ in 0..10 {
                trial.take(Step::Drive(17)).await;
                trial.take(Step::Setup).await;
            }
            let (mut rest, mut dropped) = (Some((Seq(40), Seq(160))), 0);
            disk.fail(calls);
            while let Some((first, last)) = rest {
                match trial.operator().purge(first, last).await {
                    Ok(step) => {
                        dropped += step.dropped;
                        rest = step.rest;
                    }
                    Err(_) => tokio::time::sleep(Duration::from_secs(2)).await,
                }
                let status = trial.writer().status();
                assert_eq!(status.server().imbalance, 0, "{calls}: {status:?}");
            }
            let status = trial.writer().status();
            assert_eq!(status.server().ledger.operator, dropped, "{calls}: {status:?}");
            assert_eq!(status.entries, 180 - dropped, "{calls}");
        });
    }
}

/// The storage on which a trial reopens its queue.
trait Medium {
    type Store: Store;
    fn store(&self) -> Self::Store;
}

impl Medium for Disk {
    type Store = Self;
    fn store(&self) -> Self {
        self.clone()
    }
}

impl Medium for tempfile::TempDir {
    type Store = SegmentStore;
    fn store(&self) -> SegmentStore {
        // Small segments, so that a drop spans several.
        let options = Options { segment_entries: 16, ..Options::new(1000, 64 << 20) };
        SegmentStore::open(self.path(), options).unwrap()
    }
}

fn run(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(future);
}

fn check(medium: &impl Medium, steps: Vec<Step>) {
    run(async {
        let mut trial = Trial::new(medium);
        for step in steps {
            trial.take(step).await;
            trial.check().await;
        }
        trial.drain().await;
    });
}

struct Life {
    writer: Writer,
    reader: Reader,
    worker: JoinHandle<()>,
}

struct Trial<'a, M> {
    medium: &'a M,
    life: Option<Life>,
    now: i64,
    stint: u64,
    setups: u64,
    /// Stint and setup of each appended entry.
    history: BTreeMap<Seq, Known>,
    queued: BTreeSet<Seq>,
    delivered: BTreeSet<Seq>,
    /// Position after the last entry read since the queue was opened.
    read_to: Seq,
    out: Vec<queue::Batch>,
}

#[derive(Clone, Debug)]
struct Known {
    stint: StintId,
    setup: Option<Seq>,
}

impl<'a, M: Medium> Trial<'a, M> {
    fn new(medium: &'a M) -> Self {
        let mut trial = Self {
            medium,
            life: None,
            now: 0,
            stint: 1,
            setups: 0,
            history: BTreeMap::new(),
            queued: BTreeSet::new(),
            delivered: BTreeSet::new(),
            read_to: Seq(1),
            out: Vec::new(),
        };
        trial.open();
        trial
    }

    fn open(&mut self) {
        let limits = Limits {
            max_entries: 1_000_000,
            max_bytes: 1 << 30,
            max_age: Duration::from_hours(1000),
            when_full: WhenFull::DropNewest,
            durability: Durability::Entry,
            resume_after: Duration::from_secs(10),
        };
        let store = self.medium.store();
        let clock = single::at(self.now);
        let ((writer, reader), worker) = single::with_store(store, limits, clock).unwrap();
        self.read_to = writer.status().head;
        self.life = Some(Life { writer, reader, worker: tokio::spawn(worker) });
    }

    fn writer(&self) -> &Writer {
        &self.life.as_ref().unwrap().writer
    }

    fn operator(&self) -> queue::operator::Operator {
        self.writer().operator()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Drive(frames) => {
                for _ in 0..frames {
                    self.append(Content::Frame(Situation::default())).await;
                }
            }
            Step::Setup => {
                self.setups += 1;
                self.append(Content::Setup { fingerprint: self.setups }).await;
            }
            Step::Break => {
                if self.history.last_key_value().is_some_and(|(_, last)| last.stint.0 == self.stint)
                {
                    self.now += 11_000;
                    self.stint += 1;
                }
            }
            Step::Deliver(entries) => self.deliver(entries).await,
            Step::Read(entries) => {
                if let Some(batch) = self.read(entries).await {
                    self.out.push(batch);
                }
            }
            Step::Rewind => self.rewind(),
            Step::Drop(first, last) => {
                let end = self.history.len() as u64;
                self.drop_between(1 + first * end / 1000, 1 + last * end / 1000).await;
            }
            Step::DropAll => {
                let end = self.writer().status().tail.0;
                self.drop_between(1, end).await;
                assert_eq!(self.queued.len(), 0);
            }
            Step::Restart => {
                self.rewind();
                let Life { writer, reader, worker } = self.life.take().unwrap();
                drop((writer, reader));
                worker.await.unwrap();
                self.open();
            }
        }
    }

    async fn append(&mut self, content: Content) {
        self.now += 500;
        let now = self.now;
        let json = format!(r#"{{"n":{}}}"#, self.history.len());
        let entry = |stamp| NewEntry::new(stamp, content, json);
        let appended = self
            .writer()
            .append(|stamps: &mut Stamps| vec![entry(stamps.stamp_at(single::reading(now)))])
            .await;
        let queue::Appended::Stored(seq) = appended.unwrap()[0] else { panic!("not stored") };
        let stint = StintId(self.stint);
        let kind = match content {
            Content::Frame(_) => Kind::Frame,
            Content::Setup { .. } => Kind::Setup,
        };
        let before = self.history.last_key_value().filter(|(_, known)| known.stint == stint);
        let setup = match kind {
            Kind::Setup => Some(seq),
            Kind::Frame => before.and_then(|(_, known)| known.setup),
        };
        self.history.insert(seq, Known { stint, setup });
        self.queued.insert(seq);
    }

    async fn read(&mut self, entries: usize) -> Option<queue::Batch> {
        let reader = &mut self.life.as_mut().unwrap().reader;
        let limit = Limit { entries, bytes: 1 << 20 };
        let batch = tokio::time::timeout(Duration::from_millis(10), reader.next_batch(limit)).await;
        let batch = batch.ok()?.unwrap();
        self.read_to = self.read_to.max(Seq(batch.ends().unwrap().1.0 + 1));
        Some(batch)
    }

    fn rewind(&mut self) {
        self.out.clear();
        self.life.as_mut().unwrap().reader.rewind();
    }

    async fn deliver(&mut self, entries: usize) {
        self.rewind();
        let Some(batch) = self.read(entries).await else { return };
        self.check_setups(batch.entries()).await;
        for Entry { seq, .. } in batch.entries() {
            assert!(self.queued.remove(seq), "{seq} was read although it was dropped");
            self.delivered.insert(*seq);
        }
        self.life.as_mut().unwrap().reader.ack(batch).await.unwrap();
    }

    /// Checks the setup in force for each of these entries, the oldest in the queue.
    async fn check_setups(&mut self, entries: &[Entry]) {
        let reader = &mut self.life.as_mut().unwrap().reader;
        let (mut stint, mut setup) = (StintId(0), None);
        for entry in entries {
            if entry.stint != stint {
                stint = entry.stint;
                setup = reader.setup_in_force(stint).await.unwrap().map(|entry| entry.seq);
            }
            if entry.kind == Kind::Setup {
                setup = Some(entry.seq);
            }
            assert_eq!(setup, self.history[&entry.seq].setup, "at {}", entry.seq);
        }
    }

    /// Drops a range; returns the number of dropped entries, and the setup that was kept.
    async fn drop_between(&mut self, first: u64, last: u64) -> (u64, Option<Seq>) {
        let (mut rest, mut dropped, mut stays) = (Some((Seq(first), Seq(last))), 0, None);
        while let Some((first, last)) = rest {
            let step = self.operator().purge(first, last).await.unwrap();
            dropped += step.dropped;
            assert!(step.setups.len() + usize::from(stays.is_some()) <= 1, "more than one stays");
            stays = stays.or(step.setups.first().copied());
            rest = step.rest;
        }
        let oldest = self.queued.first().copied();
        let is_from_head = oldest.is_some_and(|oldest| first <= oldest.0);
        let goes = |seq: &Seq| {
            (first..=last).contains(&seq.0)
                && (is_from_head || *seq >= self.read_to)
                && Some(*seq) != stays
        };
        let gone: Vec<Seq> = self.queued.iter().copied().filter(goes).collect();
        assert_eq!(dropped, gone.len() as u64, "{first} to {last} but {stays:?}");
        gone.iter().for_each(|seq| assert!(self.queued.remove(seq)));
        (dropped, stays)
    }

    async fn check(&mut self) {
        let status = self.writer().status();
        assert_eq!(status.server().imbalance, 0, "{status:?}");
        assert_eq!(status.entries, self.queued.len() as u64, "{status:?}");
        assert_eq!(status.server().ledger.delivered, self.delivered.len() as u64, "{status:?}");
        let dropped = self.history.len() - self.queued.len() - self.delivered.len();
        assert_eq!(status.server().ledger.operator, dropped as u64, "{status:?}");
    }

    /// Checks the disposition of every entry, then delivers the rest of the queue.
    async fn drain(mut self) {
        self.check().await;
        for seq in self.history.keys() {
            let expected = match (self.queued.contains(seq), self.delivered.contains(seq)) {
                (true, _) => Disposition::Queued,
                (_, true) => Disposition::Delivered,
                _ => OPERATOR,
            };
            assert_eq!(single::disposition(&self.operator(), *seq).await, expected, "{seq}");
        }
        while !self.queued.is_empty() {
            self.deliver(7).await;
        }
        self.check().await;
        let Life { writer, reader, worker } = self.life.take().unwrap();
        drop((writer, reader));
        worker.await.unwrap();
    }
}

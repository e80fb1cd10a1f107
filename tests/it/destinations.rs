//! One queue with several destinations: each receives all entries in order, independently of the
//! others, and its ledger balances.

#[cfg(target_os = "linux")]
mod live;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[cfg(unix)]
use pitwire::config::Config;
use pitwire::config::{Durability, WhenFull};
use pitwire::entry::{Kind, Seq, Situation, StintId};
#[cfg(unix)]
use pitwire::platform::clock::{self, Clock};
use pitwire::queue::disposition::Disposition;
use pitwire::queue::storage::{Options, SegmentStore, Store};
use pitwire::queue::{
    self, Batch, Content, DestinationStatus, Destinations, Limit, Limits, NewEntry, QueueStatus,
    REMOVE_FLUSH_INTERVAL, Reader, Stamps, Writer,
};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

#[cfg(unix)]
use crate::agent::pitwire;
use crate::disk::Disk;
use crate::single;

const NAMES: [&str; 3] = ["server", "b", "c"];
const ALL: usize = NAMES.len();

/// One operation on a queue. Destinations are identified by their index.
#[derive(Clone, Debug)]
enum Step {
    /// Appends frames, the first of them `after` seconds after the previous entry.
    Drive {
        frames: usize,
        after: u64,
    },
    Setup,
    Read {
        of: usize,
        entries: usize,
    },
    /// Removes the oldest batch in flight.
    Remove {
        of: usize,
    },
    /// Removes the oldest batch in flight, with its first entry marked as refused.
    Refuse {
        of: usize,
    },
    Rewind {
        of: usize,
    },
    /// An operator drops a range of the queue; both ends in thousandths.
    Drop {
        from: u64,
        to: u64,
    },
    Wait,
    Kill,
    Restart,
    /// Cuts the power; this many unflushed changes survive.
    CutPower(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let of = || 0..ALL;
    prop_oneof![
        6 => (1_usize..40, 0_u64..30).prop_map(|(frames, after)| Step::Drive { frames, after }),
        1 => Just(Step::Setup),
        8 => (of(), 1_usize..60).prop_map(|(of, entries)| Step::Read { of, entries }),
        8 => of().prop_map(|of| Step::Remove { of }),
        1 => of().prop_map(|of| Step::Refuse { of }),
        1 => of().prop_map(|of| Step::Rewind { of }),
        1 => (0_u64..1000, 0_u64..1000).prop_map(|(from, to)| Step::Drop { from, to }),
        2 => Just(Step::Wait),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn each_destination_matches_its_model_on_a_disk_that_loses_power(
        max_entries in 60_u64..2000,
        when_full in prop::sample::select(vec![WhenFull::Thin, WhenFull::DropOldest, WhenFull::DropNewest]),
        steps in prop::collection::vec(
            prop_oneof![12 => step(), 1 => (0_usize..6).prop_map(Step::CutPower)], 1..80,
        ),
    ) {
        check(Disk::default(), max_entries, when_full, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn each_destination_matches_its_model_on_the_segment_store(
        max_entries in 60_u64..2000,
        when_full in prop::sample::select(vec![WhenFull::Thin, WhenFull::DropOldest]),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        check(tempfile::tempdir().unwrap(), max_entries, when_full, steps);
    }
}

#[test]
fn an_unreachable_destination_does_not_delay_the_others() {
    let away = (0..20).flat_map(|_| {
        let turns = [0, 1].map(|of| [Step::Read { of, entries: 60 }, Step::Remove { of }]);
        [Step::Drive { frames: 40, after: 1 }].into_iter().chain(turns.into_iter().flatten())
    });
    run(async {
        let mut trial = Trial::new(Disk::default(), 10_000, WhenFull::Thin);
        for step in away {
            trial.take(step).await;
        }
        let status = trial.status();
        assert_eq!(status.entries, 800);
        let queued: Vec<_> = trial.statuses().iter().map(|status| status.queued).collect();
        assert_eq!(queued, [0, 0, 800]);
        trial.drain().await;
    });
}

#[test]
fn a_new_destination_gets_the_backlog_and_a_removed_one_frees_it() {
    run(async {
        let disk = Disk::default();
        let mut trial = Trial::new(disk.clone(), 10_000, WhenFull::Thin);
        trial.take(Step::Drive { frames: 100, after: 1 }).await;
        for of in [0, 1] {
            trial.take(Step::Read { of, entries: 60 }).await;
            trial.take(Step::Remove { of }).await;
        }
        trial.end().await;
        // Entries that only "c" had not received are discarded with "c".
        let life = Life::open(disk.clone(), &limits(10_000, WhenFull::Thin), &["server", "b"]);
        assert_eq!(life.writer.status().entries, 40);
        assert!(life.writer.status().destinations.iter().all(balances));
        life.end().await;
        let mut life =
            Life::open(disk.clone(), &limits(10_000, WhenFull::Thin), &["server", "b", "d"]);
        let all = life.writer.status().destinations;
        let queued: Vec<_> = all.iter().map(|s| (&*s.name, s.queued, s.appended)).collect();
        assert_eq!(queued, [("server", 40, 100), ("b", 40, 100), ("d", 40, 40)]);
        for reader in &mut life.readers {
            let batch = reader.next_batch(Limit { entries: 256, bytes: 1 << 20 }).await.unwrap();
            assert_eq!((batch.entries()[0].seq, batch.entries().len()), (Seq(61), 40));
            reader.ack(batch).await.unwrap();
        }
        assert_eq!(life.writer.status().entries, 0);
        assert!(life.writer.status().destinations.iter().all(balances));
        // A tool that does not know the destinations keeps them unchanged.
        life.end().await;
        let limits = limits(10, WhenFull::Thin);
        let opened =
            queue::with_store(Box::new(disk), limits, Destinations::Stored, single::at(0), |_| {});
        let ((writer, _), _) = opened.unwrap();
        let status = writer.status();
        let names: Vec<_> = status.destinations.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["server", "b", "d"]);
    });
}

#[test]
fn a_destination_added_later_begins_with_what_is_queued() {
    run(async {
        let disk = Disk::default();
        let ((writer, mut reader), worker) =
            single::with_store(disk.clone(), limits(100, WhenFull::Thin), single::at(0)).unwrap();
        let worker = tokio::spawn(worker);
        append(&writer, 10, 0, Content::Frame(Situation::default())).await;
        let batch = reader.next_batch(Limit { entries: 4, bytes: 1 << 20 }).await.unwrap();
        reader.ack(batch).await.unwrap();
        drop((writer, reader));
        worker.await.unwrap();
        let life = Life::open(disk, &limits(100, WhenFull::Thin), &NAMES);
        let queued: Vec<_> =
            life.writer.status().destinations.iter().map(|s| (s.queued, s.appended)).collect();
        assert_eq!(queued, [(6, 10), (6, 6), (6, 6)]);
    });
}

/// The tools of a stopped agent neither discard the entries of a destination nor take its progress
/// beyond the others for an error of the ledger.
#[cfg(unix)]
#[tokio::test]
async fn the_tools_keep_the_entries_of_every_destination() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.queue.path = folder.path().join("queue");
    let names = ["server", "league"].map(str::to_owned);
    let open = || {
        let limits = Limits::new(&config.queue, &config.stint);
        queue::open(
            &config.queue,
            limits,
            Destinations::Configured(&names),
            Clock::system(),
            |_| {},
        )
        .unwrap()
    };
    let (writer, mut readers, closed) = open();
    append(&writer, 20, clock::now().0, Content::Frame(Situation::default())).await;
    let batch = readers[0].next_batch(Limit { entries: 15, bytes: 1 << 20 }).await.unwrap();
    readers[0].ack(batch).await.unwrap();
    drop((writer, readers));
    closed.wait().await;

    let path = config.queue.path.to_str().unwrap();
    let tool = |args: &[&str]| {
        let output = pitwire(&["queue"]).args(args).args(["--queue", path]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{args:?}: {output:?}");
        printed
    };
    assert!(tool(&["verify"]).contains("0 findings"));
    let traced = tool(&["trace", "3"]);
    let lines: Vec<_> = traced.lines().collect();
    assert_eq!(lines[0], "server: entry 3 was delivered: the server has it");
    assert!(lines[1].starts_with("league: entry 3 is in the queue"), "{traced}");
    let export = folder.path().join("export.ndjson");
    std::fs::write(&export, tool(&["export", "--from", "20"])).unwrap();
    tool(&["import", export.to_str().unwrap(), "--apply"]);
    tool(&["verify"]);

    let (writer, readers, closed) = open();
    let statuses = writer.status().destinations;
    let queued: Vec<_> = statuses.iter().map(|one| (&*one.name, one.queued)).collect();
    assert_eq!(queued, [("server", 6), ("league", 21)]);
    assert!(statuses.iter().all(balances));
    drop((writer, readers));
    closed.wait().await;
}

fn limits(max_entries: u64, when_full: WhenFull) -> Limits {
    Limits {
        max_entries,
        max_bytes: 64 << 20,
        max_age: Duration::from_mins(40),
        when_full,
        durability: Durability::Entry,
        resume_after: Duration::from_secs(20),
    }
}

fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test);
}

fn check(medium: impl Medium, max_entries: u64, when_full: WhenFull, steps: Vec<Step>) {
    run(async {
        let mut trial = Trial::new(medium, max_entries, when_full);
        for step in steps {
            trial.take(step).await;
            trial.check().await;
        }
        trial.drain().await;
        trial.check_dispositions().await;
    });
}

/// The storage on which a trial reopens its queue.
trait Medium {
    type Store: Store;

    fn store(&self) -> Self::Store;

    fn cut_power(&self, _survivors: usize) {}
}

impl Medium for Disk {
    type Store = Self;

    fn store(&self) -> Self {
        self.clone()
    }

    fn cut_power(&self, survivors: usize) {
        Self::cut_power(self, survivors);
    }
}

impl Medium for TempDir {
    type Store = SegmentStore;

    fn store(&self) -> SegmentStore {
        SegmentStore::open(self.path(), Options::new(2000, 64 << 20)).unwrap()
    }
}

/// A queue from opening to close.
struct Life {
    writer: Writer,
    readers: Vec<Reader>,
    worker: JoinHandle<()>,
}

impl Life {
    fn open(store: impl Store, limits: &Limits, names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let destinations = Destinations::Configured(&names);
        let opened =
            queue::with_store(Box::new(store), limits.clone(), destinations, single::at(0), |_| {});
        let ((writer, readers), worker) = opened.unwrap();
        Self { writer, readers, worker: tokio::spawn(worker) }
    }

    async fn end(self) {
        drop((self.writer, self.readers));
        self.worker.await.unwrap();
    }
}

struct Trial<M> {
    medium: M,
    limits: Limits,
    life: Option<Life>,
    now: i64,
    setups: u64,
    /// Batches in flight, by destination.
    out: [VecDeque<Batch>; ALL],
    /// Position after the last entry that was read, by destination.
    read_to: [Seq; ALL],
    /// Disposition of each removed entry, by destination; a power cut may undo some removals.
    had: [BTreeMap<Seq, Disposition>; ALL],
    /// Last delivered setup of each stint, by destination.
    in_force: [BTreeMap<StintId, Seq>; ALL],
    power_was_cut: bool,
    was_dropped: bool,
}

impl<M: Medium> Trial<M> {
    fn new(medium: M, max_entries: u64, when_full: WhenFull) -> Self {
        let limits = limits(max_entries, when_full);
        let life = Life::open(medium.store(), &limits, &NAMES);
        Self {
            medium,
            limits,
            life: Some(life),
            now: 0,
            setups: 0,
            out: Default::default(),
            read_to: [Seq(0); ALL],
            had: Default::default(),
            in_force: Default::default(),
            power_was_cut: false,
            was_dropped: false,
        }
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().unwrap()
    }

    fn status(&self) -> QueueStatus {
        self.life.as_ref().unwrap().writer.status()
    }

    fn statuses(&self) -> Vec<DestinationStatus> {
        self.status().destinations
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Drive { frames, after } => {
                self.now += after as i64 * 1000;
                let frame = Content::Frame(Situation::default());
                let writer = self.life().writer.clone();
                self.now = append(&writer, frames, self.now, frame).await;
            }
            Step::Setup => {
                self.setups += 1;
                let setup = Content::Setup { fingerprint: self.setups };
                let writer = self.life().writer.clone();
                self.now = append(&writer, 1, self.now, setup).await;
            }
            Step::Read { of, entries } => drop(self.read(of, entries).await),
            Step::Remove { of } => self.remove(of, false).await,
            Step::Refuse { of } => self.remove(of, true).await,
            Step::Rewind { of } => {
                self.out[of].clear();
                self.read_to[of] = Seq(0);
                self.life().readers[of].rewind();
            }
            Step::Drop { from, to } => {
                let QueueStatus { head, tail, .. } = self.status();
                let at = |permille| Seq(head.0 + (tail.0 - head.0) * permille / 1000);
                let (from, to) = (at(from.min(to)), at(from.max(to)));
                let operator = self.life().writer.operator();
                let mut rest = Some((from, to));
                while let Some((from, to)) = rest {
                    let step = operator.purge(from, to).await.unwrap();
                    self.was_dropped |= step.dropped > 0;
                    rest = step.rest;
                }
            }
            Step::Wait => sleep(REMOVE_FLUSH_INTERVAL * 2).await,
            Step::Kill => {
                let life = self.life.take().unwrap();
                life.worker.abort();
                let _ = life.worker.await;
                self.open();
            }
            Step::Restart => {
                self.life.take().unwrap().end().await;
                self.open();
            }
            Step::CutPower(survivors) => {
                let life = self.life.take().unwrap();
                life.worker.abort();
                let _ = life.worker.await;
                self.medium.cut_power(survivors);
                self.power_was_cut = true;
                self.open();
            }
        }
    }

    async fn end(mut self) {
        self.life.take().unwrap().end().await;
    }

    fn open(&mut self) {
        self.out.iter_mut().for_each(VecDeque::clear);
        self.read_to = [Seq(0); ALL];
        self.life = Some(Life::open(self.medium.store(), &self.limits, &NAMES));
    }

    /// Reads a batch; returns its number of entries.
    async fn read(&mut self, of: usize, entries: usize) -> usize {
        let limit = Limit { entries, bytes: 1 << 20 };
        let next = self.life().readers[of].next_batch(limit);
        let Ok(batch) = timeout(Duration::from_millis(20), next).await else { return 0 };
        let batch = batch.unwrap();
        for entry in batch.entries() {
            assert!(entry.seq >= self.read_to[of], "{} out of order", entry.seq);
            self.read_to[of] = Seq(entry.seq.0 + 1);
            let is_new = !self.had[of].contains_key(&entry.seq);
            assert!(is_new || self.power_was_cut, "{} was read twice", entry.seq);
        }
        let count = batch.entries().len();
        self.out[of].push_back(batch);
        count
    }

    async fn remove(&mut self, of: usize, refuse: bool) {
        let Some(mut batch) = self.out[of].pop_front() else { return };
        // An entry that was dropped in the meantime is already in the ledger, so fewer may be
        // delivered.
        let before = self.statuses().remove(of);
        for entry in batch.entries() {
            let is_refused = refuse && Some(entry) == batch.entries().first();
            let disposition =
                if is_refused { Disposition::DeadLetter } else { Disposition::Delivered };
            self.had[of].insert(entry.seq, disposition);
            if entry.kind == Kind::Setup && !is_refused {
                self.in_force[of].insert(entry.stint, entry.seq);
            }
        }
        let first = batch.entries().first().map(|entry| entry.seq);
        batch.mark_refused(first.filter(|_| refuse).as_slice(), "a test");
        let count = batch.entries().len() as u64;
        let removed = self.life().readers[of].ack(batch).await;
        if self.was_dropped {
            return;
        }
        removed.unwrap();
        let after = self.statuses().remove(of);
        let delivered = after.ledger.delivered - before.ledger.delivered;
        assert!(delivered <= count, "{delivered} of {count}");
    }

    async fn check(&mut self) {
        let status = self.status();
        let statuses = &status.destinations;
        for one in statuses {
            assert!(balances(one), "{one:?} of {status:?}");
            assert!(one.queued <= status.entries, "{one:?} of {status:?}");
        }
        // An entry is kept until the slowest destination has it.
        assert_eq!(statuses.iter().map(|one| one.queued).max(), Some(status.entries));
        assert!(status.entries <= self.limits.max_entries, "{status:?}");
        if self.was_dropped || self.power_was_cut || status.entries == self.limits.max_entries {
            return;
        }
        for of in 0..ALL {
            for (stint, seq) in self.in_force[of].clone() {
                let setup = self.life().readers[of].setup_in_force(stint).await.unwrap();
                let setup = setup.map(|entry| entry.seq);
                assert!(setup >= Some(seq), "{setup:?} of {of} in {stint}, not {seq}");
            }
        }
    }

    async fn drain(&mut self) {
        for of in 0..ALL {
            self.take(Step::Rewind { of }).await;
            while self.read(of, 100).await > 0 {
                self.remove(of, false).await;
            }
            self.check().await;
        }
        assert_eq!(self.status().entries, 0);
        let gone = |status: DestinationStatus| status.ledger.gone();
        let appended: Vec<_> = self.statuses().iter().map(|status| status.appended).collect();
        assert_eq!(self.statuses().into_iter().map(gone).collect::<Vec<_>>(), appended);
    }

    /// Checks that each destination reports its own dispositions.
    async fn check_dispositions(&mut self) {
        if self.power_was_cut || self.was_dropped {
            return;
        }
        let operator = self.life().writer.operator();
        for (of, had) in self.had.clone().into_iter().enumerate() {
            for (seq, disposition) in had {
                let all = operator.dispositions(seq).await.unwrap();
                // An entry may have been dropped by a limit while it was in flight.
                let may_be =
                    [disposition, Disposition::Dropped(queue::ledger::DropReason::QueueFull)];
                let expired = Disposition::Dropped(queue::ledger::DropReason::Expired);
                assert!(
                    may_be.contains(&all[of].disposition) || all[of].disposition == expired,
                    "{seq} of {of}: {all:?}"
                );
            }
        }
    }
}

/// Appends entries; returns the time of the last one.
async fn append(writer: &Writer, count: usize, now: i64, content: Content) -> i64 {
    let mut last = now;
    let make = |stamps: &mut Stamps| {
        let entry = |at: i64| {
            let stamp = stamps.stamp_at(single::reading(at));
            last = stamp.wall.0;
            NewEntry::new(stamp, content, r#"{"lap":1}"#.into())
        };
        (0..count as i64).map(|index| now + index * 500).map(entry).collect()
    };
    writer.append(make).await.unwrap();
    last
}

fn balances(status: &DestinationStatus) -> bool {
    status.imbalance == 0
}

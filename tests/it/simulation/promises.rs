//! The invariants that must hold under all faults, checked against the appended entries and the
//! entries that viewers saw.

use std::collections::{BTreeMap, BTreeSet};

use pitwire::config::{Config, Durability, QueueConfig};
use pitwire::entry::{CapturedAt, Kind, Seq};
use pitwire::queue::disposition::Disposition;
use pitwire::queue::ledger::Ledger;
use pitwire::queue::{BUFFER_BYTES, BUFFER_ENTRIES, DestinationStatus, QueueStatus};

use super::life::Life;
use super::world::Swarm;
use crate::disk::Disk;
use crate::server::{Server, State};

/// An appended entry.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// When it was queued. Names the entry: unlike wall clocks, it never shows a time twice.
    pub at: CapturedAt,
    /// The time on the clock of its source.
    pub captured_at: CapturedAt,
    pub car: usize,
    /// `None` for a setup.
    pub lap: Option<i64>,
    pub may_be_refused: bool,
}

/// Everything that was promised for one destination so far.
pub struct Promises {
    /// The index of the destination; 0 is the first server.
    of: usize,
    swarm: Swarm,
    queue: QueueConfig,
    disk: Disk,
    /// The entry at each position, and the position of each entry.
    names: BTreeMap<Seq, CapturedAt>,
    positions: BTreeMap<CapturedAt, Seq>,
    /// Entries reported as stored and not yet shown to viewers.
    owed: BTreeMap<Seq, Frame>,
    /// Entries buffered in memory during this life and not yet shown to viewers.
    in_memory: BTreeMap<CapturedAt, Frame>,
    shown: BTreeSet<CapturedAt>,
    /// Number of appended entries that the server may refuse.
    refusable: u64,
    pages: BTreeMap<String, Page>,
    /// The entry with each capture time.
    captured: BTreeMap<CapturedAt, CapturedAt>,
    /// The car of each entry that is stored or in memory.
    cars: BTreeMap<CapturedAt, usize>,
    /// Whether an earlier process of the agent ended in a crash or a power cut.
    has_crashed: bool,
    /// The car and lap of each frame of this life. `downsampled` is the last known number of
    /// downsampled entries, and `tail` the newest position.
    laps: BTreeMap<CapturedAt, (usize, i64)>,
    downsampled: u64,
    tail: Seq,
}

/// The checked part of a page.
#[derive(Default)]
struct Page {
    car: Option<usize>,
    looked_at: usize,
    newest: Option<CapturedAt>,
    frames: BTreeSet<CapturedAt>,
}

impl Promises {
    pub fn new(swarm: &Swarm, config: &Config, disk: &Disk) -> Self {
        Self::of(0, swarm, config, disk)
    }

    /// The promises for the destination with index `of`.
    pub fn of(of: usize, swarm: &Swarm, config: &Config, disk: &Disk) -> Self {
        Self {
            of,
            swarm: swarm.clone(),
            queue: config.queue.clone(),
            disk: disk.clone(),
            names: BTreeMap::new(),
            positions: BTreeMap::new(),
            owed: BTreeMap::new(),
            in_memory: BTreeMap::new(),
            shown: BTreeSet::new(),
            refusable: 0,
            pages: BTreeMap::new(),
            captured: BTreeMap::new(),
            cars: BTreeMap::new(),
            has_crashed: false,
            laps: BTreeMap::new(),
            downsampled: 0,
            tail: Seq(0),
        }
    }

    pub fn life_begins(&mut self) {
        self.laps.clear();
    }

    /// Discards the entries that were only in memory.
    pub fn life_ends(&mut self) {
        self.in_memory.clear();
        self.has_crashed = true;
    }

    pub fn stored(&mut self, seq: Seq, frame: Frame) {
        self.name(seq, frame.at);
        self.drove(frame);
        if self.queue.durability == Durability::Entry {
            assert!(self.disk.is_durable(seq), "{seq} was reported stored and is not durable");
        }
        if !self.shown.contains(&frame.at) {
            self.owed.insert(seq, frame);
        }
    }

    pub fn buffered(&mut self, frame: Frame) {
        self.drove(frame);
        // A buffered setup may be a duplicate of the one in force, which is not stored.
        if frame.lap.is_some() && !self.shown.contains(&frame.at) {
            self.in_memory.insert(frame.at, frame);
        }
    }

    fn drove(&mut self, frame: Frame) {
        self.captured.insert(frame.captured_at, frame.at);
        self.cars.insert(frame.at, frame.car);
        self.laps.extend(frame.lap.map(|lap| (frame.at, (frame.car, lap))));
        self.refusable += u64::from(frame.may_be_refused);
    }

    fn name(&mut self, seq: Seq, at: CapturedAt) {
        let before = *self.names.entry(seq).or_insert(at);
        assert_eq!(before, at, "position {seq} names two entries");
        let before = *self.positions.entry(at).or_insert(seq);
        assert_eq!(before, seq, "the entry of {at} has two positions");
    }

    /// Checks the invariants; called after each step.
    pub fn look(&mut self, server: &Server, queue: &QueueStatus) {
        let own = self.own(queue);
        self.check_pages(server);
        assert_eq!(own.imbalance, 0, "{queue:?}");
        assert!(queue.tail >= self.tail, "positions go back: {queue:?}");
        self.tail = queue.tail;
        let most = self.disk.most_held();
        let QueueConfig { max_entries, max_bytes, .. } = self.queue;
        assert!(most.entries <= max_entries && most.bytes <= max_bytes, "over its bound: {most:?}");
        assert!(queue.buffered <= BUFFER_ENTRIES as u64, "{queue:?}");
        assert!(queue.buffered * 2 <= BUFFER_BYTES as u64, "{queue:?}");
        assert_eq!(own.ledger.corrupt, 0, "{queue:?}");
        let dropped = server.state().dropped.len() as u64;
        assert!(
            own.ledger.dead_letters <= self.refusable + dropped,
            "{} {dropped} {queue:?} {:?}",
            self.refusable,
            self.swarm
        );
        let gone = self.owed.range(..queue.head).count() as u64;
        let named = without_delivery(&own.ledger);
        let may_pass = self.owed.values().filter(|frame| self.may_pass(server, frame)).count();
        assert!(
            gone <= named + may_pass as u64,
            "{gone} left and were not shown: {queue:?} {:?}",
            self.owed.range(..queue.head).next()
        );
        let delivered =
            self.shown.len() as u64 + self.refusable + server.state().dropped.len() as u64;
        assert!(own.ledger.delivered <= delivered, "at most {delivered}: {queue:?}");
        if own.ledger.downsampled != self.downsampled {
            self.downsampled = own.ledger.downsampled;
            self.check_downsampled(server, queue, own);
        }
    }

    /// The status of this destination.
    fn own<'a>(&self, queue: &'a QueueStatus) -> &'a DestinationStatus {
        &queue.destinations[self.of]
    }

    fn check_pages(&mut self, server: &Server) {
        let mut new = Vec::new();
        let state = server.state();
        let may_be_again = self.may_be_shown_twice(&state);
        for (session, history) in &state.seen {
            let page = self.pages.entry(session.clone()).or_default();
            for &(kind, seq, captured_at) in &history[page.looked_at..] {
                let at = self.captured[&captured_at];
                new.push((seq, at));
                let car = self.cars[&at];
                assert_eq!(
                    *page.car.get_or_insert(car),
                    car,
                    "{session} shows {seq} of another car"
                );
                // A setup is sent again at the start of a page. Frames never go backwards, except
                // for one that the server discarded the first time.
                let is_first = kind == Kind::Frame && page.frames.insert(at);
                let is_again = kind == Kind::Frame && !is_first;
                assert!(!is_again || may_be_again, "{session} shows {seq} twice");
                if is_first && !self.swarm.swaps && !state.dropped.contains(&captured_at) {
                    let is_in_order = page.newest < Some(at) || state.may_be_late(seq);
                    assert!(is_in_order, "{session} goes backwards to {seq}");
                    page.newest = page.newest.max(Some(at));
                }
            }
            page.looked_at = history.len();
        }
        if !self.swarm.deaf {
            assert_eq!(state.needless_pages, [""; 0]);
        }
        drop(state);
        for (seq, at) in new {
            self.name(seq, at);
            self.owed.remove(&seq);
            self.in_memory.remove(&at);
            self.shown.insert(at);
            if self.queue.durability == Durability::Entry {
                let is_there = self.disk.record(seq).is_some();
                assert!(!is_there || self.disk.is_durable(seq), "{seq} was sent before its flush");
            }
        }
    }

    /// Whether duplicates are possible. A server that stores all it acknowledges and can be queried
    /// never shows a frame twice.
    fn may_be_shown_twice(&self, state: &State) -> bool {
        let Swarm { deaf, lies, drops, poison, shares_pages, narrow, .. } = self.swarm;
        // A full queue may have evicted the entry that the page shows, by which the next process would
        // have recognized the others.
        let is_anchor_evicted = narrow && self.has_crashed;
        let may_be_unknown = deaf || lies || drops || poison || shares_pages;
        state.faults.duplicates > 0 || may_be_unknown || is_anchor_evicted
    }

    /// Checks that no more entries are downsampled than the ledger reports, and that each lap keeps
    /// its first and last frame.
    fn check_downsampled(&self, server: &Server, queue: &QueueStatus, own: &DestinationStatus) {
        let is_downsampled = |seq: &Seq| self.disk.record(*seq).is_none();
        // Entries that only another destination still needs may be downsampled without appearing in
        // the ledger of this one.
        let is_owed = |seq| self.owed.get(seq).is_some_and(|frame| !self.may_pass(server, frame));
        let is_own = |seq| queue.destinations.len() == 1 || is_owed(seq);
        let missing = self.names.iter().filter(|(seq, _)| is_downsampled(seq) && is_own(seq));
        let mut count = 0;
        for (seq, at) in missing {
            count += 1;
            let Some(lap) = self.laps.get(at) else { continue };
            let of_car = |(_, (car, _)): &(&CapturedAt, &(usize, i64))| *car == lap.0;
            let before = self.laps.range(..at).rfind(of_car);
            let after = self.laps.range(CapturedAt(at.0 + 1)..).find(of_car);
            let ends = before.into_iter().chain(after).all(|(_, other)| other == lap);
            assert!(ends && before.is_some(), "the end of a lap was downsampled: {seq}");
        }
        assert!(count <= own.ledger.downsampled, "{count} are missing: {queue:?}");
    }

    /// Whether the entry may count as delivered without being shown: the server refused it or
    /// silently discarded it, and no later echo revealed that in time.
    fn may_pass(&self, server: &Server, frame: &Frame) -> bool {
        frame.may_be_refused || server.state().dropped.contains(&frame.captured_at)
    }

    /// Checks, once the queue has drained, that each entry that was not shown has a valid
    /// disposition.
    pub async fn check_after_drain(&self, server: &Server, life: &Life) {
        let queue = life.writer.status();
        let own = self.own(&queue);
        let operator = life.writer.operator();
        let mut lost = Vec::new();
        for (seq, frame) in &self.owed {
            let disposition = operator.dispositions(*seq).await.unwrap()[self.of].disposition;
            let is_named = match disposition {
                Disposition::Downsampled | Disposition::Dropped(_) => self.swarm.narrow,
                Disposition::DeadLetter => self.may_pass(server, frame),
                Disposition::Delivered => self.may_pass(server, frame),
                Disposition::Lost
                | Disposition::Queued
                | Disposition::NotAssigned
                | Disposition::Unknown => false,
            };
            if !is_named {
                lost.push((seq, disposition, frame));
            }
        }
        assert!(lost.is_empty(), "lost: {lost:?} {queue:?} {:?}", self.swarm);
        let in_memory = self.in_memory.values().filter(|frame| !self.may_pass(server, frame));
        let in_memory = in_memory.count() as u64;
        // They may have been dropped for lack of space, before they had a position.
        let unplaced = own.ledger.unplaced;
        let named = if self.swarm.narrow { without_delivery(&own.ledger) + unplaced } else { 0 };
        assert!(in_memory <= named, "{in_memory} were in memory and are lost: {queue:?}");
    }
}

/// Number of entries that left the queue with a disposition and without reaching the server.
fn without_delivery(ledger: &Ledger) -> u64 {
    ledger.downsampled + ledger.dead_letters + ledger.dropped_in_all() - ledger.unplaced
}

//! Downsampling in a full queue: no gap, every lap keeps its ends, and no more frames are removed
//! than necessary. `LONG=1` drives 24 hours into a queue with space for one.

use std::collections::BTreeSet;
use std::time::Duration;

use pitwire::config::{Durability, WhenFull};
use pitwire::entry::{Entry, Kind, Seq, Situation, StintId};
use pitwire::queue::disposition::Disposition;
use pitwire::queue::storage::{Options, SegmentStore, Store};
use pitwire::queue::{Appended, Content, Limit, Limits, NewEntry, RECENT, Reader, Stamps, Writer};
use proptest::prelude::*;

use crate::disk::Disk;
use crate::long;
use crate::single;

const PERIOD: Duration = Duration::from_millis(500);
/// Entries of the newest minute, and those not yet in any segment.
const UNTOUCHED: u64 = RECENT.as_millis() as u64 / 500 + 2 * 17;

/// An input to the queue.
#[derive(Clone, Debug)]
enum Event {
    /// This many frames in the same situation.
    Drive(usize),
    Lap,
    Reverse,
    Pits,
    Setup,
    /// A silence long enough to end the stint.
    Break,
}

fn history() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (1_usize..300).prop_map(Event::Drive),
        6 => Just(Event::Lap),
        1 => Just(Event::Reverse),
        1 => Just(Event::Pits),
        1 => Just(Event::Setup),
        1 => Just(Event::Break),
    ];
    prop::collection::vec(event, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_history_is_downsampled_no_more_than_the_limit_requires(
        events in history(), max_entries in 250_u64..1500, deliver in any::<bool>(),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut drive = Drive::start(Disk::default(), max_entries);
            for event in events {
                drive.go(event).await;
                if deliver && drive.handed_in.len().is_multiple_of(7) {
                    drive.deliver().await;
                }
            }
            drive.check().await;
        });
    }
}

/// Three hours in a queue with space for 8 minutes; with `LONG=1`, 24 hours in space for one.
#[tokio::test(start_paused = true)]
async fn a_long_race_fits_into_a_small_queue_by_downsampling() {
    let (hours, room) = if long::size(0, 1) == 1 { (24, 7_200) } else { (3, 960) };
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let options = Options::new(room, 64 << 20);
    let store = SegmentStore::open(place.path(), options).unwrap();
    let mut drive = Drive::start(store, room);
    // A lap of Le Mans.
    let lap = Duration::from_secs(210);
    let frames = (lap.as_millis() / PERIOD.as_millis()) as usize;
    for _ in 0..hours * 3600 / lap.as_secs() {
        drive.go(Event::Drive(frames)).await;
        drive.go(Event::Lap).await;
    }
    let gap = drive.check().await;
    assert!(gap <= Duration::from_secs(32), "{gap:?}");
    let entries = drive.writer.status().entries;
    eprintln!("{hours} h at 2 Hz into {room} entries: {entries} left, longest gap {gap:?}");
}

#[tokio::test(start_paused = true)]
async fn the_disposition_of_every_entry_can_be_queried() {
    let mut drive = Drive::start(Disk::default(), 300);
    drive.go(Event::Drive(100)).await;
    drive.deliver_all().await;
    drive.go(Event::Drive(500)).await;
    let left: BTreeSet<u64> = drive.queued().await.iter().map(|entry| entry.seq.0).collect();
    let operator = drive.writer.operator();
    let disposition = async |seq| single::disposition(&operator, Seq(seq)).await;
    for seq in 1..=600 {
        let expected = match seq {
            ..=100 => Disposition::Delivered,
            _ if left.contains(&seq) => Disposition::Queued,
            _ => Disposition::Downsampled,
        };
        assert_eq!(disposition(seq).await, expected, "{seq}");
    }
    assert_eq!(disposition(601).await, Disposition::NotAssigned);
    assert!(left.len() < 400, "no frame was downsampled");
    drive.reader.rewind();
    drive.deliver_all().await;
    for seq in 101..=600 {
        let expected =
            if left.contains(&seq) { Disposition::Delivered } else { Disposition::Downsampled };
        assert_eq!(disposition(seq).await, expected, "{seq}");
    }
}

#[derive(Clone, Debug)]
struct Known {
    /// Never removed by downsampling.
    is_marked: bool,
    is_frame: bool,
    stint: StintId,
}

struct Drive {
    writer: Writer,
    reader: Reader,
    max_entries: u64,
    now: i64,
    situation: Situation,
    stint: u64,
    fingerprint: u64,
    /// The situation of the last frame.
    last: Option<Situation>,
    /// The next frame follows a start, a setup or a silence.
    marks_next: bool,
    /// All entries appended, in order of position.
    handed_in: Vec<Known>,
    delivered: u64,
}

impl Drive {
    fn start(store: impl Store, max_entries: u64) -> Self {
        let limits = Limits {
            max_entries,
            max_bytes: 64 << 20,
            max_age: Duration::from_hours(1000),
            when_full: WhenFull::Thin,
            durability: Durability::Within(Duration::from_secs(1)),
            resume_after: Duration::from_secs(60),
        };
        let ((writer, reader), worker) = single::with_store(store, limits, single::at(0)).unwrap();
        tokio::spawn(worker);
        Self {
            writer,
            reader,
            max_entries,
            now: 0,
            situation: Situation { lap: Some(0), gear_box: 1, state: 0 },
            stint: 1,
            fingerprint: 0,
            last: None,
            marks_next: true,
            handed_in: Vec::new(),
            delivered: 0,
        }
    }

    async fn go(&mut self, event: Event) {
        match event {
            Event::Drive(frames) => self.frames(frames).await,
            Event::Lap => {
                if let Some(last) = self.handed_in.iter_mut().rfind(|known| known.is_frame) {
                    last.is_marked = true;
                }
                self.situation.lap = self.situation.lap.map(|lap| lap + 1);
            }
            Event::Reverse => self.situation.gear_box *= -1,
            Event::Pits => self.situation.state += 1,
            Event::Setup => {
                self.fingerprint += 1;
                let content = Content::Setup { fingerprint: self.fingerprint };
                self.append(content, 1).await;
                let stint = StintId(self.stint);
                self.handed_in.push(Known { is_marked: true, is_frame: false, stint });
                self.marks_next = true;
            }
            Event::Break => {
                self.now += 61_000;
                // Any number of silences in a row starts a single stint.
                self.stint = self.handed_in.last().map_or(1, |known| known.stint.0 + 1);
                self.marks_next = true;
            }
        }
    }

    async fn frames(&mut self, mut frames: usize) {
        while frames > 0 {
            let count = frames.min(8);
            self.append(Content::Frame(self.situation), count).await;
            for _ in 0..count {
                let changes = self.last.replace(self.situation) != Some(self.situation);
                let is_marked = std::mem::take(&mut self.marks_next) || changes;
                let stint = StintId(self.stint);
                self.handed_in.push(Known { is_marked, is_frame: true, stint });
            }
            frames -= count;
        }
    }

    async fn append(&mut self, content: Content, count: usize) {
        let json = match content {
            Content::Frame(situation) => format!(r#"{{"lap":{:?}}}"#, situation.lap),
            Content::Setup { .. } => "{}".into(),
        };
        let now = &mut self.now;
        let make = |stamps: &mut Stamps| {
            let entry = |_| {
                *now += PERIOD.as_millis() as i64;
                NewEntry::new(stamps.stamp_at(single::reading(*now)), content, json.clone())
            };
            (0..count).map(entry).collect()
        };
        let appended = self.writer.append(make).await.unwrap();
        assert!(appended.iter().all(|one| matches!(one, Appended::Stored(_))), "{appended:?}");
        let status = self.writer.status();
        let (entries, imbalance) = (status.entries, status.server().imbalance);
        assert!(entries <= self.max_entries, "{entries}");
        assert_eq!(imbalance, 0);
    }

    /// Delivers one batch.
    async fn deliver(&mut self) {
        if self.writer.status().entries > 0 {
            let batch =
                self.reader.next_batch(Limit { entries: 20, bytes: 1 << 20 }).await.unwrap();
            self.delivered = self.delivered.max(batch.ends().unwrap().1.0);
            self.reader.ack(batch).await.unwrap();
        }
    }

    async fn deliver_all(&mut self) {
        while self.writer.status().entries > 0 {
            self.deliver().await;
        }
    }

    /// The entries still in the queue; they stay there.
    async fn queued(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        while (entries.len() as u64) < self.writer.status().entries {
            let batch =
                self.reader.next_batch(Limit { entries: 500, bytes: 1 << 30 }).await.unwrap();
            entries.extend_from_slice(batch.entries());
        }
        entries
    }

    /// Checks the queue, and returns the longest gap within a stint.
    async fn check(&mut self) -> Duration {
        let status = self.writer.status();
        let ledger = status.server().ledger;
        assert_eq!(ledger.dropped_in_all(), 0, "{status:?}");
        let queued = self.queued().await;
        let left: BTreeSet<u64> = queued.iter().map(|entry| entry.seq.0).collect();
        assert_eq!(status.appended(), ledger.delivered + ledger.downsampled + left.len() as u64);
        let first = self.delivered + 1;
        let known = || (1..).zip(&self.handed_in).filter(move |(seq, _)| *seq >= first);
        for (seq, known) in known().filter(|(_, known)| known.is_marked) {
            assert!(left.contains(&seq), "{seq} was removed: {known:?}");
        }
        // The lowest level at which all would fit. Entries that were delivered only after
        // downsampling count as well.
        let fits = |level: &u32| {
            let kept = (1_u64..)
                .zip(&self.handed_in)
                .filter(|(seq, known)| known.is_marked || seq % (1 << level) == 0);
            kept.count() as u64 + UNTOUCHED.max(self.max_entries / 16 * 2) <= self.max_entries
        };
        let level = (0..30).find(fits).unwrap_or(30);
        let mut longest = Duration::ZERO;
        for pair in queued.windows(2) {
            let [one, other] = pair else { continue };
            assert!(one.seq < other.seq && one.captured_at < other.captured_at);
            if one.stint == other.stint && [one.kind, other.kind] == [Kind::Frame, Kind::Frame] {
                let frames = other.seq.0 - one.seq.0;
                assert!(frames <= 1 << level, "{frames} frames apart, level {level} suffices");
                longest = longest.max(PERIOD * frames as u32);
            }
        }
        for (entry, seq) in queued.iter().map(|entry| (entry, entry.seq.0 as usize)) {
            assert_eq!(entry.stint, self.handed_in[seq - 1].stint, "{seq}");
        }
        longest
    }
}

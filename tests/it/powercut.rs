//! Power cuts: a real store runs in a process whose every write, sync, rename and removal is
//! recorded. The disk is then rebuilt in a state in which a power cut at some moment could have
//! left it; the store must open there and hold everything that it had promised.
//!
//! Unsynced data may be present, missing, or torn at 512 bytes, each part independently and in any
//! order. Names are lost either in the order of a journaling file system or independently, if only
//! an fsync of their folder makes them durable.
//!
//! `LONG=1` checks 2,000 moments of four recordings.

mod disk;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pitwire::entry::Seq;
use pitwire::queue::storage::{KeyValue, Options, SegmentStore, Storage};
use pitwire::queue::{FIRST, Limit};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::disk::{Disk, Marks, ROLE, Recorder};
use crate::long;

#[test]
fn the_store_keeps_durable_records_across_power_cuts() {
    for seed in 1..=long::size(1, 4) {
        explore(long::size(200, 500), seed as u64);
    }
}

fn explore(states: usize, seed: u64) {
    let recorder = Recorder::new();
    for life in 0..LIVES {
        let output = recorder.run("powercut::child", &format!("{seed} {life}"));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), life == CLOSED_LIFE, "life {life}: {text}");
    }
    let log = recorder.events();
    let syncs: Vec<usize> =
        log.iter().enumerate().filter(|(_, e)| e.kind == b'S').map(|(i, _)| i).collect();
    let mut rng = SmallRng::seed_from_u64(seed);
    // Just before and just after a sync, and at random.
    let mut cuts: Vec<usize> = (0..states)
        .map(|i| match i % 3 {
            0 => syncs[rng.random_range(0..syncs.len())],
            1 => syncs[rng.random_range(0..syncs.len())] + 1,
            _ => rng.random_range(0..log.len()),
        })
        .collect();
    cuts.sort_unstable();
    let mut disk = Disk::new(&recorder.root());
    let mut promises = Promises::default();
    let mut at = 0;
    for (number, cut) in cuts.into_iter().enumerate() {
        while at < cut {
            match log[at].kind {
                b'K' => promises.read(&String::from_utf8_lossy(&log[at].x)),
                _ => disk.apply(&log[at]),
            }
            at += 1;
        }
        let state = recorder.state();
        let mut same = rng.clone();
        disk.crash(&state, &mut rng);
        let broken = std::panic::catch_unwind(|| promises.check(&state));
        if broken.is_err() {
            let kept = std::env::temp_dir().join(format!("pitwire-powercut-{seed}-{number}"));
            let _ = fs::remove_dir_all(&kept);
            disk.crash(&kept, &mut same);
            panic!(
                "seed {seed}, state {number}: cut at event {cut} of {}: {promises:?}",
                log.len()
            );
        }
    }
    assert!(!promises.downsampled.is_empty(), "no record was downsampled");
    assert!(!promises.dropped.is_empty(), "no record was dropped");
    let events = log.len();
    eprintln!("{states} power cuts in {events} events: failed opens, lost, out of order: 0");
}

/// Number of times that the store is opened under the recorder. The second process exits cleanly,
/// the others are killed. The last one runs after a reboot, so it repairs the state that the third one left.
const LIVES: u64 = 4;
const CLOSED_LIFE: u64 = 1;
const LIFE_AFTER_BOOT: u64 = 3;

/// The recorded process.
#[test]
#[ignore = "run by the tests above"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (seed, life) = role.split_once(' ').unwrap();
    let (seed, life): (u64, u64) = (seed.parse().unwrap(), life.parse().unwrap());
    let mut rng = SmallRng::seed_from_u64(seed * 10 + life);
    let folder = PathBuf::from(std::env::var("RECORD_ROOT").unwrap());
    let mut marks = Marks::open(&folder);
    let boot = if life < LIFE_AFTER_BOOT { "one boot" } else { "the next boot" };
    let options =
        Options { segment_bytes: 0, boot: boot.into(), ..Options::new(1_000_000, 64 << 20) };
    let mut store = SegmentStore::open(&folder, options).unwrap();
    let mut gone =
        store.metadata().map_or(0, |metadata| u64::from_le_bytes(metadata.try_into().unwrap()));
    for step in 0..150 {
        match rng.random_range(0..14) {
            0..7 => {
                for _ in 0..rng.random_range(1..30) {
                    let tail = store.tail();
                    let record = payload(tail.0, rng.random_range(0..1500));
                    marks.write(&format!("trying {tail}\n"));
                    store.append(&record).unwrap();
                    marks.write(&format!("appended {tail}\n"));
                }
            }
            7..9 => {
                store.flush().unwrap();
                marks.write(&format!("durable {} {}\n", store.tail(), store.head()));
            }
            9 => {
                let read =
                    store.read(store.head(), Limit { entries: 100, bytes: 1 << 20 }).unwrap();
                if let Some((last, _)) = read.last() {
                    gone += read.len() as u64;
                    marks.write(&format!("releasing {}\n", last.0 + 1));
                    store.truncate(Seq(last.0 + 1), &gone.to_le_bytes()).unwrap();
                }
            }
            10 if step % 2 == 0 => {
                let segments = store.sealed_segments();
                if let [first, .., last] | [first @ last] = &segments[..segments.len().min(2)] {
                    let limit = Limit { entries: usize::MAX, bytes: usize::MAX };
                    let mut records = Vec::new();
                    let mut from = first.first;
                    while from <= last.last {
                        let read = store.read(from, limit).unwrap();
                        from = Seq(read.last().unwrap().0.0 + 1);
                        records.extend(read.into_iter().filter(|(seq, _)| *seq <= last.last));
                    }
                    let every = 1 << (first.level + 1);
                    let before = records.len() as u64;
                    records.retain(|(seq, _)| seq.0 % every == 0);
                    gone += before - records.len() as u64;
                    marks.write(&format!("thinning {} {} {every}\n", first.first, last.last));
                    store
                        .replace(
                            first.first,
                            last.last,
                            first.level + 1,
                            records,
                            &gone.to_le_bytes(),
                        )
                        .unwrap();
                }
            }
            11 if step % 4 == 0 => {
                let segments = store.sealed_segments();
                if let Some(dropped) = segments.get(1) {
                    let (first, last) = (dropped.first, dropped.last);
                    gone += store
                        .read(first, Limit { entries: usize::MAX, bytes: usize::MAX })
                        .unwrap()
                        .iter()
                        .filter(|(seq, _)| *seq <= last)
                        .count() as u64;
                    marks.write(&format!("dropping {first} {last}\n"));
                    store.replace(first, last, 0, Vec::new(), &gone.to_le_bytes()).unwrap();
                    marks.write(&format!("dropped {first} {last}\n"));
                }
            }
            12 if step % 3 == 0 => store.put("fact", &payload(step, 300)).unwrap(),
            _ => store.maintain().unwrap(),
        }
    }
    if life != CLOSED_LIFE {
        std::process::abort();
    }
}

/// Bytes unique to the record at `seq`.
fn payload(seq: u64, len: usize) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seq);
    let mut bytes = format!("{seq} ").into_bytes();
    bytes.extend((0..len).map(|_| rng.random::<u8>()));
    bytes
}

/// The reports of the store before the cut.
#[derive(Debug, Default)]
struct Promises {
    /// Positions that were assigned; `trying` is an append in progress.
    appended: Vec<u64>,
    trying: Option<u64>,
    durable_tail: u64,
    durable_head: u64,
    releasing: u64,
    /// Positions that may have been downsampled, or dropped.
    downsampled: BTreeSet<u64>,
    dropped: BTreeSet<u64>,
}

impl Promises {
    fn read(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| words[i].parse::<u64>().unwrap();
        match words[0] {
            "trying" => self.trying = Some(number(1)),
            "appended" => {
                self.trying = None;
                self.appended.push(number(1));
            }
            "durable" => (self.durable_tail, self.durable_head) = (number(1), number(2)),
            "releasing" => self.releasing = number(1),
            "thinning" => {
                let gone = |seq: &u64| !seq.is_multiple_of(number(3));
                self.downsampled.extend((number(1)..=number(2)).filter(gone));
            }
            "dropping" => self.downsampled.extend(number(1)..=number(2)),
            "dropped" => self.dropped.extend(number(1)..=number(2)),
            _ => {}
        }
    }

    fn check(&self, folder: &Path) {
        let mut boots = 0..;
        let mut open = || {
            let boot = format!("after cut {}", boots.next().unwrap());
            SegmentStore::open(
                folder,
                Options { segment_bytes: 0, boot, ..Options::new(1_000_000, 64 << 20) },
            )
            .unwrap()
        };
        let mut store = open();
        let before = all(&mut store);
        self.check_records(&store, &before);
        let given_out = self.appended.last().copied().unwrap_or(0);
        assert!(store.tail().0 > given_out, "position {given_out} would be assigned again");
        // The store accepts records again, and another cut right after a flush loses nothing.
        let seq = store.append(b"after the cut").unwrap();
        store.flush().unwrap();
        drop(store);
        let mut store = open();
        let mut after = all(&mut store);
        assert_eq!(after.remove(&seq.0).as_deref(), Some(&b"after the cut"[..]));
        assert_eq!(after, before);
    }

    fn check_records(&self, store: &SegmentStore, records: &BTreeMap<u64, Vec<u8>>) {
        for (seq, record) in records {
            let text = format!("{seq} ");
            assert!(record.starts_with(text.as_bytes()), "wrong record at {seq}");
            assert_eq!(*record, payload(*seq, record.len() - text.len()), "damage at {seq}");
            assert!(
                self.appended.binary_search(seq).is_ok() || self.trying == Some(*seq),
                "{seq} was never appended"
            );
        }
        let back = self.dropped.iter().find(|seq| records.contains_key(seq));
        assert_eq!(back, None, "a dropped record is back");
        let head = store.head().0;
        assert!(head >= self.durable_head, "durably released records are back: {head}");
        let known = self.appended.iter().chain(&self.trying);
        let last = records.last_key_value().map_or(0, |(seq, _)| *seq);
        for seq in known.filter(|&&seq| seq >= head && (seq < self.durable_tail || seq <= last)) {
            let is_there = records.contains_key(seq) || self.downsampled.contains(seq);
            assert!(is_there, "{seq} is missing");
        }
        let gone =
            store.metadata().map_or(0, |metadata| u64::from_le_bytes(metadata.try_into().unwrap()));
        assert_eq!(store.usage().records, records.len() as u64);
        assert_eq!(store.lost(), 0);
        assert_eq!(store.appended(), gone + store.usage().records, "the ledger does not balance");
        let downsampled = || self.downsampled.contains(&self.releasing.max(FIRST.0));
        assert!(
            head <= self.releasing.max(FIRST.0) || records.is_empty() || downsampled(),
            "head {head}"
        );
    }
}

fn all(store: &mut SegmentStore) -> BTreeMap<u64, Vec<u8>> {
    let (mut records, mut from) = (BTreeMap::new(), Seq(0));
    loop {
        let read = store.read(from, Limit { entries: 1000, bytes: 1 << 20 }).unwrap();
        let Some((last, _)) = read.last() else { return records };
        from = Seq(last.0 + 1);
        records.extend(read.into_iter().map(|(seq, record)| (seq.0, record)));
    }
}

//! System calls of a real store that fail: each one in turn during a life of the store, and reads
//! of a bad sector. `io_errors/inject.c` is preloaded into the process and makes them fail.
//! `LONG=1` lets more errors occur, and lets them persist.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;

use pitwire::entry::Seq;
use pitwire::queue::Limit;
use pitwire::queue::storage::{KeyValue, Options, SegmentStore, Storage};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::long;

/// The environment variable with the folder of the child process.
const ROLE: &str = "PITWIRE_TEST_IO_ERRORS_CHILD";
/// Everything but reads, on the test's own thread: the threads of sled stay undisturbed, because
/// each of its errors may take seconds.
const CALLS: &str = "1odmnuswt";

#[test]
fn an_error_at_any_system_call_neither_loses_nor_repeats_a_record() {
    run("io_errors::each_call");
}

#[test]
fn a_bad_sector_costs_the_records_in_it() {
    run("io_errors::bad_sectors");
}

#[test]
fn a_disk_that_is_away_is_not_taken_for_a_damaged_segment() {
    run("io_errors::away");
}

#[test]
fn a_leftover_that_cannot_be_deleted_does_not_prevent_a_start() {
    run("io_errors::leftovers");
}

/// Runs an ignored test of this binary with the library preloaded.
fn run(test: &str) {
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let library = place.path().join("inject.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/io_errors/inject.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    assert!(compiled.unwrap().success(), "the test needs a C compiler");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(ROLE, place.path())
        .env("LD_PRELOAD", library)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test}: {out}\n{err}");
    out.lines().filter(|line| line.contains(": ")).for_each(|line| eprintln!("{line}"));
}

/// Lets `count` calls fail after `skip` others: see `inject.c`.
fn inject(calls: &str, errno: i32, skip: u64, count: u64, bytes: (u64, u64), needle: &str) {
    let (from, to) = bytes;
    let needle = needle.replace('/', "");
    let rule = format!("/inject/{calls}/{errno}/{skip}/{count}/{from}/{to}/{needle}");
    assert_eq!(File::open(rule).unwrap_err().kind(), ErrorKind::NotFound);
}

fn no_more() {
    inject("-", 0, 0, 0, (0, 0), "-");
}

/// Whether a call failed since the last [`inject`].
fn was_hit() -> bool {
    File::open("/inject/hits").unwrap_err().kind() == ErrorKind::AlreadyExists
}

fn open(folder: &Path) -> io::Result<SegmentStore> {
    let options = Options { boot: "one".into(), ..Options::new(1_000_000, 64 << 20) };
    SegmentStore::open(folder, options)
}

/// The number of failed attempts after which a persistent error ends.
const ATTEMPTS: usize = 3;

/// Repeats `act` until it works, as the queue worker does.
fn retry<T>(mut act: impl FnMut() -> io::Result<T>) -> T {
    for attempt in 1.. {
        match act() {
            Ok(done) => return done,
            Err(_) if attempt < ATTEMPTS => {}
            Err(_) if attempt == ATTEMPTS => no_more(),
            Err(error) => panic!("it still fails: {error}"),
        }
    }
    unreachable!()
}

/// Calls `act` on the store, which is reopened first if it failed.
fn sound<T>(
    store: &mut SegmentStore,
    mut act: impl FnMut(&mut SegmentStore) -> io::Result<T>,
) -> T {
    retry(|| {
        if !store.is_open() {
            store.reopen()?;
        }
        act(store)
    })
}

/// Appends a record that is unlike all others; after an error it may have been written.
fn append(store: &mut SegmentStore, number: u64) {
    let record = format!("record {number:02}").into_bytes();
    sound(store, |store| {
        let last = store.last().map(|last| store.read(last, Limit::ONE)).transpose()?;
        match last.unwrap_or_default().last() {
            Some((_, found)) if *found == record => Ok(()),
            _ => store.append(&record).map(drop),
        }
    });
}

fn read_all(store: &mut SegmentStore) -> io::Result<Vec<(Seq, Vec<u8>)>> {
    let (mut records, mut from) = (Vec::new(), Seq(0));
    loop {
        let read = store.read(from, Limit { entries: 1000, bytes: 1 << 20 })?;
        let Some((last, _)) = read.last() else { return Ok(records) };
        from = Seq(last.0 + 1);
        records.extend(read);
    }
}

#[test]
#[ignore = "run by a test above"]
fn each_call() {
    let Ok(place) = std::env::var(ROLE) else { return };
    let place = PathBuf::from(place);
    let mut cases = vec![(libc::EIO, 1)];
    if long::is_long() {
        cases.extend([(libc::EIO, 1_000), (libc::EMFILE, 1), (libc::EMFILE, 1_000)]);
        cases.extend([(libc::ENOSPC, 1), (libc::ENOSPC, 1_000), (libc::EACCES, 1)]);
    }
    for (errno, count) in cases {
        let mut calls = 0;
        while life(&place.join("queue"), errno, calls, count) {
            calls += 1;
        }
        assert!(calls > 50, "only {calls} calls");
        println!("error {errno}, {count} times: {calls} lives");
    }
}

/// A store that is created, filled, sealed, drained, downsampled and reopened, while the call
/// number `skip` and those after it fail. Returns `false` if no call failed.
fn life(folder: &Path, errno: i32, skip: u64, count: u64) -> bool {
    let _ = fs::remove_dir_all(folder);
    inject(CALLS, errno, skip, count, (0, 0), "queue");
    let mut store = retry(|| open(folder));
    (1..=6).for_each(|number| append(&mut store, number));
    sound(&mut store, SegmentStore::flush);
    seal_or_append(&mut store, 7, skip);
    (8..=10).for_each(|number| append(&mut store, number));
    release(&mut store, "record 03", b"2");
    sound(&mut store, |store| store.put("fact", b"value"));
    seal_or_append(&mut store, 11, skip);
    append(&mut store, 12);
    // The first segment is deleted.
    release(&mut store, "record 07", b"6");
    sound(&mut store, SegmentStore::flush);
    sound(&mut store, SegmentStore::maintain);
    drop(store);
    let mut store = retry(|| open(folder));
    append(&mut store, 13);
    // Downsample the oldest segment.
    let is_left = |record: &[u8]| record == b"record 08" || record > &b"record 12"[..];
    sound(&mut store, |store| {
        let Some(segment) = store.oldest_sealed_segment() else { return Ok(()) };
        let mut records = read_all(store)?;
        records.retain(|(seq, record)| *seq <= segment.last && is_left(record));
        store.replace(segment.first, segment.last, 1, records, b"8")
    });
    sound(&mut store, SegmentStore::flush);
    let was_hit = was_hit();
    no_more();
    drop(store);
    let mut store = open(folder).unwrap();
    let records = read_all(&mut store).unwrap();
    let numbers = records.iter().map(|(_, r)| String::from_utf8_lossy(&r[7..]).parse().unwrap());
    let found: Vec<u64> = numbers.collect();
    let case = format!("error {errno}, {count} times after {skip} calls");
    // The numbers 9 to 12 are left if their segment could not be sealed.
    let expected: Vec<u64> =
        (7..=13).filter(|n| found.contains(n) || [8, 13].contains(n)).collect();
    assert_eq!(found, expected, "{case}");
    assert_eq!((store.lost(), store.usage().records), (0, found.len() as u64), "{case}");
    assert!((11..=13).contains(&store.appended()), "{case}: {} appended", store.appended());
    assert_eq!(store.get("fact").unwrap().as_deref(), Some(&b"value"[..]), "{case}");
    was_hit
}

/// Seals the active segment. If that fails, the car drives on: another record is appended, and the
/// segment is sealed later or not at all.
fn seal_or_append(store: &mut SegmentStore, number: u64, skip: u64) {
    if store.is_open() && store.seal().is_ok() {
        return;
    }
    append(store, number);
    if skip.is_multiple_of(2) {
        sound(store, SegmentStore::seal);
    }
}

/// Releases everything before the record with this text.
fn release(store: &mut SegmentStore, text: &str, metadata: &[u8]) {
    sound(store, |store| {
        let records = read_all(store)?;
        let first = records.into_iter().find(|(_, record)| **record >= *text.as_bytes());
        store.truncate(first.map_or(Seq(0), |(seq, _)| seq), metadata)
    });
}

/// Fills a store with records that do not compress; the last ones are in the active segment.
fn fill(folder: &Path) -> (SegmentStore, BTreeMap<Seq, Vec<u8>>) {
    let _ = fs::remove_dir_all(folder);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut store = open(folder).unwrap();
    let mut written = BTreeMap::new();
    for number in 0..600 {
        let record: Vec<u8> = (0..500).map(|_| rng.random::<u8>()).collect();
        written.insert(store.append(&record).unwrap(), record);
        if number % 200 == 199 && number < 500 {
            store.seal().unwrap();
        }
    }
    store.flush().unwrap();
    (store, written)
}

#[test]
#[ignore = "run by a test above"]
fn bad_sectors() {
    let Ok(place) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(place).join("queue");
    // In a sealed segment, found when it is read or already at the start, and in the write-ahead
    // log, while it is in use and at the start.
    for (needle, is_start) in [("db", false), ("seal", true), ("tail-", false), ("tail-", true)] {
        let (mut store, written) = fill(&folder);
        let case = format!("{needle}, at a start: {is_start}");
        let sector = if needle == "seal" { (0, 4096) } else { (40_960, 45_056) };
        inject("r", libc::EIO, 0, u64::from(u32::MAX), sector, needle);
        match is_start {
            true => {
                drop(store);
                store = retry(|| open(&folder));
            }
            false if needle == "tail-" => drop(store.seal()),
            false => {}
        }
        let found = sound(&mut store, read_all);
        assert!(found.iter().all(|(seq, record)| written.get(seq) == Some(record)), "{case}");
        let lost = written.len() - found.len();
        // A sector costs one block of a sealed segment, 100 records, or the records in it.
        let expected = match needle {
            "db" => 1..=100,
            "seal" => 0..=0,
            _ => 1..=10,
        };
        assert!(expected.contains(&lost), "{case}: {lost} records of {} are lost", written.len());
        assert_eq!(
            (store.lost(), store.usage().records),
            (lost as u64, found.len() as u64),
            "{case}"
        );
        let gaps = store.take_lost();
        let named: u64 = gaps.iter().map(|(first, last)| last.0 - first.0 + 1).sum();
        assert_eq!(named, lost as u64, "{case}: {gaps:?}");
        if needle == "db" {
            assert_eq!(fs::read_dir(folder.join("quarantine")).unwrap().count(), 1, "{case}");
        }
        // The store works on, and the loss does not grow.
        sound(&mut store, |store| store.append(b"after"));
        sound(&mut store, SegmentStore::seal);
        drop(store);
        let mut store = open(&folder).unwrap();
        assert_eq!(read_all(&mut store).unwrap().len(), found.len() + 1, "{case}");
        assert_eq!(store.lost(), lost as u64, "{case}");
        no_more();
        println!("{case}: {lost} records lost");
    }
}

/// All reads and opens fail for a while, with errors that say nothing about the files.
#[test]
#[ignore = "run by a test above"]
fn away() {
    let Ok(place) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(place).join("queue");
    for errno in [libc::EIO, libc::EMFILE, libc::EACCES] {
        for needle in
            ["q-", "seal", "db", "tail-", "facts", "checkpoint", "mark", "FORMAT", "queue"]
        {
            let (mut store, written) = fill(&folder);
            store.put("fact", b"value").unwrap();
            drop(store);
            let case = format!("error {errno} for {needle}");
            // A missing disk also accepts no new file.
            let calls = if errno == libc::EIO { "rw" } else { "od" };
            let needle = if errno == libc::EIO { "queue" } else { needle };
            inject(calls, errno, 0, u64::from(u32::MAX), (0, u64::MAX), needle);
            let opened = open(&folder).and_then(|mut store| read_all(&mut store).map(|_| store));
            no_more();
            let mut store = opened.or_else(|_| open(&folder)).unwrap();
            if !store.is_open() {
                store.reopen().unwrap();
            }
            let found: BTreeMap<_, _> = read_all(&mut store).unwrap().into_iter().collect();
            assert!(found == written, "{case}: {} records of {}", found.len(), written.len());
            assert_eq!((store.lost(), store.take_lost()), (0, vec![]), "{case}");
            assert_eq!(store.get("fact").unwrap().as_deref(), Some(&b"value"[..]), "{case}");
            let aside = fs::read_dir(folder.join("quarantine")).map_or(0, Iterator::count);
            assert_eq!(aside, 0, "{case}: something is in quarantine");
        }
    }
}

#[test]
#[ignore = "run by a test above"]
fn leftovers() {
    let Ok(place) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(place).join("queue");
    for name in ["trash-1", "unfinished-999", "new-0000000000000001-0000000000000005", "left.tmp"] {
        let (store, written) = fill(&folder);
        drop(store);
        let path = folder.join(name);
        match name.ends_with(".tmp") {
            true => fs::write(&path, "left").unwrap(),
            false => {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("db"), "left").unwrap();
            }
        }
        inject("u", libc::EBUSY, 0, u64::from(u32::MAX), (0, 0), name);
        let mut store = open(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        store.append(b"after").unwrap();
        store.seal().unwrap();
        assert_eq!(read_all(&mut store).unwrap().len(), written.len() + 1, "{name}");
        drop(store);
        assert!(path.exists(), "{name}");
        no_more();
        drop(open(&folder).unwrap());
        assert!(!path.exists(), "{name}");
    }
}

//! Flipped bits and truncated or removed files: the store never panics, never returns a wrong
//! record, and loses at most the damaged segments. `LONG=1` damages a thousand places.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pitwire::config::Config;
use pitwire::entry::{Seq, Situation};
use pitwire::queue::storage::{KeyValue, Options, SEGMENT_ENTRIES, SegmentStore, Storage};
use pitwire::queue::{Content, Limit, NewEntry, Stamps};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::long;
use crate::single;

#[test]
fn damage_loses_at_most_the_records_of_one_segment() {
    damage(1, long::size(100, 1000));
}

/// The write-ahead log of the active segment is removed.
#[test]
fn a_lost_active_segment_leaves_the_others_readable() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("queue");
    let written = fill(&folder, &mut SmallRng::seed_from_u64(3));
    let journal = files(&folder).into_iter().rfind(|file| file.extension() == Some("log".as_ref()));
    let journal = journal.unwrap();
    fs::remove_file(&journal).unwrap();
    check(&folder, &written, segment_of(&journal).as_deref(), false, "no journal");
}

#[test]
fn no_sequence_number_is_reused_after_losing_the_active_segment() {
    let place = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: u64::MAX,
        boot: "one".into(),
        ..Options::new(1_000_000, 64 << 20)
    };
    let mut store = SegmentStore::open(place.path(), options.clone()).unwrap();
    let mut last = Seq(0);
    for i in 0..SEGMENT_ENTRIES + 1_000 {
        if i == SEGMENT_ENTRIES - 1 {
            store.maintain().unwrap();
        }
        last = store.append(b"record").unwrap();
    }
    drop(store);
    let newest = format!("{SEGMENT_ENTRIES:016x}");
    fs::remove_file(place.path().join(format!("tail-{newest}.log"))).unwrap();
    let mut store = SegmentStore::open(place.path(), options).unwrap();
    assert!(store.tail() > last, "{} would be reused", store.tail());
    assert_eq!(read_all(&mut store).0.len() as u64, SEGMENT_ENTRIES - 1);
}

#[tokio::test]
async fn the_ledger_balances_after_losing_the_write_ahead_log() {
    let place = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.queue.path = place.path().join("queue");
    let open = || single::open(&config.queue, &config.stint, single::at(1)).unwrap();
    let (writer, mut reader, closed) = open();
    let frame = |stamp| NewEntry::new(stamp, Content::Frame(Situation::default()), "{}".into());
    // Two segments; the first one is delivered and released.
    for count in [SEGMENT_ENTRIES, 200] {
        let make = |stamps: &mut Stamps| {
            (0..count).map(|_| frame(stamps.stamp_at(single::reading(1)))).collect::<Vec<_>>()
        };
        writer.append(make).await.unwrap();
    }
    let limit = Limit { entries: SEGMENT_ENTRIES as usize + 100, bytes: usize::MAX };
    let batch = reader.next_batch(limit).await.unwrap();
    reader.ack(batch).await.unwrap();
    drop((writer, reader));
    closed.wait().await;
    // Opening the queue deletes the released segment.
    let (_, _, closed) = open();
    closed.wait().await;
    for file in files(&config.queue.path) {
        if file.extension() == Some("log".as_ref()) {
            fs::remove_file(file).unwrap();
        }
    }
    let (writer, _reader, _) = open();
    let status = writer.status();
    assert_eq!(status.server().imbalance, 0, "{status:?}");
    // They were in the write-ahead log only.
    assert_eq!(status.entries, 0, "{status:?}");
    assert!(status.tail.0 > SEGMENT_ENTRIES + 200, "{status:?}");
}

/// Flips a bit of the record with this text in the write-ahead log of an open store.
fn damage_record(folder: &Path, text: &str) {
    let journal = files(folder).into_iter().rfind(|file| file.extension() == Some("log".as_ref()));
    let journal = journal.unwrap();
    let bytes = fs::read(&journal).unwrap();
    let at = bytes.windows(text.len()).position(|found| found == text.as_bytes()).unwrap();
    let mut file = fs::File::options().write(true).open(journal).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[bytes[at] ^ 1]).unwrap();
}

/// Windows and macOS have no boot ID: there, records behind damage must not be taken for data that
/// a power cut tore.
#[test]
fn a_damaged_record_in_the_write_ahead_log_costs_only_itself() {
    // The last record is behind the last flush.
    for (boot, damaged) in [("one", 50), ("", 50), ("one", 100), ("", 100)] {
        for is_sealed in [false, true] {
            let place = tempfile::tempdir().unwrap();
            let mut store = open(place.path(), boot);
            for number in 1..=100 {
                if number == 90 {
                    store.flush().unwrap();
                }
                store.append(format!("record {number:03}").as_bytes()).unwrap();
            }
            damage_record(place.path(), &format!("record {damaged:03}"));
            let case = format!("boot {boot:?}, record {damaged}, sealed: {is_sealed}");
            match is_sealed {
                true => store.seal().unwrap_err(),
                false => store.read(Seq(1), Limit { entries: 1000, bytes: 1 << 20 }).unwrap_err(),
            };
            assert!(!store.is_open(), "{case}");
            store.reopen().unwrap();
            let counts = (store.appended(), store.usage().records, store.lost());
            assert_eq!(counts, (100, 99, 1), "{case}: appended, held and lost");
            assert_eq!(store.take_lost(), [(Seq(damaged), Seq(damaged))], "{case}");
            assert!(store.append(b"after").unwrap() > Seq(100), "{case}");
            store.seal().unwrap();
            let (found, _) = read_all(&mut store);
            assert_eq!(found.len(), 100, "{case}");
            assert!(!found.contains_key(&damaged), "{case}");
        }
    }
}

#[tokio::test]
async fn a_damaged_record_does_not_stop_capture_while_no_server_is_reachable() {
    let place = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.queue.path = place.path().join("queue");
    // A segment has 62 records.
    config.queue.max_entries = 1000;
    let (writer, _reader, _closed) =
        crate::single::open(&config.queue, &config.stint, single::at(1)).unwrap();
    let append = async |numbers: std::ops::Range<u64>| {
        let make = |stamps: &mut Stamps| {
            let mut frame = |number: u64| {
                NewEntry::new(
                    stamps.stamp_at(single::reading(1)),
                    Content::Frame(Situation::default()),
                    format!(r#"{{"n":"number {number:03}"}}"#),
                )
            };
            numbers.map(&mut frame).collect::<Vec<_>>()
        };
        writer.append(make).await.unwrap();
    };
    append(0..30).await;
    damage_record(&config.queue.path, "number 010");
    for ten in 3..30 {
        append(10 * ten..10 * ten + 10).await;
    }
    let end = Instant::now() + Duration::from_secs(30);
    let status = loop {
        let status = writer.status();
        if status.entries == 299 && status.buffered == 0 && status.storage_error.is_none() {
            break status;
        }
        assert!(Instant::now() < end, "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((status.server().imbalance, status.server().ledger.corrupt), (0, 1), "{status:?}");
}

/// Downsampling reads a segment, then replaces it with the entries that remain.
#[test]
fn replacing_an_unreadable_segment_leaves_its_predecessor_intact() {
    let place = tempfile::tempdir().unwrap();
    let mut store = open(place.path(), "one");
    seal_ten(&mut store, 3);
    let segments = store.sealed_segments();
    let [_, second, _] = segments[..] else { panic!("{segments:?}") };
    drop(store);
    let name = format!("q-{:016x}-{:016x}", second.first.0, second.last.0);
    fs::write(place.path().join(name).join("db"), b"nothing of it").unwrap();
    let mut store = open(place.path(), "one");
    let read = store.read(second.first, Limit { entries: 100, bytes: usize::MAX }).unwrap();
    assert_eq!(read[0].0, Seq(21));
    store.replace(second.first, second.last, 1, Vec::new(), b"metadata").unwrap();
    let left: Vec<u64> = read_all(&mut store).0.into_keys().collect();
    assert!(left.iter().copied().eq((1..=10).chain(21..=30)), "{left:?}");
}

#[test]
fn a_removed_folder_loses_its_records_but_reuses_no_sequence_number() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("queue");
    let mut store = open(&folder, "one");
    for _ in 0..300 {
        store.append(b"record").unwrap();
    }
    store.maintain().unwrap();
    let last = store.append(b"record").unwrap();
    store.flush().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    store.append(b"record").unwrap();
    store.flush().unwrap_err();
    assert!(!store.is_open());
    store.reopen().unwrap();
    let seq = store.append(b"record").unwrap();
    assert!(seq > Seq(last.0 + 1), "{seq}");
    assert_eq!((store.usage().records, store.appended(), store.lost()), (1, 303, 302));
}

#[test]
fn stray_segment_folders_do_no_harm() {
    let place = tempfile::tempdir().unwrap();
    for name in [
        "q-ffffffffffffffff-ffffffffffffffff",
        "tail-fffffffffffffffe.log",
        "q-",
        "q-zz",
        "q-0000000000000001",
        "q-0000000000000002-0000000000000001",
        "q-0000000000000001-0000000000000002x",
    ] {
        fs::create_dir_all(place.path().join(name)).unwrap();
    }
    let mut store = open(place.path(), "one");
    store.append(b"record").unwrap();
    store.flush().unwrap();
    drop(store);
    assert_eq!(read_all(&mut open(place.path(), "one")).0.len(), 1);
}

fn damage(seed: u64, places: usize) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let original = place.path().join("original");
    let written = fill(&original, &mut rng);
    let mut lost = 0;
    for number in 0..places {
        let damaged = place.path().join("damaged");
        let _ = fs::remove_dir_all(&damaged);
        copy(&original, &damaged);
        let mut files = files(&damaged);
        files.retain(|file| fs::metadata(file).unwrap().len() > 0);
        let file = &files[rng.random_range(0..files.len())];
        let mut bytes = fs::read(file).unwrap();
        let at = rng.random_range(0..bytes.len());
        let what = match rng.random_range(0..4) {
            0 => {
                bytes.truncate(at);
                "cut"
            }
            1 => {
                fs::remove_file(file).unwrap();
                "removed"
            }
            _ => {
                bytes[at] ^= 1 << rng.random_range(0..8);
                "flipped"
            }
        };
        if what != "removed" {
            fs::write(file, &bytes).unwrap();
        }
        let case = format!("seed {seed}, case {number}: {} {what} at {at}", file.display());
        let hit = segment_of(file);
        let same_boot = rng.random::<bool>();
        lost += check(&damaged, &written, hit.as_deref(), same_boot, &case);
    }
    let of = written.len();
    eprintln!("{places} places damaged: on average {} of {of} records lost", lost / places);
}

/// A power cut undoes the removal of a segment, but not the rename of its replacement.
#[test]
fn a_replaced_segment_restored_by_a_power_cut_is_ignored() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("queue");
    let mut store = open(&folder, "one");
    seal_ten(&mut store, 2);
    let second = store.sealed_segments()[1];
    let name = format!("q-{:016x}-{:016x}", second.first.0, second.last.0);
    copy(&folder.join(&name), &place.path().join("kept"));
    let (all, _) = read_all(&mut store);
    let every_third = all.into_iter().filter(|(seq, _)| seq % 3 == 0);
    let kept = every_third.map(|(seq, record)| (Seq(seq), record)).collect();
    store.replace(Seq(1), second.last, 1, kept, b"metadata").unwrap();
    let journal = files(&folder).into_iter().rfind(|file| file.extension() == Some("log".as_ref()));
    let journal = fs::File::options().write(true).open(journal.unwrap()).unwrap();
    let len = journal.metadata().unwrap().len();
    drop(store);
    // Cut off the last record: it marks the replacement as complete and was not durable yet.
    journal.set_len(len - 1).unwrap();
    copy(&place.path().join("kept"), &folder.join(&name));
    let mut store = open(&folder, "two");
    let (left, _) = read_all(&mut store);
    assert_eq!(left.keys().copied().collect::<Vec<_>>(), [3, 6, 9, 12, 15, 18]);
    assert_eq!((store.usage().records, store.lost()), (6, 0));
}

/// Checks a damaged store; returns the number of lost records.
fn check(
    folder: &Path,
    written: &BTreeMap<u64, Vec<u8>>,
    hit: Option<&str>,
    same_boot: bool,
    case: &str,
) -> usize {
    let boot = if same_boot { "one" } else { "another" };
    let mut store = open(folder, boot);
    let (found, last) = read_all(&mut store);
    for (seq, record) in &found {
        assert_eq!(written.get(seq), Some(record), "{case}: a wrong record at {seq}");
    }
    let missing: Vec<u64> =
        written.keys().copied().filter(|seq| *seq > RELEASED && !found.contains_key(seq)).collect();
    let lo = hit.map_or(u64::MAX, |name| u64::from_str_radix(name, 16).unwrap());
    for seq in &missing {
        assert!(
            (lo..lo + 600).contains(seq),
            "{case}, same boot {same_boot}: {seq} is missing, in another segment; {} are, head {}, tail {}",
            missing.len(),
            store.head(),
            store.tail()
        );
    }
    assert_eq!(store.usage().records, found.len() as u64, "{case}");
    let released =
        store.metadata().map_or(0, |released| u64::from_le_bytes(released.try_into().unwrap()));
    let accounted = released + store.lost() + store.usage().records;
    assert_eq!(store.appended(), accounted, "{case}: the ledger is off, {released} released");
    let given_out = written.last_key_value().map_or(0, |(seq, _)| *seq);
    assert!(store.tail().0 > last.max(given_out), "{case}: a position would be reused");
    // The store accepts records again, and the loss does not grow.
    store.append(b"after").unwrap();
    store.flush().unwrap();
    drop(store);
    let (again, _) = read_all(&mut open(folder, boot));
    assert_eq!(again.len(), found.len() + 1, "{case}");
    missing.len()
}

/// Appends and seals segments of ten records each.
fn seal_ten(store: &mut SegmentStore, segments: usize) {
    for _ in 0..segments {
        for _ in 0..10 {
            store.append(b"record").unwrap();
        }
        store.seal().unwrap();
    }
}

fn open(folder: &Path, boot: &str) -> SegmentStore {
    SegmentStore::open(
        folder,
        Options { segment_bytes: 0, boot: boot.into(), ..Options::new(1_000_000, 64 << 20) },
    )
    .unwrap()
}

/// Number of records that were released before the process was killed.
const RELEASED: u64 = 500;

/// Writes eleven segments, two of them released and deleted, the third partly released, and leaves
/// the files as a killed process would.
fn fill(folder: &Path, rng: &mut SmallRng) -> BTreeMap<u64, Vec<u8>> {
    let mut store = open(folder, "one");
    let mut written = BTreeMap::new();
    for i in 0..2_100 {
        let record: Vec<u8> = (0..rng.random_range(0..900)).map(|_| rng.random::<u8>()).collect();
        let seq = store.append(&record).unwrap();
        written.insert(seq.0, record);
        if i % 200 == 199 {
            store.maintain().unwrap();
        }
    }
    let head = Seq(RELEASED + 1);
    store.truncate(head, &RELEASED.to_le_bytes()).unwrap();
    store.flush().unwrap();
    // Reopening deletes the released segments, and no seal follows that.
    drop(store);
    let mut store = open(folder, "one");
    written.extend(
        std::iter::repeat_n(b"more".to_vec(), 50)
            .map(|record| (store.append(&record).unwrap().0, record)),
    );
    store.put("fact", b"value").unwrap();
    store.flush().unwrap();
    // Copy the files while they are open: this is the state after a kill.
    let killed = folder.with_extension("killed");
    copy(folder, &killed);
    drop(store);
    fs::remove_dir_all(folder).unwrap();
    fs::rename(killed, folder).unwrap();
    written
}

fn read_all(store: &mut SegmentStore) -> (BTreeMap<u64, Vec<u8>>, u64) {
    let (mut records, mut from) = (BTreeMap::new(), Seq(0));
    loop {
        let read = store.read(from, Limit { entries: 1000, bytes: 1 << 20 }).unwrap();
        let Some((last, _)) = read.last() else { return (records, from.0.saturating_sub(1)) };
        from = Seq(last.0 + 1);
        records.extend(read.into_iter().map(|(seq, record)| (seq.0, record)));
    }
}

/// The number of the segment that a file belongs to.
fn segment_of(file: &Path) -> Option<String> {
    file.iter().find_map(|part| {
        let (kind, number) = part.to_str()?.split_once('-')?;
        let number = &number[..16.min(number.len())];
        matches!(kind, "q" | "tail").then(|| number.to_owned())
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

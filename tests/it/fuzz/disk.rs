//! Fuzzes the files of a queue.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use pitwire::config::Config;
use pitwire::entry::{Kind, QueueTime, Seq, Situation, StintId};
use pitwire::queue::record::{self, Record, RetentionFlags};
use pitwire::queue::{Appended, Content, Limit, NewEntry, Stamps};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::mutate::mutate;
use super::{cases, fuzz};
use crate::single;

const SAMPLES: &str = include_str!("../../data/samples.ndjson");

fn records() -> Vec<Vec<u8>> {
    let record = |(n, json): (usize, &str)| {
        let kind = if n % 3 == 0 { Kind::Setup } else { Kind::Frame };
        let at = QueueTime(1_763_821_822_123 + n as i64 * 500);
        record::encode(&Record::new(StintId(7), at, kind, RetentionFlags::KEEP, json)).unwrap()
    };
    SAMPLES.lines().enumerate().map(record).collect()
}

#[test]
fn a_mutated_record_is_decoded_or_refused() {
    // A length field of 4 GiB without the data.
    let mut corpus = records();
    corpus.push(b"\x01\x97\x03\xcd\x03\xe8\x07\xa5setup\x03\xdb\xff\xff\xff\xff{}".to_vec());
    corpus.push(b"\x01\xdd\xff\xff\xff\xff\x03".to_vec());
    for whole in &corpus {
        let _ = record::decode(Seq(1), whole);
    }
    fuzz(50_000, &corpus, |bytes| {
        if let Ok(entry) = record::decode(Seq(1), bytes) {
            assert!(entry.json.len() <= bytes.len(), "the entry is longer than its record");
        }
    });
    assert!(super::peak_mib(std::process::id()) < 2048, "allocated the declared length");
}

/// Frames with valid checksums and invalid content, foreign files, names with overflowing
/// positions: the queue opens, reads whatever is readable, and accepts new entries.
#[test]
fn a_queue_opens_with_arbitrarily_damaged_files() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let good = tempfile::tempdir().unwrap();
    runtime.block_on(make(good.path()));
    for (case, _) in cases(40, &[vec![0]]) {
        let folder = tempfile::tempdir().unwrap();
        copy(good.path(), folder.path());
        let harm = harm(folder.path(), &mut SmallRng::seed_from_u64(case));
        let going_on = || runtime.block_on(goes_on(folder.path(), harm.is_forged));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(going_on)) {
            eprintln!("case {case}: {}", harm.told);
            resume_unwind(panic);
        }
    }
}

/// The mutation of a queue's files.
struct Harm {
    told: String,
    /// Content was forged with a valid checksum, which damage never produces; the ledger may be
    /// arbitrary.
    is_forged: bool,
}

fn config(folder: &Path) -> Config {
    let mut config = Config::default();
    config.queue.path = folder.into();
    // Limits that lead to small segments.
    config.queue.max_entries = 400;
    config.queue.max_bytes = 16 << 20;
    config.queue.durability = pitwire::config::Durability::Os;
    config
}

fn entries(stamps: &mut Stamps, count: usize) -> Vec<NewEntry> {
    let entry = |json: &str| {
        NewEntry::new(
            stamps.stamp_at(single::reading(1_763_821_822_123)),
            Content::Frame(Situation::default()),
            json.into(),
        )
    };
    SAMPLES.lines().cycle().take(count).map(entry).collect()
}

async fn make(folder: &Path) {
    let config = config(folder);
    let (writer, mut reader, closed) =
        single::open(&config.queue, &config.stint, single::at(0)).unwrap();
    for _ in 0..30 {
        writer.append(|stamps| entries(stamps, 10)).await.unwrap();
    }
    let batch = reader.next_batch(Limit { entries: 40, bytes: 1 << 20 }).await.unwrap();
    reader.ack(batch).await.unwrap();
    writer.close().await;
    drop((writer, reader));
    closed.wait().await;
}

/// Checks that the queue accepts a frame, returns it last, and balances unless its metadata is
/// forged.
async fn goes_on(folder: &Path, is_forged: bool) {
    let config = config(folder);
    // Opening may fail, but not panic.
    let Ok((writer, mut reader, closed)) =
        single::open(&config.queue, &config.stint, single::at(0))
    else {
        return;
    };
    let taken = writer.append(|stamps| entries(stamps, 1)).await.unwrap();
    if let [Appended::Stored(seq)] = taken[..] {
        let mut last = None;
        for _ in 0..1000 {
            if writer.status().entries == 0 {
                break;
            }
            let limit = Limit { entries: 256, bytes: 1 << 20 };
            match reader.next_batch(limit).await {
                Ok(batch) => {
                    last = batch.entries().last().map(|entry| entry.seq).or(last);
                    reader.ack(batch).await.unwrap();
                }
                Err(_) => reader.rewind(),
            }
        }
        assert_eq!(last, Some(seq), "{:?}", writer.status());
    }
    assert!(is_forged || writer.status().server().imbalance == 0, "{:?}", writer.status());
    writer.close().await;
    drop((writer, reader));
    closed.wait().await;
}

/// Applies one mutation to one file.
fn harm(folder: &Path, chance: &mut SmallRng) -> Harm {
    let files = files(folder);
    let file = &files[chance.random_range(0..files.len())];
    let journal = files.iter().find(|file| lo_of(file).is_some());
    let mut is_forged = false;
    let told = match (chance.random_range(0..4), journal) {
        (0, _) => {
            let bytes = fs::read(file).unwrap();
            fs::write(file, mutate(&[bytes, records().concat()], chance)).unwrap();
            format!("mutated {}", file.display())
        }
        (1, Some(journal)) => {
            let lo = match chance.random_range(0..3) {
                0 => u64::MAX - chance.random_range(0..10_000),
                1 => chance.random(),
                _ => chance.random_range(0..1000),
            };
            let name = journal.with_file_name(format!("tail-{lo:016x}.log"));
            if chance.random() {
                fs::rename(journal, &name)
            } else {
                fs::copy(journal, &name).map(drop)
            }
            .unwrap();
            format!("write-ahead log renamed or copied to {}", name.display())
        }
        (_, Some(journal)) => {
            let mut bytes = fs::read(journal).unwrap();
            let lo = lo_of(journal).unwrap();
            let seq = match chance.random_range(0..4) {
                // Reserved sequence numbers of the store's own records.
                0 => u64::MAX - chance.random_range(0..4),
                1 => chance.random(),
                _ => lo + chance.random_range(0..400),
            };
            let numbers: Vec<u8> = (0..6).flat_map(|_| odd(chance).to_le_bytes()).collect();
            let payload = mutate(&[numbers.clone(), numbers, records().remove(1)], chance);
            bytes.extend(frame(lo, seq, &payload));
            is_forged = true;
            fs::write(journal, bytes).unwrap();
            format!("write-ahead log with {} at {seq}", payload.escape_ascii())
        }
        _ => "no mutation".into(),
    };
    Harm { told, is_forged }
}

/// A number that is likely to be invalid.
fn odd(chance: &mut SmallRng) -> u64 {
    match chance.random_range(0..4) {
        0 => u64::MAX - chance.random_range(0..3),
        1 => chance.random(),
        2 => 0,
        _ => chance.random_range(0..1000),
    }
}

/// A frame of the write-ahead log with a valid checksum.
fn frame(lo: u64, seq: u64, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    let mut sum = crc32fast::Hasher::new();
    for part in [&lo.to_le_bytes()[..], &len.to_le_bytes(), &seq.to_le_bytes(), payload] {
        sum.update(part);
    }
    let sum = sum.finalize().to_le_bytes();
    [&b"pwE1"[..], &len.to_le_bytes(), &sum, &seq.to_le_bytes(), payload].concat()
}

/// The base position of a write-ahead log, from its file name.
fn lo_of(file: &Path) -> Option<u64> {
    let name = file.file_name()?.to_str()?;
    u64::from_str_radix(name.strip_prefix("tail-")?.strip_suffix(".log")?, 16).ok()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

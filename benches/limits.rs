//! What the queue does at its limits, on the disk that holds the build: appends a second, the
//! slowest of them at 100 Hz, and a start with a long backlog. One line a figure.
//!
//! `cargo bench --bench limits` measures all; with words behind `--`, those that contain one.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

mod lap;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pitwire::config::{Config, Durability};
use pitwire::entry::{CapturedAt, Situation};
use pitwire::queue::{self, Appended, Closed, Content, NewEntry, Reader, Stamps, Writer};
use pitwire::{fields, memory};

/// Each figure is the median of so many runs.
const RUNS: usize = 3;
/// Different ones; they go in again and again.
const FRAMES: usize = 600;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    memory::give_back_what_is_freed();
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [role, folder] = &words[..]
        && role == "open"
    {
        return report_open(Path::new(folder)).await;
    }
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let within = Durability::Within(Duration::from_millis(200));
    for (name, durability, batch, entries) in [
        ("append one by one, durability entry", Durability::Entry, 1, 4_000),
        ("append one by one, durability 200ms", within, 1, 60_000),
        ("append one by one, durability os", Durability::Os, 1, 60_000),
        ("append in batches of 256, durability 200ms", within, 256, 200_000),
    ] {
        if wanted(name) {
            let mut rates = Vec::new();
            for _ in 0..RUNS {
                rates.push(append_rate(durability, batch, entries).await);
            }
            println!("{name}: {:.0} entries/s", median(rates));
        }
    }
    if wanted("append at 100 Hz, durability 200ms") {
        at_100_hz(within).await;
    }
    if wanted("open with a backlog") {
        open_with_backlog().await;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn append_rate(durability: Durability, batch: usize, entries: usize) -> f64 {
    let place = place();
    let (writer, _reader, _closed) = open(place.path(), durability);
    let frames = frames();
    let started = Instant::now();
    for first in (0..entries).step_by(batch) {
        append(&writer, &frames, first, batch).await;
    }
    entries as f64 / started.elapsed().as_secs_f64()
}

/// Two segments' worth: their sealing is among what is measured.
async fn at_100_hz(durability: Durability) {
    let place = place();
    let (writer, _reader, _closed) = open(place.path(), durability);
    let frames = frames();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let mut took = Vec::new();
    for number in 0..9_000 {
        tick.tick().await;
        let started = Instant::now();
        append(&writer, &frames, number, 1).await;
        took.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[(took.len() as f64 * share) as usize];
    let worst = took[took.len() - 1];
    println!(
        "append at 100 Hz, durability 200ms: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, worst {worst:.2} ms",
        at(0.5),
        at(0.99),
        at(0.999)
    );
}

async fn open_with_backlog() {
    let place = place();
    let mut made = 0;
    let frames = frames();
    for backlog in [1_000, 100_000, 5_000_000] {
        let (writer, reader, closed) = open(place.path(), Durability::Os);
        let started = Instant::now();
        for first in (made..backlog).step_by(1_000) {
            append(&writer, &frames, first, 1_000).await;
        }
        eprintln!("{} entries more took {:.1?}", backlog - made, started.elapsed());
        made = backlog;
        let disk = writer.status().disk_bytes;
        drop((writer, reader));
        closed.wait().await;
        let mut times = Vec::new();
        let mut memory = Vec::new();
        for _ in 0..RUNS {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["open".as_ref(), place.path()])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let mut words = text.split_whitespace().map(|word| word.parse::<f64>().unwrap());
            times.push(words.next().unwrap());
            memory.push(words.next().unwrap());
        }
        println!(
            "open with a backlog of {backlog}: {:.1} ms, {:.1} MB of memory, {:.0} bytes an entry on the disk",
            median(times),
            median(memory) / 1e6,
            disk as f64 / backlog as f64
        );
    }
}

/// In a process of its own: ms until the queue takes entries, and bytes of memory.
async fn report_open(folder: &Path) {
    let frames = frames();
    let started = Instant::now();
    let (writer, _reader, _closed) = open(folder, Durability::Os);
    append(&writer, &frames, 0, 1).await;
    println!("{} {}", started.elapsed().as_secs_f64() * 1000.0, rss());
}

async fn append(writer: &Writer, frames: &[String], first: usize, count: usize) {
    let make = |stamps: &mut Stamps| {
        let entry = |number: usize| NewEntry {
            driven_at: None,
            captured_at: stamps.next(CapturedAt(0)),
            content: Content::Frame(Situation::default()),
            json: frames[number % frames.len()].clone(),
        };
        (first..first + count).map(entry).collect()
    };
    let appended = writer.append(make).await.unwrap();
    // Else it would be measured how fast memory is.
    assert!(
        appended.iter().all(|one| matches!(one, Appended::Stored(_))),
        "the disk does not keep up"
    );
}

fn frames() -> Vec<String> {
    lap::samples(FRAMES).into_iter().map(|(at, sample)| fields::map(&sample, at).unwrap()).collect()
}

fn open(folder: &Path, durability: Durability) -> (Writer, Reader, Closed) {
    let mut config = Config::default();
    config.queue.path = PathBuf::from(folder);
    config.queue.max_entries = 10_000_000;
    config.queue.max_bytes = 16 << 30;
    config.queue.durability = durability;
    queue::open(&config.queue, &config.stint, CapturedAt(0)).unwrap()
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Memory of this process in bytes; 0 where the system does not say.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

//! The queue alone, on the disk that holds the build: appends per second, the slowest append at
//! 100 Hz, and start-up with a long backlog.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pitwire::config::{Config, Durability};
use pitwire::entry::Situation;
use pitwire::platform::clock::Clock;
use pitwire::queue::{
    self, Appended, Closed, Content, Destinations, Limits, NewEntry, Reader, Stamps, Writer,
};
use tokio::runtime::Runtime;

use crate::agent::Agent;
use crate::lap;
use crate::process::Look;
use crate::table::Report;

const WITHIN: Durability = Durability::Within(Duration::from_millis(200));
/// An address where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";

pub(crate) fn measure(report: &mut Report) {
    let runtime = runtime();
    for (name, durability, batch, entries) in [
        ("append one by one, durability entry", Durability::Entry, 1, 4_000),
        ("append one by one, durability 200ms", WITHIN, 1, 60_000),
        ("append one by one, durability os", Durability::Os, 1, 60_000),
        ("append in batches of 256, durability 200ms", WITHIN, 256, 200_000),
    ] {
        report.row(name, "entries/s", || runtime.block_on(append_rate(durability, batch, entries)));
    }
    let figures = [("median", "ms"), ("99 %", "ms"), ("99.9 %", "ms"), ("worst", "ms")];
    report.rows("append at 100 Hz, durability 200ms", &figures, || runtime.block_on(at_100_hz()));
    start_with_backlog(report, &runtime);
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn append_rate(durability: Durability, batch: usize, entries: usize) -> f64 {
    let place = place();
    let (writer, _reader, _closed) = open(place.path(), durability);
    let frames = lap::frames(600);
    let started = Instant::now();
    for first in (0..entries).step_by(batch) {
        append(&writer, &frames, first, batch).await;
    }
    entries as f64 / started.elapsed().as_secs_f64()
}

/// Enough for two segments, so that sealing them is measured too.
async fn at_100_hz() -> Vec<f64> {
    let place = place();
    let (writer, _reader, _closed) = open(place.path(), WITHIN);
    let frames = lap::frames(600);
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
    vec![at(0.5), at(0.99), at(0.999), took[took.len() - 1]]
}

/// The program from its start to its first stored frame.
fn start_with_backlog(report: &mut Report, runtime: &Runtime) {
    let place = place();
    let mut made = 0;
    let backlogs = if std::env::var_os("LONG").is_some() { 4 } else { 3 };
    for backlog in &[1_000, 100_000, 1_000_000, 5_000_000][..backlogs] {
        let name = format!("start with {backlog} entries queued");
        let figures = [
            ("until the first frame is stored", "ms"),
            ("memory", "MB"),
            ("disk for each entry", "bytes"),
        ];
        report.rows(&name, &figures, || {
            let disk = runtime.block_on(fill(
                place.path(),
                std::mem::replace(&mut made, *backlog),
                *backlog,
            ));
            let (took, memory, queued) = runtime.block_on(start(place.path()));
            assert!(queued > *backlog as f64, "of {backlog} entries {queued} are queued");
            vec![took, memory, disk as f64 / *backlog as f64]
        });
    }
}

/// Appends this many entries; returns the bytes that they use on disk.
async fn fill(folder: &Path, from: usize, to: usize) -> u64 {
    let (writer, reader, closed) = open(folder, Durability::Os);
    let frames = lap::frames(600);
    for first in (from..to).step_by(1_000) {
        append(&writer, &frames, first, 1_000.min(to - first)).await;
    }
    let disk = writer.status().disk_bytes;
    drop((writer, reader));
    closed.wait().await;
    disk
}

async fn start(folder: &Path) -> (f64, f64, f64) {
    let limits = ["queue.max_entries=10000000", "queue.max_bytes=16GiB", "queue.max_age=365d"];
    let started = Instant::now();
    let mut agent = Agent::start(folder, NOWHERE, &limits);
    agent.feed(&[lap::lines(1).concat().trim_end().to_owned()]);
    agent.has_taken(1).await;
    let took = started.elapsed();
    let memory = Look::at(agent.process.id()).rss_bytes;
    let queued = agent.metric("pitwire_queue_entries").await;
    agent.stop().await;
    (took.as_secs_f64() * 1000.0, memory as f64 / 1e6, queued)
}

async fn append(writer: &Writer, frames: &[String], first: usize, count: usize) {
    let make = |stamps: &mut Stamps| {
        let entry = |number: usize| {
            NewEntry::new(
                stamps.stamp(),
                Content::Frame(Situation::default()),
                frames[number % frames.len()].clone(),
            )
        };
        (first..first + count).map(entry).collect()
    };
    let appended = writer.append(make).await.unwrap();
    // Otherwise this would measure memory, not the disk.
    assert!(
        appended.iter().all(|one| matches!(one, Appended::Stored(_))),
        "the disk does not keep up"
    );
}

fn open(folder: &Path, durability: Durability) -> (Writer, Reader, Closed) {
    let mut config = Config::default();
    config.queue.path = PathBuf::from(folder);
    config.queue.max_entries = 10_000_000;
    config.queue.max_bytes = 16 << 30;
    config.queue.durability = durability;
    let limits = Limits::new(&config.queue, &config.stint);
    let opened = queue::open(&config.queue, limits, Destinations::Stored, Clock::system(), |_| {});
    let (writer, mut readers, closed) = opened.unwrap();
    (writer, readers.remove(0), closed)
}

pub(crate) fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

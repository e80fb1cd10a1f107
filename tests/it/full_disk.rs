//! A small tmpfs is filled completely and freed at random while frames flow. It is mounted in a
//! private mount namespace. `LONG=1` runs for two minutes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pitwire::agent;
use pitwire::config::{Config, Durability};
use pitwire::entry::{CapturedAt, Seq, Situation};
use pitwire::queue::storage::{KeyValue, Options, SegmentStore, Storage};
use pitwire::queue::{
    Appended, Closed, Content, Limit, NewEntry, QueueStatus, Reader, STORAGE_RETRY_INTERVAL,
    Stamps, Writer,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::long;
use crate::single;

pub const ROLE: &str = "PITWIRE_TEST_FULL_DISK_CHILD";

#[test]
fn appends_continue_while_the_disk_fills_up_and_is_freed() {
    if !cfg!(target_os = "linux") {
        return;
    }
    for (seed, durability) in (1..).zip(["entry", "200ms"]) {
        let out = on_a_small_disk("full_disk::child", &format!("{seed} {durability}"));
        eprintln!("{durability}: {}", out.lines().find(|line| line.contains("handed in")).unwrap());
    }
}

#[test]
fn an_agent_started_on_a_full_disk_waits_for_space() {
    if cfg!(target_os = "linux") {
        on_a_small_disk("full_disk::start", "");
    }
}

#[test]
fn a_record_cut_off_by_a_full_disk_leaves_later_ones_readable() {
    if cfg!(target_os = "linux") {
        on_a_small_disk("full_disk::half", "");
    }
}

#[test]
fn the_queue_recovers_after_sealing_on_a_full_disk() {
    if cfg!(target_os = "linux") {
        let out = on_a_small_disk("full_disk::seal_on_a_full_disk", "");
        eprintln!("{}", out.lines().find(|line| line.contains("rounds")).unwrap());
    }
}

#[test]
fn sealing_ends_when_another_program_takes_the_free_space() {
    if cfg!(target_os = "linux") {
        let out = on_a_small_disk("full_disk::lose_space_while_sealing", "");
        eprintln!("{}", out.lines().find(|line| line.contains("rounds")).unwrap());
    }
}

#[test]
fn a_start_on_a_full_disk_continues_the_write_ahead_log() {
    if cfg!(target_os = "linux") {
        on_a_small_disk("full_disk::continued", "");
    }
}

#[test]
fn the_ballast_is_released_for_a_full_disk_and_reserved_again() {
    if cfg!(target_os = "linux") {
        on_a_small_disk("full_disk::ballast", "");
    }
}

#[test]
fn an_owner_file_that_a_full_disk_does_not_take_prevents_no_start() {
    if cfg!(target_os = "linux") {
        on_a_small_disk("full_disk::owner", "");
    }
}

#[test]
fn entries_lost_to_a_full_disk_are_in_the_ledger_after_a_restart() {
    if cfg!(target_os = "linux") {
        on_a_small_disk("full_disk::end", "");
    }
}

/// Runs the full-disk test on ext4, which only root can mount.
#[test]
fn the_queue_recovers_after_a_full_ext4_disk() {
    if !cfg!(target_os = "linux") || !long::is_long() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let mount =
        r#"truncate -s 64M "$0.img" && mkfs.ext4 -q "$0.img" && mount -o loop "$0.img" "$0""#;
    if !Command::new("sh").args(["-c", mount]).arg(place.path()).status().unwrap().success() {
        eprintln!("skipped: this user cannot mount a loop device");
        return;
    }
    for (test, role) in [
        ("seal_on_a_full_disk", ""),
        ("lose_space_while_sealing", ""),
        ("child", "1 entry"),
        ("child", "2 200ms"),
    ] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ROLE, format!("{role} {}", place.path().display()));
        let out = run_ignored(command, &format!("full_disk::{test}"));
        out.lines()
            .filter(|line| line.contains("rounds") || line.contains("handed in"))
            .for_each(|line| eprintln!("{test} {role}: {line}"));
        let emptied =
            Command::new("sh").args(["-c", r#"rm -rf "$0"/*"#]).arg(place.path()).status();
        assert!(emptied.unwrap().success());
    }
    let unmount = r#"umount "$0" && rm "$0.img""#;
    assert!(Command::new("sh").args(["-c", unmount]).arg(place.path()).status().unwrap().success());
}

/// Runs an ignored test in a child process with an empty tmpfs and returns its output. The path of
/// the tmpfs is appended to `role`, which the test reads from its environment.
pub fn on_a_small_disk(test: &str, role: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=30m none \"$0\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount])
        .arg(place.path())
        .arg(std::env::current_exe().unwrap())
        .env(ROLE, format!("{role} {}", place.path().display()));
    run_ignored(command, test)
}

/// Runs an ignored test with the test binary that `command` starts, and returns its output.
fn run_ignored(mut command: Command, test: &str) -> String {
    let output = command.args(["--exact", test, "--ignored", "--nocapture"]).output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test}: {out}\n{err}");
    out
}

/// Exits the process if the test takes longer than `limit`.
fn end_after(limit: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!("the test hangs: not finished after {} s", limit.as_secs());
        std::process::exit(1);
    });
}

#[tokio::test]
#[ignore = "run by a test above"]
async fn start() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(role.trim());
    let filler = folder.join("filler");
    fill(&filler);
    let mut config = Config::default();
    config.queue.path = folder.join("queue");
    // A listener that never accepts a connection.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    config.server.url = url.parse().unwrap();
    config.metrics.enabled = false;
    config.source.stdin.enabled = false;
    config.source.http.enabled = false;
    config.source.simulator.enabled = true;
    let agent = tokio::spawn(agent::run(
        config.clone(),
        agent::Until::Shutdown,
        None,
        None,
        sleep(Duration::from_secs(6)),
        agent::AgentOutput { announce: |_| {}, receipt: |_| {}, look: None },
    ));
    sleep(Duration::from_secs(1)).await;
    assert!(!agent.is_finished());
    free(&filler, 0);
    agent.await.unwrap().unwrap();
    let (writer, ..) = single::open(&config.queue, &config.stint, single::at(0)).unwrap();
    assert!(writer.status().entries > 2, "{:?}", writer.status());
}

#[test]
#[ignore = "run by a test above"]
fn half() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(role.trim());
    let filler = folder.join("filler");
    let open = || SegmentStore::open(&folder.join("queue"), Options::new(1000, 16 << 20)).unwrap();
    let mut store = open();
    store.append(b"before").unwrap();
    fill(&filler);
    free(&filler, 4096);
    let error = store.append(&[b'x'; 20_000]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    free(&filler, 0);
    store.append(b"after").unwrap();
    store.flush().unwrap();
    let read = |store: &mut SegmentStore| store.read(Seq(0), Limit { entries: 9, bytes: 1 << 20 });
    let found = read(&mut store).unwrap();
    let records: Vec<&[u8]> = found.iter().map(|(_, record)| &record[..]).collect();
    assert_eq!(records, [&b"before"[..], b"after"]);
    drop(store);
    assert_eq!(read(&mut open()).unwrap(), found);
}

#[test]
#[ignore = "run by a test above"]
fn continued() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(role.trim());
    let queue = folder.join("queue");
    let open = || {
        SegmentStore::open(&queue, Options { boot: "one".into(), ..Options::new(1000, 16 << 20) })
    };
    let mut store = open().unwrap();
    let seq = store.append(b"first").unwrap();
    // The log ends at the end of a block, so that the next byte of it takes space.
    let log = queue.join(format!("tail-{:016x}.log", seq.0));
    let len = || fs::metadata(&log).unwrap().len();
    let rest = 8192 - len() % 4096 - FRAME;
    store.append(&vec![b'x'; rest as usize]).unwrap();
    store.flush().unwrap();
    assert_eq!(len() % 4096, 0);
    // As a killed process leaves it.
    std::mem::forget(store);
    fill(&folder.join("filler"));
    let mut store = open().unwrap();
    store.append(b"after").unwrap();
    store.flush().unwrap();
    assert_eq!((store.usage().records, store.lost()), (3, 0));
}

/// Bytes of framing around each record.
const FRAME: u64 = 20;

#[test]
#[ignore = "run by a test above"]
fn ballast() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(role.trim());
    let (queue, filler) = (folder.join("queue"), folder.join("filler"));
    let reserved = || fs::metadata(queue.join("ballast")).map_or(0, |file| file.len());
    let mut store = SegmentStore::open(&queue, Options::new(1_000_000, 64 << 20)).unwrap();
    let all = reserved();
    assert!(all > 0);
    fill(&filler);
    while store.append(b"record").is_ok() {}
    // Too large even with the ballast, which is kept for a smaller write.
    let error = store.put("large", &vec![b'x'; 1 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(reserved(), all);
    assert_eq!(fs::read_dir(queue.join("facts")).unwrap().count(), 0, "half a fact is left");
    // A release is recorded with its help.
    store.truncate(Seq(2), b"metadata").unwrap();
    assert_eq!(reserved(), 0);
    free(&filler, 0);
    store.seal().unwrap();
    assert_eq!(reserved(), all);
}

#[tokio::test]
#[ignore = "run by a test above"]
async fn owner() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(role.trim());
    let mut config = Config::default();
    config.queue.path = folder.join("queue");
    let mut flow = Flow::open(&config, 1);
    flow.hand_in().await;
    let entries = flow.writer.status().entries;
    let Flow { writer, reader, closed, .. } = flow;
    drop((writer, reader));
    closed.wait().await;
    let owner = || fs::read_to_string(config.queue.path.join("owner")).unwrap();
    let before = owner();
    fill(&folder.join("filler"));
    assert_eq!(Flow::open(&config, 2).writer.status().entries, entries);
    assert_eq!(owner(), before);
    assert!(!config.queue.path.join("owner.tmp").exists());
}

#[tokio::test]
#[ignore = "run by a test above"]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut words = role.splitn(3, ' ');
    let mut word = || words.next().unwrap();
    let (seed, durability, folder) = (word().parse().unwrap(), word(), PathBuf::from(word()));
    let mut config = Config::default();
    config.queue.path = folder.join("queue");
    config.queue.max_bytes = 64 << 20;
    if durability != "entry" {
        config.queue.durability = Durability::Within(Duration::from_millis(200));
    }
    let mut flow = Flow::open(&config, seed);
    let filler = folder.join("filler");
    let (mut fills, mut steps, mut failures) = (0, 0_usize, 0);
    let end = Instant::now() + Duration::from_secs(long::size(6, 120) as u64);
    while Instant::now() < end {
        let step = flow.rng.random_range(0..10);
        steps += usize::from(step < 4);
        match step {
            0..2 => {
                fill(&filler);
                fills += 1;
            }
            2 => free(&filler, flow.rng.random_range(0..1 << 20)),
            3 => free(&filler, 0),
            4..6 => flow.deliver().await,
            _ => {}
        }
        flow.hand_in().await;
        failures += u64::from(flow.writer.status().storage_error.is_some());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(fills > 5 && failures > 5, "only {fills} times full, {failures} failures");
    assert!(steps >= long::size(10, 200), "only {steps} steps");
    free(&filler, 0);
    let (handed_in, stored, buffered) = (flow.handed_in, flow.stored.len(), flow.buffered);
    let gone = flow.finish().await;
    println!(
        "{handed_in} handed in, {steps} steps, {fills} times full: {stored} stored at once, {buffered} buffered, \
         {gone} counted as lost",
    );
}

/// The queue uses up the space that another program left, and more entries wait in memory. Then
/// space for half a segment becomes free, and some seconds later space for everything.
#[tokio::test]
#[ignore = "run by a test above"]
async fn seal_on_a_full_disk() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(role.trim());
    let (rounds, filler) = (long::size(2, 20), folder.join("filler"));
    end_after(Duration::from_secs(90 * rounds as u64));
    for round in 0..rounds as u64 {
        let mut config = Config::default();
        config.queue.path = folder.join("queue");
        let mut flow = Flow::open(&config, round);
        fill(&filler);
        free(&filler, 4_500_000);
        let is_full = |status: QueueStatus| status.buffered >= 1500 && status.disk_is_full;
        while !is_full(flow.writer.status()) {
            flow.hand_in().await;
        }
        free(&filler, 1_000_000 + 100_000 * (round % 20));
        sleep(STORAGE_RETRY_INTERVAL * 3).await;
        free(&filler, 0);
        flow.finish().await;
        fs::remove_dir_all(&config.queue.path).unwrap();
    }
    println!("{rounds} rounds");
}

/// Another program takes all free space while a segment is being written, after the check of the
/// free space.
#[test]
#[ignore = "run by a test above"]
fn lose_space_while_sealing() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(role.trim());
    let (rounds, filler) = (long::size(8, 200), folder.join("filler"));
    end_after(Duration::from_secs(60 * rounds as u64));
    let mut rng = SmallRng::seed_from_u64(1);
    let (mut failures, mut slowest) = (0, Duration::ZERO);
    for round in 0..rounds {
        let queue = folder.join("queue");
        let open = || SegmentStore::open(&queue, Options::new(100_000, 64 << 20)).unwrap();
        let mut store = open();
        let mut record = || (0..2000).map(|_| rng.random::<u8>()).collect::<Vec<_>>();
        let records: Vec<_> = (0..1500).map(|_| record()).collect();
        for record in &records {
            store.append(record).unwrap();
        }
        store.flush().unwrap();
        let (queue_folder, thief_filler) = (queue.clone(), filler.clone());
        // Slightly more than the segment needs, so that the thief has little to take.
        fill(&filler);
        free(&filler, 4 << 20);
        let pause = Duration::from_micros(rng.random_range(0..30_000));
        let thief = std::thread::spawn(move || {
            let end = Instant::now() + Duration::from_secs(5);
            while !is_building(&queue_folder) && Instant::now() < end {
                std::thread::yield_now();
            }
            std::thread::sleep(pause);
            // Also take the space that the store frees for its second attempt.
            for _ in 0..50 {
                fill(&thief_filler);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let started = Instant::now();
        failures += u64::from(store.seal().is_err());
        slowest = slowest.max(started.elapsed());
        thief.join().unwrap();
        free(&filler, 0);
        store.reopen().unwrap();
        let mut from = Seq(0);
        let mut found = Vec::new();
        loop {
            let read = store.read(from, Limit { entries: 1000, bytes: 1 << 20 }).unwrap();
            let Some((last, _)) = read.last() else { break };
            from = Seq(last.0 + 1);
            found.extend(read.into_iter().map(|(_, record)| record));
        }
        assert!(found == records, "round {round}: {} records of {}", found.len(), records.len());
        assert_eq!(store.lost(), 0);
        drop(store);
        fs::remove_dir_all(&queue).unwrap();
    }
    assert!(failures > 0, "the disk was never full while a segment was written");
    // A hanging database is abandoned after 4 s; the second attempt may use the ballast.
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
    println!("{rounds} rounds: {failures} times full, at most {slowest:?} to seal");
}

/// Whether a segment is being written.
fn is_building(queue: &Path) -> bool {
    fs::read_dir(queue).unwrap().flatten().any(|item| {
        item.file_name().to_string_lossy().starts_with("unfinished")
            && item.path().join("db").exists()
    })
}

#[tokio::test]
#[ignore = "run by a test above"]
async fn end() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(role.trim());
    let filler = folder.join("filler");
    end_after(Duration::from_secs(120));
    let mut config = Config::default();
    config.queue.path = folder.join("queue");
    let mut flow = Flow::open(&config, 1);
    flow.hand_in().await;
    fill(&filler);
    let is_full = |status: QueueStatus| status.buffered >= 500 && status.disk_is_full;
    while !is_full(flow.writer.status()) {
        flow.hand_in().await;
    }
    let before = flow.writer.status();
    let Flow { writer, reader, closed, handed_in, .. } = flow;
    drop((writer, reader));
    closed.wait().await;
    free(&filler, 0);
    let status = Flow::open(&config, 2).writer.status();
    assert_eq!(status.server().imbalance, 0, "{status:?}");
    // The first entry that did not fit never will, and those after it wait for it.
    assert_eq!(status.entries, before.entries, "{status:?}");
    assert!(status.server().ledger.storage > 0, "{status:?}");
    assert_eq!(status.entries + status.server().ledger.storage, handed_in, "{status:?}");
}

struct Flow {
    rng: SmallRng,
    writer: Writer,
    reader: Reader,
    closed: Closed,
    handed_in: u64,
    /// Entries reported as stored.
    stored: BTreeMap<Seq, CapturedAt>,
    delivered: Vec<(Seq, CapturedAt)>,
    buffered: u64,
}

impl Flow {
    fn open(config: &Config, seed: u64) -> Self {
        let (writer, reader, closed) =
            single::open(&config.queue, &config.stint, single::at(0)).unwrap();
        Self {
            rng: SmallRng::seed_from_u64(seed),
            writer,
            reader,
            closed,
            handed_in: 0,
            stored: BTreeMap::new(),
            delivered: Vec::new(),
            buffered: 0,
        }
    }

    /// Waits until the disk works again, delivers everything, and checks that each entry was
    /// delivered in order or is in the ledger; returns the number of lost entries.
    async fn finish(mut self) -> u64 {
        let end = Instant::now() + STORAGE_RETRY_INTERVAL * 20;
        let recovered = |writer: &Writer| {
            let status = writer.status();
            status.buffered == 0 && status.storage_error.is_none()
        };
        while !recovered(&self.writer) {
            assert!(Instant::now() < end, "no recovery: {:?}", self.writer.status());
            sleep(STORAGE_RETRY_INTERVAL / 10).await;
        }
        while self.writer.status().entries > 0 {
            self.deliver().await;
        }
        let status = self.writer.status();
        let ledger = status.server().ledger;
        assert_eq!(status.server().imbalance, 0, "{status:?}");
        assert_eq!(ledger.delivered, self.delivered.len() as u64);
        let gone = ledger.downsampled + ledger.dropped_in_all();
        assert_eq!(ledger.delivered + gone, self.handed_in, "{status:?}");
        assert_eq!((ledger.corrupt, ledger.queue_full), (0, 0), "{status:?}");
        assert!(self.delivered.is_sorted_by(|one, other| one < other), "out of order");
        let delivered: BTreeMap<Seq, CapturedAt> = self.delivered.iter().copied().collect();
        for (seq, at) in &self.stored {
            assert_eq!(delivered.get(seq), Some(at), "{seq} was stored and is lost");
        }
        let Self { writer, reader, closed, .. } = self;
        drop((writer, reader));
        closed.wait().await;
        gone
    }

    async fn hand_in(&mut self) {
        let count = self.rng.random_range(1..60);
        // Random text, so that it does not compress.
        let noise: String =
            (0..600).map(|_| char::from(self.rng.random_range(b'a'..=b'z'))).collect();
        let mut stamped = Vec::new();
        let make = |stamps: &mut Stamps| {
            let mut entry = |n| {
                let stamp = stamps.stamp_at(single::reading(0));
                stamped.push(stamp.wall);
                let json = format!(r#"{{"n":{n},"noise":"{noise}"}}"#);
                NewEntry::new(stamp, Content::Frame(Situation::default()), json)
            };
            (0..count).map(&mut entry).collect()
        };
        let asked = Instant::now();
        let appended = self.writer.append(make).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(3), "the source was blocked");
        self.handed_in += count;
        for (outcome, at) in appended.into_iter().zip(stamped) {
            match outcome {
                Appended::Stored(seq) => drop(self.stored.insert(seq, at)),
                Appended::Buffered => self.buffered += 1,
                Appended::Dropped(_) | Appended::Unchanged => {}
            }
        }
    }

    async fn deliver(&mut self) {
        if self.writer.status().entries == 0 {
            return;
        }
        // While the disk fails, reads return errors and are retried.
        let limit = Limit { entries: 256, bytes: 1 << 20 };
        let Ok(batch) = self.reader.next_batch(limit).await else {
            return self.reader.rewind();
        };
        let entries: Vec<_> = batch.entries().iter().map(|e| (e.seq, e.captured_at)).collect();
        match self.reader.ack(batch).await {
            Ok(()) => self.delivered.extend(entries),
            Err(_) => self.reader.rewind(),
        }
    }
}

/// Uses up all free space with the filler file.
pub fn fill(filler: &Path) {
    let mut file = File::options().create(true).append(true).open(filler).unwrap();
    for size in [1 << 20, 1 << 12, 1 << 6, 1] {
        while file.write(&vec![b'x'; size]).is_ok_and(|written| written > 0) {}
    }
}

/// Shrinks the filler file by `left` bytes, or removes it if `left` is 0.
pub fn free(filler: &Path, left: u64) {
    match File::options().write(true).open(filler) {
        Ok(file) if left > 0 => {
            let len = file.metadata().unwrap().len();
            file.set_len(len.saturating_sub(left)).unwrap();
        }
        _ => drop(fs::remove_file(filler)),
    }
}

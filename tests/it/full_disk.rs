//! A disk that is filled to the brim and freed at random while frames flow: a small tmpfs of its
//! own, in a name space that no other process sees. `LONG=1` goes on for two minutes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pitwire::agent;
use pitwire::config::{Config, Durability, STORAGE_RETRY_INTERVAL};
use pitwire::entry::{CapturedAt, Seq, Situation};
use pitwire::queue::segments::{Options, SegmentStore};
use pitwire::queue::store::Store;
use pitwire::queue::{self, Appended, Content, Limit, NewEntry, Reader, Stamps, Writer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::long;

pub const ROLE: &str = "PITWIRE_TEST_FULL_DISK_CHILD";

#[test]
fn frames_flow_on_while_the_disk_is_filled_to_the_brim_and_freed() {
    if !cfg!(target_os = "linux") {
        return;
    }
    for (seed, durability) in (1..).zip(["entry", "200ms"]) {
        let out = on_a_small_disk("full_disk::child", &format!("{seed} {durability}"));
        eprintln!("{durability}: {}", out.lines().find(|line| line.contains("handed in")).unwrap());
    }
}

#[test]
fn an_agent_that_starts_on_a_full_disk_waits_for_it() {
    if cfg!(target_os = "linux") {
        on_a_small_disk("full_disk::start", "");
    }
}

#[test]
fn what_a_full_disk_took_half_of_leaves_nothing_behind() {
    if cfg!(target_os = "linux") {
        on_a_small_disk("full_disk::half", "");
    }
}

/// Runs an ignored test beside an empty tmpfs, whose path ends the role that it is told in its
/// environment, and returns what it printed.
pub fn on_a_small_disk(test: &str, role: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=30m none \"$0\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount])
        .arg(place.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(ROLE, format!("{role} {}", place.path().display()))
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test} {role}: {out}\n{err}");
    out
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
        |_| {},
        None,
    ));
    sleep(Duration::from_secs(1)).await;
    assert!(!agent.is_finished());
    free(&filler, 0);
    agent.await.unwrap().unwrap();
    let (writer, ..) = queue::open(&config.queue, &config.stint, CapturedAt(0)).unwrap();
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
    let (writer, reader, closed) =
        queue::open(&config.queue, &config.stint, CapturedAt(0)).unwrap();
    let mut flow = Flow {
        rng: SmallRng::seed_from_u64(seed),
        writer,
        reader,
        handed_in: 0,
        stored: BTreeMap::new(),
        delivered: Vec::new(),
        buffered: 0,
    };
    let filler = folder.join("filler");
    let (mut fills, mut failures) = (0, 0);
    let end = Instant::now() + Duration::from_secs(long::size(6, 120) as u64);
    while Instant::now() < end {
        match flow.rng.random_range(0..10) {
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
    assert!(fills > 5 && failures > 5, "{fills} times full, {failures} failures: too easy");
    free(&filler, 0);
    sleep(STORAGE_RETRY_INTERVAL * 3).await;
    let status = flow.writer.status();
    assert_eq!((status.buffered, &status.storage_error), (0, &None), "it recovers: {status:?}");
    while flow.writer.status().entries > 0 {
        flow.deliver().await;
    }
    let status = flow.writer.status();
    let ledger = status.ledger;
    assert_eq!(status.imbalance, 0, "{status:?}");
    assert_eq!(ledger.delivered, flow.delivered.len() as u64);
    let gone = ledger.thinned + ledger.dropped_in_all();
    assert_eq!(ledger.delivered + gone, flow.handed_in, "{status:?}");
    assert_eq!((ledger.corrupt, ledger.queue_full), (0, 0), "{status:?}");
    assert!(flow.delivered.is_sorted_by(|one, other| one < other), "out of order");
    let delivered: BTreeMap<Seq, CapturedAt> = flow.delivered.iter().copied().collect();
    for (seq, at) in &flow.stored {
        assert_eq!(delivered.get(seq), Some(at), "{seq} was stored and is lost");
    }
    println!(
        "{} handed in, {fills} times full: {} stored at once, {} buffered, {gone} counted as lost",
        flow.handed_in,
        flow.stored.len(),
        flow.buffered
    );
    drop(flow);
    closed.wait().await;
}

struct Flow {
    rng: SmallRng,
    writer: Writer,
    reader: Reader,
    handed_in: u64,
    /// Reported as stored.
    stored: BTreeMap<Seq, CapturedAt>,
    delivered: Vec<(Seq, CapturedAt)>,
    buffered: u64,
}

impl Flow {
    async fn hand_in(&mut self) {
        let count = self.rng.random_range(1..60);
        // Nothing that could be packed.
        let noise: String =
            (0..600).map(|_| char::from(self.rng.random_range(b'a'..=b'z'))).collect();
        let mut stamped = Vec::new();
        let make = |stamps: &mut Stamps| {
            let mut entry = |n| {
                let captured_at = stamps.next(CapturedAt(0));
                stamped.push(captured_at);
                let json = format!(r#"{{"n":{n},"noise":"{noise}"}}"#);
                NewEntry {
                    driven_at: None,
                    captured_at,
                    content: Content::Frame(Situation::default()),
                    json,
                }
            };
            (0..count).map(&mut entry).collect()
        };
        let asked = Instant::now();
        let appended = self.writer.append(make).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(3), "the source was held up");
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
        // While the disk fails the reader is told so, and tries again.
        let limit = Limit { entries: 256, bytes: 1 << 20 };
        let Ok(batch) = self.reader.next_batch(limit).await else {
            return self.reader.rewind();
        };
        let entries: Vec<_> = batch.entries().iter().map(|e| (e.seq, e.captured_at)).collect();
        match self.reader.remove(batch).await {
            Ok(()) => self.delivered.extend(entries),
            Err(_) => self.reader.rewind(),
        }
    }
}

/// Takes all the room that there is.
pub fn fill(filler: &Path) {
    let mut file = File::options().create(true).append(true).open(filler).unwrap();
    for size in [1 << 20, 1 << 12, 1 << 6, 1] {
        while file.write(&vec![b'x'; size]).is_ok_and(|written| written > 0) {}
    }
}

/// Leaves only so many bytes of it.
pub fn free(filler: &Path, left: u64) {
    match File::options().write(true).open(filler) {
        Ok(file) if left > 0 => {
            let len = file.metadata().unwrap().len();
            file.set_len(len.saturating_sub(left)).unwrap();
        }
        _ => drop(fs::remove_file(filler)),
    }
}

//! SIGKILL at any moment, with each durability: every entry that was reported stored is there, in
//! order, without a gap, and at most one batch of removed entries comes back. Checked against a log
//! that shares no code with the queue. `LONG=1` kills a thousand times per durability.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pitwire::config::{Config, Durability, WhenFull};
use pitwire::entry::Situation;
use pitwire::queue::{Appended, Closed, Content, Limit, NewEntry, Reader, Stamps, Writer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::long;
use crate::single;

const ROLE: &str = "PITWIRE_TEST_KILL_CHILD";
/// Largest batch that the child removes.
const BATCH: usize = 64;

#[test]
fn a_killed_queue_keeps_stored_entries_with_durability_entry() {
    kill("entry", 1);
}

#[test]
fn a_killed_queue_keeps_stored_entries_with_durability_200ms() {
    kill("200ms", 2);
}

#[test]
fn a_killed_queue_keeps_stored_entries_with_durability_os() {
    kill("os", 3);
}

fn kill(durability: &str, seed: u64) {
    let times = long::size(20, 1000);
    let mut rng = SmallRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut notes = Notes::default();
    for life in 0..times {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--ignored", "--nocapture"])
            .env(ROLE, format!("{durability} {}", folder.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || out.lines().map_while(Result::ok).collect());
        // Kill every tenth child early, when it may still be opening its queue.
        let most = if life % 10 == 0 { 60 } else { 600 };
        std::thread::sleep(Duration::from_millis(rng.random_range(0..most)));
        child.kill().unwrap();
        child.wait().unwrap();
        let lines: Vec<String> = reader.join().unwrap();
        lines.iter().for_each(|line| notes.read(line));
        notes.check(folder.path(), durability, life);
    }
    assert!(notes.stored > times as u64, "every kill came before the first store");
    let Notes { stored, removed, .. } = notes;
    eprintln!(
        "{times} kills with durability {durability}: {stored} stored, {removed} removed; lost, gaps, \
         out of order, back by more than a batch: 0"
    );
}

/// The process that is killed: appends numbered entries, continuing after the last one it finds.
#[tokio::test]
#[ignore = "run by the tests above"]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (durability, folder) = role.split_once(' ').unwrap();
    let mut out = std::io::stdout();
    let mut say = |text: String| out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap();
    let (writer, mut reader, _) = open(Path::new(folder), durability);
    let mut next = writer.status().appended() + 1;
    let mut rng = SmallRng::seed_from_u64(next);
    loop {
        for _ in 0..rng.random_range(1..40) {
            let count = rng.random_range(1..4);
            let pad = ".".repeat(rng.random_range(0..800));
            let make = |stamps: &mut Stamps| {
                let entry = |number| {
                    NewEntry::new(
                        stamps.stamp_at(single::reading(0)),
                        Content::Frame(Situation::default()),
                        format!("{number} {pad}"),
                    )
                };
                (next..next + count).map(entry).collect()
            };
            say(format!("trying {}\n", next + count - 1));
            let appended = writer.append(make).await.unwrap();
            assert!(appended.iter().all(|one| matches!(one, Appended::Stored(_))), "{appended:?}");
            next += count;
            say(format!("stored {}\n", next - 1));
        }
        let mut removes = rng.random_bool(0.6) && writer.status().entries > 0;
        // Stay below the limit, where the queue would drop entries; other tests cover that.
        while std::mem::take(&mut removes) || writer.status().entries > 5_000 {
            let limit = Limit { entries: BATCH, bytes: 1 << 20 };
            let batch = reader.next_batch(limit).await.unwrap();
            let last = number(&batch.entries().last().unwrap().json);
            reader.ack(batch).await.unwrap();
            say(format!("removed {last}\n"));
        }
    }
}

/// Progress that the child reported.
#[derive(Default)]
struct Notes {
    trying: u64,
    stored: u64,
    removed: u64,
}

impl Notes {
    fn read(&mut self, line: &str) {
        match line.split_once(' ').and_then(|(what, n)| Some((what, n.parse().ok()?))) {
            Some(("trying", number)) => self.trying = number,
            Some(("stored", number)) => self.stored = number,
            Some(("removed", number)) => self.removed = number,
            _ => {}
        }
    }

    #[tokio::main(flavor = "current_thread")]
    async fn check(&mut self, folder: &Path, durability: &str, life: usize) {
        let (writer, mut reader, closed) = open(folder, durability);
        let status = writer.status();
        let mut numbers = Vec::new();
        while (numbers.len() as u64) < status.entries {
            let limit = Limit { entries: 1000, bytes: 1 << 20 };
            let batch = reader.next_batch(limit).await.unwrap();
            numbers.extend(batch.entries().iter().map(|entry| number(&entry.json)));
        }
        let first = numbers.first().copied().unwrap_or(self.stored + 1);
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "life {life}: a gap");
        assert!(first + BATCH as u64 > self.removed, "life {life}: {first} came back");
        // A removal that was in progress may have completed.
        assert!(first <= self.removed + 1 + BATCH as u64, "life {life}: begins with {first}");
        let last = numbers.last().copied().unwrap_or(first - 1);
        assert!(last >= self.stored, "life {life}: stored {}, found {last}", self.stored);
        assert!(last <= self.trying.max(self.stored), "life {life}: {last} was never appended");
        assert_eq!(status.appended(), last, "life {life}: {status:?}");
        assert_eq!(
            (status.server().imbalance, status.server().ledger.delivered),
            (0, first - 1),
            "life {life}"
        );
        (self.stored, self.removed) = (last, first - 1);
        drop((writer, reader));
        closed.wait().await;
    }
}

fn number(json: &str) -> u64 {
    json.split(' ').next().unwrap().parse().unwrap()
}

/// Opens the queue with the machine's real boot id: after a kill, writes in the page cache survive.
fn open(folder: &Path, durability: &str) -> (Writer, Reader, Closed) {
    let mut config = Config::default();
    config.queue.path = folder.into();
    // Small segments, so that there are many of them.
    config.queue.max_bytes = 16 << 20;
    config.queue.max_entries = 10_000;
    config.queue.when_full = WhenFull::DropNewest;
    config.queue.durability = match durability {
        "entry" => Durability::Entry,
        "os" => Durability::Os,
        _ => Durability::Within(Duration::from_millis(200)),
    };
    single::open(&config.queue, &config.stint, single::at(0)).unwrap()
}

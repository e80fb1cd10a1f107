//! SIGKILL at any moment: what was reported as stored is there, in order, without a gap; what was
//! released does not come back. Checked against notes that share no code with the queue.
//! `LONG=1` kills a thousand times.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pitwire::entry::Seq;
use pitwire::queue::Limit;
use pitwire::queue::segments::{Options, SegmentStore};
use pitwire::queue::store::Store;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::long;

const ROLE: &str = "PITWIRE_TEST_KILL_CHILD";
/// Records that the child releases at once.
const BATCH: usize = 64;

#[test]
fn a_killed_store_has_what_it_reported_as_stored() {
    kill(long::size(40, 1000), 1);
}

fn kill(times: usize, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let mut notes = Notes::default();
    for life in 0..times {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--ignored", "--nocapture"])
            .env(ROLE, format!("{} {}", if life % 2 == 0 { "entry" } else { "os" }, path))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || out.lines().map_while(Result::ok).collect());
        // A tenth of them while it is still opening.
        let most = if life % 10 == 0 { 60 } else { 600 };
        std::thread::sleep(Duration::from_millis(rng.random_range(0..most)));
        child.kill().unwrap();
        child.wait().unwrap();
        let lines: Vec<String> = reader.join().unwrap();
        lines.iter().for_each(|line| notes.read(line));
        notes.check(folder.path(), life);
    }
    assert!(notes.stored > times as u64, "it was always killed before it stored anything");
    let Notes { stored, released } = notes;
    eprintln!("{times} kills: {stored} stored, {released} released; lost, gaps, back again: 0");
}

/// The process that is killed: numbers what it appends, on from what it finds. It reports a record
/// as stored once it was flushed, or once the operating system has it.
#[test]
#[ignore = "run by the tests above"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (durability, folder) = role.split_once(' ').unwrap();
    let mut out = std::io::stdout();
    let mut say = |text: String| out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap();
    let mut store = open(&PathBuf::from(folder));
    let mut next = last_number(&mut store) + 1;
    let mut rng = SmallRng::seed_from_u64(next);
    loop {
        for _ in 0..rng.random_range(1..40) {
            let mut record = format!("{next} ").into_bytes();
            record.resize(record.len() + rng.random_range(0..800), b'.');
            store.append(&record).unwrap();
            if durability == "entry" {
                store.flush().unwrap();
            }
            say(format!("stored {next}\n"));
            next += 1;
        }
        if rng.random_bool(0.3) {
            store.flush().unwrap();
        }
        if rng.random_bool(0.5) {
            let head = store.head();
            let batch = store.read(head, Limit { entries: BATCH, bytes: 1 << 20 }).unwrap();
            if let Some((seq, record)) = batch.last() {
                let number = number(record);
                store.release(Seq(seq.0 + 1), &number.to_le_bytes()).unwrap();
                say(format!("released {number}\n"));
            }
        }
        store.maintain().unwrap();
    }
}

/// What the child said.
#[derive(Default)]
struct Notes {
    stored: u64,
    released: u64,
}

impl Notes {
    fn read(&mut self, line: &str) {
        match line.split_once(' ').and_then(|(what, n)| Some((what, n.parse().ok()?))) {
            Some(("stored", number)) => self.stored = number,
            Some(("released", number)) => self.released = number,
            _ => {}
        }
    }

    fn check(&mut self, folder: &Path, life: usize) {
        let mut store = open(folder);
        let (mut numbers, mut from) = (Vec::new(), Seq(0));
        loop {
            let read = store.read(from, Limit { entries: 1000, bytes: 1 << 20 }).unwrap();
            let Some((last, _)) = read.last() else { break };
            from = Seq(last.0 + 1);
            numbers.extend(read.iter().map(|(_, record)| number(record)));
        }
        let first = numbers.first().copied().unwrap_or(self.stored + 1);
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "life {life}: a gap");
        assert!(first > self.released, "life {life}: {first} came back");
        // A release that was under way may be done.
        assert!(first <= self.released + 1 + BATCH as u64, "life {life}: begins with {first}");
        let last = last_number(&mut store);
        assert!(last >= self.stored, "life {life}: stored {}, found {last}", self.stored);
        assert!(last <= self.stored + 1, "life {life}: {last} was never stored");
        assert_eq!((store.appended(), store.lost()), (last, 0), "life {life}: the books");
        self.stored = last;
        self.released = first - 1;
    }
}

/// The number of the newest record ever: held, or noted in the books when it was released.
fn last_number(store: &mut SegmentStore) -> u64 {
    let released = store.books().map_or(0, |books| u64::from_le_bytes(books.try_into().unwrap()));
    released + store.held().records
}

fn number(record: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(record);
    text.split(' ').next().unwrap().parse().unwrap()
}

fn open(folder: &Path) -> SegmentStore {
    // The real boot: a killed process leaves what the operating system has.
    let options = Options { segment_bytes: 700 << 10, ..Options::new(1_000_000, 64 << 20) };
    fs::create_dir_all(folder).unwrap();
    SegmentStore::open(folder, options).unwrap()
}

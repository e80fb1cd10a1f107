//! Power cuts: a real store runs in a process whose every write, sync, rename and removal is
//! recorded; then the disk is put together as a cut at any moment could have left it, and the
//! store must open there and hold what it had promised.
//!
//! What was not synced may be there, not there, or torn at 512 bytes, each part for itself and in
//! any order. Names are lost either in the order of a journaling file system or each for itself,
//! where only the fsync of their folder holds them.
//!
//! `LONG=1` looks at 2,000 moments of four recordings.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use pitwire::entry::Seq;
use pitwire::queue::segments::{Options, SegmentStore};
use pitwire::queue::store::Store;
use pitwire::queue::{FIRST, Limit};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::long;

const ROLE: &str = "PITWIRE_TEST_POWERCUT_CHILD";

#[test]
fn the_store_keeps_its_promises_over_power_cuts() {
    for seed in 1..=long::size(1, 4) {
        explore(long::size(200, 500), seed as u64);
    }
}

fn explore(states: usize, seed: u64) {
    let place = in_memory();
    let log = record(place.path(), seed);
    let syncs: Vec<usize> =
        log.iter().enumerate().filter(|(_, e)| e.kind == b'S').map(|(i, _)| i).collect();
    let mut rng = SmallRng::seed_from_u64(seed);
    // Before and after a sync, and anywhere.
    let mut cuts: Vec<usize> = (0..states)
        .map(|i| match i % 3 {
            0 => syncs[rng.random_range(0..syncs.len())],
            1 => syncs[rng.random_range(0..syncs.len())] + 1,
            _ => rng.random_range(0..log.len()),
        })
        .collect();
    cuts.sort_unstable();
    let mut disk = Disk::new(&place.path().join("queue"));
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
        let state = place.path().join("state");
        let _ = fs::remove_dir_all(&state);
        disk.crash(&state, &mut rng);
        let broken = std::panic::catch_unwind(|| promises.check(&state));
        if broken.is_err() {
            let kept = std::env::temp_dir().join(format!("pitwire-powercut-{seed}-{number}"));
            let _ = fs::remove_dir_all(&kept);
            disk.crash(&kept, &mut SmallRng::seed_from_u64(0));
            panic!(
                "seed {seed}, state {number}: cut at event {cut} of {}: {promises:?}",
                log.len()
            );
        }
    }
    assert!(!promises.thinned.is_empty(), "nothing was thinned");
    let events = log.len();
    eprintln!("{states} power cuts in {events} events: failed opens, lost, out of order: 0");
}

/// A folder in memory where there is one: the disk is simulated, a real one only slows it down.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Lives of a store under the recorder. The second is closed in good order, the others are killed;
/// the last comes after the machine was started anew, and so mends what the third left.
const LIVES: u64 = 4;
const CLOSED_LIFE: u64 = 1;
const LIFE_AFTER_BOOT: u64 = 3;

/// Runs the lives of a store and returns all that they did.
fn record(place: &Path, seed: u64) -> Vec<Event> {
    let shim = place.join("record.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/powercut.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
        .arg(&shim)
        .arg(source)
        .status();
    assert!(compiled.unwrap().success(), "the recorder needs a C compiler");
    let log = place.join("log");
    for life in 0..LIVES {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "powercut::child", "--ignored", "--nocapture"])
            .env(ROLE, format!("{seed} {life}"))
            .env("LD_PRELOAD", &shim)
            .env("RECORD_ROOT", place.join("queue"))
            .env("RECORD_LOG", &log)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&status.stderr);
        assert_eq!(status.status.success(), life == CLOSED_LIFE, "life {life}: {text}");
    }
    parse(&fs::read(log).unwrap())
}

/// The process that is recorded.
#[test]
#[ignore = "run by the tests above"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (seed, life) = role.split_once(' ').unwrap();
    let (seed, life): (u64, u64) = (seed.parse().unwrap(), life.parse().unwrap());
    let mut rng = SmallRng::seed_from_u64(seed * 10 + life);
    let folder = PathBuf::from(std::env::var("RECORD_ROOT").unwrap());
    // The mark file is no part of the store; the recorder keeps it out of the disk.
    let mut marks = fs::File::options()
        .create(true)
        .append(true)
        .open(format!("{}.marks", folder.display()))
        .unwrap();
    let boot = if life < LIFE_AFTER_BOOT { "one boot" } else { "the next boot" };
    let options =
        Options { segment_bytes: 0, boot: boot.into(), ..Options::new(1_000_000, 64 << 20) };
    let mut store = SegmentStore::open(&folder, options).unwrap();
    let mut gone = store.books().map_or(0, |books| u64::from_le_bytes(books.try_into().unwrap()));
    for step in 0..150 {
        match rng.random_range(0..14) {
            0..7 => {
                for _ in 0..rng.random_range(1..30) {
                    let tail = store.tail();
                    let record = payload(tail.0, rng.random_range(0..1500));
                    mark(&mut marks, &format!("trying {tail}\n"));
                    store.append(&record).unwrap();
                    mark(&mut marks, &format!("appended {tail}\n"));
                }
            }
            7..9 => {
                store.flush().unwrap();
                mark(&mut marks, &format!("durable {} {}\n", store.tail(), store.head()));
            }
            9 => {
                let read =
                    store.read(store.head(), Limit { entries: 100, bytes: 1 << 20 }).unwrap();
                if let Some((last, _)) = read.last() {
                    gone += read.len() as u64;
                    mark(&mut marks, &format!("releasing {}\n", last.0 + 1));
                    store.release(Seq(last.0 + 1), &gone.to_le_bytes()).unwrap();
                }
            }
            10 if step % 2 == 0 => {
                let stretches = store.stretches();
                if let [first, .., last] | [first @ last] = &stretches[..stretches.len().min(2)] {
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
                    mark(&mut marks, &format!("thinning {} {} {every}\n", first.first, last.last));
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
            12 if step % 3 == 0 => store.put("fact", Some(&payload(step, 300))).unwrap(),
            _ => store.maintain().unwrap(),
        }
    }
    if life != CLOSED_LIFE {
        std::process::abort();
    }
}

/// One write: the recorder keeps each for itself.
fn mark(marks: &mut fs::File, line: &str) {
    marks.write_all(line.as_bytes()).unwrap();
}

/// Bytes that only the record at `seq` has.
fn payload(seq: u64, len: usize) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seq);
    let mut bytes = format!("{seq} ").into_bytes();
    bytes.extend((0..len).map(|_| rng.random::<u8>()));
    bytes
}

/// What the store had said before the cut.
#[derive(Debug, Default)]
struct Promises {
    /// Positions that were given out; the last may be under way.
    appended: Vec<u64>,
    trying: Option<u64>,
    durable_tail: u64,
    durable_head: u64,
    releasing: u64,
    /// Positions that may have been thinned out.
    thinned: BTreeSet<u64>,
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
                self.thinned.extend((number(1)..=number(2)).filter(gone));
            }
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
        assert!(store.tail().0 > given_out, "position {given_out} would be given out again");
        // It goes on, and another cut right after a flush takes nothing.
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
            assert!(record.starts_with(text.as_bytes()), "another record at {seq}");
            assert_eq!(*record, payload(*seq, record.len() - text.len()), "damage at {seq}");
            assert!(
                self.appended.binary_search(seq).is_ok() || self.trying == Some(*seq),
                "{seq} was never appended"
            );
        }
        let head = store.head().0;
        assert!(head >= self.durable_head, "what was released durably is back: {head}");
        let known = self.appended.iter().chain(&self.trying);
        let last = records.last_key_value().map_or(0, |(seq, _)| *seq);
        for seq in known.filter(|&&seq| seq >= head && (seq < self.durable_tail || seq <= last)) {
            let is_there = records.contains_key(seq) || self.thinned.contains(seq);
            assert!(is_there, "{seq} is missing");
        }
        let gone = store.books().map_or(0, |books| u64::from_le_bytes(books.try_into().unwrap()));
        assert_eq!(store.held().records, records.len() as u64);
        assert_eq!(store.lost(), 0);
        assert_eq!(store.appended(), gone + store.held().records, "the books do not balance");
        let thinned = || self.thinned.contains(&self.releasing.max(FIRST.0));
        assert!(
            head <= self.releasing.max(FIRST.0) || records.is_empty() || thinned(),
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

/// One thing that the recorded process did.
struct Event {
    kind: u8,
    inode: u64,
    at: u64,
    x: Vec<u8>,
    y: Vec<u8>,
}

fn parse(mut log: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !log.is_empty() {
        let number = |i: usize| u64::from_le_bytes(log[i * 8..i * 8 + 8].try_into().unwrap());
        let (nx, ny) = (number(3) as usize, number(4) as usize);
        let end = 40 + nx + ny;
        events.push(Event {
            kind: number(0) as u8,
            inode: number(1),
            at: number(2),
            x: log[40..40 + nx].to_vec(),
            y: log[40 + nx..end].to_vec(),
        });
        log = &log[end..];
    }
    events
}

type Node = usize;
const ROOT: Node = 0;

/// A disk that knows which of it would survive.
struct Disk {
    root: PathBuf,
    /// `None`: a folder.
    files: Vec<Option<Content>>,
    inodes: HashMap<u64, Node>,
    now: Tree,
    names: Vec<(Naming, bool)>,
}

#[derive(Default)]
struct Content {
    synced: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write(u64, Vec<u8>),
    Cut(u64),
}

#[derive(Clone)]
enum Naming {
    Link(Node, String, Node),
    Unlink(Node, String),
    Rename(Node, String, Node, String),
}

type Tree = HashMap<Node, BTreeMap<String, Node>>;

impl Disk {
    fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            files: vec![None],
            inodes: HashMap::new(),
            now: Tree::new(),
            names: Vec::new(),
        }
    }

    fn apply(&mut self, event: &Event) {
        let path = PathBuf::from(String::from_utf8_lossy(&event.x).into_owned());
        match event.kind {
            // The folder of the queue itself is there from the start.
            b'M' if path == self.root => drop(self.inodes.insert(event.inode, ROOT)),
            b'M' | b'C' => {
                self.files.push((event.kind == b'C').then(Content::default));
                let node = self.files.len() - 1;
                self.inodes.insert(event.inode, node);
                let (parent, name) = self.find(&path);
                self.name(Naming::Link(parent, name, node));
            }
            b'U' => {
                let (parent, name) = self.find(&path);
                self.name(Naming::Unlink(parent, name));
            }
            b'R' => {
                let (parent, name) = self.find(&path);
                let to = PathBuf::from(String::from_utf8_lossy(&event.y).into_owned());
                let (to_parent, to_name) = self.find(&to);
                self.name(Naming::Rename(parent, name, to_parent, to_name));
            }
            b'W' | b'T' => {
                let node = self.inodes[&event.inode];
                let change = match event.kind {
                    b'W' => Change::Write(event.at, event.x.clone()),
                    _ => Change::Cut(event.at),
                };
                self.files[node].as_mut().unwrap().pending.push(change);
            }
            b'S' => self.sync(self.inodes[&event.inode]),
            other => panic!("unknown event {other}"),
        }
    }

    fn sync(&mut self, node: Node) {
        match &mut self.files[node] {
            Some(content) => {
                for change in content.pending.drain(..) {
                    change.apply(&mut content.synced);
                }
            }
            None => {
                for (naming, durable) in &mut self.names {
                    *durable |= naming.folders().contains(&node);
                }
            }
        }
    }

    /// The folder and the name that a path means now.
    fn find(&self, path: &Path) -> (Node, String) {
        let below = path.strip_prefix(&self.root).unwrap();
        let mut names: Vec<String> =
            below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let last = names.pop().unwrap();
        (names.iter().fold(ROOT, |folder, name| self.now[&folder][name]), last)
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.now);
        self.names.push((naming, false));
    }

    /// Writes what a cut now might leave to `to`.
    fn crash(&self, to: &Path, rng: &mut SmallRng) {
        let kept = [0.0, 0.3, 0.9, 1.0][rng.random_range(0..4)];
        let in_order = rng.random::<bool>();
        let last_durable =
            self.names.iter().rposition(|(_, durable)| *durable).map_or(0, |i| i + 1);
        let until = rng.random_range(last_durable..=self.names.len());
        let mut tree = Tree::new();
        for (index, (naming, durable)) in self.names.iter().enumerate() {
            let survives = match in_order {
                true => index < until,
                false => *durable || rng.random_bool(kept),
            };
            if survives {
                naming.apply(&mut tree);
            }
        }
        self.write(ROOT, &tree, to, kept, rng);
    }

    fn write(&self, folder: Node, tree: &Tree, to: &Path, kept: f64, rng: &mut SmallRng) {
        fs::create_dir_all(to).unwrap();
        for (name, &node) in tree.get(&folder).into_iter().flatten() {
            let path = to.join(name);
            match &self.files[node] {
                None => self.write(node, tree, &path, kept, rng),
                Some(content) => fs::write(path, content.crash(kept, rng)).unwrap(),
            }
        }
    }
}

impl Content {
    fn crash(&self, kept: f64, rng: &mut SmallRng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for change in &self.pending {
            match change {
                Change::Write(at, data) => {
                    let mut from = 0;
                    while from < data.len() {
                        let to = data.len().min(from + 512 - (*at as usize + from) % 512);
                        if rng.random_bool(kept) {
                            Change::Write(at + from as u64, data[from..to].to_vec())
                                .apply(&mut bytes);
                        }
                        from = to;
                    }
                }
                Change::Cut(len) if rng.random_bool(kept) => Change::Cut(*len).apply(&mut bytes),
                Change::Cut(_) => {}
            }
        }
        bytes
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                let end = *at as usize + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at as usize..end].copy_from_slice(data);
            }
            Self::Cut(len) => bytes.resize(*len as usize, 0),
        }
    }
}

impl Naming {
    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Link(parent, name, node) => {
                tree.entry(*parent).or_default().insert(name.clone(), *node);
            }
            Self::Unlink(parent, name) => {
                tree.entry(*parent).or_default().remove(name);
            }
            Self::Rename(parent, name, to_parent, to_name) => {
                if let Some(node) = tree.entry(*parent).or_default().remove(name) {
                    tree.entry(*to_parent).or_default().insert(to_name.clone(), node);
                }
            }
        }
    }

    fn folders(&self) -> [Node; 2] {
        match self {
            Self::Link(parent, ..) | Self::Unlink(parent, ..) => [*parent; 2],
            Self::Rename(parent, _, to_parent, _) => [*parent, *to_parent],
        }
    }
}

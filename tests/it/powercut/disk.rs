//! A recording of a process's file operations, and a simulated disk in any state in which a power
//! cut could have left it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rand::Rng;
use rand::rngs::SmallRng;

/// The environment variable with the role of a recorded process.
pub const ROLE: &str = "PITWIRE_TEST_POWERCUT_CHILD";

/// A folder in which a process is recorded, in memory if possible: the disk is simulated, so a real
/// one would only slow it down.
pub struct Recorder(tempfile::TempDir);

impl Recorder {
    pub fn new() -> Self {
        let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/powercut/record.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
            .arg(place.path().join("record.so"))
            .arg(source)
            .status();
        assert!(compiled.unwrap().success(), "the recorder needs a C compiler");
        Self(place)
    }

    /// Runs an ignored test of this binary under the recorder, with `role` in `ROLE`.
    pub fn run(&self, test: &str, role: &str) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env("LD_PRELOAD", self.0.path().join("record.so"))
            .env("RECORD_ROOT", self.root())
            .env("RECORD_LOG", self.0.path().join("log"))
            .output()
            .unwrap()
    }

    /// All recorded operations.
    pub fn events(&self) -> Vec<Event> {
        parse(&fs::read(self.0.path().join("log")).unwrap())
    }

    /// The recorded folder.
    pub fn root(&self) -> PathBuf {
        self.0.path().join("queue")
    }

    /// An empty place for a rebuilt disk.
    pub fn state(&self) -> PathBuf {
        let state = self.0.path().join("state");
        let _ = fs::remove_dir_all(&state);
        state
    }
}

/// Reports of the recorded process, in order with its file operations: the recorder logs each write
/// separately.
pub struct Marks(fs::File);

impl Marks {
    pub fn open(root: &Path) -> Self {
        let path = format!("{}.marks", root.display());
        Self(fs::File::options().create(true).append(true).open(path).unwrap())
    }

    pub fn write(&mut self, line: &str) {
        self.0.write_all(line.as_bytes()).unwrap();
    }
}

/// One operation of the recorded process.
pub struct Event {
    pub kind: u8,
    inode: u64,
    at: u64,
    pub x: Vec<u8>,
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

/// A disk that tracks which of its contents would survive a power cut.
pub struct Disk {
    root: PathBuf,
    /// `None` is a folder.
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
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            files: vec![None],
            inodes: HashMap::new(),
            now: Tree::new(),
            names: Vec::new(),
        }
    }

    pub fn apply(&mut self, event: &Event) {
        let path = PathBuf::from(String::from_utf8_lossy(&event.x).into_owned());
        match event.kind {
            // The queue's own folder exists from the start.
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

    /// The folder and the name that a path currently refers to.
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

    /// Writes one possible state after a power cut now to `to`.
    pub fn crash(&self, to: &Path, rng: &mut SmallRng) {
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

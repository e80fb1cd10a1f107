//! A store on sled 0.34.7; the only file that names it.
//!
//! Traps, and how they are stepped around:
//! - `flush()` is no fsync on Linux: the file `db` is fsynced after it.
//! - `conf` is never fsynced by sled: done once, when the database is made.
//! - A leftover `snap.*.generating` blocks every later open: deleted before.
//! - The lock is let go of a few ms late: opening is tried again for a second.
//! - Opening can panic on a damaged file: caught, and reported as an error.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::log::FIRST;
use super::store::Store;
use super::{Limit, quarantine};
use crate::config::STORE_OPEN_TIMEOUT;
use crate::entry::Seq;

/// Memory that sled may use to cache pages.
const CACHE_BYTES: u64 = 8 << 20;
const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(20);

const HEAD: &[u8] = b"head";
const BOOKS: &[u8] = b"books";

/// One sled database in a folder: tree `entries` by position, tree `meta` with the head, the books
/// and the facts.
#[derive(Debug)]
pub struct SledStore {
    queue: PathBuf,
    folder: PathBuf,
    db: sled::Db,
    entries: sled::Tree,
    meta: sled::Tree,
    head: Seq,
    tail: Seq,
}

impl SledStore {
    /// Opens the database below `queue`, making it if need be.
    pub fn open(queue: &Path) -> io::Result<Self> {
        let folder = queue.join("sled");
        fs::create_dir_all(&folder)?;
        remove_unfinished_snapshots(&folder)?;
        let db = open_db(&folder)?;
        let entries = db.open_tree("entries").map_err(to_io)?;
        let meta = db.open_tree("meta").map_err(to_io)?;
        let head = match meta.get(HEAD).map_err(to_io)? {
            Some(bytes) => position(&bytes)?,
            None => FIRST,
        };
        let tail = match entries.last().map_err(to_io)? {
            Some((key, _)) => Seq(position(&key)?.0 + 1).max(head),
            None => head,
        };
        let mut store = Self { queue: queue.to_owned(), folder, db, entries, meta, head, tail };
        // Below the head is what a crash left behind of a removal.
        store.delete_below(head)?;
        store.flush()?;
        sync_file(&store.folder.join("conf"))?;
        sync_folder(&store.folder)?;
        sync_folder(queue)?;
        Ok(store)
    }

    fn delete_below(&mut self, head: Seq) -> io::Result<()> {
        for key in self.entries.range(..key(head)).keys() {
            self.entries.remove(key.map_err(to_io)?).map_err(to_io)?;
        }
        Ok(())
    }
}

impl Store for SledStore {
    fn head(&self) -> Seq {
        self.head
    }

    fn tail(&self) -> Seq {
        self.tail
    }

    fn books(&self) -> Option<Vec<u8>> {
        self.meta.get(BOOKS).ok().flatten().map(|bytes| bytes.to_vec())
    }

    fn append(&mut self, record: &[u8]) -> io::Result<Seq> {
        let seq = self.tail;
        self.entries.insert(key(seq), record).map_err(to_io)?;
        // Out of this process, though not onto the disk yet: what is reported stored before its
        // fsync must survive a kill.
        self.db.flush().map_err(to_io)?;
        self.tail = Seq(seq.0 + 1);
        Ok(seq)
    }

    fn release(&mut self, head: Seq, books: &[u8]) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        batch.insert(HEAD, &key(head));
        batch.insert(BOOKS, books);
        self.meta.apply_batch(batch).map_err(to_io)?;
        if head > self.head {
            self.head = head;
            self.delete_below(head)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.db.flush().map_err(to_io)?;
        sync_file(&self.folder.join("db"))
    }

    fn read(&mut self, from: Seq, limit: Limit) -> io::Result<Vec<(Seq, Vec<u8>)>> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for item in self.entries.range(key(from)..).take(limit.entries) {
            let (key, value) = item.map_err(to_io)?;
            bytes += value.len();
            if bytes > limit.bytes && !records.is_empty() {
                break;
            }
            records.push((position(&key)?, value.to_vec()));
        }
        Ok(records)
    }

    fn put(&mut self, key: &str, value: Option<&[u8]>) -> io::Result<()> {
        let key = fact_key(key);
        match value {
            Some(value) => self.meta.insert(key, value),
            None => self.meta.remove(key),
        }
        .map_err(to_io)?;
        self.flush()
    }

    fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let value = self.meta.get(fact_key(key)).map_err(to_io)?;
        Ok(value.map(|bytes| bytes.to_vec()))
    }

    fn set_aside(&mut self, line: &str) -> io::Result<()> {
        quarantine::append(&self.queue, line)
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

fn open_db(folder: &Path) -> io::Result<sled::Db> {
    let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let deadline = Instant::now() + STORE_OPEN_TIMEOUT;
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| io::Error::other("sled panicked while opening: the file is damaged"))?;
        match opened {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(error)) if is_locked(&error) && Instant::now() < deadline => {
                std::thread::sleep(OPEN_RETRY_INTERVAL);
            }
            Err(error) => return Err(to_io(error)),
        }
    }
}

/// sled reports a lock that is held as `Other` with a text of its own.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("lock")
}

fn remove_unfinished_snapshots(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn key(seq: Seq) -> [u8; 8] {
    seq.0.to_be_bytes()
}

fn position(bytes: &[u8]) -> io::Result<Seq> {
    let bytes = bytes.try_into().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, "a key of the queue is not a position")
    })?;
    Ok(Seq(u64::from_be_bytes(bytes)))
}

fn fact_key(key: &str) -> String {
    format!("fact/{key}")
}

fn to_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// fsync of a file that sled wrote; opened for writing because Windows wants that.
fn sync_file(path: &Path) -> io::Result<()> {
    match File::options().write(true).open(path) {
        Ok(file) => file.sync_data(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// fsync of a folder, so that the names in it are durable. Windows cannot and need not do it.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

//! One segment's database on sled 0.34.7; the only file that names it.
//!
//! Traps, and how they are stepped around:
//! - `flush()` is no fsync on Linux, and `conf` and the folder are never synced: [`Database::seal`]
//!   does it. Until then the [journal](super::journal) has all that the database has.
//! - A leftover `snap.*.generating` blocks every later open: deleted before.
//! - The lock is let go of a few ms late: opening is tried again for a second.
//! - It panics on some damaged files: every call is caught and reported as an error.
//! - Removed keys free nothing, and pages that are rewritten grow the file: nothing is ever
//!   removed or overwritten here.
//! - Values above a quarter of its 512 KiB pages go to files of their own that nobody syncs:
//!   large ones are kept in parts.
//! - An I/O error sticks until the database is opened again: the store starts over after one.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disk;
use crate::config::STORE_OPEN_TIMEOUT;
use crate::entry::Seq;

/// Memory that sled may use to cache pages.
const CACHE_BYTES: u64 = 8 << 20;
const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Larger values are kept in parts of this size.
const PART_BYTES: usize = 96 << 10;
/// The one file that holds the values.
const FILE: &str = "db";

/// A database that maps positions to bytes.
#[derive(Debug)]
pub(super) struct Database {
    folder: PathBuf,
    /// `None` only while it is being closed.
    db: Option<sled::Db>,
}

impl Database {
    /// Opens the database in `folder`, making it if need be. Nothing of it is durable before
    /// [`Database::seal`].
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for name in disk::names(folder, "snap.")? {
            if name.ends_with(".generating") {
                disk::remove_file(&folder.join(name))?;
            }
        }
        let config =
            sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let deadline = Instant::now() + STORE_OPEN_TIMEOUT;
        loop {
            match guard(|| config.open()) {
                Ok(db) => return Ok(Self { folder: folder.into(), db: Some(db) }),
                Err(error) if is_locked(&error) && Instant::now() < deadline => {
                    std::thread::sleep(OPEN_RETRY_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts `value` under `seq`, where nothing was before.
    pub(super) fn insert(&self, seq: Seq, value: &[u8]) -> io::Result<()> {
        let db = self.db()?;
        guard(|| {
            let (first, rest) = value.split_at(value.len().min(PART_BYTES));
            db.insert(seq.0.to_be_bytes(), first)?;
            for (part, bytes) in rest.chunks(PART_BYTES).enumerate() {
                db.insert(part_key(seq, part as u32), bytes)?;
            }
            Ok(())
        })
    }

    /// Hands the values from `from` on to `take`, in order, until it wants no more.
    pub(super) fn scan(
        &self,
        from: Seq,
        mut take: impl FnMut(Seq, Vec<u8>) -> bool,
    ) -> io::Result<()> {
        let db = self.db()?;
        guard(|| {
            let mut value: Option<(Seq, Vec<u8>)> = None;
            for item in db.range(from.0.to_be_bytes()..) {
                let (key, bytes) = item?;
                match (position(&key), &mut value) {
                    (Some((seq, true)), Some((whole, value))) if *whole == seq => {
                        value.extend_from_slice(&bytes);
                    }
                    (Some((seq, false)), _) => {
                        if let Some((seq, value)) = value.replace((seq, bytes.to_vec()))
                            && !take(seq, value)
                        {
                            return Ok(());
                        }
                    }
                    _ => return Err(no_position()),
                }
            }
            if let Some((seq, value)) = value {
                take(seq, value);
            }
            Ok(())
        })
    }

    /// Makes everything in it durable, but for the name of its folder.
    pub(super) fn seal(&self) -> io::Result<()> {
        let db = self.db()?;
        guard(|| db.flush())?;
        for name in disk::names(&self.folder, "")? {
            let path = self.folder.join(name);
            if path.is_file() {
                disk::sync_file(&path)?;
            }
        }
        disk::sync_folder(&self.folder)
    }

    fn db(&self) -> io::Result<&sled::Db> {
        self.db.as_ref().ok_or_else(|| io::Error::other("the database is closed"))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let db = self.db.take();
        // A damaged database may panic while it closes, too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

/// The raw bytes of the database in `folder`, for what sled cannot read any more.
pub(super) fn raw(folder: &Path) -> io::Result<Vec<u8>> {
    fs::read(folder.join(FILE))
}

fn no_position() -> sled::Error {
    sled::Error::Io(io::Error::new(io::ErrorKind::InvalidData, "a key is no position"))
}

fn part_key(seq: Seq, part: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&seq.0.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The position that a key names, and whether it is that of a part.
fn position(key: &[u8]) -> Option<(Seq, bool)> {
    let (seq, part) = key.split_first_chunk()?;
    matches!(part.len(), 0 | 4).then_some((Seq(u64::from_be_bytes(*seq)), !part.is_empty()))
}

/// Runs a call into sled; what it panics with becomes an error like any other.
fn guard<T>(call: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(error),
        Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "sled panicked")),
    }
}

/// sled reports a lock that is held as `Other` with a text of its own.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

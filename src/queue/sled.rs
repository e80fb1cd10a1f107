//! One segment's database on sled 0.34.7; the only file that names it.
//!
//! A database is written once, as a whole, and only read from then on. Traps, and how they are
//! stepped around:
//! - `flush()` is no fsync on Linux, and `conf` and the folder are never synced: [`write`] does it.
//!   Until then the [journal](super::journal) has all that the database has.
//! - A leftover `snap.*.generating` blocks every later open: deleted before.
//! - The lock is let go of a few ms late: opening is tried again for a second.
//! - It panics on some damaged files: every call is caught and reported as an error.
//! - Removed keys free nothing, and pages that are rewritten grow the file, by three times with
//!   values of 12 KiB and 40 % with values of 100 KiB: nothing is ever removed or overwritten here,
//!   and values are large, four or five to a database (then its file is 5 % larger than they are).
//! - Values above a quarter of its pages, here of 1 MiB, go to files of their own that nobody syncs:
//!   larger ones are kept in parts, and all files there are synced.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::disk;
use crate::config::STORE_OPEN_TIMEOUT;
use crate::entry::Seq;

/// Memory that sled may use to cache pages.
const CACHE_BYTES: u64 = 4 << 20;
const PAGE_BYTES: usize = 1 << 20;
const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Larger values are kept in parts of this size.
pub(super) const PART_BYTES: usize = 240 << 10;
/// The one file that holds the values.
const FILE: &str = "db";

/// Makes a database of `values`, under ascending positions, in the new folder `folder`. Durable
/// when this returns, but for the name of the folder.
pub(super) fn write(folder: &Path, values: &[(Seq, Vec<u8>)]) -> io::Result<()> {
    let database = Database::open(folder)?;
    for (seq, value) in values {
        database.insert(*seq, value)?;
    }
    database.flush()?;
    drop(database);
    disk::sync_all(folder)
}

/// All values of the database in `folder`, in the order of their positions.
pub(super) fn read(folder: &Path) -> io::Result<Vec<(Seq, Vec<u8>)>> {
    if !folder.join(FILE).exists() {
        // Opening it would make an empty one.
        return Err(io::ErrorKind::NotFound.into());
    }
    Database::open(folder)?.values()
}

/// The raw bytes of the database in `folder`, for what sled cannot read any more.
pub(super) fn raw(folder: &Path) -> io::Result<Vec<u8>> {
    fs::read(folder.join(FILE))
}

/// `None` only while it is being closed.
struct Database(Option<sled::Db>);

impl Database {
    fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for name in disk::names(folder, "snap.")? {
            if name.ends_with(".generating") {
                disk::remove_file(&folder.join(name))?;
            }
        }
        let config = sled::Config::new()
            .path(folder)
            .segment_size(PAGE_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        let deadline = Instant::now() + STORE_OPEN_TIMEOUT;
        loop {
            match guard(|| config.open()) {
                Ok(db) => return Ok(Self(Some(db))),
                Err(error) if is_locked(&error) && Instant::now() < deadline => {
                    std::thread::sleep(OPEN_RETRY_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn insert(&self, seq: Seq, value: &[u8]) -> io::Result<()> {
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

    fn values(&self) -> io::Result<Vec<(Seq, Vec<u8>)>> {
        let db = self.db()?;
        guard(|| {
            let mut values: Vec<(Seq, Vec<u8>)> = Vec::new();
            for item in db.iter() {
                let (key, bytes) = item?;
                match (position(&key), values.last_mut()) {
                    (Some((seq, true)), Some((whole, value))) if *whole == seq => {
                        value.extend_from_slice(&bytes);
                    }
                    (Some((seq, false)), _) => values.push((seq, bytes.to_vec())),
                    _ => return Err(no_position()),
                }
            }
            Ok(values)
        })
    }

    fn flush(&self) -> io::Result<()> {
        let db = self.db()?;
        guard(|| db.flush()).map(drop)
    }

    fn db(&self) -> io::Result<&sled::Db> {
        self.0.as_ref().ok_or_else(|| io::Error::other("the database is closed"))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let db = self.0.take();
        // A damaged database may panic while it closes, too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
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

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
//! - After a failed write its calls, and its `Drop`, may wait on a condition variable that nobody
//!   signals: every database is used and dropped on a thread of its own, which is abandoned when it
//!   does not end in [`CALL_TIMEOUT`]. Where the failure was recorded but the wake-up was lost, a
//!   `flush` from another thread delivers it.
//! - Values above a quarter of its pages, here of 1 MiB, go to files of their own that nobody syncs:
//!   larger ones are kept in parts, and all files there are synced.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
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

/// How long the caller waits for one database to be written or read. A write takes 7 to 25 ms, up
/// to 1 s on a busy machine; below the 5 s that an agent has to end, so that a database that hangs
/// at the end does not cost the last flush.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a database may be silent before it is woken; the wake-up is harmless to one at work.
const WAKE_INTERVAL: Duration = Duration::from_millis(500);
/// Databases that may hang at the same time, each with a thread, two open files and about 3 MiB of
/// memory. From then on sled is not called any more until one of them returns.
const MAX_HUNG: usize = 4;
/// Databases that were abandoned and whose threads have not ended, in this process.
static HUNG: AtomicUsize = AtomicUsize::new(0);

/// Whether sled may be called: not while too many databases hang.
pub(super) fn is_available() -> bool {
    HUNG.load(Ordering::Relaxed) < MAX_HUNG
}

/// Makes a database of `values`, under ascending positions, in the new folder `folder`. Durable
/// when this returns, but for the name of the folder.
pub(super) fn write(folder: &Path, values: Vec<(Seq, Vec<u8>)>) -> io::Result<()> {
    with_database(folder, move |db| {
        for (seq, value) in &values {
            insert(db, *seq, value)?;
        }
        db.flush().map(drop)
    })?;
    disk::sync_all(folder)
}

/// All values of the database in `folder`, in the order of their positions.
pub(super) fn read(folder: &Path) -> io::Result<Vec<(Seq, Vec<u8>)>> {
    if !folder.join(FILE).exists() {
        // Opening it would make an empty one.
        return Err(io::ErrorKind::NotFound.into());
    }
    with_database(folder, values)
}

/// The raw bytes of the database in `folder`, for what sled cannot read any more.
pub(super) fn raw(folder: &Path) -> io::Result<Vec<u8>> {
    fs::read(folder.join(FILE))
}

/// Frees the room of a database that is given up. A thread that hangs may hold the file open, so
/// that removing its name alone would free nothing.
pub(super) fn truncate(folder: &Path) {
    let path = folder.join(FILE);
    if !disk::is_no_file(&path)
        && let Ok(file) = File::options().write(true).open(path)
    {
        // Its folder is removed next; what remains is removed at the next start.
        let _ = file.set_len(0);
    }
}

/// One use of a database, shared by its thread, by the caller that waits for it, and by the threads
/// that wake it.
#[derive(Default)]
struct Call {
    /// For waking it; `None` before it is open and once it is being closed.
    db: Option<sled::Db>,
    /// Why it failed; closing it may take longer.
    error: Option<io::Error>,
    has_ended: bool,
    is_abandoned: bool,
}

type SharedCall = Arc<Mutex<Call>>;

/// Opens the database in `folder`, lets `work` use it and closes it, all on a thread of its own.
fn with_database<T: Send + 'static>(
    folder: &Path,
    work: impl FnOnce(&sled::Db) -> sled::Result<T> + Send + 'static,
) -> io::Result<T> {
    if !is_available() {
        let text = format!("{MAX_HUNG} databases hang; restart the agent to use sled again");
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    let call = SharedCall::default();
    let (sender, result) = mpsc::sync_channel(1);
    let (of_thread, path) = (Arc::clone(&call), folder.to_owned());
    thread::Builder::new().name("pitwire-sled".into()).spawn(move || {
        let worked = use_database(&of_thread, &path, work);
        let mut call = lock(&of_thread);
        call.has_ended = true;
        if call.is_abandoned {
            HUNG.fetch_sub(1, Ordering::Relaxed);
        }
        drop(call);
        // The caller may have given up.
        let _ = sender.send(worked);
    })?;
    let deadline = Instant::now() + CALL_TIMEOUT;
    let worked = loop {
        match result.recv_timeout(WAKE_INTERVAL) {
            Ok(worked) => break worked,
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => {
                if lock(&call).error.is_some() || Instant::now() >= deadline {
                    break None;
                }
                wake(&call);
            }
        }
    };
    let mut call = lock(&call);
    if worked.is_none() && !call.has_ended {
        call.is_abandoned = true;
        HUNG.fetch_add(1, Ordering::Relaxed);
        return Err(call.error.take().unwrap_or_else(timed_out));
    }
    // It may have ended at the deadline.
    let worked = worked.or_else(|| result.recv().ok().flatten());
    worked.ok_or_else(|| call.error.take().unwrap_or_else(panicked))
}

/// Runs on the database's own thread, and may hang; a failure is left in the call before it can.
fn use_database<T>(
    call: &SharedCall,
    folder: &Path,
    work: impl FnOnce(&sled::Db) -> sled::Result<T>,
) -> Option<T> {
    let opened = open(folder);
    let worked = opened.and_then(|db| {
        lock(call).db = Some(db.clone());
        guard(|| work(&db)).map(|worked| (worked, db))
    });
    let worked = match worked {
        Ok(worked) => Some(worked),
        Err(error) => {
            lock(call).error = Some(error);
            None
        }
    };
    let db = lock(call).db.clone();
    // `Drop` flushes, too, and cannot be woken: leave it nothing to do.
    let _ = guard(|| {
        while let Some(db) = &db
            && db.flush()? > 0
        {}
        Ok(())
    });
    let (worked, own) = worked.unzip();
    let shared = lock(call).db.take();
    // A damaged database may panic while it closes, too.
    let _ = catch_unwind(AssertUnwindSafe(|| drop((shared, own, db))));
    worked
}

/// Delivers a wake-up that sled lost: `flush` signals all that wait when a write has failed.
fn wake(call: &SharedCall) {
    let Some(db) = lock(call).db.clone() else { return };
    // It hangs as long as the database does, so it needs a thread, too.
    let woken = thread::Builder::new().name("pitwire-sled-wake".into()).spawn(move || {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _ = db.flush();
            drop(db);
        }));
    });
    if let Err(error) = woken {
        tracing::warn!(%error, "cannot start a thread to wake a database of the queue");
    }
}

fn lock(call: &SharedCall) -> MutexGuard<'_, Call> {
    call.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(folder: &Path) -> io::Result<sled::Db> {
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
            Ok(db) => return Ok(db),
            Err(error) if !is_locked(&error) => return Err(error),
            Err(_) if Instant::now() < deadline => thread::sleep(OPEN_RETRY_INTERVAL),
            // Says nothing about what is in it.
            Err(error) => return Err(io::Error::new(io::ErrorKind::ResourceBusy, error)),
        }
    }
}

fn insert(db: &sled::Db, seq: Seq, value: &[u8]) -> sled::Result<()> {
    let (first, rest) = value.split_at(value.len().min(PART_BYTES));
    db.insert(seq.0.to_be_bytes(), first)?;
    for (part, bytes) in rest.chunks(PART_BYTES).enumerate() {
        db.insert(part_key(seq, part as u32), bytes)?;
    }
    Ok(())
}

fn values(db: &sled::Db) -> sled::Result<Vec<(Seq, Vec<u8>)>> {
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
        Err(_) => Err(panicked()),
    }
}

fn timed_out() -> io::Error {
    let text = format!("sled did not return within {} s", CALL_TIMEOUT.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn panicked() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "sled panicked")
}

/// sled reports a lock that is held as `Other` with a text of its own.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

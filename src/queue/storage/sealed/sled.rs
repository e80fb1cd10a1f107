//! The sled 0.34.7 database of one sealed segment; the only file that uses sled.
//!
//! A database is written once, as a whole, and only read after that. Traps in sled, and how this
//! file avoids them:
//! - `flush()` is not an fsync on Linux, and `conf` and the folder are never synced: [`write`]
//!   syncs them. Until then the [write-ahead log](crate::queue::storage::wal) still has all the data.
//! - A leftover `snap.*.generating` makes every later open fail: it is deleted first.
//! - The lock is released a few ms late: opening is retried for a second.
//! - sled panics on some damaged files: every call is caught and reported as an error.
//! - Removed keys free no space, and rewritten pages grow the file, by three times with values of
//!   12 KiB and 40 % with values of 100 KiB. Nothing is ever removed or overwritten here, and
//!   values are large, four or five per database (then the file is 5 % larger than they are).
//! - After a failed write, calls and `Drop` may wait on a condition variable that is never
//!   signalled. Every database is used and dropped on its own thread, which is abandoned if it does
//!   not finish within [`CALL_TIMEOUT`]. If the failure was recorded but the wake-up was lost, a
//!   `flush` from another thread delivers it.
//! - Values above a quarter of the page size (a page has 1 MiB here) go to separate files that sled
//!   does not sync: larger values are split into parts, and all files in the folder are synced.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::entry::Seq;
use crate::queue::storage::disk::{self, Salvaged};

/// How long to wait for another process, or for threads of the previous one, to close the store.
const STORE_OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The size of sled's page cache.
const CACHE_BYTES: u64 = 4 << 20;
const PAGE_BYTES: usize = 1 << 20;
/// The size of the reads that check whether a file is readable.
const CHECK_BYTES: usize = 64 << 10;
const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Larger values are split into parts of this size.
pub(super) const PART_BYTES: usize = 240 << 10;
/// The file that contains the values.
const FILE: &str = "db";

/// How long a caller waits for one database to be written or read. A write takes 7 to 25 ms, up to
/// 1 s on a busy machine. Less than the 5 s that the agent has to shut down, so that a database
/// that hangs then does not cost the last flush.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a call may take before it is sent a wake-up; the wake-up is harmless to a call that is
/// making progress.
const WAKE_INTERVAL: Duration = Duration::from_millis(500);
/// The maximum number of hung databases, each with a thread, two open files and about 3 MiB of
/// memory. At the limit, sled is not called until one of them returns.
const MAX_HUNG: usize = 4;
/// The number of abandoned databases in this process whose threads have not ended.
static HUNG: AtomicUsize = AtomicUsize::new(0);

/// Whether sled may be called: `false` while too many databases hang.
pub(super) fn is_available() -> bool {
    HUNG.load(Ordering::Relaxed) < MAX_HUNG
}

/// Creates a database of `values`, in ascending order of position, in the new folder `folder`.
/// Durable when this returns, except for the name of the folder.
pub(super) fn write(folder: &Path, values: Vec<(Seq, Vec<u8>)>) -> io::Result<()> {
    with_database(folder, move |db| {
        for (seq, value) in &values {
            insert(db, *seq, value)?;
        }
        db.flush().map(drop)
    })?;
    disk::sync_all(folder)
}

/// Reads all values of the database in `folder`, in order of position.
pub(super) fn read(folder: &Path) -> io::Result<Vec<(Seq, Vec<u8>)>> {
    // A missing database must not be opened, because sled would create an empty one, nor one with a
    // bad sector, because sled overwrites what follows it.
    let mut file = BufReader::with_capacity(CHECK_BYTES, File::open(folder.join(FILE))?);
    io::copy(&mut file, &mut io::sink())?;
    drop(file);
    with_database(folder, values)
}

/// Reads the raw bytes of the database in `folder`, to recover data that sled cannot read.
pub(super) fn read_raw(folder: &Path) -> io::Result<Salvaged> {
    disk::read(&folder.join(FILE))
}

/// Frees the disk space of a database that is being deleted. A hung thread may hold the file open,
/// so that unlinking it alone would free nothing.
pub(in crate::queue::storage) fn truncate(folder: &Path) {
    let path = folder.join(FILE);
    if !disk::is_no_file(&path)
        && let Ok(file) = File::options().write(true).open(path)
    {
        // The folder is deleted next; leftovers are deleted at the next start.
        let _ = file.set_len(0);
    }
}

/// One use of a database, shared by its thread, the waiting caller, and the threads that wake it.
#[derive(Default)]
struct Call {
    /// Used to wake it; `None` before it is open and while it is being closed.
    db: Option<sled::Db>,
    /// The error, set before the database is closed, because closing may hang.
    error: Option<io::Error>,
    has_ended: bool,
    is_abandoned: bool,
}

type SharedCall = Arc<Mutex<Call>>;

/// Opens the database in `folder`, runs `work` on it and closes it, all on a dedicated thread.
fn with_database<T: Send + 'static>(
    folder: &Path,
    work: impl FnOnce(&sled::Db) -> sled::Result<T> + Send + 'static,
) -> io::Result<T> {
    if !is_available() {
        let text = format!("{MAX_HUNG} sled databases hang; restart the agent to use sled again");
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
        // The caller may have timed out.
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
    // The thread may have ended just at the deadline.
    let worked = worked.or_else(|| result.recv().ok().flatten());
    worked.ok_or_else(|| call.error.take().unwrap_or_else(panicked))
}

/// Runs on the database's thread and may hang; a failure is stored in `call` before it can.
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
    // `Drop` flushes too and cannot be woken: leave nothing to flush.
    let _ = guard(|| {
        while let Some(db) = &db
            && db.flush()? > 0
        {}
        Ok(())
    });
    let (worked, own) = worked.unzip();
    let shared = lock(call).db.take();
    // A damaged database may panic while closing, too.
    let _ = catch_unwind(AssertUnwindSafe(|| drop((shared, own, db))));
    worked
}

/// Delivers a wake-up that sled lost: `flush` signals all waiters after a failed write.
fn wake(call: &SharedCall) {
    let Some(db) = lock(call).db.clone() else { return };
    // This call hangs as long as the database does, so it needs its own thread.
    let woken = thread::Builder::new().name("pitwire-sled-wake".into()).spawn(move || {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _ = db.flush();
            drop(db);
        }));
    });
    if let Err(error) = woken {
        tracing::warn!(%error, "cannot start a thread to wake a hung queue database");
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
            // A held lock does not mean that the database is damaged.
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
    sled::Error::Io(io::Error::new(io::ErrorKind::InvalidData, "a key is not a position"))
}

fn part_key(seq: Seq, part: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&seq.0.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// Decodes the position in a key, and whether the key belongs to a continuation part.
fn position(key: &[u8]) -> Option<(Seq, bool)> {
    let (seq, part) = key.split_first_chunk()?;
    matches!(part.len(), 0 | 4).then_some((Seq(u64::from_be_bytes(*seq)), !part.is_empty()))
}

/// Calls into sled and converts a panic into an error.
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

/// sled reports a held lock as `Other` with its own message.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

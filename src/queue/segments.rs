//! The store of the queue: a row of small sled databases and a journal beside the newest.
//!
//! ```text
//! FORMAT                 what made this folder
//! q-<lo>/                a segment: the records from position <lo> on, a sled database
//! q-<lo>/seal            written last: how many records it holds, and where the store stood
//! tail-<lo>.log          the journal of the newest segment
//! new-<lo>/              a segment that is being written anew
//! trash-*  *.tmp         on its way out, or never finished
//! quarantine/            segments that could not be read in full, the last few; refused entries
//! facts/<key>            the caller's facts, each a checksummed file
//! ballast                room to let go of when the disk is full
//! ```
//!
//! One database for ever grows to many times its records and was consistent in 93 of 236 simulated
//! power cuts; a row of databases with a tail journal in 1,783 of 1,783. So:
//! - A record is written to the journal, then to the newest database. A flush is one fsync of the
//!   journal. When the segment is full it is sealed (sled flushed, every file and the folder
//!   synced) before its journal goes.
//! - Only the newest database is written to, and nothing in it is ever changed or removed. A
//!   segment goes as a folder once all of it is released and that is durable.
//! - After a power cut no database is written to that was open in it: the newest is written anew
//!   from the journal, position by position, and the next one begins [`SEGMENT_ENTRIES`] after the
//!   last position that is known: one that was given out and not yet durable is not given out
//!   again. Whether it was a power cut or only the process that died says the id of the boot.
//! - A mark in the journal says how much was appended and released, and keeps the caller's books
//!   of the same moment. What of that is not held any more is lost: derived, so that the books
//!   balance whatever the damage.
//! - A segment that sled cannot read is read from its raw bytes, frame by frame; what is missing
//!   then is counted as lost, the folder goes to quarantine and what was found takes its place.
//! - Opening looks at names and seals, at the newest segment and at the oldest.
//! - Facts are plain files because their loss would be silent: a sled database that is written
//!   to for ever is the arrangement that failed.

mod folder;
mod recover;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::folder::{
    Old, Segment, build, check_format, discard, finish_rewrite, held, highest_number, new_path,
    numbers, read_seal, read_whole, remove_old_journals, segment_path, swap, sweep, write_seal,
};
use self::recover::{Newest, Trust, find_newest};
use super::journal::{Journal, Mark};
use super::sled::Database;
use super::store::{Held, Store};
use super::{FIRST, Limit, bytes, disk, quarantine};
use crate::entry::Seq;

/// Positions that a segment may take: so many are skipped after a power cut.
pub const SEGMENT_ENTRIES: u64 = 4096;
/// A segment is full, whenever there is time for a new one, a little earlier.
const ENOUGH_ENTRIES: u64 = SEGMENT_ENTRIES * 7 / 8;
/// A journal that holds little else but marks is begun anew at this size.
const JOURNAL_BYTES: u64 = 8 << 20;
/// A drained segment is left for a new one at this size, so that an empty queue is small.
const DRAINED_BYTES: u64 = 1 << 20;
/// A sled database can be opened and a journal written within this.
const BALLAST_BYTES: usize = 320 << 10;
/// Segments that are kept for inspection after they could not be read in full.
const MAX_QUARANTINED: usize = 2;
/// Sealed segments whose records are kept in memory: the one at the head, and the one after it
/// while a batch of the first is out.
const MAX_LOADED: usize = 2;
/// The newest segment is looked at on the disk again after so many bytes of records.
const MEASURE_BYTES: u64 = 32 << 10;

const VERSION: u32 = 1;

type Records = Vec<(Seq, Vec<u8>)>;

/// How the store behaves; not part of what is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment is sealed when its database has grown to this.
    pub segment_bytes: u64,
    /// Names the time since the machine was started; empty when the system does not say.
    pub boot: String,
}

impl Options {
    /// For a queue that may take `max_bytes` on the disk: what is dropped at once when it is full
    /// is a sixteenth of it.
    pub fn new(max_bytes: u64) -> Self {
        let segment_bytes = (max_bytes / 16).clamp(1 << 20, 6 << 20);
        Self { segment_bytes, boot: disk::boot().unwrap_or_default() }
    }
}

/// A store in a folder.
#[derive(Debug)]
pub struct SegmentStore {
    folder: PathBuf,
    options: Options,
    /// Oldest first.
    sealed: VecDeque<Segment>,
    /// `None` after an error, until the store is opened again.
    active: Option<Active>,
    /// The most recently read last.
    loaded: VecDeque<(Seq, Records)>,
    head: Seq,
    /// Segments below are not needed any more, even after a power cut.
    durable_head: Seq,
    tail: Seq,
    appended: u64,
    released: u64,
    /// Of all segments; kept while the store has failed.
    held: Held,
    books: Vec<u8>,
    replaced: (u64, u64),
    /// Something is in the journal that was not synced.
    dirty: bool,
    /// Bytes on the disk of what is no segment and no journal.
    other_bytes: u64,
}

/// The newest segment.
#[derive(Debug)]
struct Active {
    lo: Seq,
    db: Database,
    journal: Journal,
    /// Bytes of each record from `lo` on.
    sizes: Vec<u32>,
    all_bytes: u64,
    held: Held,
    db_bytes: u64,
    /// Bytes of records since `db_bytes` was measured.
    unmeasured: u64,
}

impl SegmentStore {
    /// Opens the store in `folder`, making it if need be.
    pub fn open(folder: &Path, options: Options) -> io::Result<Self> {
        Self::start(folder, options, Trust::Disk)
    }

    fn active(&mut self) -> io::Result<&mut Active> {
        self.active.as_mut().ok_or_else(not_open)
    }

    /// After this only [`Store::reopen`] helps: what the disk and sled hold is uncertain.
    fn fail<T>(&mut self, error: io::Error) -> io::Result<T> {
        self.active = None;
        Err(error)
    }

    fn mark(&self) -> Mark {
        Mark {
            head: self.head.0,
            tail: self.tail.0,
            appended: self.appended,
            released: self.released,
            replaced: self.replaced,
            books: self.books.clone(),
        }
    }

    /// Notes where the store stands. A full disk does not prevent it as long as there is ballast:
    /// without it nothing could be released, and nothing be freed.
    fn note(&mut self) -> io::Result<()> {
        let mark = self.mark();
        match self.active()?.journal.mark(&mark) {
            Err(error) if disk::is_full(&error) && self.spend_ballast() => {
                self.active()?.journal.mark(&mark)?;
            }
            result => result?,
        }
        self.dirty = true;
        Ok(())
    }

    /// What is below `head` is not held any more; returns how much that was.
    fn release_below(&mut self, head: Seq) -> io::Result<Held> {
        let mut released = Held::default();
        let mut index = 0;
        while let Some(segment) = self.sealed.get(index)
            && segment.lo < head
        {
            let next = self.next_lo(index);
            if next <= head {
                released += std::mem::take(&mut self.sealed[index].held);
                index += 1;
                continue;
            }
            if self.load(index)? == Loading::Replaced {
                continue;
            }
            let records = self.records(self.sealed[index].lo);
            let left = &records[records.partition_point(|(seq, _)| *seq < head)..];
            let left = held(left);
            released += std::mem::replace(&mut self.sealed[index].held, left) - left;
            break;
        }
        if let Some(active) = &mut self.active {
            let below = head.0.saturating_sub(active.lo.0).min(active.sizes.len() as u64);
            let left = &active.sizes[below as usize..];
            let bytes = left.iter().map(|&size| u64::from(size)).sum();
            let left = Held { records: left.len() as u64, bytes };
            released += std::mem::replace(&mut active.held, left) - left;
        }
        self.held = self.held - released;
        Ok(released)
    }

    /// Where the segment after the sealed one at `index` begins.
    fn next_lo(&self, index: usize) -> Seq {
        let active = || self.active.as_ref().map_or(self.tail, |active| active.lo);
        self.sealed.get(index + 1).map_or_else(active, |segment| segment.lo)
    }

    /// The records of a segment that was loaded.
    fn records(&self, lo: Seq) -> &[(Seq, Vec<u8>)] {
        self.loaded.iter().find(|(loaded, _)| *loaded == lo).map_or(&[], |(_, records)| records)
    }

    /// Brings the records of the sealed segment at `index` into memory.
    fn load(&mut self, index: usize) -> io::Result<Loading> {
        let Segment { lo, all, .. } = self.sealed[index];
        if self.loaded.iter().any(|(loaded, _)| *loaded == lo) {
            return Ok(Loading::Done);
        }
        let folder = segment_path(&self.folder, lo);
        let (records, trouble) = read_whole(&folder, lo, Some(all.records));
        self.sealed[index].disk_bytes = disk::used(&folder);
        match trouble {
            _ if records.len() as u64 == all.records => {}
            Some(error) if disk::is_circumstance(&error) => return Err(error),
            trouble => {
                tracing::error!(
                    segment = %lo, records = all.records, readable = records.len(),
                    error = trouble.map(tracing::field::display),
                    "a segment of the queue is damaged: set aside, what can be read is kept",
                );
                let records = records.into_iter().filter(|(seq, _)| *seq >= self.head).collect();
                self.rewrite(index, 1, records, Old::Quarantine)?;
                return Ok(Loading::Replaced);
            }
        }
        self.keep_loaded(lo, records);
        Ok(Loading::Done)
    }

    fn keep_loaded(&mut self, lo: Seq, records: Records) {
        while self.loaded.len() >= MAX_LOADED {
            self.loaded.pop_front();
        }
        self.loaded.push_back((lo, records));
    }

    /// Puts one segment with `records` in the place of the `count` sealed ones from `index` on.
    fn rewrite(
        &mut self,
        index: usize,
        count: usize,
        records: Records,
        old: Old,
    ) -> io::Result<()> {
        let (first, last) = (self.sealed[index].lo, self.sealed[index + count - 1].lo);
        if let Err(error) = self.try_rewrite(first, last, &records, old) {
            return self.fail(error);
        }
        for segment in self.sealed.drain(index..index + count) {
            self.loaded.retain(|(lo, _)| *lo != segment.lo);
            self.held = self.held - segment.held;
        }
        if !records.is_empty() {
            let segment = Segment::of(&self.folder, first, &records);
            self.held += segment.held;
            self.sealed.insert(index, segment);
        }
        self.measure_others();
        Ok(())
    }

    fn try_rewrite(
        &mut self,
        first: Seq,
        last: Seq,
        records: &Records,
        old: Old,
    ) -> io::Result<()> {
        // The folder that lies ready must not be taken for the one of an earlier mark.
        self.replaced = (0, 0);
        self.note()?;
        self.flush()?;
        let new = new_path(&self.folder, first);
        build(&new, first, records, &self.mark())?;
        disk::sync_folder(&self.folder)?;
        self.replaced = (first.0, last.0);
        self.note()?;
        self.flush()?;
        swap(&self.folder, first, last, old)?;
        self.replaced = (0, 0);
        self.note()
    }

    /// Begins a new segment; the old one is sealed, or removed if nothing of it is held.
    fn rotate(&mut self) -> io::Result<()> {
        match self.try_rotate() {
            Err(error) => self.fail(error),
            done => done,
        }
    }

    fn try_rotate(&mut self) -> io::Result<()> {
        let (tail, mark) = (self.tail, self.mark());
        let active = self.active()?;
        let (lo, held) = (active.lo, active.held);
        let all = Held { records: active.sizes.len() as u64, bytes: active.all_bytes };
        let folder = segment_path(&self.folder, lo);
        if tail == lo {
            // Nothing but marks: a new journal under the old name.
            let journal = Journal::create(&self.folder, lo, &self.options.boot, &mark)?;
            self.active()?.journal = journal;
            self.dirty = false;
            self.durable_head = self.head;
            return Ok(());
        }
        if held.records > 0 {
            self.active()?.db.seal()?;
            write_seal(&folder, lo, Seq(tail.0 - 1), all, &mark)?;
            if self.head >= lo {
                // The reader is here: spares opening it again at once.
                let mut records = Vec::new();
                self.active()?.db.scan(lo, |seq, value| {
                    records
                        .extend(bytes::parse(lo, &value).map(|(_, bytes)| (seq, bytes.to_vec())));
                    true
                })?;
                if records.len() as u64 == all.records {
                    self.keep_loaded(lo, records);
                }
            }
        }
        let journal = Journal::create(&self.folder, tail, &self.options.boot, &mark)?;
        let new = Active::new(&self.folder, tail, journal)?;
        self.dirty = false;
        self.durable_head = self.head;
        let Some(old) = self.active.replace(new) else { return Ok(()) };
        drop(old.db);
        disk::remove_file(old.journal.path())?;
        if held.records > 0 {
            let disk_bytes = disk::used(&folder);
            self.sealed.push_back(Segment { lo, last: Seq(tail.0 - 1), all, held, disk_bytes });
        } else {
            discard(&self.folder, lo)?;
        }
        self.fill_ballast();
        Ok(())
    }

    fn is_rotation_due(&self) -> bool {
        let Some(active) = &self.active else { return false };
        let drained = active.held.records == 0 && active.db_bytes > DRAINED_BYTES;
        active.sizes.len() as u64 >= ENOUGH_ENTRIES
            || active.db_bytes >= self.options.segment_bytes
            || active.journal.len() >= JOURNAL_BYTES
            || drained
    }

    /// Removes the segments that nobody needs any more.
    fn remove_released(&mut self) -> io::Result<()> {
        while !self.sealed.is_empty() && self.next_lo(0) <= self.durable_head {
            let Some(segment) = self.sealed.pop_front() else { break };
            self.loaded.retain(|(lo, _)| *lo != segment.lo);
            discard(&self.folder, segment.lo)?;
        }
        Ok(())
    }

    fn spend_ballast(&mut self) -> bool {
        let path = self.folder.join("ballast");
        let spent = path.exists() && disk::remove_file(&path).is_ok();
        self.measure_others();
        spent
    }

    /// Without ballast the queue works as well, until the disk is full.
    fn fill_ballast(&mut self) {
        let path = self.folder.join("ballast");
        if path.exists() {
            return;
        }
        // Not zeros: some file systems would keep no room for them.
        let noise: Vec<u8> = (0..BALLAST_BYTES)
            .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        if let Err(error) = disk::write_durably(&path, &noise) {
            tracing::warn!(%error, "no room for the ballast of the queue");
            let _ = disk::remove_file(&path);
        }
        self.measure_others();
    }

    fn measure_others(&mut self) {
        let names = disk::names(&self.folder, "").unwrap_or_default();
        let others =
            names.iter().filter(|name| !name.starts_with("q-") && !name.starts_with("tail-"));
        let folder = fs::symlink_metadata(&self.folder).map_or(0, |_| 4096);
        self.other_bytes =
            folder + others.map(|name| disk::used(&self.folder.join(name))).sum::<u64>();
    }

    fn fact_path(&self, key: &str) -> PathBuf {
        self.folder.join("facts").join(key)
    }
}

impl Active {
    /// An empty segment over a new journal.
    fn new(folder: &Path, lo: Seq, journal: Journal) -> io::Result<Self> {
        let path = segment_path(folder, lo);
        // What lies there belonged to nothing that was ever reported.
        disk::remove_folder(&path)?;
        let db = Database::open(&path)?;
        // Its name must not come after that of the next journal.
        disk::sync_folder(folder)?;
        Ok(Self::over(folder, lo, db, journal, &[]))
    }

    fn over(
        folder: &Path,
        lo: Seq,
        db: Database,
        journal: Journal,
        records: &[(Seq, Vec<u8>)],
    ) -> Self {
        let all = held(records);
        Self {
            lo,
            db,
            journal,
            sizes: records.iter().map(|(_, record)| record.len() as u32).collect(),
            all_bytes: all.bytes,
            held: all,
            db_bytes: disk::used(&segment_path(folder, lo)),
            unmeasured: 0,
        }
    }

    fn measure(&mut self, folder: &Path) {
        self.unmeasured = 0;
        self.db_bytes = disk::used(&segment_path(folder, self.lo));
    }
}

impl Store for SegmentStore {
    fn head(&self) -> Seq {
        self.head
    }

    fn tail(&self) -> Seq {
        self.tail
    }

    fn held(&self) -> Held {
        self.held
    }

    fn appended(&self) -> u64 {
        self.appended
    }

    fn lost(&self) -> u64 {
        self.appended.saturating_sub(self.released + self.held.records)
    }

    fn books(&self) -> Option<Vec<u8>> {
        (!self.books.is_empty()).then(|| self.books.clone())
    }

    fn append(&mut self, record: &[u8]) -> io::Result<Seq> {
        if self.active()?.sizes.len() as u64 >= SEGMENT_ENTRIES {
            self.rotate()?;
        }
        let seq = self.tail;
        // Not by `active()`: the folder is read while it is borrowed.
        let Some(active) = &mut self.active else { return Err(not_open()) };
        active.journal.append(seq, record)?;
        if let Err(error) = active.db.insert(seq, &bytes::frame(active.lo, seq, record)) {
            // The caller hears that it is not stored: it must not come back.
            let _ = active.journal.undo();
            return self.fail(error);
        }
        let len = record.len() as u64;
        active.sizes.push(record.len() as u32);
        active.all_bytes += len;
        let one = Held { records: 1, bytes: len };
        active.held += one;
        self.held += one;
        active.unmeasured += len;
        if active.unmeasured >= MEASURE_BYTES {
            active.measure(&self.folder);
        }
        self.dirty = true;
        self.tail = Seq(seq.0 + 1);
        self.appended += 1;
        Ok(seq)
    }

    fn release(&mut self, head: Seq, books: &[u8]) -> io::Result<()> {
        let head = head.clamp(self.head, self.tail);
        if head > self.head {
            self.released += self.release_below(head)?.records;
            self.head = head;
        }
        self.books = books.to_vec();
        self.note()
    }

    fn flush(&mut self) -> io::Result<()> {
        let head = self.head;
        if !self.dirty {
            return self.active().map(drop);
        }
        // After a failed fsync the system forgets what it could not write: only writing it anew
        // helps.
        if let Err(error) = self.active()?.journal.sync() {
            return self.fail(error);
        }
        self.dirty = false;
        self.durable_head = head;
        Ok(())
    }

    fn maintain(&mut self) -> io::Result<()> {
        if self.is_rotation_due() {
            self.rotate()?;
        }
        self.remove_released()
    }

    fn read(&mut self, from: Seq, limit: Limit) -> io::Result<Vec<(Seq, Vec<u8>)>> {
        let mut from = from.max(self.head);
        loop {
            let after = self.sealed.partition_point(|segment| segment.lo <= from);
            let active_lo = self.active()?.lo;
            if from >= active_lo || self.sealed.is_empty() {
                return self.read_active(from, limit);
            }
            let index = after.saturating_sub(1);
            if self.load(index)? == Loading::Replaced {
                continue;
            }
            let records = self.records(self.sealed[index].lo);
            let first = records.partition_point(|(seq, _)| *seq < from);
            if first < records.len() {
                return Ok(within(&records[first..], limit));
            }
            from = self.next_lo(index);
        }
    }

    fn put(&mut self, key: &str, value: Option<&[u8]>) -> io::Result<()> {
        let path = self.fact_path(key);
        let folder = self.folder.join("facts");
        match value {
            Some(value) => disk::replace(&path, &bytes::frame(Seq(0), Seq(0), value))?,
            None => {
                disk::remove_file(&path)?;
                disk::sync_folder(&folder)?;
            }
        }
        self.measure_others();
        Ok(())
    }

    fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.fact_path(key)) {
            Ok(bytes) => Ok(bytes::parse(Seq(0), &bytes).map(|(_, value)| value.to_vec())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn last(&self) -> Option<Seq> {
        let active = self.active.as_ref().filter(|active| active.held.records > 0);
        let newest = active.map(|active| Seq(active.lo.0 + active.sizes.len() as u64 - 1));
        let sealed = self.sealed.iter().rev().find(|segment| segment.held.records > 0);
        newest.or(sealed.map(|segment| segment.last))
    }

    fn set_aside(&mut self, line: &str) -> io::Result<()> {
        quarantine::append(&self.folder, line)?;
        self.measure_others();
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        let active =
            |active: &Active| active.db_bytes + active.journal.len().next_multiple_of(4096);
        self.other_bytes
            + self.sealed.iter().map(|segment| segment.disk_bytes).sum::<u64>()
            + self.active.as_ref().map_or(0, active)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.active = None;
        *self = Self::start(&self.folder, self.options.clone(), Trust::Nothing)?;
        Ok(())
    }
}

impl SegmentStore {
    fn read_active(&mut self, from: Seq, limit: Limit) -> io::Result<Records> {
        let (mut records, mut size, mut damaged) = (Vec::new(), 0, false);
        let active = self.active()?;
        let lo = active.lo;
        let scanned = active.db.scan(from, |seq, value| {
            let Some((_, record)) = bytes::parse(lo, &value).filter(|(held, _)| *held == seq)
            else {
                damaged = true;
                return false;
            };
            size += record.len();
            let fits = records.is_empty() || size <= limit.bytes;
            if fits {
                records.push((seq, record.to_vec()));
            }
            fits && records.len() < limit.entries
        });
        match scanned {
            Ok(()) if !damaged => Ok(records),
            Ok(()) => self.fail(io::Error::new(io::ErrorKind::InvalidData, "a record is damaged")),
            Err(error) => self.fail(error),
        }
    }
}

impl Drop for SegmentStore {
    fn drop(&mut self) {
        if let Some(active) = &mut self.active
            && let Err(error) = active.journal.close()
        {
            tracing::warn!(%error, "the queue was not closed in good order");
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loading {
    Done,
    /// It was damaged: another segment, or none, is in its place.
    Replaced,
}

impl SegmentStore {
    fn start(folder: &Path, options: Options, trust: Trust) -> io::Result<Self> {
        fs::create_dir_all(folder.join("facts"))?;
        check_format(folder)?;
        let highest = highest_number(folder)?;
        sweep(folder)?;
        let newest = find_newest(folder, &options, trust)?;
        let Newest { lo, records, end, mut mark, db, is_uncertain } = match newest {
            Some(newest) => newest,
            None => {
                let lo = highest.map_or(FIRST, |seq| Seq(seq.0 + 2 * SEGMENT_ENTRIES));
                Newest::unknown(folder, lo)?
            }
        };
        finish_rewrite(folder, &mark)?;
        mark.appended += end.0.saturating_sub(mark.tail.max(lo.0));
        let mut store = Self {
            folder: folder.into(),
            options,
            sealed: VecDeque::new(),
            active: None,
            loaded: VecDeque::new(),
            head: Seq(mark.head),
            durable_head: Seq(mark.head),
            tail: end,
            appended: mark.appended,
            released: mark.released,
            held: Held::default(),
            books: std::mem::take(&mut mark.books),
            replaced: (0, 0),
            dirty: true,
            other_bytes: 0,
        };
        store.find_sealed(lo)?;
        store.active = Some(match db {
            Some(db) => {
                let journal = Journal::reopen(folder, lo, &store.options.boot)?;
                Active::over(folder, lo, db, journal, &records)
            }
            None => {
                if is_uncertain {
                    let highest = highest.map_or(end, |seq| seq.max(end));
                    store.skip_to(Seq(highest.0 + SEGMENT_ENTRIES));
                }
                store.write_anew(lo, records)?
            }
        });
        remove_old_journals(folder, store.active()?.lo)?;
        store.count_held()?;
        store.note()?;
        if store.held().records == 0 {
            store.head = store.tail;
        }
        store.fill_ballast();
        store.measure_others();
        store.flush()?;
        store.remove_released()?;
        Ok(store)
    }

    /// Counts what is there. The books that the caller kept are of the same moment as `released`:
    /// they balance whatever was lost since.
    fn count_held(&mut self) -> io::Result<()> {
        let active = self.active.iter().map(|active| active.held);
        for held in self.sealed.iter().map(|segment| segment.held).chain(active) {
            self.held += held;
        }
        self.release_below(self.head)?;
        // More than was known of, when only an old mark was left.
        self.appended = self.appended.max(self.released + self.held.records);
        Ok(())
    }

    /// The sealed segments below `newest`; what is released of them goes.
    fn find_sealed(&mut self, newest: Seq) -> io::Result<()> {
        let mut numbers = numbers(&self.folder, "q-")?;
        numbers.retain(|lo| *lo < newest);
        for (index, &lo) in numbers.iter().enumerate() {
            let next = numbers.get(index + 1).copied().unwrap_or(newest);
            if next <= self.head {
                discard(&self.folder, lo)?;
                continue;
            }
            let path = segment_path(&self.folder, lo);
            let segment = match read_seal(&path, lo) {
                Some(segment) => Some(segment),
                None => self.seal_again(lo)?,
            };
            self.sealed.extend(segment);
        }
        // The first was opened for reading since its seal was written.
        for segment in self.sealed.iter_mut().take(MAX_LOADED) {
            segment.disk_bytes = disk::used(&segment_path(&self.folder, segment.lo));
        }
        Ok(())
    }

    /// A segment whose seal cannot be read: what can be read of the rest is sealed anew.
    fn seal_again(&mut self, lo: Seq) -> io::Result<Option<Segment>> {
        let (records, trouble) = read_whole(&segment_path(&self.folder, lo), lo, None);
        tracing::error!(
            segment = %lo, records = records.len(), error = trouble.map(tracing::field::display),
            "a segment of the queue has lost its seal",
        );
        build(&new_path(&self.folder, lo), lo, &records, &self.mark())?;
        swap(&self.folder, lo, lo, Old::Quarantine)?;
        Ok((!records.is_empty()).then(|| Segment::of(&self.folder, lo, &records)))
    }

    /// Leaves the positions out that may have been given to records of which nothing is left: no
    /// segment, whether its name survived or not, went further than this.
    fn skip_to(&mut self, tail: Seq) {
        if self.head >= self.tail {
            self.head = tail;
        }
        self.tail = tail;
    }

    /// Seals what was found of the newest segment in a new database and begins another.
    fn write_anew(&mut self, lo: Seq, records: Records) -> io::Result<Active> {
        if !records.is_empty() {
            build(&new_path(&self.folder, lo), lo, &records, &self.mark())?;
            swap(&self.folder, lo, lo, Old::Discard)?;
            self.sealed.push_back(Segment::of(&self.folder, lo, &records));
        }
        let journal = Journal::create(&self.folder, self.tail, &self.options.boot, &self.mark())?;
        if records.is_empty() && self.tail != lo {
            discard(&self.folder, lo)?;
        }
        Active::new(&self.folder, self.tail, journal)
    }
}

fn not_open() -> io::Error {
    io::Error::other("the store failed and is not open")
}

/// As many of `records` as `limit` allows, at least one.
fn within(records: &[(Seq, Vec<u8>)], limit: Limit) -> Records {
    let mut size = 0;
    let fits = records.iter().take(limit.entries.max(1)).take_while(|(_, record)| {
        let first = size == 0;
        size += record.len();
        first || size <= limit.bytes
    });
    fits.cloned().collect()
}

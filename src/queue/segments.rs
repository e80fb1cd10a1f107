//! The store of the queue: a row of sealed segments on sled, and the journal of the newest one.
//!
//! ```text
//! FORMAT                 what made this folder
//! q-<lo>-<last>/         a sealed segment: a sled database of the records between two positions
//! q-<lo>-<last>/seal     written last: how much it holds
//! q-<lo>-<last>/blocks   its records, if sled hung when it was sealed
//! tail-<lo>.log          the journal: the newest segment, from position <lo> on
//! mark                   where the store stood when the journal was begun, should that be lost
//! checkpoint             where it stood at the last flush: shows what is missing of the journal
//! unfinished*/           a segment that is being written
//! new-<lo>-<last>/       a segment that is written and has yet to get its name
//! trash-*  *.tmp         on its way out, or never finished
//! quarantine/            segments that could not be read in full, the last few; refused entries
//! fates/                 what became of the entries that are gone
//! facts/<key>            the caller's facts, each a checksummed file
//! ballast                room to let go of when the disk is full
//! ```
//!
//! One sled database for ever grows to many times its records and was consistent in 93 of 236
//! simulated power cuts; a row of databases with a journal of the newest in 1,783 of 1,783. So
//! there is a row, and one step further: the newest segment is its journal and nothing else.
//! - A record is written to the journal. A flush is one fsync of it. What is delivered within a
//!   segment's length, as in every race without an outage, never goes through sled at all.
//! - When the journal is full, what is held of it is packed into a sled database: written once,
//!   never changed, every file and the folder synced before its name, its name before the journal
//!   goes. Packed frames take a quarter of their bytes; records kept one by one took three times
//!   theirs.
//! - A segment goes as a folder once all of it is released and that is durable.
//! - After a power cut the journal is not written to further: it is sealed as far as it can be
//!   read, and the next segment begins [`SEGMENT_ENTRIES`] after the last position that is known: one
//!   that was given out and not yet durable is not given out again. Whether it was a power cut or
//!   only the process that died says the id of the boot.
//! - A mark in the journal says how much was appended and released, and keeps the caller's books
//!   of the same moment. What of that is not held any more is lost: derived, so that the books
//!   balance whatever the damage.
//! - A segment that sled cannot read is read from its raw bytes, block by block; what is missing
//!   then is counted as lost, the folder goes to quarantine and what was found takes its place.
//! - Opening looks at names and seals, and at the journal.
//! - Facts are plain files because their loss would be silent: a sled database that is written
//!   to for ever is the arrangement that failed.

mod checkpoint;
mod examine;
mod facts;
mod folder;
pub(super) mod inspect;
mod newest;
mod packed;
mod recover;
mod rewrite;
mod space;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use self::checkpoint::{Checkpoint, Checkpoints};
pub(super) use self::folder::set_stray_aside;
use self::folder::{Old, Segment, Span, build, discard, held, publish};
use self::newest::NewestSegment;
use self::packed::{Packed, Packer};
use self::recover::{Trust, gaps, write_mark};
use super::journal::{Journal, Mark};
use super::lock::Lock;
use super::store::{Examined, Held, Notes, Store, Stretch};
use super::{Limit, disk, notes};
use crate::config::MAX_SAMPLE_BYTES;
use crate::entry::Seq;
use crate::planted::planted;

/// Positions that a segment may take: so many are skipped after a power cut.
pub const SEGMENT_ENTRIES: u64 = 4096;
/// A drained segment is left for a new one when its journal has this size, so that an empty queue
/// is small.
const DRAINED_BYTES: u64 = 1 << 20;
/// Segments that are kept for inspection after they could not be read in full.
const MAX_QUARANTINED: usize = 2;
/// Sealed segments whose blocks are kept in memory: the one at the head, the one after it while a
/// batch of the first is out, and one that is being thinned.
const MAX_LOADED: usize = 3;
/// What may come at once beside records: two setups in force, written anew, and a note.
const BESIDE_BYTES: u64 = 5 * MAX_SAMPLE_BYTES as u64;
/// A database takes so much more than its values, at most.
const DATABASE_BYTES: u64 = 192 << 10;

const VERSION: u32 = 1;

type Records = Vec<(Seq, Vec<u8>)>;

/// Records that a segment is to hold in a queue of `max_entries`.
pub(super) fn segment_entries(max_entries: u64) -> u64 {
    (max_entries / 16).clamp(16, SEGMENT_ENTRIES)
}

/// How the store behaves; not part of what is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment is sealed when it has so many records, 1 to [`SEGMENT_ENTRIES`].
    pub segment_entries: u64,
    /// A segment is sealed when its journal has grown to this.
    pub segment_bytes: u64,
    /// Two files of this size are kept of each kind of notes.
    pub notes_bytes: u64,
    /// Names the time since the machine was started; empty when the system does not say.
    pub boot: String,
}

impl Options {
    /// For a queue that may take so much: what is dropped or thinned at once when it is full is
    /// about a sixteenth of it.
    pub fn new(max_entries: u64, max_bytes: u64) -> Self {
        Self {
            segment_entries: segment_entries(max_entries),
            segment_bytes: (max_bytes / 16).clamp(512 << 10, 4 << 20),
            notes_bytes: (max_bytes / 64).min(4 << 20),
            boot: disk::boot().unwrap_or_default(),
        }
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
    newest: Option<NewestSegment>,
    /// The most recently read last.
    loaded: VecDeque<(Seq, Packed)>,
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
    /// Bytes on the disk of all sealed segments, and of the largest.
    sealed_bytes: u64,
    largest_bytes: u64,
    /// Bytes on the disk of what is no segment and no journal.
    other_bytes: u64,
    checkpoints: Checkpoints,
    /// Where records were lost, ends included, until [`Store::take_lost`].
    lost_stretches: Vec<(Seq, Seq)>,
    /// All facts, so that those whose files somebody deletes are written again.
    facts: BTreeMap<String, Vec<u8>>,
    /// `None` where the caller sees to it that the folder has one user.
    lock: Option<Lock>,
}

impl SegmentStore {
    /// Opens the store in `folder`, making it if need be.
    pub fn open(folder: &Path, options: Options) -> io::Result<Self> {
        Self::start(folder, options, &Trust::Disk)
    }

    /// Keeps the lock of the folder, and checks at each flush that it is still valid.
    pub(super) fn guard(&mut self, lock: Lock) {
        self.lock = Some(lock);
    }

    /// To be called when all is flushed. While a segment is being replaced its records count twice or
    /// not at all: the checkpoint before that stays.
    fn note_checkpoint(&mut self) {
        if let Some(newest) = &self.newest
            && self.replaced == (0, 0)
        {
            let (lo, lost, mark) = (newest.lo, self.lost(), self.mark());
            self.checkpoints.write(&Checkpoint { lo, lost, mark });
        }
    }

    fn newest(&mut self) -> io::Result<&mut NewestSegment> {
        self.newest.as_mut().ok_or_else(not_open)
    }

    /// After this only [`Store::reopen`] helps: what the disk holds is uncertain.
    fn fail<T>(&mut self, error: io::Error) -> io::Result<T> {
        self.newest = None;
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
    fn note_mark(&mut self) -> io::Result<()> {
        let mark = self.mark();
        self.with_ballast(|store| store.newest()?.journal.mark(&mark))?;
        self.dirty = true;
        Ok(())
    }

    /// What is below `head` is not held any more; returns how much that was.
    fn release_below(&mut self, head: Seq) -> io::Result<Held> {
        let mut released = Held::default();
        let mut index = 0;
        while let Some(segment) = self.sealed.get_mut(index)
            && segment.span.lo < head
        {
            if segment.span.last < head {
                released += std::mem::take(&mut segment.held);
                index += 1;
                continue;
            }
            if self.load(index)? == Loading::Replaced {
                continue;
            }
            let lo = self.sealed[index].span.lo;
            let left = self.packed(lo).map(|packed| packed.holds_from(head)).unwrap_or_default();
            released += std::mem::replace(&mut self.sealed[index].held, left) - left;
            break;
        }
        if let Some(newest) = &mut self.newest {
            released += newest.release_below(head);
        }
        self.held = self.held - released;
        Ok(released)
    }

    /// The blocks of a segment that was loaded.
    fn packed(&mut self, lo: Seq) -> Option<&mut Packed> {
        let mut loaded = self.loaded.iter_mut();
        loaded.find(|(loaded, _)| *loaded == lo).map(|(_, packed)| packed)
    }

    /// Brings the blocks of the sealed segment at `index` into memory.
    fn load(&mut self, index: usize) -> io::Result<Loading> {
        let Segment { span, all, level, .. } = self.sealed[index];
        if self.packed(span.lo).is_some() {
            return Ok(Loading::Done);
        }
        let path = span.path(&self.folder);
        let (packed, trouble) = Packed::read(&path, span.lo);
        self.sealed[index].disk_bytes = disk::used(&path);
        self.measure_sealed();
        match trouble {
            _ if packed.holds().records == all.records || planted("damage_not_counted") => {}
            Some(error) if disk::is_circumstance(&error) => return Err(error),
            trouble => {
                let records = packed.all();
                tracing::error!(
                    segment = %span.lo, records = all.records, readable = records.len(),
                    error = trouble.map(tracing::field::display),
                    "a segment of the queue is damaged: set aside, what can be read is kept",
                );
                let seqs = records.iter().map(|(seq, _)| *seq);
                self.lost_stretches.extend(gaps(span.lo.max(self.head), span.last, seqs, level));
                let records = records.into_iter().filter(|(seq, _)| *seq >= self.head).collect();
                self.rewrite(span, level, records, Old::Quarantine, None)?;
                return Ok(Loading::Replaced);
            }
        }
        self.keep_loaded(span.lo, packed);
        Ok(Loading::Done)
    }

    fn keep_loaded(&mut self, lo: Seq, packed: Packed) {
        while self.loaded.len() >= MAX_LOADED {
            self.loaded.pop_front();
        }
        self.loaded.push_back((lo, packed));
    }

    /// Begins a new segment; what is held of the old one is sealed. On an error the old one goes on.
    fn rotate(&mut self) -> io::Result<()> {
        self.with_ballast(Self::try_rotate)?;
        self.fill_ballast();
        Ok(())
    }

    fn try_rotate(&mut self) -> io::Result<()> {
        self.restore_facts();
        let (tail, mark, head) = (self.tail, self.mark(), self.head);
        let boot = self.options.boot.clone();
        let newest = self.newest.as_mut().ok_or_else(not_open)?;
        let (lo, held) = (newest.lo, newest.held());
        let mut sealed = None;
        if held.records > 0 {
            let span = Span { lo, last: Seq(tail.0 - 1) };
            let mut packer = Packer::new(lo);
            newest.each(head.max(lo), usize::MAX, |seq, record| {
                packer.add(seq, record).map(|()| true)
            })?;
            let packed = packer.finish()?;
            let segment = build(&self.folder, span, &packed, held, 0)?;
            publish(&self.folder, span)?;
            sealed = Some((segment, packed));
        }
        let begun = write_mark(&self.folder, &mark)
            .and_then(|()| Journal::create(&self.folder, tail, &boot, &mark));
        let journal = match begun {
            Ok(journal) => journal,
            Err(error) => {
                // What was sealed goes on in the journal.
                sealed.map_or(Ok(()), |(segment, _)| discard(&self.folder, segment.span))?;
                return Err(error);
            }
        };
        self.dirty = false;
        self.durable_head = self.head;
        let old = self.newest.replace(NewestSegment::new(tail, journal));
        if let Some((segment, packed)) = sealed {
            if self.head >= lo {
                // The reader is here: spares opening it again at once.
                self.keep_loaded(lo, packed);
            }
            self.sealed.push_back(segment);
            self.measure_sealed();
        }
        match old {
            // Else it was replaced under its own name.
            Some(old) if old.lo != tail => disk::remove_file(old.journal.path()),
            _ => Ok(()),
        }
    }

    fn is_rotation_due(&self) -> bool {
        let Some(newest) = &self.newest else { return false };
        let drained = newest.held().records == 0 && newest.journal.len() > DRAINED_BYTES;
        // A little early: whoever fills it up would wait for the sealing.
        newest.len() >= (self.options.segment_entries * 7 / 8).max(1)
            || newest.journal.len() >= self.options.segment_bytes
            || drained
    }

    /// Removes the segments that nobody needs any more.
    fn remove_released(&mut self) -> io::Result<()> {
        let needed_from = match planted("segment_removed_too_early") {
            true => self.head,
            false => self.durable_head,
        };
        while let Some(segment) = self.sealed.front()
            && segment.span.last < needed_from
        {
            discard(&self.folder, segment.span)?;
            let lo = segment.span.lo;
            self.loaded.retain(|(loaded, _)| *loaded != lo);
            self.sealed.pop_front();
            self.measure_sealed();
        }
        Ok(())
    }

    fn stretch(&self, segment: &Segment) -> Stretch {
        let Segment { span, held, level, .. } = *segment;
        Stretch { first: span.lo.max(self.head), last: span.last, held, level }
    }
}

impl Store for SegmentStore {
    fn is_open(&self) -> bool {
        self.newest.as_ref().is_some_and(|newest| !newest.journal.is_torn())
    }

    fn is_durable(&self) -> bool {
        !self.dirty
    }

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
        let seq = self.tail;
        let newest = self.newest()?;
        if newest.len() >= SEGMENT_ENTRIES {
            self.rotate()?;
        }
        self.newest()?.append(seq, record)?;
        self.held += Held { records: 1, bytes: record.len() as u64 };
        self.dirty = true;
        self.tail = Seq(seq.0 + 1);
        self.appended += 1;
        Ok(seq)
    }

    fn release(&mut self, head: Seq, books: &[u8]) -> io::Result<()> {
        let head = head.clamp(self.head, self.tail);
        if head > self.head {
            let released = self.release_below(head)?.records;
            self.released += if planted("release_not_counted") { 0 } else { released };
            self.head = head;
        }
        self.books = books.to_vec();
        match self.note_mark() {
            Err(error) => self.fail(error),
            done => done,
        }
    }

    fn stretches(&self) -> Vec<Stretch> {
        let held = self.sealed.iter().filter(|segment| segment.held.records > 0);
        held.map(|segment| self.stretch(segment)).collect()
    }

    fn oldest_stretch(&self) -> Option<Stretch> {
        self.sealed.iter().find(|s| s.held.records > 0).map(|segment| self.stretch(segment))
    }

    fn seal(&mut self) -> io::Result<()> {
        self.rotate()
    }

    fn replace(
        &mut self,
        first: Seq,
        last: Seq,
        level: u32,
        records: Vec<(Seq, Vec<u8>)>,
        books: &[u8],
    ) -> io::Result<()> {
        // What is released of the first stretch goes as well. It may have gone as a whole: nothing
        // of it could be read.
        let is_first = |s: &&Segment| s.span.lo <= first && first <= s.span.last;
        let lo = self.sealed.iter().find(is_first).map_or(first, |s| s.span.lo);
        self.rewrite(Span { lo, last }, level, records, Old::Discard, Some(books))
    }

    fn flush(&mut self) -> io::Result<()> {
        let head = self.head;
        if !self.dirty {
            return self.newest().map(drop);
        }
        let is_locked = self.lock.as_ref().is_none_or(Lock::is_valid);
        let journal = &self.newest()?.journal;
        let missing = |text| Err(io::Error::new(io::ErrorKind::NotFound, text));
        let synced = match journal.is_there() {
            true if is_locked => journal.sync(),
            true => missing("the queue's lock file was removed"),
            false => missing("the folder was removed"),
        };
        // After a failed fsync the system forgets what it could not write: only writing it anew
        // helps.
        if let Err(error) = synced {
            return self.fail(error);
        }
        self.dirty = false;
        self.durable_head = head;
        self.note_checkpoint();
        Ok(())
    }

    fn take_lost(&mut self) -> Vec<(Seq, Seq)> {
        std::mem::take(&mut self.lost_stretches)
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
            let newest = self.newest()?;
            let lo = newest.lo;
            let index = self.sealed.partition_point(|segment| segment.span.last < from);
            let Some(segment) = self.sealed.get(index).filter(|_| from < lo) else {
                return match self.newest()?.read(from, limit) {
                    Err(error) => self.fail(error),
                    records => records,
                };
            };
            let Span { lo, last } = segment.span;
            if self.load(index)? == Loading::Replaced {
                continue;
            }
            let records = self.packed(lo).map(|packed| packed.range(from, limit));
            match records {
                Some(records) if !records.is_empty() => return Ok(records),
                _ => from = Seq(last.0 + 1),
            }
        }
    }

    fn examine(&self, from: Seq) -> io::Result<Option<Examined>> {
        let from = from.max(self.head);
        let newest = self.newest.as_ref().ok_or_else(not_open)?;
        match self.sealed.iter().find(|segment| segment.span.last >= from) {
            Some(segment) => examine::segment(&self.folder, segment.span, self.head).map(Some),
            None if from < self.tail => {
                examine::journal(&self.folder, newest.lo, self.head, self.tail)
            }
            None => Ok(None),
        }
    }

    fn put(&mut self, key: &str, value: Option<&[u8]>) -> io::Result<()> {
        self.put_fact(key, value)
    }

    fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.facts.get(key).cloned())
    }

    fn last(&self) -> Option<Seq> {
        let newest = self.newest.as_ref().filter(|newest| newest.held().records > 0);
        let newest = newest.map(NewestSegment::last);
        let sealed = self.sealed.iter().rev().find(|segment| segment.held.records > 0);
        newest.or(sealed.map(|segment| segment.span.last))
    }

    fn note(&mut self, notes: Notes, line: &str) -> io::Result<()> {
        notes::append(&self.folder, notes, line, self.options.notes_bytes)?;
        self.measure_others();
        Ok(())
    }

    fn notes(&self, notes: Notes) -> io::Result<String> {
        notes::read(&self.folder, notes)
    }

    fn take_notes(&mut self, notes: Notes) -> io::Result<String> {
        let text = notes::take(&self.folder, notes)?;
        self.measure_others();
        Ok(text)
    }

    fn disk_bytes(&self) -> u64 {
        self.other_bytes
            + self.sealed_bytes
            + self.newest.as_ref().map_or(0, NewestSegment::disk_bytes)
    }

    fn disk_bytes_with(&self, record: usize) -> u64 {
        let journal = self.newest.as_ref().map_or(0, |newest| newest.journal.len()) + record as u64;
        // Beside the journal that is sealed, or beside two segments that become one.
        let sealing = journal + journal / 16;
        let more = sealing.max(2 * self.largest_bytes) + DATABASE_BYTES;
        self.disk_bytes() + record as u64 + more + BESIDE_BYTES
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.newest = None;
        if let Some(lock) = &mut self.lock {
            lock.renew()?;
        }
        let trust = Trust::Nothing(self.mark());
        let mut opened = Self::start(&self.folder, self.options.clone(), &trust)?;
        opened.lock = self.lock.take();
        opened.lost_stretches.append(&mut self.lost_stretches);
        for (key, value) in std::mem::take(&mut self.facts) {
            opened.facts.entry(key).or_insert(value);
        }
        *self = opened;
        self.restore_facts();
        Ok(())
    }
}

impl Drop for SegmentStore {
    fn drop(&mut self) {
        let Some(newest) = &mut self.newest else { return };
        match newest.journal.close() {
            Ok(()) => self.note_checkpoint(),
            Err(error) => tracing::warn!(%error, "the queue was not closed in good order"),
        }
        self.restore_facts();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loading {
    Done,
    /// It was damaged: another segment, or none, is in its place.
    Replaced,
}

fn not_open() -> io::Error {
    io::Error::other("the store failed and is not open")
}

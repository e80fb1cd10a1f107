//! The on-disk store of the queue: a sequence of sealed segments on sled, and the write-ahead log
//! of the active segment.
//!
//! ```text
//! FORMAT                 format version of this folder
//! q-<base>-<last>/       a sealed segment: a sled database of the records between two positions
//! q-<base>-<last>/seal   written last: the number and size of its records
//! q-<base>-<last>/blocks its records, if sled hung when it was sealed
//! tail-<base>.log        the write-ahead log: the active segment, starting at position <base>
//! mark                   state when the write-ahead log was created, in case that log is lost
//! checkpoint             state at the last flush: reveals what is missing from the write-ahead log
//! unfinished-*/          a segment that is being written
//! new-<base>-<last>/     a complete segment that is yet to be renamed into place
//! trash-*  *.tmp         being deleted, or never completed
//! quarantine/            segments that could not be read in full, the last few; dead letters
//! dispositions/          dispositions of the entries that have left the queue
//! facts/<key>            the caller's facts, each a checksummed file
//! ballast                reserved space, released when the disk is full
//! ```
//!
//! A single long-lived sled database grows to many times the size of its records and was consistent
//! in 93 of 236 simulated power cuts; a sequence of databases with a write-ahead log for the newest
//! was consistent in 1,783 of 1,783. The store therefore uses a sequence, and takes it one step
//! further: the active segment consists of its write-ahead log alone.
//! - Records are appended to the write-ahead log. A flush is one fsync of it. Entries that are
//!   delivered within the length of a segment, as in every race without an outage, never pass
//!   through sled.
//! - When the write-ahead log is full, its unreleased records are packed into a sled database:
//!   written once, never changed. Every file and the folder are synced before the rename, and the
//!   rename before the write-ahead log is deleted. Compressed frames take a quarter of their size;
//!   records stored one by one took three times their size.
//! - A segment's folder is deleted once all its records are released and the release is durable.
//! - After a power cut the write-ahead log is not appended to: its readable part is sealed, and the
//!   next segment begins [`SEGMENT_ENTRIES`] after the last known position, so that a position that
//!   was assigned but not yet durable is never reused. The boot ID distinguishes a power cut from a
//!   killed process.
//! - A checkpoint record in the write-ahead log holds the numbers of appended and released records
//!   and the caller's metadata at the same moment. Records that are neither released nor present
//!   are lost. The loss is derived, so the ledger balances whatever the damage.
//! - If sled cannot read a segment, its raw bytes are scanned block by block. The rest is counted
//!   as lost, the folder moves to quarantine, and a segment with the recovered records replaces it.
//! - Opening a store reads file names and seals, and the write-ahead log.
//! - Facts are plain files because their loss would be silent: a sled database that is written to
//!   forever is the arrangement that failed the power-cut tests.

mod active;
mod cache;
pub(in crate::queue) mod checkpoint;
pub(in crate::queue) mod contents;
pub(in crate::queue) mod facts;
pub(in crate::queue) mod folder;
pub(in crate::queue) mod format;
pub(in crate::queue) mod recover;
mod rewrite;
mod rotate;
mod space;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use self::active::ActiveSegment;
use self::cache::LoadOutcome;
use self::checkpoint::{CheckpointFile, SavedCheckpoint};
use self::folder::{Replaced, Segment, discard};
use self::recover::Trust;
use super::lock::Lock;
use super::names::SeqRange;
use super::sealed::SealedSegment;
use super::wal::Checkpoint;
use super::{
    Records, SegmentContents, SegmentInfo, SideLog, SideLogs, Storage, Usage, disk, side_log,
};
use crate::entry::Seq;
use crate::fields::MAX_SAMPLE_BYTES;
use crate::queue::Limit;

/// The maximum number of positions in a segment, and the number that is skipped after a power cut.
pub const SEGMENT_ENTRIES: u64 = 4096;
/// Space for what may be written at once besides records: two setups in force, rewritten, and a
/// side-log line.
const BESIDE_BYTES: u64 = 5 * MAX_SAMPLE_BYTES as u64;
/// The maximum overhead of a sled database over its values.
const DATABASE_BYTES: u64 = 192 << 10;

/// The number of records per segment for a queue of `max_entries`.
pub(in crate::queue) fn segment_entries(max_entries: u64) -> u64 {
    (max_entries / 16).clamp(16, SEGMENT_ENTRIES)
}

/// Settings of the store that are not part of the on-disk format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The active segment is sealed when it has this many records, 1 to [`SEGMENT_ENTRIES`].
    pub segment_entries: u64,
    /// The active segment is sealed when its write-ahead log reaches this size.
    pub segment_bytes: u64,
    /// The size of each of the two files of a side log.
    pub notes_bytes: u64,
    /// The boot ID; empty if the operating system provides none.
    pub boot: String,
}

impl Options {
    /// Options for a queue with these limits. A segment is about a sixteenth of the queue, and so
    /// is the amount that a full queue drops or downsamples at once.
    pub fn new(max_entries: u64, max_bytes: u64) -> Self {
        Self {
            segment_entries: segment_entries(max_entries),
            segment_bytes: (max_bytes / 16).clamp(512 << 10, 4 << 20),
            notes_bytes: (max_bytes / 64).min(4 << 20),
            boot: disk::boot().unwrap_or_default(),
        }
    }
}

/// A store that keeps its records in a folder.
#[derive(Debug)]
pub struct SegmentStore {
    folder: PathBuf,
    options: Options,
    /// The sealed segments, oldest first.
    sealed: VecDeque<Segment>,
    /// The active segment; `None` after an error, until the store is reopened.
    active: Option<ActiveSegment>,
    /// Cached blocks of sealed segments, most recently loaded last.
    loaded: VecDeque<(Seq, SealedSegment)>,
    head: Seq,
    /// Segments below this position are not needed, even after a power cut.
    durable_head: Seq,
    tail: Seq,
    appended: u64,
    released: u64,
    /// Unreleased records in all segments; retained while the store is failed.
    usage: Usage,
    metadata: Vec<u8>,
    replaced: (u64, u64),
    /// The write-ahead log contains unsynced data.
    dirty: bool,
    /// Disk usage of all sealed segments, and of the largest one.
    sealed_bytes: u64,
    largest_bytes: u64,
    /// Disk usage of everything except segments and the write-ahead log.
    other_bytes: u64,
    checkpoints: CheckpointFile,
    /// Position ranges (inclusive) of lost records, until [`Storage::take_lost`].
    lost_ranges: Vec<(Seq, Seq)>,
    /// All facts, so that files deleted by another program can be restored.
    facts: BTreeMap<String, Vec<u8>>,
    /// `None` if the caller ensures that the folder has only one user.
    lock: Option<Lock>,
}

impl SegmentStore {
    /// Opens the store in `folder`, creating it if necessary.
    pub fn open(folder: &Path, options: Options) -> io::Result<Self> {
        Self::start(folder, options, &Trust::Disk)
    }

    /// Takes ownership of the folder's lock. Each flush checks that it is still valid.
    pub(in crate::queue) fn guard(&mut self, lock: Lock) {
        self.lock = Some(lock);
    }

    /// Writes the checkpoint file. Call it only when everything is flushed. While a segment is
    /// being replaced, the previous checkpoint is kept: the replaced records would count twice or
    /// not at all.
    fn save_checkpoint(&mut self) {
        if let Some(newest) = &self.active
            && self.replaced == (0, 0)
        {
            let (lo, lost, mark) = (newest.base_seq, self.lost(), self.checkpoint());
            self.checkpoints.write(&SavedCheckpoint { base_seq: lo, lost, checkpoint: mark });
        }
    }

    fn active(&mut self) -> io::Result<&mut ActiveSegment> {
        self.active.as_mut().ok_or_else(not_open)
    }

    /// Closes the store until [`Storage::reopen`], because the state of the disk is uncertain.
    fn fail<T>(&mut self, error: io::Error) -> io::Result<T> {
        self.active = None;
        Err(error)
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            head: self.head.0,
            tail: self.tail.0,
            appended: self.appended,
            released: self.released,
            replaced: self.replaced,
            metadata: self.metadata.clone(),
        }
    }

    /// Appends a checkpoint record to the write-ahead log. The ballast makes this possible on a
    /// full disk; otherwise nothing could be released and no space freed.
    fn append_checkpoint(&mut self) -> io::Result<()> {
        let checkpoint = self.checkpoint();
        self.with_ballast(|store| store.active()?.wal.append_checkpoint(&checkpoint))?;
        self.dirty = true;
        Ok(())
    }

    /// Marks the records below `head` as released; returns their number and size.
    fn release_below(&mut self, head: Seq) -> io::Result<Usage> {
        let mut released = Usage::default();
        let mut index = 0;
        while let Some(segment) = self.sealed.get_mut(index)
            && segment.range.base_seq < head
        {
            if segment.range.last < head {
                released += std::mem::take(&mut segment.pending);
                index += 1;
                continue;
            }
            if self.load(index)? == LoadOutcome::Replaced {
                continue;
            }
            let base_seq = self.sealed[index].range.base_seq;
            let left =
                self.loaded(base_seq).map(|sealed| sealed.usage_from(head)).unwrap_or_default();
            released += std::mem::replace(&mut self.sealed[index].pending, left) - left;
            break;
        }
        if let Some(newest) = &mut self.active {
            released += newest.release_below(head);
        }
        self.usage = self.usage - released;
        Ok(released)
    }

    /// Deletes the segments that are no longer needed.
    fn remove_released(&mut self) -> io::Result<()> {
        while let Some(segment) = self.sealed.front()
            && segment.range.last < self.durable_head
        {
            discard(&self.folder, segment.range)?;
            let base_seq = segment.range.base_seq;
            self.loaded.retain(|(loaded, _)| *loaded != base_seq);
            self.sealed.pop_front();
            self.measure_sealed();
        }
        Ok(())
    }

    fn segment_info(&self, segment: &Segment) -> SegmentInfo {
        let Segment { range: span, pending: held, level, .. } = *segment;
        SegmentInfo { first: span.base_seq.max(self.head), last: span.last, usage: held, level }
    }
}

impl Storage for SegmentStore {
    fn is_open(&self) -> bool {
        self.active.as_ref().is_some_and(|newest| !newest.wal.is_torn())
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

    fn usage(&self) -> Usage {
        self.usage
    }

    fn appended(&self) -> u64 {
        self.appended
    }

    fn lost(&self) -> u64 {
        self.appended.saturating_sub(self.released + self.usage.records)
    }

    fn metadata(&self) -> Option<Vec<u8>> {
        (!self.metadata.is_empty()).then(|| self.metadata.clone())
    }

    fn append(&mut self, record: &[u8]) -> io::Result<Seq> {
        let seq = self.tail;
        let newest = self.active()?;
        if newest.len() >= SEGMENT_ENTRIES {
            self.rotate()?;
        }
        self.active()?.append(seq, record)?;
        self.usage += Usage { records: 1, bytes: record.len() as u64 };
        self.dirty = true;
        self.tail = Seq(seq.0 + 1);
        self.appended += 1;
        Ok(seq)
    }

    fn truncate(&mut self, head: Seq, metadata: &[u8]) -> io::Result<()> {
        let head = head.clamp(self.head, self.tail);
        if head > self.head {
            let released = self.release_below(head)?.records;
            self.released += released;
            self.head = head;
        }
        self.metadata = metadata.to_vec();
        match self.append_checkpoint() {
            Err(error) => self.fail(error),
            done => done,
        }
    }

    fn sealed_segments(&self) -> Vec<SegmentInfo> {
        let usage = self.sealed.iter().filter(|segment| segment.pending.records > 0);
        usage.map(|segment| self.segment_info(segment)).collect()
    }

    fn oldest_sealed_segment(&self) -> Option<SegmentInfo> {
        self.sealed.iter().find(|s| s.pending.records > 0).map(|segment| self.segment_info(segment))
    }

    fn seal(&mut self) -> io::Result<()> {
        self.rotate()
    }

    fn replace(
        &mut self,
        first: Seq,
        last: Seq,
        level: u32,
        records: Records,
        metadata: &[u8],
    ) -> io::Result<()> {
        // Includes the released part of the first segment. That segment may be missing if none of
        // it could be read.
        let ranges = self.sealed.iter().map(|segment| segment.range);
        let mut containing = ranges.filter(|range| range.base_seq <= first && first <= range.last);
        let base_seq = containing.next().map_or(first, |range| range.base_seq);
        let range = SeqRange { base_seq, last };
        self.rewrite(range, level, records, Replaced::Discard, Some(metadata))
    }

    fn flush(&mut self) -> io::Result<()> {
        let head = self.head;
        if !self.dirty {
            return self.active().map(drop);
        }
        let is_locked = self.lock.as_ref().is_none_or(Lock::is_valid);
        let wal = &self.active()?.wal;
        let synced = if !wal.is_there() {
            Err(io::Error::new(io::ErrorKind::NotFound, "the folder was removed"))
        } else if !is_locked {
            Err(io::Error::new(io::ErrorKind::NotFound, "the queue's lock file was removed"))
        } else {
            wal.sync()
        };
        // After a failed fsync the kernel may drop the dirty pages, so a retry is useless: the data
        // must be written again.
        if let Err(error) = synced {
            return self.fail(error);
        }
        self.dirty = false;
        self.durable_head = head;
        self.save_checkpoint();
        Ok(())
    }

    fn take_lost(&mut self) -> Vec<(Seq, Seq)> {
        std::mem::take(&mut self.lost_ranges)
    }

    fn maintain(&mut self) -> io::Result<()> {
        if self.is_rotation_due() {
            self.rotate()?;
        }
        self.remove_released()
    }

    fn read(&mut self, from: Seq, limit: Limit) -> io::Result<Records> {
        let mut from = from.max(self.head);
        loop {
            let newest = self.active()?;
            let lo = newest.base_seq;
            let index = self.sealed.partition_point(|segment| segment.range.last < from);
            let Some(segment) = self.sealed.get(index).filter(|_| from < lo) else {
                return match self.active()?.read(from, limit) {
                    Err(error) => self.fail(error),
                    records => records,
                };
            };
            let SeqRange { base_seq: lo, last } = segment.range;
            if self.load(index)? == LoadOutcome::Replaced {
                continue;
            }
            let records = self.loaded(lo).map(|sealed| sealed.range(from, limit));
            match records {
                Some(records) if !records.is_empty() => return Ok(records),
                _ => from = Seq(last.0 + 1),
            }
        }
    }

    fn read_segment(&self, from: Seq) -> io::Result<Option<SegmentContents>> {
        let from = from.max(self.head);
        let newest = self.active.as_ref().ok_or_else(not_open)?;
        match self.sealed.iter().find(|segment| segment.range.last >= from) {
            Some(segment) => contents::segment(&self.folder, segment.range, self.head).map(Some),
            None if from < self.tail => {
                contents::wal(&self.folder, newest.base_seq, self.head, self.tail)
            }
            None => Ok(None),
        }
    }

    fn last(&self) -> Option<Seq> {
        let newest = self.active.as_ref().filter(|newest| newest.usage().records > 0);
        let newest = newest.map(ActiveSegment::last);
        let sealed = self.sealed.iter().rev().find(|segment| segment.pending.records > 0);
        newest.or(sealed.map(|segment| segment.range.last))
    }

    fn disk_bytes(&self) -> u64 {
        self.other_bytes
            + self.sealed_bytes
            + self.active.as_ref().map_or(0, ActiveSegment::disk_bytes)
    }

    fn disk_bytes_with(&self, record: usize) -> u64 {
        let wal = self.active.as_ref().map_or(0, |newest| newest.wal.len()) + record as u64;
        // The peak is while the write-ahead log is being sealed, or while two segments are merged
        // into one.
        let sealing = wal + wal / 16;
        let more = sealing.max(2 * self.largest_bytes) + DATABASE_BYTES;
        self.disk_bytes() + record as u64 + more + BESIDE_BYTES
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.active = None;
        if let Some(lock) = &mut self.lock {
            lock.renew()?;
        }
        let trust = Trust::Nothing(self.checkpoint());
        let mut opened = Self::start(&self.folder, self.options.clone(), &trust)?;
        opened.lock = self.lock.take();
        opened.lost_ranges.append(&mut self.lost_ranges);
        for (key, value) in std::mem::take(&mut self.facts) {
            opened.facts.entry(key).or_insert(value);
        }
        *self = opened;
        self.restore_facts();
        Ok(())
    }
}

impl SideLogs for SegmentStore {
    fn append_line(&mut self, log: SideLog, line: &str) -> io::Result<()> {
        side_log::append(&self.folder, log, line, self.options.notes_bytes)?;
        self.measure_others();
        Ok(())
    }

    fn lines(&self, log: SideLog) -> io::Result<String> {
        side_log::read(&self.folder, log)
    }

    fn archive_lines(&mut self, log: SideLog) -> io::Result<String> {
        let text = side_log::take(&self.folder, log)?;
        self.measure_others();
        Ok(text)
    }
}

impl Drop for SegmentStore {
    fn drop(&mut self) {
        let Some(newest) = &mut self.active else { return };
        match newest.wal.close() {
            Ok(()) => self.save_checkpoint(),
            Err(error) => tracing::warn!(%error, "the queue was not closed cleanly"),
        }
        self.restore_facts();
    }
}

fn not_open() -> io::Error {
    io::Error::other("the store is closed after an earlier error")
}

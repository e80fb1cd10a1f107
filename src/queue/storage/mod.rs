//! The storage of the queue: an interface in three parts, and its implementation in a folder.
//!
//! The queue engine needs a [`Store`]: [`Storage`] for records, [`KeyValue`] for facts, and
//! [`SideLogs`] for what operators read. [`SegmentStore`] implements them; the tests also use an
//! in-memory disk that loses unflushed data, tears writes and fails.
//!
//! A store keeps bytes under positions. It knows nothing about limits, policies or frames.

pub(crate) mod disk;
mod framing;
pub(crate) mod free_space;
pub(super) mod lock;
pub(super) mod names;
pub(super) mod owner;
pub(super) mod quarantine;
mod sealed;
pub(super) mod segments;
mod side_log;
pub(super) mod wal;

use std::io;
use std::ops::{AddAssign, Sub};

pub(super) use self::segments::segment_entries;
pub use self::segments::{Options, SEGMENT_ENTRIES, SegmentStore};
use super::Limit;
use crate::entry::Seq;

/// The first position of a new queue.
pub const FIRST: Seq = Seq(1);

/// Records and their positions, oldest first.
pub type Records = Vec<(Seq, Vec<u8>)>;

/// The number and size of stored records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub records: u64,
    /// Total size of the records in bytes.
    pub bytes: u64,
}

impl Usage {
    /// The number and size of `records`.
    pub(super) fn of(records: &[(Seq, Vec<u8>)]) -> Self {
        let bytes = records.iter().map(|(_, record)| record.len() as u64).sum();
        Self { records: records.len() as u64, bytes }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.bytes += more.bytes;
    }
}

impl Sub for Usage {
    type Output = Self;

    /// Saturates at zero.
    fn sub(self, less: Self) -> Self {
        Self {
            records: self.records.saturating_sub(less.records),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

/// A side log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideLog {
    /// Dead letters: entries that a server refused.
    DeadLetters,
    /// The dispositions of entries that have left the queue.
    Dispositions,
}

/// A sealed segment: a contiguous range of records that is no longer appended to and can be
/// downsampled as a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Lower bound of its positions.
    pub first: Seq,
    /// Upper bound of its positions, inclusive.
    pub last: Seq,
    /// Its records that are not released.
    pub usage: Usage,
    /// The downsampling level given to [`Storage::replace`]; 0 if it was never replaced.
    pub level: u32,
}

/// The on-disk content of a sealed segment or of the active segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentContents {
    /// Lower bound of its positions.
    pub first: Seq,
    /// Upper bound of its positions, inclusive.
    pub last: Seq,
    /// The readable records that are not released, oldest first.
    pub records: Records,
    /// The number of records that should exist but cannot be read.
    pub missing: u64,
    /// Damage to its files, as text for the operator.
    pub trouble: Option<String>,
}

/// Everything that the queue engine needs from its disk.
pub trait Store: Storage + KeyValue + SideLogs + Send + 'static {}

impl<T: Storage + KeyValue + SideLogs + Send + 'static> Store for T {}

/// A durable sequence of records.
///
/// All methods block. A method that fails has changed nothing, or has closed the storage.
pub trait Storage {
    /// Whether the storage is usable. After a failed write it no longer knows what is on disk and
    /// stays closed until it is [reopened](Storage::reopen).
    fn is_open(&self) -> bool;

    /// Discards the state in memory and reloads it from disk.
    fn reopen(&mut self) -> io::Result<()>;

    /// The position of the oldest record; [`Storage::tail`] if there is none.
    fn head(&self) -> Seq;

    /// The position of the next record. Never decreases, even after a power cut; may jump ahead
    /// when the storage is opened.
    fn tail(&self) -> Seq;

    /// The position of the newest record.
    fn last(&self) -> Option<Seq>;

    /// The number and size of the records that [`Storage::read`] can return.
    fn usage(&self) -> Usage;

    /// The number of records ever appended. After a crash, appends that did not survive are not
    /// counted.
    fn appended(&self) -> u64;

    /// The number of records ever lost to damage.
    fn lost(&self) -> u64;

    /// Returns the position ranges (inclusive) of lost records that were not returned before.
    fn take_lost(&mut self) -> Vec<(Seq, Seq)> {
        Vec::new()
    }

    /// The metadata last passed to [`Storage::truncate`] or [`Storage::replace`]; `None` for new
    /// storage.
    fn metadata(&self) -> Option<Vec<u8>>;

    /// Appends a record at [`Storage::tail`]. It becomes durable with the next [`Storage::flush`].
    fn append(&mut self, record: &[u8]) -> io::Result<Seq>;

    /// Reads records from `from`, oldest first: at most `limit`, but at least one if any exists.
    fn read(&mut self, from: Seq, limit: Limit) -> io::Result<Records>;

    /// Reads the segment that contains `from`, or else the next one, from disk without changing it;
    /// `None` at the end.
    fn read_segment(&self, from: Seq) -> io::Result<Option<SegmentContents>>;

    /// Releases all records below `head` and stores `metadata` atomically with that. Durable after
    /// the next [`Storage::flush`].
    fn truncate(&mut self, head: Seq, metadata: &[u8]) -> io::Result<()>;

    /// The sealed segments that contain unreleased records, oldest first.
    fn sealed_segments(&self) -> Vec<SegmentInfo>;

    /// The oldest sealed segment that contains unreleased records.
    fn oldest_sealed_segment(&self) -> Option<SegmentInfo> {
        self.sealed_segments().into_iter().next()
    }

    /// Seals the active segment.
    fn seal(&mut self) -> io::Result<()>;

    /// Replaces the sealed segments from `first` to `last` by one that contains `records`, and
    /// stores `metadata` atomically with that. Durable when this returns. Records that are missing
    /// from `records` count as released.
    fn replace(
        &mut self,
        first: Seq,
        last: Seq,
        level: u32,
        records: Records,
        metadata: &[u8],
    ) -> io::Result<()>;

    /// Whether all appends and releases so far would survive a power cut.
    fn is_durable(&self) -> bool;

    /// Makes all earlier changes durable.
    fn flush(&mut self) -> io::Result<()>;

    /// Does slow housekeeping that would delay an append. Called when no caller waits.
    fn maintain(&mut self) -> io::Result<()>;

    /// Disk usage in bytes, as `du` counts it; includes facts and side logs.
    fn disk_bytes(&self) -> u64;

    /// The worst-case disk usage if a record of `record` bytes is appended: the peak of any
    /// operation on the records that the storage would then contain.
    fn disk_bytes_with(&self, record: usize) -> u64;
}

/// A few small facts that are rarely written.
pub trait KeyValue {
    /// Stores a fact; durable when this returns. Keys are file names: lower-case letters, digits,
    /// `_` and `-`.
    fn put(&mut self, key: &str, value: &[u8]) -> io::Result<()>;

    /// The fact stored by [`KeyValue::put`].
    fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>>;
}

/// Line-oriented text for operators, bounded in size.
pub trait SideLogs {
    /// Appends a line to a side log, durably. The oldest lines are deleted when the side log is
    /// full.
    fn append_line(&mut self, log: SideLog, line: &str) -> io::Result<()>;

    /// The current lines of a side log, oldest first.
    fn lines(&self, log: SideLog) -> io::Result<String>;

    /// Archives the lines of a side log, so that [`SideLogs::lines`] no longer returns them, and
    /// returns them. Replaces the previous archive.
    fn archive_lines(&mut self, log: SideLog) -> io::Result<String>;
}

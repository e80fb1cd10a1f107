//! What a disk must do for the queue; [`super::segments`] does it with sled, the tests with a disk
//! in memory that forgets what was not flushed, tears and fails.
//!
//! A store keeps bytes and positions. It knows no limits, no policies and no frames.

use std::io;
use std::ops::{AddAssign, Sub};

use super::Limit;
use crate::entry::Seq;

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub records: u64,
    /// Bytes of the records.
    pub bytes: u64,
}

impl AddAssign for Held {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.bytes += more.bytes;
    }
}

impl Sub for Held {
    type Output = Self;

    /// What is left; nothing where there is less.
    fn sub(self, less: Self) -> Self {
        Self {
            records: self.records.saturating_sub(less.records),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

/// Texts that are kept beside the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notes {
    /// Entries that a server refuses.
    Refused,
    /// What became of the entries that are gone.
    Fates,
}

/// Records next to each other that can be thinned together: what is not written to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// No record of it is below.
    pub first: Seq,
    /// No record of it is above.
    pub last: Seq,
    /// What is held of it.
    pub held: Held,
    /// What [`Store::replace`] was given; 0 for one that was never replaced.
    pub level: u32,
}

/// A stretch, or what is in none yet, as it lies on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// No record of it is below.
    pub first: Seq,
    /// No record of it is above.
    pub last: Seq,
    /// Those that can be read and are not released, oldest first.
    pub records: Vec<(Seq, Vec<u8>)>,
    /// Records that should be there and cannot be read.
    pub missing: u64,
    /// What is wrong with its files.
    pub trouble: Option<String>,
}

/// A log of records on a disk, with a little room for facts beside it.
///
/// All methods block. One that fails has changed nothing, or closed the store.
pub trait Store: Send + 'static {
    /// Whether it can be used: it could not write and no longer knows what is on the disk until it
    /// is [opened again](Store::reopen).
    fn is_open(&self) -> bool;

    /// Whether everything that was appended and released would survive a power cut.
    fn is_durable(&self) -> bool;

    /// The position of the oldest record that is held; [`Store::tail`] when there is none.
    fn head(&self) -> Seq;

    /// The position that the next record takes. Never falls, not after a power cut either; may
    /// jump when the store is opened.
    fn tail(&self) -> Seq;

    /// The records that are held: those that a [`Store::read`] would find.
    fn held(&self) -> Held;

    /// Records that were ever appended. After a crash, those of them that are back.
    fn appended(&self) -> u64;

    /// Records that were held and could not be brought back, ever.
    fn lost(&self) -> u64;

    /// Where records were lost that this has not given out yet: stretches of positions, ends included.
    fn take_lost(&mut self) -> Vec<(Seq, Seq)> {
        Vec::new()
    }

    /// What [`Store::release`] was last given; `None` for a new store.
    fn books(&self) -> Option<Vec<u8>>;

    /// Writes a record at [`Store::tail`]. It is durable after the next [`Store::flush`].
    fn append(&mut self, record: &[u8]) -> io::Result<Seq>;

    /// Gives up all records below `head`, and keeps `books` as of the same moment: after a crash
    /// both are back or neither. Durable after the next [`Store::flush`].
    fn release(&mut self, head: Seq, books: &[u8]) -> io::Result<()>;

    /// The stretches that hold something, oldest first.
    fn stretches(&self) -> Vec<Stretch>;

    /// The first of them.
    fn oldest_stretch(&self) -> Option<Stretch> {
        self.stretches().into_iter().next()
    }

    /// Makes a stretch of what is in none yet.
    fn seal(&mut self) -> io::Result<()>;

    /// Puts one stretch with `records` into the place of those from `first` to `last`, and keeps
    /// `books` as of the same moment: after a crash both are so or neither. Durable when this
    /// returns. What is not in `records` counts as released.
    fn replace(
        &mut self,
        first: Seq,
        last: Seq,
        level: u32,
        records: Vec<(Seq, Vec<u8>)>,
        books: &[u8],
    ) -> io::Result<()>;

    /// Returns once everything before it would survive a power cut.
    fn flush(&mut self) -> io::Result<()>;

    /// Does what would hold up an append: called when nobody waits.
    fn maintain(&mut self) -> io::Result<()>;

    /// The records from `from` on, oldest first, at most `limit` but at least one if there is one.
    fn read(&mut self, from: Seq, limit: Limit) -> io::Result<Vec<(Seq, Vec<u8>)>>;

    /// Reads what holds `from`, or comes next after it, from the disk and changes nothing there;
    /// `None` when nothing follows.
    fn examine(&self, from: Seq) -> io::Result<Option<Examined>>;

    /// Keeps a rarely written fact; durable when this returns. `None` forgets it. Keys are file
    /// names: lower-case letters, digits, `_` and `-`.
    fn put(&mut self, key: &str, value: Option<&[u8]>) -> io::Result<()>;

    /// The fact that [`Store::put`] kept.
    fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>>;

    /// The position of the newest record that is held.
    fn last(&self) -> Option<Seq>;

    /// Keeps a line of text for people to look at, durably. Old ones make room.
    fn note(&mut self, notes: Notes, line: &str) -> io::Result<()>;

    /// The lines that are still there, oldest first.
    fn notes(&self, notes: Notes) -> io::Result<String>;

    /// Sets the lines aside, so that they are not among [`Store::notes`] any more; those that were
    /// set aside before go. Gives them out.
    fn take_notes(&mut self, notes: Notes) -> io::Result<String>;

    /// Bytes that the store takes on the disk, as `du` counts them.
    fn disk_bytes(&self) -> u64;

    /// Bytes that it may take at the worst moment of all that follows when a record of so many
    /// bytes is appended, whatever it is called to do with what it holds then.
    fn disk_bytes_with(&self, record: usize) -> u64;

    /// Starts over from what is on the disk.
    fn reopen(&mut self) -> io::Result<()>;
}

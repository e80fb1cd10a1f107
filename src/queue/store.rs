//! What a disk must do for the queue; [`super::sled`] does it with sled, the tests with a disk in
//! memory that forgets what was not flushed, tears and fails.
//!
//! A store keeps bytes and positions. It knows no limits, no policies and no frames.

use std::io;

use super::Limit;
use crate::entry::Seq;

/// A log of records on a disk, with a little room for facts beside it.
///
/// All methods block. An error leaves the store as it was or is repaired at the next open.
pub trait Store: Send + 'static {
    /// The position of the oldest record that is held; [`Store::tail`] when there is none.
    fn head(&self) -> Seq;

    /// The position that the next record takes. Never falls, not after a power cut either.
    fn tail(&self) -> Seq;

    /// What [`Store::release`] was last given; `None` for a new store.
    fn books(&self) -> Option<Vec<u8>>;

    /// Writes a record at [`Store::tail`]. It is durable after the next [`Store::flush`].
    fn append(&mut self, record: &[u8]) -> io::Result<Seq>;

    /// Gives up all records below `head`, and keeps `books` as of the same moment: after a crash
    /// both are back or neither. Durable after the next [`Store::flush`].
    fn release(&mut self, head: Seq, books: &[u8]) -> io::Result<()>;

    /// Returns once everything before it would survive a power cut.
    fn flush(&mut self) -> io::Result<()>;

    /// The records from `from` on, oldest first, at most `limit` but at least one if there is one.
    fn read(&mut self, from: Seq, limit: Limit) -> io::Result<Vec<(Seq, Vec<u8>)>>;

    /// Keeps a rarely written fact; durable when this returns. `None` forgets it.
    fn put(&mut self, key: &str, value: Option<&[u8]>) -> io::Result<()>;

    /// The fact that [`Store::put`] kept.
    fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>>;

    /// Sets an entry aside for people to look at, as a line of text. Old ones make room.
    fn set_aside(&mut self, line: &str) -> io::Result<()>;

    /// Bytes that the store takes on the disk.
    fn disk_bytes(&self) -> u64;
}

//! A batch: the entries that a reader has in flight.

use crate::entry::{Entry, Kind, Seq};

/// Entries in flight: hand them back to [`Reader::ack`](super::Reader::ack) once the server has them.
///
/// A batch that is dropped instead stays in the queue and is read again after a [`Reader::rewind`](super::Reader::rewind).
#[derive(Debug, Default)]
#[must_use = "a batch that is not removed stays in the queue"]
pub struct Batch {
    pub(super) entries: Vec<Entry>,
    /// Entries that the server does not take; they become dead letters when the batch is removed.
    pub(super) refused: Vec<RefusedEntry>,
    /// Position and size of every record read, including records that failed to decode.
    pub(super) records: Vec<(Seq, u32)>,
}

/// An entry that becomes a dead letter.
#[derive(Debug)]
pub(super) struct RefusedEntry {
    pub(super) entry: Entry,
    pub(super) reason: String,
}

impl Batch {
    /// The entries, oldest first. Empty if none of the records could be decoded.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The first and last position of the batch, including records that failed to decode.
    pub fn ends(&self) -> Option<(Seq, Seq)> {
        Some((self.records.first()?.0, self.records.last()?.0))
    }

    /// Frees the memory of the frames, which are still in the queue. Setups are kept because
    /// [`Reader::ack`](super::Reader::ack) needs them.
    pub fn forget_frames(&mut self) {
        let frames = self.entries.iter_mut().filter(|entry| entry.kind == Kind::Frame);
        frames.for_each(|entry| entry.json = String::new());
    }

    /// Marks entries that the server does not take: they become dead letters with this reason and do
    /// not count as delivered.
    pub fn mark_refused(&mut self, refused: &[Seq], reason: &str) {
        let refused = self.entries.extract_if(.., |entry| refused.contains(&entry.seq));
        self.refused.extend(refused.map(|entry| RefusedEntry { entry, reason: reason.to_owned() }));
        self.refused.sort_by_key(|refused| refused.entry.seq);
    }
}

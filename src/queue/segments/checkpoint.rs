//! The checkpoint: where the store stood at its last flush, in a file apart from the journal.
//!
//! A journal that was cut at the end of a record, or deleted, does not show it: a crash leaves the
//! same. What a flush made durable stays, so a checkpoint beyond the journal's end proves damage.
//!
//! It is written in place and never synced: a power cut may bring back an older checkpoint, which
//! proves less and nothing wrong. Two slots take turns, so that a torn write costs only the newer.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use crate::entry::Seq;
use crate::queue::journal::{Mark, number};
use crate::queue::{bytes, disk};

/// Bytes of a slot. A larger checkpoint is not written: with the books of some twenty destinations
/// it takes a half of this.
const SLOT_BYTES: usize = 4096;
const NAME: &str = "checkpoint";

/// How the store stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::queue) struct Checkpoint {
    /// The first position of the journal.
    pub(in crate::queue) lo: Seq,
    /// Records that were lost until then.
    pub(in crate::queue) lost: u64,
    pub(in crate::queue) mark: Mark,
}

/// Writes checkpoints.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// `None` when it could not be opened or written: the queue works without.
    file: Option<File>,
    /// Of the checkpoint that was written last.
    number: u64,
}

impl Checkpoints {
    /// The writer that continues the file in `folder`, which is created if need be.
    pub(super) fn open(folder: &Path) -> Self {
        let path = folder.join(NAME);
        let number = read_slots(folder).map(|(number, _)| number).max().unwrap_or(0);
        let is_whole = fs::metadata(&path).is_ok_and(|file| file.len() == 2 * SLOT_BYTES as u64);
        // All its room is taken now: a full disk does not prevent writing in place.
        let created = match is_whole {
            true => Ok(()),
            false => disk::write_durably(&path, &[0; 2 * SLOT_BYTES]),
        };
        let file = created.and_then(|()| disk::options().write(true).open(&path));
        let file = file
            .inspect_err(|error| tracing::warn!(%error, "the queue works without a checkpoint"));
        Self { file: file.ok(), number }
    }

    /// Notes how the store stands. It has been flushed.
    pub(super) fn write(&mut self, checkpoint: &Checkpoint) {
        let Some(file) = &mut self.file else { return };
        let frame = checkpoint.to_frame(self.number + 1);
        if frame.len() > SLOT_BYTES {
            return;
        }
        self.number += 1;
        let at = (self.number % 2) * SLOT_BYTES as u64;
        if let Err(error) = file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&frame)) {
            tracing::warn!(%error, "the queue works without a checkpoint");
            self.file = None;
        }
    }
}

impl Checkpoint {
    fn to_frame(&self, number: u64) -> Vec<u8> {
        let mut payload: Vec<u8> = [self.lo.0, self.lost].map(u64::to_le_bytes).concat();
        payload.extend(self.mark.to_bytes());
        bytes::frame(Seq(0), Seq(number), &payload)
    }

    fn from_bytes(payload: &[u8]) -> Option<Self> {
        let (lo, rest) = number(payload)?;
        let (lost, mark) = number(rest)?;
        Some(Self { lo: Seq(lo), lost, mark: Mark::from_bytes(mark)? })
    }
}

/// The newest checkpoint that can be read.
pub(super) fn read(folder: &Path) -> Option<Checkpoint> {
    read_slots(folder).max_by_key(|(number, _)| *number).map(|(_, checkpoint)| checkpoint)
}

fn read_slots(folder: &Path) -> impl Iterator<Item = (u64, Checkpoint)> {
    // One that cannot be read proves nothing; the journal is still read.
    let bytes = fs::read(folder.join(NAME)).unwrap_or_default();
    let slots = bytes.chunks(SLOT_BYTES).filter_map(|slot| {
        let (number, payload) = bytes::parse(Seq(0), slot)?;
        Some((number.0, Checkpoint::from_bytes(payload)?))
    });
    slots.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(tail: u64) -> Checkpoint {
        let mark = Mark { tail, books: b"books".to_vec(), ..Mark::default() };
        Checkpoint { lo: Seq(1), lost: 3, mark }
    }

    #[test]
    fn the_newest_checkpoint_is_read_and_the_one_before_it_when_that_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), None);
        let mut checkpoints = Checkpoints::open(folder.path());
        for tail in 1..=3 {
            checkpoints.write(&checkpoint(tail));
            assert_eq!(read(folder.path()), Some(checkpoint(tail)));
        }
        // One that is opened again continues.
        Checkpoints::open(folder.path()).write(&checkpoint(4));
        assert_eq!(read(folder.path()), Some(checkpoint(4)));
        let path = folder.path().join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        bytes[bytes::HEADER] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(folder.path()), Some(checkpoint(3)));
    }

    #[test]
    fn a_checkpoint_that_does_not_fit_leaves_the_older_ones_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoints = Checkpoints::open(folder.path());
        checkpoints.write(&checkpoint(1));
        let mut large = checkpoint(2);
        large.mark.books = vec![0; SLOT_BYTES];
        checkpoints.write(&large);
        assert_eq!(read(folder.path()), Some(checkpoint(1)));
    }
}

//! The checkpoint file: the state of the store at its last flush, in a file apart from the
//! write-ahead log.
//!
//! A write-ahead log that was truncated at the end of a record, or deleted, looks the same as after
//! a crash. Flushed data survives a crash, so a checkpoint beyond the end of the write-ahead log
//! proves damage.
//!
//! The file is written in place and never synced: a power cut may restore an older checkpoint,
//! which proves less but nothing false. Two slots alternate, so that a torn write damages only the
//! newer one.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use crate::entry::Seq;
use crate::queue::storage::wal::{Checkpoint, number};
use crate::queue::storage::{disk, framing};

/// The size of a slot. A larger checkpoint is not written; with the metadata of about twenty
/// destinations it takes half a slot.
const SLOT_BYTES: usize = 4096;
const NAME: &str = "checkpoint";

/// The state of the store at its last flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::queue) struct SavedCheckpoint {
    /// The base position of the write-ahead log.
    pub(in crate::queue) base_seq: Seq,
    /// The number of records lost until then.
    pub(in crate::queue) lost: u64,
    pub(in crate::queue) checkpoint: Checkpoint,
}

/// Writes the checkpoint file.
#[derive(Debug)]
pub(super) struct CheckpointFile {
    /// `None` if it could not be opened or written: the queue works without it.
    file: Option<File>,
    /// The number of the last written checkpoint.
    number: u64,
}

impl CheckpointFile {
    /// Opens the checkpoint file in `folder`, creating it if necessary.
    pub(super) fn open(folder: &Path) -> Self {
        let path = folder.join(NAME);
        let number = read_slots(folder).map(|(number, _)| number).max().unwrap_or(0);
        let is_whole = fs::metadata(&path).is_ok_and(|file| file.len() == 2 * SLOT_BYTES as u64);
        // Allocate the whole file now, so that a full disk does not prevent writing in place.
        let created =
            if is_whole { Ok(()) } else { disk::write_durably(&path, &[0; 2 * SLOT_BYTES]) };
        let file = created
            .and_then(|()| disk::options().write(true).open(&path))
            .inspect_err(|error| tracing::warn!(%error, "cannot open the checkpoint file"));
        Self { file: file.ok(), number }
    }

    /// Writes a checkpoint of the flushed store.
    pub(super) fn write(&mut self, checkpoint: &SavedCheckpoint) {
        let Some(file) = &mut self.file else { return };
        let frame = checkpoint.to_frame(self.number + 1);
        if frame.len() > SLOT_BYTES {
            return;
        }
        self.number += 1;
        let at = (self.number % 2) * SLOT_BYTES as u64;
        if let Err(error) = file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&frame)) {
            tracing::warn!(%error, "cannot write the checkpoint file; continuing without it");
            self.file = None;
        }
    }
}

impl SavedCheckpoint {
    fn to_frame(&self, number: u64) -> Vec<u8> {
        let mut payload: Vec<u8> = [self.base_seq.0, self.lost].map(u64::to_le_bytes).concat();
        payload.extend(self.checkpoint.to_bytes());
        framing::encode(Seq(0), Seq(number), &payload)
    }

    fn from_bytes(payload: &[u8]) -> Option<Self> {
        let (lo, rest) = number(payload)?;
        let (lost, mark) = number(rest)?;
        Some(Self { base_seq: Seq(lo), lost, checkpoint: Checkpoint::from_bytes(mark)? })
    }
}

/// Reads the newest intact checkpoint.
pub(in crate::queue) fn read(folder: &Path) -> Option<SavedCheckpoint> {
    read_slots(folder).max_by_key(|(number, _)| *number).map(|(_, checkpoint)| checkpoint)
}

fn read_slots(folder: &Path) -> impl Iterator<Item = (u64, SavedCheckpoint)> {
    // An unreadable checkpoint proves nothing; the write-ahead log is still read.
    let bytes = fs::read(folder.join(NAME)).unwrap_or_default();
    let slots = bytes.chunks(SLOT_BYTES).filter_map(|slot| {
        let (number, payload) = framing::decode(Seq(0), slot)?;
        Some((number.0, SavedCheckpoint::from_bytes(payload)?))
    });
    slots.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(tail: u64) -> SavedCheckpoint {
        let mark = Checkpoint { tail, metadata: b"metadata".to_vec(), ..Checkpoint::default() };
        SavedCheckpoint { base_seq: Seq(1), lost: 3, checkpoint: mark }
    }

    #[test]
    fn the_newest_intact_checkpoint_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), None);
        let mut checkpoints = CheckpointFile::open(folder.path());
        for tail in 1..=3 {
            checkpoints.write(&checkpoint(tail));
            assert_eq!(read(folder.path()), Some(checkpoint(tail)));
        }
        // A reopened file continues with the next number.
        CheckpointFile::open(folder.path()).write(&checkpoint(4));
        assert_eq!(read(folder.path()), Some(checkpoint(4)));
        let path = folder.path().join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        bytes[framing::HEADER] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(folder.path()), Some(checkpoint(3)));
    }

    #[test]
    fn an_oversized_checkpoint_leaves_older_ones_intact() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoints = CheckpointFile::open(folder.path());
        checkpoints.write(&checkpoint(1));
        let mut large = checkpoint(2);
        large.checkpoint.metadata = vec![0; SLOT_BYTES];
        checkpoints.write(&large);
        assert_eq!(read(folder.path()), Some(checkpoint(1)));
    }
}

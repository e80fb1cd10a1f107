//! Starts a new active segment and seals the old one.

use std::io;

use super::SegmentStore;
use super::active::ActiveSegment;
use super::folder::{build, discard, publish, remove_other_wals};
use super::recover::write_checkpoint;
use crate::entry::Seq;
use crate::queue::storage::disk;
use crate::queue::storage::names::SeqRange;
use crate::queue::storage::sealed::{BlockWriter, SealedSegment};
use crate::queue::storage::wal::{self, Wal};

/// A drained active segment is replaced when its write-ahead log reaches this size, so that an
/// empty queue stays small.
const DRAINED_BYTES: u64 = 1 << 20;

impl SegmentStore {
    /// Starts a new active segment and seals the unreleased records of the old one.
    ///
    /// # Errors
    /// The old one stays active, or the store is closed because the state of the disk is uncertain
    /// or a record is damaged.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        self.with_ballast(Self::try_rotate)?;
        self.fill_ballast();
        Ok(())
    }

    fn try_rotate(&mut self) -> io::Result<()> {
        self.restore_facts();
        let (tail, checkpoint, boot) = (self.tail, self.checkpoint(), self.options.boot.clone());
        let active = self.active()?;
        let (base_seq, usage) = (active.base_seq, active.usage());
        let range = SeqRange { base_seq, last: Seq(tail.0.saturating_sub(1)) };
        let mut sealed = None;
        if usage.records > 0 {
            let packed = match self.pack_active() {
                Ok(packed) => packed,
                // Reopening recovers the readable records and counts the others as lost.
                Err(error) => return self.fail(error),
            };
            sealed = Some((build(&self.folder, range, &packed, usage, 0)?, packed));
        }
        let published = sealed.as_ref().map_or(Ok(()), |_| publish(&self.folder, range));
        let begun = published
            .and_then(|()| write_checkpoint(&self.folder, &checkpoint))
            .and_then(|()| Wal::create(&self.folder, tail, &boot, &checkpoint));
        let wal = match begun {
            Ok(wal) => wal,
            Err(error) => return self.abort_rotation(range, error),
        };
        self.dirty = false;
        self.durable_head = self.head;
        self.active = Some(ActiveSegment::new(tail, wal));
        if let Some((segment, packed)) = sealed {
            if self.head >= base_seq {
                // The reader is within this segment: cache it instead of reading it again.
                self.keep_loaded(base_seq, packed);
            }
            self.sealed.push_back(segment);
            self.measure_sealed();
        }
        // Its records are in the sealed segment, or were released.
        remove_other_wals(&self.folder, tail);
        Ok(())
    }

    /// Packs the unreleased records of the active segment.
    fn pack_active(&mut self) -> io::Result<SealedSegment> {
        let head = self.head;
        let active = self.active()?;
        let mut writer = BlockWriter::new(active.base_seq);
        active.each(head.max(active.base_seq), usize::MAX, |seq, record| {
            writer.add(seq, record).map(|()| true)
        })?;
        writer.finish()
    }

    /// Undoes a rotation that failed before the new write-ahead log existed: the old one stays
    /// active. If the new one may exist, the store is closed, because a start would continue with
    /// that, without the records that were appended to the old one meanwhile.
    fn abort_rotation<T>(&mut self, range: SeqRange, error: io::Error) -> io::Result<T> {
        let new = wal::path(&self.folder, Seq(range.last.0 + 1));
        let is_undone =
            disk::exists(&new).is_ok_and(|exists| !exists) && discard(&self.folder, range).is_ok();
        disk::remove_leftover(&range.new_path(&self.folder));
        if is_undone { Err(error) } else { self.fail(error) }
    }

    pub(super) fn is_rotation_due(&self) -> bool {
        let Some(active) = &self.active else { return false };
        let is_drained = active.usage().records == 0 && active.wal.len() > DRAINED_BYTES;
        // Seal early, during maintenance; otherwise the append that fills the segment would have to
        // wait.
        active.len() >= (self.options.segment_entries * 7 / 8).max(1)
            || active.wal.len() >= self.options.segment_bytes
            || is_drained
    }
}

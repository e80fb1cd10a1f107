//! Replaces segments by one new segment: the downsampled records, or the readable records of a
//! damaged segment.

use std::io;

use super::SegmentStore;
use super::folder::{Replaced, Segment, borrowed, build, discard, swap};
use crate::queue::storage::names::SeqRange;
use crate::queue::storage::sealed::SealedSegment;
use crate::queue::storage::{Records, Storage, Usage};

impl SegmentStore {
    /// Replaces the sealed segments within `replaced` by one segment with `records`, or removes
    /// them if `records` is empty. With `metadata`, missing records count as released; without, as
    /// lost.
    pub(super) fn rewrite(
        &mut self,
        replaced: SeqRange,
        level: u32,
        records: Records,
        old: Replaced,
        metadata: Option<&[u8]>,
    ) -> io::Result<()> {
        let inside = |segment: &Segment| segment.range.is_inside(replaced);
        let mut before = Usage::default();
        self.sealed.iter().filter(|segment| inside(segment)).for_each(|s| before += s.pending);
        let kept = Usage::of(&records);
        let new = self.with_ballast(|store| store.prepare(replaced, level, &records, kept))?;
        if let Some(metadata) = metadata {
            self.released += (before - kept).records;
            self.metadata = metadata.to_vec();
        }
        if let Err(error) = self.commit(&new, old) {
            return self.fail(error);
        }
        self.loaded.retain(|(base_seq, _)| !(replaced.base_seq..=replaced.last).contains(base_seq));
        let index =
            self.sealed.partition_point(|segment| segment.range.base_seq < replaced.base_seq);
        self.sealed.retain(|segment| !inside(segment));
        self.usage = self.usage - before;
        if !new.is_empty() {
            self.usage += new.pending;
            self.sealed.insert(index, new);
        }
        self.measure_sealed();
        self.measure_others();
        Ok(())
    }

    /// Builds the new segment, even if it is empty: after a crash the segment that the checkpoint
    /// record names must exist. Nothing has changed until it is committed.
    fn prepare(
        &mut self,
        replaced: SeqRange,
        level: u32,
        records: &Records,
        all: Usage,
    ) -> io::Result<Segment> {
        // The prepared folder must not be mistaken for one that belongs to an earlier checkpoint
        // record.
        self.replaced = (0, 0);
        self.append_checkpoint()?;
        self.flush()?;
        let sealed = SealedSegment::new(replaced.base_seq, borrowed(records))?;
        build(&self.folder, replaced, &sealed, all, level)
    }

    fn commit(&mut self, new: &Segment, old: Replaced) -> io::Result<()> {
        self.replaced = (new.range.base_seq.0, new.range.last.0);
        self.append_checkpoint()?;
        self.flush()?;
        swap(&self.folder, new.range, new.range, old)?;
        if new.is_empty() {
            discard(&self.folder, new.range)?;
        }
        self.replaced = (0, 0);
        self.append_checkpoint()
    }
}

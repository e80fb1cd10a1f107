//! Caches the blocks of a few sealed segments in memory, and replaces a segment that turns out to
//! be damaged.

use std::io;

use super::SegmentStore;
use super::folder::{Replaced, Segment};
use super::recover::gaps;
use crate::entry::Seq;
use crate::queue::storage::disk;
use crate::queue::storage::sealed::SealedSegment;

/// The number of sealed segments whose blocks are cached in memory: the segment at the head, the
/// next one while a batch of the first is in flight, and a segment that is being downsampled.
pub(super) const MAX_LOADED: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LoadOutcome {
    Done,
    /// The segment was damaged and was replaced by another one, or by none.
    Replaced,
}

impl SegmentStore {
    /// The cached blocks of a segment.
    pub(super) fn loaded(&mut self, base_seq: Seq) -> Option<&mut SealedSegment> {
        let mut loaded = self.loaded.iter_mut();
        loaded.find(|(loaded, _)| *loaded == base_seq).map(|(_, sealed)| sealed)
    }

    /// Loads the blocks of the sealed segment at `index` into the cache.
    pub(super) fn load(&mut self, index: usize) -> io::Result<LoadOutcome> {
        let Segment { range, stored, level, .. } = self.sealed[index];
        if self.loaded(range.base_seq).is_some() {
            return Ok(LoadOutcome::Done);
        }
        let path = range.path(&self.folder);
        let (sealed, trouble) = SealedSegment::read(&path, range.base_seq, Some(stored))?;
        self.sealed[index].disk_bytes = disk::used(&path);
        self.measure_sealed();
        if sealed.usage().records == stored.records {
            self.keep_loaded(range.base_seq, sealed);
            return Ok(LoadOutcome::Done);
        }
        let mut records = sealed.all();
        tracing::error!(
            segment = %range.base_seq, records = stored.records, readable = records.len(),
            error = trouble.map(tracing::field::display),
            "a queue segment is damaged; moved to quarantine, readable records are kept",
        );
        let seqs = records.iter().map(|(seq, _)| *seq);
        let lost = gaps(range.base_seq.max(self.head), range.last, seqs, level);
        records.retain(|(seq, _)| *seq >= self.head);
        self.rewrite(range, level, records, Replaced::Quarantine, None)?;
        // Only now: a failed attempt is repeated, and would report the loss again.
        self.lost_ranges.extend(lost);
        Ok(LoadOutcome::Replaced)
    }

    pub(super) fn keep_loaded(&mut self, base_seq: Seq, sealed: SealedSegment) {
        while self.loaded.len() >= MAX_LOADED {
            self.loaded.pop_front();
        }
        self.loaded.push_back((base_seq, sealed));
    }
}

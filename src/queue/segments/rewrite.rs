//! Replaces segments by one new segment: the downsampled records, or the readable records of a
//! damaged segment.

use std::io;

use super::folder::{Old, Segment, Span, borrowed, build, discard, held, swap};
use super::packed::Packed;
use super::{Records, SegmentStore};
use crate::planted::planted;
use crate::queue::store::{Held, Store};

impl SegmentStore {
    /// Replaces the sealed segments within `replaced` by one segment with `records`, or removes
    /// them if `records` is empty. With `books`, missing records count as released; without, as
    /// lost.
    pub(super) fn rewrite(
        &mut self,
        replaced: Span,
        level: u32,
        records: Records,
        old: Old,
        books: Option<&[u8]>,
    ) -> io::Result<()> {
        let inside = |segment: &Segment| segment.span.is_inside(replaced);
        let mut before = Held::default();
        self.sealed.iter().filter(|segment| inside(segment)).for_each(|s| before += s.held);
        let kept = held(&records);
        let new = self.with_ballast(|store| store.prepare(replaced, level, &records, kept))?;
        if let Some(books) = books {
            self.released += (before - kept).records;
            self.books = books.to_vec();
        }
        if let Err(error) = self.commit(&new, old) {
            return self.fail(error);
        }
        self.loaded.retain(|(lo, _)| !(replaced.lo..=replaced.last).contains(lo));
        let index = self.sealed.partition_point(|segment| segment.span.lo < replaced.lo);
        self.sealed.retain(|segment| !inside(segment));
        self.held = self.held - before;
        if !new.is_empty() {
            self.held += new.held;
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
        replaced: Span,
        level: u32,
        records: &Records,
        all: Held,
    ) -> io::Result<Segment> {
        // The prepared folder must not be mistaken for one that belongs to an earlier checkpoint
        // record.
        self.replaced = (0, 0);
        self.note_mark()?;
        self.flush()?;
        let packed = Packed::new(replaced.lo, borrowed(records))?;
        build(&self.folder, replaced, &packed, all, level)
    }

    fn commit(&mut self, new: &Segment, old: Old) -> io::Result<()> {
        self.replaced = (new.span.lo.0, new.span.last.0);
        if !planted("thinned_without_a_mark") {
            self.note_mark()?;
            self.flush()?;
        }
        swap(&self.folder, new.span, new.span, old)?;
        if new.is_empty() {
            discard(&self.folder, new.span)?;
        }
        self.replaced = (0, 0);
        self.note_mark()
    }
}

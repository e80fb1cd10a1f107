//! One segment in the place of others: thinned, or what could be read of a damaged one.

use std::io;

use super::folder::{Old, Segment, Span, borrowed, build, discard, held, swap};
use super::packed::Packed;
use super::{Records, SegmentStore};
use crate::planted::planted;
use crate::queue::store::{Held, Store};

impl SegmentStore {
    /// Puts one segment with `records`, or none, in the place of the sealed ones in `replaced`.
    /// With `books`, what is missing then counts as released; else it is lost.
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

    /// Builds what is to take the place of segments, also if that is nothing: a crash must find what
    /// the mark says. Until it is committed nothing has changed.
    fn prepare(
        &mut self,
        replaced: Span,
        level: u32,
        records: &Records,
        all: Held,
    ) -> io::Result<Segment> {
        // The folder that lies ready must not be taken for the one of an earlier mark.
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

//! The active segment: a write-ahead log and the offset of each record in it.

use std::io;

use super::Records;
use crate::entry::Seq;
use crate::queue::journal::Journal;
use crate::queue::store::Held;
use crate::queue::{Limit, bytes};

/// The maximum size of one read from disk; a larger record is read on its own.
const READ_BYTES: u64 = 256 << 10;

/// The active segment, to which records are appended.
#[derive(Debug)]
pub(super) struct NewestSegment {
    pub(super) lo: Seq,
    pub(super) journal: Journal,
    /// The place of each record, starting with `lo`.
    places: Vec<Place>,
    held: Held,
}

/// The offset of a record's frame, and the size of the record.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    bytes: u32,
}

impl Place {
    fn end(self) -> u64 {
        self.at + bytes::HEADER as u64 + u64::from(self.bytes)
    }
}

impl NewestSegment {
    pub(super) fn new(lo: Seq, journal: Journal) -> Self {
        Self { lo, journal, places: Vec::new(), held: Held::default() }
    }

    /// Restores an active segment that was found on disk, with `records` at the offsets `places`.
    pub(super) fn continued(lo: Seq, journal: Journal, places: &[u64], records: &Records) -> Self {
        let place = |(at, (_, record)): (&u64, &(Seq, Vec<u8>))| Place {
            at: *at,
            bytes: record.len() as u32,
        };
        let places: Vec<_> = places.iter().zip(records).map(place).collect();
        Self { lo, journal, places, held: super::held(records) }
    }

    /// The number of records, released or not.
    pub(super) fn len(&self) -> u64 {
        self.places.len() as u64
    }

    pub(super) fn held(&self) -> Held {
        self.held
    }

    /// The position of its last record, or the one before `lo` if it has none.
    pub(super) fn last(&self) -> Seq {
        Seq((self.lo.0 + self.len()).saturating_sub(1))
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.journal.len().next_multiple_of(4096)
    }

    pub(super) fn append(&mut self, seq: Seq, record: &[u8]) -> io::Result<()> {
        let at = self.journal.append(seq, record)?;
        self.places.push(Place { at, bytes: record.len() as u32 });
        self.held += Held { records: 1, bytes: record.len() as u64 };
        Ok(())
    }

    /// Marks the records below `head` as released; returns their number and size.
    pub(super) fn release_below(&mut self, head: Seq) -> Held {
        let released = self.places.len() - (self.held.records as usize).min(self.places.len());
        let below = self.index(head).max(released);
        let bytes = self.places[released..below].iter().map(|place| u64::from(place.bytes)).sum();
        let less = Held { records: (below - released) as u64, bytes };
        self.held = self.held - less;
        less
    }

    /// Reads records from `from`, up to `limit` but at least one if any exists.
    pub(super) fn read(&mut self, from: Seq, limit: Limit) -> io::Result<Records> {
        let (mut records, mut size) = (Records::new(), 0);
        self.each(from, limit.entries, |seq, record| {
            size += record.len();
            let is_full = size > limit.bytes && !records.is_empty();
            if !is_full {
                records.push((seq, record.to_vec()));
            }
            Ok(!is_full)
        })?;
        Ok(records)
    }

    /// Passes records from `from` to `take`, at most `most` but at least one if any exists, until
    /// `take` returns `false`.
    pub(super) fn each(
        &mut self,
        from: Seq,
        most: usize,
        mut take: impl FnMut(Seq, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut next = self.index(from);
        let end = next.saturating_add(most.max(1)).min(self.places.len());
        while next < end {
            let first = self.places[next];
            let within = |place: &&Place| place.end() <= first.at + READ_BYTES;
            let count = self.places[next..end].iter().take_while(within).count().max(1);
            let read = self.journal.read(first.at, self.places[next + count - 1].end())?;
            for place in &self.places[next..next + count] {
                let seq = Seq(self.lo.0 + next as u64);
                let frame = read.get((place.at - first.at) as usize..).unwrap_or_default();
                let Some((_, record)) =
                    bytes::parse(self.lo, frame).filter(|(held, _)| *held == seq)
                else {
                    let text = format!("record {seq} is damaged in the write-ahead log");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                };
                if !take(seq, record)? {
                    return Ok(());
                }
                next += 1;
            }
        }
        Ok(())
    }

    fn index(&self, seq: Seq) -> usize {
        (seq.0.saturating_sub(self.lo.0) as usize).min(self.places.len())
    }
}

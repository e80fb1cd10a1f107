//! The newest segment: a journal, and where in it each record lies.

use std::io;

use super::Records;
use crate::entry::Seq;
use crate::queue::journal::Journal;
use crate::queue::store::Held;
use crate::queue::{Limit, bytes};

/// Read from the disk at once, at most; a larger record is read alone.
const READ_BYTES: u64 = 256 << 10;

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct NewestSegment {
    pub(super) lo: Seq,
    pub(super) journal: Journal,
    /// Of each record from `lo` on.
    places: Vec<Place>,
    held: Held,
}

/// Where the frame of a record begins, and the bytes of the record.
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

    /// One that was found, with `records` at these places of its journal.
    pub(super) fn continued(lo: Seq, journal: Journal, places: &[u64], records: &Records) -> Self {
        let place = |(at, (_, record)): (&u64, &(Seq, Vec<u8>))| Place {
            at: *at,
            bytes: record.len() as u32,
        };
        let places: Vec<_> = places.iter().zip(records).map(place).collect();
        Self { lo, journal, places, held: super::held(records) }
    }

    /// Records in it, released or not.
    pub(super) fn len(&self) -> u64 {
        self.places.len() as u64
    }

    pub(super) fn held(&self) -> Held {
        self.held
    }

    /// The position of its last record; of the one before it when it has none.
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

    /// What is below `head` is not held any more; returns how much that was.
    pub(super) fn release_below(&mut self, head: Seq) -> Held {
        let released = self.places.len() - (self.held.records as usize).min(self.places.len());
        let below = self.index(head).max(released);
        let bytes = self.places[released..below].iter().map(|place| u64::from(place.bytes)).sum();
        let less = Held { records: (below - released) as u64, bytes };
        self.held = self.held - less;
        less
    }

    /// The records from `from` on, as many as `limit` allows, at least one if there is one.
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

    /// Hands on the records from `from` on, at most so many but one if there is one, for as long as
    /// `take` wants more.
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
                    let text = format!("the record {seq} is damaged in the journal");
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

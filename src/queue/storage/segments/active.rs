//! The active segment: a write-ahead log and the offset of each record in it.

use std::io;

use crate::entry::Seq;
use crate::queue::Limit;
use crate::queue::storage::wal::Wal;
use crate::queue::storage::{Records, Usage, framing};

/// The maximum size of one read from disk; a larger record is read on its own.
const READ_BYTES: u64 = 256 << 10;

/// The active segment, to which records are appended.
#[derive(Debug)]
pub(super) struct ActiveSegment {
    pub(super) base_seq: Seq,
    pub(super) wal: Wal,
    /// The offset of each record, starting with `base_seq`.
    offsets: Vec<RecordOffset>,
    usage: Usage,
}

/// The offset of a record's frame, and the size of the record.
#[derive(Clone, Copy, Debug)]
struct RecordOffset {
    at: u64,
    bytes: u32,
}

impl RecordOffset {
    fn end(self) -> u64 {
        self.at + framing::HEADER as u64 + u64::from(self.bytes)
    }
}

impl ActiveSegment {
    pub(super) fn new(base_seq: Seq, wal: Wal) -> Self {
        Self { base_seq, wal, offsets: Vec::new(), usage: Usage::default() }
    }

    /// Restores an active segment that was found on disk, with `records` at the given offsets.
    pub(super) fn continued(base_seq: Seq, wal: Wal, offsets: &[u64], records: &Records) -> Self {
        let offsets = offsets.iter().zip(records);
        let offsets =
            offsets.map(|(at, (_, record))| RecordOffset { at: *at, bytes: record.len() as u32 });
        Self { base_seq, wal, offsets: offsets.collect(), usage: Usage::of(records) }
    }

    /// The number of records, released or not.
    pub(super) fn len(&self) -> u64 {
        self.offsets.len() as u64
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// The position of its last record, or the one before `base_seq` if it has none.
    pub(super) fn last(&self) -> Seq {
        Seq((self.base_seq.0 + self.len()).saturating_sub(1))
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.wal.len().next_multiple_of(4096)
    }

    pub(super) fn append(&mut self, seq: Seq, record: &[u8]) -> io::Result<()> {
        let at = self.wal.append(seq, record)?;
        self.offsets.push(RecordOffset { at, bytes: record.len() as u32 });
        self.usage += Usage { records: 1, bytes: record.len() as u64 };
        Ok(())
    }

    /// Marks the records below `head` as released; returns their number and size.
    pub(super) fn release_below(&mut self, head: Seq) -> Usage {
        let released = self.offsets.len() - (self.usage.records as usize).min(self.offsets.len());
        let below = self.index(head).max(released);
        let bytes = self.offsets[released..below].iter().map(|place| u64::from(place.bytes)).sum();
        let less = Usage { records: (below - released) as u64, bytes };
        self.usage = self.usage - less;
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
        let end = next.saturating_add(most.max(1)).min(self.offsets.len());
        while next < end {
            let first = self.offsets[next];
            let offsets = self.offsets[next..end].iter();
            let count = offsets.take_while(|place| place.end() <= first.at + READ_BYTES).count();
            let count = count.max(1);
            let read = self.wal.read(first.at, self.offsets[next + count - 1].end())?;
            for place in &self.offsets[next..next + count] {
                let seq = Seq(self.base_seq.0 + next as u64);
                let frame = read.get((place.at - first.at) as usize..).unwrap_or_default();
                let Some((_, record)) =
                    framing::decode(self.base_seq, frame).filter(|(usage, _)| *usage == seq)
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
        (seq.0.saturating_sub(self.base_seq.0) as usize).min(self.offsets.len())
    }
}

//! A sealed segment: its records in compressed blocks, in a dedicated sled database or, if sled
//! hung when it was sealed, in a plain file.
//!
//! Why sled, and why so: the customer chose sled for the records. One sled database that is written
//! all day does not survive power cuts (see [`segments`](super::segments)) and never shrinks, so
//! each sealed segment is a separate database, written once and then only read. It has four or
//! five large values, because small ones grow the file. After a failed write sled's `Drop` may
//! never return, so each database lives on a thread that can be abandoned: see [`sled`].
//!
//! A block is a [frame](super::framing) under the position of its first record. It contains
//! `seq u64 | len u32 | record` for each record, deflated together: telemetry frames are alike and
//! shrink to a third to a tenth of their size. A damaged block loses only its own records.

mod sled;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};

use self::sled::PART_BYTES;
pub(super) use self::sled::truncate;
use super::{Records, Usage, disk, framing};
use crate::entry::Seq;
use crate::fields::MAX_SAMPLE_BYTES;
use crate::queue::Limit;

/// A block is closed when its records reach this size. A reader always unpacks a whole block.
const BLOCK_BYTES: usize = 48 << 10;
/// The file with the concatenated blocks of a segment that was sealed while sled hung.
const PLAIN_FILE: &str = "blocks";
/// The size of the prefix of each record in a block.
const PREFIX: usize = 12;
/// The maximum size of a block; a block that exceeds it is damaged.
const MAX_BLOCK_BYTES: usize = BLOCK_BYTES + MAX_SAMPLE_BYTES + 4096;
/// The fastest deflate level: level 2 takes a third less space and half as much time again.
const LEVEL: Compression = Compression::new(1);

/// The blocks of one segment.
#[derive(Debug)]
pub(super) struct SealedSegment {
    base_seq: Seq,
    /// In order of position.
    blocks: Vec<Block>,
    /// The last unpacked block and its index.
    open: Option<(usize, Records)>,
}

#[derive(Debug)]
struct Block {
    first: Seq,
    frame: Vec<u8>,
    usage: Usage,
}

impl SealedSegment {
    /// Packs records, which must be in order of position.
    pub(super) fn new<'a>(
        base_seq: Seq,
        mut records: impl Iterator<Item = (Seq, &'a [u8])>,
    ) -> io::Result<Self> {
        let mut writer = BlockWriter::new(base_seq);
        records.try_for_each(|(seq, record)| writer.add(seq, record))?;
        writer.finish()
    }

    /// The size of the blocks, without the overhead of the database.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.frame.len() as u64).sum()
    }

    /// Writes the blocks as a database in the new folder `path`, or as a plain file while sled
    /// hangs.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        if !sled::is_available() {
            tracing::warn!("sled hangs; storing the next queue segment as a plain file");
            return self.write_plain(path);
        }
        // Group blocks into few large values: see the module `sled`.
        let mut values: Vec<(Seq, Vec<u8>)> = Vec::new();
        for Block { first, frame, .. } in &self.blocks {
            match values.last_mut() {
                Some((_, value)) if value.len() + frame.len() <= PART_BYTES => value.extend(frame),
                _ => values.push((*first, frame.clone())),
            }
        }
        sled::write(path, values)
    }

    fn write_plain(&self, path: &Path) -> io::Result<()> {
        let frames: Vec<&[u8]> = self.blocks.iter().map(|block| &block.frame[..]).collect();
        fs::create_dir_all(path)?;
        disk::write_durably(&path.join(PLAIN_FILE), &frames.concat())
    }

    /// Reads the intact blocks of the segment in `path`, and describes what is damaged besides
    /// them.
    ///
    /// # Errors
    /// The disk or the system does not work at the moment: nothing is known about the segment.
    pub(super) fn read(
        path: &Path,
        base_seq: Seq,
        all: Option<Usage>,
    ) -> io::Result<(Self, Option<io::Error>)> {
        let mut unreadable_bytes = 0;
        let (values, error) = match disk::read(&path.join(PLAIN_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match sled::read(path) {
                Ok(values) => (values, None),
                Err(error) => (Vec::new(), Some(error)),
            },
            Ok(plain) => {
                unreadable_bytes = plain.unreadable_bytes;
                (vec![(base_seq, plain.bytes)], None)
            }
            Err(error) => (Vec::new(), Some(error)),
        };
        let mut found = BTreeMap::new();
        let mut keep = |bytes: &[u8]| {
            let mut whole = 0;
            for (_, first, block) in framing::scan(base_seq, bytes) {
                let frame = framing::encode(base_seq, first, block);
                if let Some(records) = unpack(base_seq, &frame) {
                    whole += frame.len();
                    found.insert(first, Block { first, frame, usage: Usage::of(&records) });
                }
            }
            whole == bytes.len()
        };
        let mut is_whole = error.is_none();
        values.iter().for_each(|(_, value)| is_whole &= keep(value));
        if !is_whole {
            match sled::read_raw(path) {
                Ok(raw) => {
                    keep(&raw.bytes);
                    unreadable_bytes += raw.unreadable_bytes;
                }
                Err(raw_error) if disk::is_circumstance(&raw_error) => return Err(raw_error),
                // The file is missing.
                Err(_) => {}
            }
        }
        let sealed = Self { base_seq, blocks: found.into_values().collect(), open: None };
        match error {
            _ if unreadable_bytes > 0 => {
                let text = format!("the disk cannot read {unreadable_bytes} bytes of it");
                Ok((sealed, Some(io::Error::other(text))))
            }
            // Everything was found in the raw bytes, so what sled lacked does not matter.
            Some(error) if disk::is_circumstance(&error) && Some(sealed.usage()) != all => {
                Err(error)
            }
            error => Ok((sealed, error)),
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let mut holds = Usage::default();
        self.blocks.iter().for_each(|block| holds += block.usage);
        holds
    }

    /// The number and size of the records from `from`.
    pub(super) fn usage_from(&mut self, from: Seq) -> Usage {
        let after = self.blocks.partition_point(|block| block.first <= from);
        let mut holds = Usage::default();
        self.blocks[after..].iter().for_each(|block| holds += block.usage);
        if let Some(index) = after.checked_sub(1) {
            let records = self.block(index);
            let left = &records[records.partition_point(|(seq, _)| *seq < from)..];
            left.iter().for_each(|(_, r)| holds += Usage { records: 1, bytes: r.len() as u64 });
        }
        holds
    }

    /// All records.
    pub(super) fn all(&self) -> Records {
        let blocks = self.blocks.iter();
        blocks.flat_map(|block| unpack(self.base_seq, &block.frame).unwrap_or_default()).collect()
    }

    /// Reads records from `from`, up to `limit` but at least one if any exists.
    pub(super) fn range(&mut self, from: Seq, limit: Limit) -> Records {
        let after = self.blocks.partition_point(|block| block.first <= from);
        let (mut records, mut size) = (Vec::new(), 0);
        for index in after.saturating_sub(1)..self.blocks.len() {
            for (seq, record) in self.block(index) {
                if *seq < from {
                    continue;
                }
                size += record.len();
                if !records.is_empty() && (size > limit.bytes || records.len() >= limit.entries) {
                    return records;
                }
                records.push((*seq, record.clone()));
            }
        }
        records
    }

    fn block(&mut self, index: usize) -> &Records {
        if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
            let records = unpack(self.base_seq, &self.blocks[index].frame).unwrap_or_default();
            self.open = Some((index, records));
        }
        self.open.as_ref().map_or(const { &Vec::new() }, |(_, records)| records)
    }
}

/// Packs records one at a time.
#[derive(Debug)]
pub(super) struct BlockWriter {
    sealed: SealedSegment,
    deflate: DeflateEncoder<Vec<u8>>,
    /// The growing block: its first position, its bytes, and the size of its records.
    first: Seq,
    plain: Vec<u8>,
    usage: Usage,
}

impl BlockWriter {
    pub(super) fn new(base_seq: Seq) -> Self {
        let packed = SealedSegment { base_seq, blocks: Vec::new(), open: None };
        let deflate = DeflateEncoder::new(Vec::new(), LEVEL);
        Self {
            sealed: packed,
            deflate,
            first: base_seq,
            plain: Vec::new(),
            usage: Usage::default(),
        }
    }

    /// Adds the next record.
    pub(super) fn add(&mut self, seq: Seq, record: &[u8]) -> io::Result<()> {
        if self.plain.is_empty() {
            self.first = seq;
        }
        self.usage += Usage { records: 1, bytes: record.len() as u64 };
        self.plain.extend_from_slice(&seq.0.to_le_bytes());
        self.plain.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.plain.extend_from_slice(record);
        if self.plain.len() >= BLOCK_BYTES { self.close() } else { Ok(()) }
    }

    pub(super) fn finish(mut self) -> io::Result<SealedSegment> {
        if !self.plain.is_empty() {
            self.close()?;
        }
        Ok(self.sealed)
    }

    fn close(&mut self) -> io::Result<()> {
        let block = deflated(&mut self.deflate, &self.plain)?;
        let frame = framing::encode(self.sealed.base_seq, self.first, &block);
        let holds = std::mem::take(&mut self.usage);
        self.sealed.blocks.push(Block { first: self.first, frame, usage: holds });
        self.plain.clear();
        Ok(())
    }
}

fn deflated(deflate: &mut DeflateEncoder<Vec<u8>>, plain: &[u8]) -> io::Result<Vec<u8>> {
    deflate.write_all(plain)?;
    deflate.reset(Vec::new())
}

/// Inflates a block; `None` if it is damaged or larger than [`MAX_BLOCK_BYTES`].
fn inflated(sealed: &[u8]) -> Option<Vec<u8>> {
    let mut inflate = Decompress::new(false);
    let mut plain = Vec::with_capacity(2 * BLOCK_BYTES);
    loop {
        let rest = sealed.get(inflate.total_in() as usize..)?;
        match inflate.decompress_vec(rest, &mut plain, FlushDecompress::None).ok()? {
            Status::StreamEnd => return (plain.len() <= MAX_BLOCK_BYTES).then_some(plain),
            _ if plain.len() == plain.capacity() && plain.len() <= MAX_BLOCK_BYTES => {
                plain.reserve(plain.len());
            }
            // The input is truncated.
            Status::Ok | Status::BufError => return None,
        }
    }
}

fn unpack(base_seq: Seq, block: &[u8]) -> Option<Records> {
    let (_, sealed) = framing::decode(base_seq, block)?;
    let plain = inflated(sealed)?;
    let (mut records, mut rest) = (Vec::new(), plain.as_slice());
    while !rest.is_empty() {
        let (prefix, after) = rest.split_at_checked(PREFIX)?;
        let (seq, len) = prefix.split_first_chunk()?;
        let len = u32::from_le_bytes(*len.first_chunk()?) as usize;
        let (record, after) = after.split_at_checked(len)?;
        records.push((Seq(u64::from_le_bytes(*seq)), record.to_vec()));
        rest = after;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A block with a correct checksum and arbitrary content.
    fn block(sealed: &[u8]) -> Vec<u8> {
        framing::encode(Seq(1), Seq(1), sealed)
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let mut deflate = DeflateEncoder::new(Vec::new(), LEVEL);
        block(&deflated(&mut deflate, plain).unwrap())
    }

    #[test]
    fn a_segment_sealed_without_sled_reads_back_identically() {
        let records: Records = (1..200).map(|seq| (Seq(seq), vec![seq as u8; 1000])).collect();
        let borrowed = records.iter().map(|(seq, record)| (*seq, record.as_slice()));
        let folder = tempfile::tempdir().unwrap();
        SealedSegment::new(Seq(1), borrowed).unwrap().write_plain(folder.path()).unwrap();
        let (sealed, trouble) = SealedSegment::read(folder.path(), Seq(1), None).unwrap();
        assert!(trouble.is_none() && sealed.blocks.len() > 1, "{trouble:?}");
        assert_eq!(sealed.all(), records);
    }

    proptest! {
        #[test]
        fn a_block_unpacks_to_a_bounded_number_of_bytes(
            lens in proptest::collection::vec(any::<u8>(), 0..20),
            mut noise in proptest::collection::vec(any::<u8>(), 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let records = lens.iter().map(|len| vec![b'x'; usize::from(*len)]);
            let mut plain = Vec::new();
            for (seq, record) in (1_u64..).zip(records) {
                plain.extend_from_slice(&seq.to_le_bytes());
                plain.extend_from_slice(&(record.len() as u32).to_le_bytes());
                plain.extend(record);
            }
            prop_assert_eq!(unpack(Seq(1), &sealed(&plain)).unwrap().len(), lens.len());
            noise.extend_from_slice(&plain[..cut.index(plain.len() + 1)]);
            for block in [block(&noise), sealed(&noise)] {
                let unpacked = unpack(Seq(1), &block).unwrap_or_default();
                let bytes: usize = unpacked.iter().map(|(_, r)| PREFIX + r.len()).sum();
                prop_assert!(bytes <= MAX_BLOCK_BYTES);
            }
        }
    }

    #[test]
    fn a_truncated_block_is_damaged() {
        let (_, whole) =
            framing::decode(Seq(1), &sealed(&[7; 30])).map(|(s, b)| (s, b.to_vec())).unwrap();
        for cut in 0..whole.len() {
            assert_eq!(unpack(Seq(1), &block(&whole[..cut])), None, "{cut} bytes of it");
        }
    }

    #[test]
    fn a_block_that_unpacks_beyond_the_size_limit_is_damaged() {
        let bomb = sealed(&vec![0; 2 * MAX_BLOCK_BYTES]);
        assert!(bomb.len() < MAX_BLOCK_BYTES / 50, "{} bytes", bomb.len());
        assert_eq!(unpack(Seq(1), &bomb), None);
    }
}

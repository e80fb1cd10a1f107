//! The write-ahead log: the active segment as a plain file that is made durable by one fsync.
//!
//! A record counts as written once it is in this file, and as durable once the file was synced. The
//! file is a sequence of [frames](super::framing): records under their positions, and control records
//! of the store under reserved positions.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::disk;
use super::framing::{self, HEADER};
use crate::entry::Seq;

const MARK: Seq = Seq(u64::MAX);
const OPENED: Seq = Seq(u64::MAX - 1);
const CLOSED: Seq = Seq(u64::MAX - 2);

/// One item in the write-ahead log.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::queue) enum WalRecord {
    /// A record, and the offset of its frame.
    Entry(Seq, Vec<u8>, u64),
    /// The state of the store at this point.
    Checkpoint(Checkpoint),
    /// A process opened the file for writing; the value is its boot ID.
    Opened(String),
    /// Closed cleanly, with nothing left to write.
    Closed,
}

/// A checkpoint record: the state of the store that outlives every segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::queue) struct Checkpoint {
    /// Records below this position are released.
    pub(in crate::queue) head: u64,
    /// The position of the next record.
    pub(in crate::queue) tail: u64,
    /// The number of records ever appended.
    pub(in crate::queue) appended: u64,
    /// The number of records ever released. Lost records are derived: appended, but neither
    /// released nor present. A stored count could be wrong after a crash.
    pub(in crate::queue) released: u64,
    /// The position range of sealed segments that are being replaced by a prepared one; (0, 0) if
    /// no replacement is pending.
    pub(in crate::queue) replaced: (u64, u64),
    /// The caller's metadata; empty if it has stored none yet.
    pub(in crate::queue) metadata: Vec<u8>,
}

impl Checkpoint {
    pub(in crate::queue) fn to_bytes(&self) -> Vec<u8> {
        let (first, last) = self.replaced;
        let numbers = [self.head, self.tail, self.appended, self.released, first, last];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend_from_slice(&self.metadata);
        bytes
    }

    /// Increases with every append and release: the newer of two checkpoint records has the higher
    /// age.
    pub(in crate::queue) fn age(&self) -> u64 {
        self.appended.saturating_add(self.released)
    }

    pub(in crate::queue) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = number(bytes)?;
        let (tail, rest) = number(rest)?;
        let (appended, rest) = number(rest)?;
        let (released, rest) = number(rest)?;
        let (first, rest) = number(rest)?;
        let (last, metadata) = number(rest)?;
        let replaced = (first, last);
        Some(Self { head, tail, appended, released, replaced, metadata: metadata.to_vec() })
    }
}

/// Splits a little-endian number off the start of `bytes`.
pub(in crate::queue) fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// A write-ahead log open for writing.
#[derive(Debug)]
pub(in crate::queue) struct Wal {
    file: File,
    /// A second handle to the file: reading must not move the write offset.
    reader: File,
    path: PathBuf,
    base_seq: Seq,
    len: u64,
    /// A partial frame is at the end of the file and could not be truncated.
    is_torn: bool,
}

impl Wal {
    /// Creates the write-ahead log of the segment `base_seq`. The file and its name are durable when this
    /// returns.
    pub(in crate::queue) fn create(
        folder: &Path,
        base_seq: Seq,
        boot: &str,
        checkpoint: &Checkpoint,
    ) -> io::Result<Self> {
        let path = path(folder, base_seq);
        let mut first = framing::encode(base_seq, OPENED, boot.as_bytes());
        first.extend(framing::encode(base_seq, MARK, &checkpoint.to_bytes()));
        let temporary = path.with_extension("tmp");
        disk::write_durably(&temporary, &first)?;
        disk::rename(&temporary, &path)?;
        disk::sync_folder(folder)?;
        Self::open(path, base_seq)
    }

    /// Reopens the undamaged write-ahead log of the segment `base_seq` for appending.
    pub(in crate::queue) fn reopen(folder: &Path, base_seq: Seq, boot: &str) -> io::Result<Self> {
        let mut wal = Self::open(path(folder, base_seq), base_seq)?;
        wal.write(OPENED, boot.as_bytes())?;
        Ok(wal)
    }

    fn open(path: PathBuf, lo: Seq) -> io::Result<Self> {
        let mut file = disk::options().write(true).open(&path)?;
        let len = file.seek(SeekFrom::End(0))?;
        let reader = File::open(&path)?;
        Ok(Self { file, reader, path, base_seq: lo, len, is_torn: false })
    }

    /// Appends a record; returns the offset of its frame.
    pub(in crate::queue) fn append(&mut self, seq: Seq, record: &[u8]) -> io::Result<u64> {
        let at = self.len;
        self.write(seq, record)?;
        Ok(at)
    }

    /// Reads the bytes from offset `from` up to `to`.
    pub(in crate::queue) fn read(&mut self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; to.saturating_sub(from) as usize];
        self.reader.seek(SeekFrom::Start(from))?;
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Appends a checkpoint record.
    pub(in crate::queue) fn append_checkpoint(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> io::Result<()> {
        self.write(MARK, &checkpoint.to_bytes())
    }

    /// Appends a durable close record. Everything before it is synced first, so a file that ends
    /// with a close record is complete.
    pub(in crate::queue) fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        self.write(CLOSED, &[])?;
        self.sync()
    }

    /// Makes the whole file durable.
    pub(in crate::queue) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether the file still exists under its name; the folder may have been deleted.
    pub(in crate::queue) fn is_there(&self) -> bool {
        self.path.exists()
    }

    pub(in crate::queue) fn is_torn(&self) -> bool {
        self.is_torn
    }

    pub(in crate::queue) fn len(&self) -> u64 {
        self.len
    }

    /// Writes a frame completely or not at all: after a partial write the file is truncated to its
    /// previous length.
    fn write(&mut self, seq: Seq, payload: &[u8]) -> io::Result<()> {
        let frame = framing::encode(self.base_seq, seq, payload);
        if let Err(error) = self.file.write_all(&frame) {
            self.is_torn = self.truncate(self.len).is_err();
            return Err(error);
        }
        self.len += frame.len() as u64;
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len = self.file.seek(SeekFrom::Start(len))?;
        Ok(())
    }
}

/// The path of the write-ahead log of the segment `base_seq`.
pub(in crate::queue) fn path(folder: &Path, base_seq: Seq) -> PathBuf {
    folder.join(format!("tail-{:016x}.log", base_seq.0))
}

/// The readable part of a write-ahead log.
#[derive(Debug, Default)]
pub(in crate::queue) struct WalContents {
    /// The items in file order.
    pub(in crate::queue) records: Vec<WalRecord>,
    /// The number of items before the first damage.
    pub(in crate::queue) intact: usize,
    /// The whole file could be read, with no damage or truncation.
    pub(in crate::queue) is_clean: bool,
}

impl WalContents {
    /// The boot ID of its last writer; `None` if it contains none.
    pub(in crate::queue) fn boot(&self) -> Option<&str> {
        self.records.iter().rev().find_map(|note| match note {
            WalRecord::Opened(boot) => Some(boot.as_str()),
            _ => None,
        })
    }

    pub(in crate::queue) fn was_closed(&self) -> bool {
        self.records.last() == Some(&WalRecord::Closed)
    }
}

/// Reads the write-ahead log of the segment `base_seq`, skipping damage; empty if the file does not
/// exist.
pub(in crate::queue) fn read(folder: &Path, base_seq: Seq) -> io::Result<WalContents> {
    let bytes = match disk::read(&path(folder, base_seq)) {
        Ok(read) => read.bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(WalContents::default()),
        Err(error) => return Err(error),
    };
    let mut contents = WalContents { is_clean: true, ..WalContents::default() };
    let mut end = 0;
    for (offset, seq, payload) in framing::scan(base_seq, &bytes) {
        contents.is_clean &= offset == end;
        end = offset + HEADER + payload.len();
        contents.records.extend(parse_record(seq, payload, offset as u64));
        if contents.is_clean {
            contents.intact = contents.records.len();
        }
    }
    contents.is_clean &= end == bytes.len();
    Ok(contents)
}

fn parse_record(seq: Seq, payload: &[u8], at: u64) -> Option<WalRecord> {
    Some(match seq {
        OPENED => WalRecord::Opened(String::from_utf8_lossy(payload).into_owned()),
        CLOSED => WalRecord::Closed,
        MARK => WalRecord::Checkpoint(Checkpoint::from_bytes(payload)?),
        seq => WalRecord::Entry(seq, payload.to_vec(), at),
    })
}

//! The journal: the newest segment, as a plain file that takes one fsync.
//!
//! A record counts as written once it is in here, and as durable once the journal was synced. It
//! holds [frames](super::bytes): records under their positions, and notes of the store under
//! positions no record can have.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::bytes::{self, HEADER};
use super::disk;
use crate::entry::Seq;
use crate::planted::planted;

const MARK: Seq = Seq(u64::MAX);
const OPENED: Seq = Seq(u64::MAX - 1);
const CLOSED: Seq = Seq(u64::MAX - 2);

/// One thing that a journal holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// A record, and where its frame begins.
    Record(Seq, Vec<u8>, u64),
    /// Where the store stands as of here.
    Mark(Mark),
    /// Written to by a process of this boot from here on.
    Opened(String),
    /// Closed in good order, nothing was left to be written.
    Closed,
}

/// Where the store stands: what outlives every segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Everything below is released.
    pub(super) head: u64,
    /// The position that the next record takes.
    pub(super) tail: u64,
    /// Records that were ever appended.
    pub(super) appended: u64,
    /// Records that were ever released. What was appended, is not released and not held either is
    /// lost: that needs no number of its own, which could be wrong after a crash.
    pub(super) released: u64,
    /// The sealed segments from the first to the last of these positions are given up for the one
    /// that lies ready; (0, 0) when there are none.
    pub(super) replaced: (u64, u64),
    /// What the caller keeps; empty when it has kept nothing yet.
    pub(super) books: Vec<u8>,
}

impl Mark {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let (first, last) = self.replaced;
        let numbers = [self.head, self.tail, self.appended, self.released, first, last];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend_from_slice(&self.books);
        bytes
    }

    /// Grows with all that is appended and released: of two marks the newer one has more.
    pub(super) fn age(&self) -> u64 {
        self.appended.saturating_add(self.released)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = number(bytes)?;
        let (tail, rest) = number(rest)?;
        let (appended, rest) = number(rest)?;
        let (released, rest) = number(rest)?;
        let (first, rest) = number(rest)?;
        let (last, books) = number(rest)?;
        let replaced = (first, last);
        Some(Self { head, tail, appended, released, replaced, books: books.to_vec() })
    }
}

/// The number that `bytes` begin with, and what follows it.
pub(super) fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// A journal open for writing.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// The same file: reading must not move the place where writing goes on.
    reader: File,
    path: PathBuf,
    lo: Seq,
    len: u64,
    /// Half of something lies at its end and could not be cut off.
    is_torn: bool,
}

impl Journal {
    /// A new journal for the segment `lo`. Durable when this returns, and so is its name.
    pub(super) fn create(folder: &Path, lo: Seq, boot: &str, mark: &Mark) -> io::Result<Self> {
        let path = path(folder, lo);
        let mut first = bytes::frame(lo, OPENED, boot.as_bytes());
        first.extend(bytes::frame(lo, MARK, &mark.to_bytes()));
        let temporary = path.with_extension("tmp");
        disk::write_durably(&temporary, &first)?;
        disk::rename(&temporary, &path)?;
        disk::sync_folder(folder)?;
        Self::open(path, lo)
    }

    /// The journal of the segment `lo`, whose every byte could be read, to be continued.
    pub(super) fn reopen(folder: &Path, lo: Seq, boot: &str) -> io::Result<Self> {
        let mut journal = Self::open(path(folder, lo), lo)?;
        journal.write(OPENED, boot.as_bytes())?;
        Ok(journal)
    }

    fn open(path: PathBuf, lo: Seq) -> io::Result<Self> {
        let mut file = disk::options().write(true).open(&path)?;
        let len = file.seek(SeekFrom::End(0))?;
        let reader = File::open(&path)?;
        Ok(Self { file, reader, path, lo, len, is_torn: false })
    }

    /// Adds a record; returns where its frame begins.
    pub(super) fn append(&mut self, seq: Seq, record: &[u8]) -> io::Result<u64> {
        let at = self.len;
        self.write(seq, record)?;
        Ok(at)
    }

    /// The bytes from one place up to another.
    pub(super) fn read(&mut self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; to.saturating_sub(from) as usize];
        self.reader.seek(SeekFrom::Start(from))?;
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Notes where the store stands.
    pub(super) fn mark(&mut self, mark: &Mark) -> io::Result<()> {
        self.write(MARK, &mark.to_bytes())
    }

    /// Notes that nothing is left to be written, durably. Who finds the note may rely on all that is
    /// before it: that is durable before the note is written.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        self.write(CLOSED, &[])?;
        self.sync()
    }

    /// Returns once everything in it would survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        if planted("journal_not_synced") { Ok(()) } else { self.file.sync_data() }
    }

    /// Whether it can still be found under its name: somebody may have removed the folder.
    pub(super) fn is_there(&self) -> bool {
        self.path.exists()
    }

    pub(super) fn is_torn(&self) -> bool {
        self.is_torn
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All of it or nothing: what a full disk took half of is cut off again.
    fn write(&mut self, seq: Seq, payload: &[u8]) -> io::Result<()> {
        let frame = bytes::frame(self.lo, seq, payload);
        if let Err(error) = self.file.write_all(&frame) {
            if !planted("half_a_record_left_behind") {
                self.is_torn = self.cut(self.len).is_err();
            }
            return Err(error);
        }
        self.len += frame.len() as u64;
        Ok(())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len = self.file.seek(SeekFrom::Start(len))?;
        Ok(())
    }
}

/// Where the journal of the segment `lo` lies.
pub(super) fn path(folder: &Path, lo: Seq) -> PathBuf {
    folder.join(format!("tail-{:016x}.log", lo.0))
}

/// What could be read of a journal.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// In the order in which they lie there.
    pub(super) notes: Vec<Note>,
    /// So many notes precede the first damage.
    pub(super) intact: usize,
    /// Not a byte is damaged or cut short.
    pub(super) is_clean: bool,
}

impl Contents {
    /// The boot in which it was written last; `None` when it does not say.
    pub(super) fn boot(&self) -> Option<&str> {
        self.notes.iter().rev().find_map(|note| match note {
            Note::Opened(boot) => Some(boot.as_str()),
            _ => None,
        })
    }

    pub(super) fn was_closed(&self) -> bool {
        self.notes.last() == Some(&Note::Closed)
    }
}

/// What the journal of the segment `lo` holds, damaged or not; nothing when there is none.
pub(super) fn read(folder: &Path, lo: Seq) -> io::Result<Contents> {
    let bytes = match fs::read(path(folder, lo)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
        Err(error) => return Err(error),
    };
    let mut contents = Contents { is_clean: true, ..Contents::default() };
    let mut end = 0;
    for (offset, seq, payload) in bytes::carve(lo, &bytes) {
        contents.is_clean &= offset == end;
        end = offset + HEADER + payload.len();
        contents.notes.extend(note(seq, payload, offset as u64));
        if contents.is_clean {
            contents.intact = contents.notes.len();
        }
    }
    contents.is_clean &= end == bytes.len();
    Ok(contents)
}

fn note(seq: Seq, payload: &[u8], at: u64) -> Option<Note> {
    Some(match seq {
        OPENED => Note::Opened(String::from_utf8_lossy(payload).into_owned()),
        CLOSED => Note::Closed,
        MARK => Note::Mark(Mark::from_bytes(payload)?),
        seq => Note::Record(seq, payload.to_vec(), at),
    })
}

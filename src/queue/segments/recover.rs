//! What is left of the newest segment: its journal and, where a crash came just after it was
//! sealed, what was sealed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::folder::spans;
use super::packed::Packed;
use super::{Options, Records, SEGMENT_ENTRIES};
use crate::entry::Seq;
use crate::planted::planted;
use crate::queue::journal::{self, Contents, Mark, Note};
use crate::queue::{bytes, disk};

/// What a start may rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Disk,
    /// A write or an fsync failed: what was written last must be written anew. The store stood at
    /// this mark, should nothing be left of it.
    Nothing(Mark),
}

/// What became of the newest segment.
pub(super) struct Newest {
    pub(super) lo: Seq,
    pub(super) records: Records,
    /// The position after its last record, also when that is lost.
    pub(super) end: Seq,
    pub(super) mark: Mark,
    /// Where each record from `lo` on lies, when the journal may be written to further.
    pub(super) index: Option<Vec<u64>>,
    /// Positions may have been given out that are not known any more.
    pub(super) is_uncertain: bool,
}

/// Finds the newest segment of which anything is known; `None` when there is none.
pub(super) fn find_newest(
    folder: &Path,
    options: &Options,
    trust: &Trust,
) -> io::Result<Option<Newest>> {
    for lo in super::folder::journals(folder)?.into_iter().rev() {
        if let Some(newest) = recover(folder, lo, options, trust)? {
            return Ok(Some(newest));
        }
        // A new segment that a crash prevented: nothing was reported as stored in it.
        disk::remove_file(&journal::path(folder, lo))?;
    }
    Ok(None)
}

/// Puts together what is known of the newest segment; `None` if that is nothing.
fn recover(folder: &Path, lo: Seq, options: &Options, trust: &Trust) -> io::Result<Option<Newest>> {
    let contents = journal::read(folder, lo)?;
    let same_boot = !options.boot.is_empty() && contents.boot() == Some(options.boot.as_str());
    let was_closed = contents.was_closed();
    let is_uncertain = *trust != Trust::Disk || !contents.is_clean || !(same_boot || was_closed);
    let Contents { notes, intact, .. } = contents;
    // What a power cut tore was never durable; after any other damage, what follows it still is.
    let is_trusted = same_boot || was_closed || planted("torn_journal_trusted");
    let trusted = if is_trusted { notes.len() } else { intact };
    let (mut known, mut beyond) = (BTreeMap::new(), BTreeMap::new());
    let mut index = Vec::new();
    let mut mark = None;
    for (number, note) in notes.into_iter().enumerate() {
        match note {
            Note::Record(seq, record, at) if number < trusted => {
                index.push(at);
                known.insert(seq, record);
            }
            Note::Record(seq, record, _) => drop(beyond.insert(seq, record)),
            Note::Mark(found) if number < trusted => mark = Some(found),
            Note::Mark(_) | Note::Opened(_) | Note::Closed => {}
        }
    }
    for span in spans(folder, "q-")?.into_iter().filter(|span| span.lo >= lo) {
        for (seq, record) in Packed::read(&span.path(folder), span.lo).0.all() {
            known.entry(seq).or_insert(record);
        }
    }
    merge(lo, &mut known, beyond);
    if known.is_empty() && mark.is_none() {
        return Ok(None);
    }
    let after = known.last_key_value().map_or(lo, |(seq, _)| Seq(seq.0 + 1));
    let end = mark.as_ref().map_or(after, |mark| after.max(Seq(mark.tail)));
    let is_whole = end.0 - lo.0 == known.len() as u64 && index.len() == known.len();
    let index = (is_whole && !is_uncertain).then_some(index);
    let records: Records = known.into_iter().collect();
    let mark = match mark.map_or_else(|| last_mark(folder), |mark| Ok(Some(mark)))? {
        Some(mark) => mark,
        // Nor the books of what was before: what is there is all that there ever was.
        None => {
            let first = spans(folder, "q-")?.first().map_or(lo, |span| span.lo);
            Mark { head: first.0, tail: first.0, ..Mark::default() }
        }
    };
    Ok(Some(Newest { lo, records, end, mark, index, is_uncertain }))
}

/// Fills the holes of what is known, and goes on where it ends for as long as nothing is missing.
fn merge(lo: Seq, known: &mut BTreeMap<Seq, Vec<u8>>, beyond: BTreeMap<Seq, Vec<u8>>) {
    let mut next = known.last_key_value().map_or(lo, |(seq, _)| Seq(seq.0 + 1));
    for (seq, record) in beyond {
        if seq < lo || seq > next || seq.0 >= lo.0 + SEGMENT_ENTRIES {
            continue;
        }
        known.entry(seq).or_insert(record);
        next = next.max(Seq(seq.0 + 1));
    }
}

/// Notes where the store stands, in a file that is read when the journal is lost.
pub(super) fn write_mark(folder: &Path, mark: &Mark) -> io::Result<()> {
    disk::replace(&folder.join(MARK), &bytes::frame(Seq(0), Seq(0), &mark.to_bytes()))
}

/// What was noted last; `None` when it cannot be read.
pub(super) fn last_mark(folder: &Path) -> io::Result<Option<Mark>> {
    let bytes = match fs::read(folder.join(MARK)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(bytes::parse(Seq(0), &bytes).and_then(|(_, mark)| Mark::from_bytes(mark)))
}

const MARK: &str = "mark";

//! What is left of the newest segment: put together from its journal and its database.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::folder::{
    carve, discard, insert_all, numbers, read_seal, scan, seal_payload, segment_path,
};
use super::{Options, Records, SEGMENT_ENTRIES};
use crate::entry::Seq;
use crate::queue::disk;
use crate::queue::journal::{self, Contents, Mark, Note};
use crate::queue::sled::Database;

/// What a start may rely on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    Disk,
    /// A write or an fsync failed: what was written last must be written anew.
    Nothing,
}

/// What became of the newest segment.
pub(super) struct Newest {
    pub(super) lo: Seq,
    pub(super) records: Records,
    /// The position after its last record, also when that is lost.
    pub(super) end: Seq,
    pub(super) mark: Mark,
    /// The database, when it may be written to further.
    pub(super) db: Option<Database>,
    /// Positions may have been given out that are not known any more.
    pub(super) is_uncertain: bool,
}

impl Newest {
    /// A new one from `lo` on, where nothing of one is left: the sealed ones know the rest.
    pub(super) fn unknown(folder: &Path, lo: Seq) -> io::Result<Self> {
        let mark = match numbers(folder, "q-")?.is_empty() {
            true => Mark { head: lo.0, tail: lo.0, ..Mark::default() },
            false => last_sealed_mark(folder, lo)?,
        };
        let records = Vec::new();
        Ok(Self { lo, records, end: lo, mark, db: None, is_uncertain: false })
    }
}

/// Finds the newest segment of which anything is known; `None` in a new folder.
pub(super) fn find_newest(
    folder: &Path,
    options: &Options,
    trust: Trust,
) -> io::Result<Option<Newest>> {
    let segments = numbers(folder, "q-")?;
    let mut candidates = numbers(folder, "tail-")?;
    candidates.extend(segments.last());
    candidates.sort_unstable();
    candidates.dedup();
    for &lo in candidates.iter().rev() {
        if let Some(newest) = recover(folder, lo, options, trust)? {
            return Ok(Some(newest));
        }
        // A new segment that a crash prevented: nothing was reported as stored in it.
        discard(folder, lo)?;
        disk::remove_file(&journal::path(folder, lo))?;
    }
    Ok(None)
}

/// Puts together what journal and database know of the newest segment; `None` if that is nothing.
fn recover(folder: &Path, lo: Seq, options: &Options, trust: Trust) -> io::Result<Option<Newest>> {
    let path = segment_path(folder, lo);
    let contents = journal::read(folder, lo)?;
    let same_boot = !options.boot.is_empty() && contents.boot() == Some(options.boot.as_str());
    let is_uncertain =
        trust == Trust::Nothing || !contents.is_clean || !(same_boot || contents.was_closed());
    let (db, in_db) = open_newest(&path, lo);
    let Contents { notes, intact, .. } = contents;
    // What a power cut tore was never durable; after any other damage, what follows it still is.
    let trusted = if same_boot { notes.len() } else { intact };
    let (mut known, mut beyond) = (BTreeMap::new(), BTreeMap::new());
    let mut mark = None;
    for (index, note) in notes.into_iter().enumerate() {
        match note {
            Note::Record(seq, record) if index < trusted => drop(known.insert(seq, record)),
            Note::Record(seq, record) => drop(beyond.insert(seq, record)),
            Note::Mark(found) if index < trusted => mark = Some(found),
            Note::Mark(_) | Note::Opened(_) | Note::Closed => {}
        }
    }
    let is_equal = in_db.iter().zip(&known).all(|(a, (seq, record))| a.0 == *seq && a.1 == *record);
    let is_prefix = is_equal && in_db.len() <= known.len();
    let missing: Records =
        known.iter().skip(in_db.len()).map(|(seq, record)| (*seq, record.clone())).collect();
    beyond.extend(in_db);
    merge(lo, &mut known, beyond);
    if known.is_empty() && mark.is_none() {
        return Ok(None);
    }
    let after = known.last_key_value().map_or(lo, |(seq, _)| Seq(seq.0 + 1));
    let end = mark.as_ref().map_or(after, |mark| after.max(Seq(mark.tail)));
    let is_whole = end.0 - lo.0 == known.len() as u64;
    let may_continue = is_prefix && is_whole && !is_uncertain && read_seal(&path, lo).is_none();
    let db = match db.filter(|_| may_continue) {
        Some(db) => insert_all(&db, lo, &missing).ok().map(|()| db),
        None => None,
    };
    let records: Records = known.into_iter().collect();
    let mark = match mark {
        Some(mark) => mark,
        None => last_sealed_mark(folder, lo)?,
    };
    Ok(Some(Newest { lo, records, end, mark, db, is_uncertain }))
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

/// The database of the newest segment and the records in it, if it is in good order; else as many
/// of the records as can be found.
fn open_newest(path: &Path, lo: Seq) -> (Option<Database>, Records) {
    if !path.is_dir() {
        return (None, Vec::new());
    }
    let mut records = Vec::new();
    let opened = Database::open(path).and_then(|db| {
        records = scan(&db, lo)?;
        Ok(db)
    });
    match opened {
        Ok(db) => (Some(db), records),
        Err(error) => {
            tracing::warn!(segment = %lo, %error, "the newest segment does not open");
            (None, carve(path, lo))
        }
    }
}

/// Where the store stood when the last segment below `lo` was sealed: all that is known when the
/// journal is gone.
fn last_sealed_mark(folder: &Path, lo: Seq) -> io::Result<Mark> {
    let below = numbers(folder, "q-")?.into_iter().rev().filter(|number| *number < lo);
    let mut first = lo;
    for number in below {
        first = number;
        if let Some(payload) = seal_payload(&segment_path(folder, number), number)
            && let Some(mark) = Mark::from_bytes(payload.get(32..).unwrap_or_default())
        {
            return Ok(mark);
        }
    }
    // Nor the books of what was before: what is there is all that there ever was.
    Ok(Mark { head: first.0, tail: first.0, ..Mark::default() })
}

//! Checks every byte of a segment without changing it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::folder::read_seal;
use crate::entry::Seq;
use crate::queue::storage::names::SeqRange;
use crate::queue::storage::sealed::SealedSegment;
use crate::queue::storage::wal::{self, WalRecord};
use crate::queue::storage::{SegmentContents, disk};

/// Checks a sealed segment. Works on a copy, because sled writes to the database that it opens.
pub(in crate::queue) fn segment(
    folder: &Path,
    range: SeqRange,
    head: Seq,
) -> io::Result<SegmentContents> {
    let path = range.path(folder);
    let copy = tempfile::tempdir()?;
    disk::copy_folder(&path, copy.path())?;
    let seal = read_seal(&path, range)?;
    let (sealed, error) =
        SealedSegment::read(copy.path(), range.base_seq, seal.as_ref().map(|seal| seal.stored))?;
    let readable = sealed.usage().records;
    let trouble = match (&seal, error) {
        (_, Some(error)) => Some(format!("its database is damaged ({})", one_line(&error))),
        (None, None) => Some("its seal is damaged".into()),
        (Some(seal), None) if seal.stored.records != readable => Some("it is damaged".into()),
        (Some(_), None) => None,
    };
    Ok(SegmentContents {
        first: range.base_seq.max(head),
        last: range.last,
        records: sealed.all().into_iter().filter(|(seq, _)| *seq >= head).collect(),
        missing: seal.map_or(0, |seal| seal.stored.records.saturating_sub(readable)),
        trouble,
    })
}

/// Checks the write-ahead log of the segment `base_seq`, which should reach up to `tail`; `None` if it
/// contains no records and none is missing.
pub(in crate::queue) fn wal(
    folder: &Path,
    base_seq: Seq,
    head: Seq,
    tail: Seq,
) -> io::Result<Option<SegmentContents>> {
    let contents = wal::read(folder, base_seq)?;
    let is_clean = contents.is_clean;
    let (mut records, mut end) = (BTreeMap::new(), base_seq.max(tail));
    for note in contents.records {
        match note {
            WalRecord::Entry(seq, record, _) => {
                end = end.max(Seq(seq.0 + 1));
                records.insert(seq, record);
            }
            WalRecord::Checkpoint(checkpoint) => end = end.max(Seq(checkpoint.tail)),
            WalRecord::Opened(_) | WalRecord::Closed => {}
        }
    }
    let first = base_seq.max(head);
    if is_clean && end <= first {
        return Ok(None);
    }
    let records: Vec<_> = records.into_iter().filter(|(seq, _)| *seq >= head).collect();
    let missing = end.0.saturating_sub(first.0).saturating_sub(records.len() as u64);
    let trouble = match (is_clean, missing) {
        (true, 0) => None,
        (true, _) => Some("the write-ahead log was cut short".to_owned()),
        (false, _) => Some("the write-ahead log is damaged, deleted or was cut short".to_owned()),
    };
    Ok(Some(SegmentContents {
        first,
        last: Seq(end.0.saturating_sub(1)),
        records,
        missing,
        trouble,
    }))
}

/// sled's errors about damaged files have several lines.
fn one_line(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

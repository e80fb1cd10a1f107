//! The names of the files in a queue's folder.

use std::io;
use std::path::{Path, PathBuf};

use super::disk;
use crate::entry::Seq;

/// The prefix of folders in which segments are built.
pub(super) const UNFINISHED: &str = "unfinished";

/// The range of positions of a segment, inclusive; also its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::queue) struct SeqRange {
    pub(in crate::queue) base_seq: Seq,
    pub(in crate::queue) last: Seq,
}

impl SeqRange {
    pub(super) fn path(self, folder: &Path) -> PathBuf {
        folder.join(self.name("q"))
    }

    /// The path of the complete segment before it is renamed into place.
    pub(super) fn new_path(self, folder: &Path) -> PathBuf {
        folder.join(self.name("new"))
    }

    pub(super) fn is_inside(self, other: Self) -> bool {
        other.base_seq <= self.base_seq && self.last <= other.last
    }

    pub(super) fn name(self, prefix: &str) -> String {
        format!("{prefix}-{:016x}-{:016x}", self.base_seq.0, self.last.0)
    }

    fn parse(name: &str) -> Option<Self> {
        let (_, rest) = name.split_once('-')?;
        let (lo, rest) = parse_number(rest)?;
        let (last, rest) = parse_number(rest.strip_prefix('-')?)?;
        (rest.is_empty() && lo <= last).then_some(Self { base_seq: lo, last })
    }
}

/// The position ranges of the segments whose names begin with `prefix`, oldest first.
pub(in crate::queue) fn ranges(folder: &Path, prefix: &str) -> io::Result<Vec<SeqRange>> {
    Ok(disk::names(folder, prefix)?.iter().filter_map(|name| SeqRange::parse(name)).collect())
}

/// The base positions of the existing write-ahead logs, oldest first.
pub(in crate::queue) fn wals(folder: &Path) -> io::Result<Vec<Seq>> {
    let mut wals = Vec::new();
    for name in disk::names(folder, "tail-")? {
        if let Some((base_seq, ".log")) = name.strip_prefix("tail-").and_then(parse_number) {
            wals.push(base_seq);
        }
    }
    Ok(wals)
}

/// The highest position in the name of a segment or a write-ahead log.
pub(super) fn position_in(name: &str) -> Option<Seq> {
    let (base_seq, rest) = parse_number(name.split_once('-')?.1)?;
    let last = rest.strip_prefix('-').and_then(parse_number);
    Some(last.map_or(base_seq, |(last, _)| last))
}

/// Whether the folder contains a store, or the remains of one.
pub(in crate::queue) fn is_store(folder: &Path) -> bool {
    folder.join("FORMAT").exists()
        || wals(folder).is_ok_and(|wals| !wals.is_empty())
        || ranges(folder, "q-").is_ok_and(|ranges| !ranges.is_empty())
}

fn parse_number(text: &str) -> Option<(Seq, &str)> {
    let (digits, rest) = text.split_at_checked(16)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    // No queue reaches this position; below it, the sum of two positions does not overflow.
    (number < 1 << 62).then_some((Seq(number), rest))
}

//! Read-only view of the folder of a store that no process has open: nothing is opened, repaired or
//! deleted.

use std::io;
use std::path::{Path, PathBuf};

use super::report::Finding;
use crate::entry::Seq;
use crate::queue::storage::names::{SeqRange, ranges, wals};
use crate::queue::storage::quarantine::strays;
use crate::queue::storage::segments::checkpoint::{self, SavedCheckpoint};
use crate::queue::storage::segments::contents;
use crate::queue::storage::segments::facts::damaged_facts;
use crate::queue::storage::segments::format::has_format;
use crate::queue::storage::segments::recover::{last_mark, newer_checkpoint};
use crate::queue::storage::wal::{self, Checkpoint, WalRecord};
use crate::queue::storage::{SegmentContents, disk};

const NO_WAL: &str = "the write-ahead log of the newest segment is missing";

/// The content of a store's folder.
#[derive(Debug)]
pub(in crate::queue) struct StoreScan {
    folder: PathBuf,
    /// The sealed segments, oldest first.
    ranges: Vec<SeqRange>,
    wal: Option<Seq>,
    checkpoint: Option<SavedCheckpoint>,
    last_checkpoint: Checkpoint,
    findings: Vec<Finding>,
}

impl StoreScan {
    /// Scans file names, and reads the newest write-ahead log.
    pub(in crate::queue) fn scan(folder: &Path) -> io::Result<Self> {
        let (wals, mut ranges) = (wals(folder)?, ranges(folder, "q-")?);
        let mut findings = Vec::new();
        if !has_format(folder)? {
            findings.push(Finding::new("FORMAT: it is missing or damaged", "it is rewritten"));
        }
        for name in strays(folder)? {
            let problem =
                format!("{name}: a link or a folder is in the place of a file, or the reverse");
            findings.push(Finding::new(
                &problem,
                "it is moved to quarantine/; the original is missing",
            ));
        }
        let wal = wals.into_iter().rev().find(|base_seq| wal::path(folder, *base_seq).is_file());
        let checkpoint = checkpoint::read(folder);
        let mark = match wal {
            Some(base_seq) => newest_checkpoint(folder, base_seq)?,
            None => None,
        };
        if wal.is_some() && mark.is_none() {
            let problem = "the write-ahead log has no readable checkpoint record";
            findings.push(Finding::new(problem, "the state at its creation is used"));
        }
        let mark = match mark {
            Some(mark) => Some(mark),
            None => last_mark(folder)?,
        };
        let mark = newer_checkpoint(mark, checkpoint.as_ref()).unwrap_or_default();
        // Segments above the base position were sealed just before a crash; the write-ahead log still contains
        // their records.
        ranges.retain(|range| wal.is_none_or(|base_seq| range.base_seq < base_seq));
        for name in damaged_facts(folder)? {
            let problem = format!("facts/{name}: it is damaged");
            findings.push(Finding::new(&problem, "it is deleted; the queue continues without it"));
        }
        let mut found = Self {
            folder: folder.into(),
            ranges,
            wal,
            checkpoint,
            last_checkpoint: mark,
            findings,
        };
        if wal.is_none() && found.missing_wal().is_none() {
            let remedy = "according to the checkpoint it was empty; the rest is kept";
            found.findings.push(Finding::new(NO_WAL, remedy));
        }
        Ok(found)
    }

    /// Problems outside the segments.
    pub(in crate::queue) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The last known state of the store.
    pub(in crate::queue) fn last_checkpoint(&self) -> &Checkpoint {
        &self.last_checkpoint
    }

    /// The position after the newest record. The write-ahead log may contain newer records than its
    /// last checkpoint record shows.
    pub(in crate::queue) fn tail(&self) -> Seq {
        let sealed = self.ranges.last().map_or(0, |range| range.last.0 + 1);
        Seq(self.last_checkpoint.tail.max(sealed))
    }

    /// Disk usage in bytes.
    pub(in crate::queue) fn disk_bytes(&self) -> u64 {
        disk::used(&self.folder)
    }

    /// Leftovers of a crash, which are deleted when the store is opened.
    pub(in crate::queue) fn leftovers(&self) -> io::Result<Vec<String>> {
        let mut names = disk::names(&self.folder, "")?;
        names.retain(|name| {
            name.starts_with("trash-") || name.starts_with("new-") || name.ends_with(".tmp")
        });
        Ok(names)
    }

    /// Reads every byte of the segment that contains `from`, or else of the next one.
    pub(in crate::queue) fn inspect_segment(
        &self,
        from: Seq,
    ) -> io::Result<Option<SegmentContents>> {
        let head = Seq(self.last_checkpoint.head);
        let from = from.max(head);
        match (self.ranges.iter().find(|range| range.last >= from), self.wal) {
            (Some(range), _) => contents::segment(&self.folder, *range, head).map(Some),
            (None, Some(base_seq)) => {
                let examined =
                    contents::wal(&self.folder, base_seq, head, Seq(self.last_checkpoint.tail))?;
                Ok(examined.filter(|examined| from <= examined.last.max(base_seq)))
            }
            (None, None) => Ok(self.missing_wal().filter(|missing| from <= missing.last)),
        }
    }

    /// The records that the missing write-ahead log contained, if any.
    fn missing_wal(&self) -> Option<SegmentContents> {
        let sealed = self.ranges.last().map_or(0, |range| range.last.0 + 1);
        let begin = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.base_seq.0);
        let first = begin.max(sealed).max(self.last_checkpoint.head);
        let missing = self.last_checkpoint.tail.saturating_sub(first);
        let trouble = Some(NO_WAL.to_owned());
        let last = Seq(self.last_checkpoint.tail.saturating_sub(1));
        let examined =
            SegmentContents { first: Seq(first), last, records: Vec::new(), missing, trouble };
        (missing > 0).then_some(examined)
    }

    /// The number of entries lost by the time the queue was last used.
    pub(in crate::queue) fn lost_before(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.lost)
    }
}

fn newest_checkpoint(folder: &Path, base_seq: Seq) -> io::Result<Option<Checkpoint>> {
    let lines = wal::read(folder, base_seq)?.records;
    Ok(lines.into_iter().rev().find_map(|note| match note {
        WalRecord::Checkpoint(checkpoint) => Some(checkpoint),
        WalRecord::Entry(..) | WalRecord::Opened(_) | WalRecord::Closed => None,
    }))
}

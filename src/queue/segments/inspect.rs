//! Read-only view of the folder of a store that no process has open: nothing is opened, repaired or
//! deleted.

use std::io;
use std::path::{Path, PathBuf};

use super::checkpoint::{self, Checkpoint};
use super::examine;
use super::folder::{Span, damaged_facts, has_format, journals, spans, strays};
use super::recover::{last_mark, newer_mark};
use crate::entry::Seq;
use crate::queue::disk;
use crate::queue::examine::Finding;
use crate::queue::journal::{self, Mark, Note};
use crate::queue::store::Examined;

const NO_JOURNAL: &str = "the write-ahead log of the newest segment is missing";

/// The content of a store's folder.
#[derive(Debug)]
pub(in crate::queue) struct Untouched {
    folder: PathBuf,
    /// The sealed segments, oldest first.
    spans: Vec<Span>,
    journal: Option<Seq>,
    checkpoint: Option<Checkpoint>,
    mark: Mark,
    findings: Vec<Finding>,
}

/// Whether the folder contains a store, or the remains of one.
pub(in crate::queue) fn is_store(folder: &Path) -> bool {
    let is_any = |names: io::Result<bool>| names.unwrap_or(false);
    folder.join("FORMAT").exists()
        || is_any(journals(folder).map(|journals| !journals.is_empty()))
        || is_any(spans(folder, "q-").map(|spans| !spans.is_empty()))
}

impl Untouched {
    /// Scans file names, and reads the newest write-ahead log.
    pub(in crate::queue) fn look(folder: &Path) -> io::Result<Self> {
        let (journals, mut spans) = (journals(folder)?, spans(folder, "q-")?);
        let mut findings = Vec::new();
        if !has_format(folder)? {
            findings.push(Finding::new("FORMAT: it is missing or damaged", "it is rewritten"));
        }
        for name in strays(folder)? {
            let what =
                format!("{name}: a link or a folder is in the place of a file, or the reverse");
            findings
                .push(Finding::new(&what, "it is moved to quarantine/; the original is missing"));
        }
        let is_file = |lo: &&Seq| journal::path(folder, **lo).is_file();
        let journal = journals.iter().rev().find(is_file).copied();
        let checkpoint = checkpoint::read(folder);
        let mark = match journal {
            Some(lo) => newest_mark(folder, lo)?,
            None => None,
        };
        if journal.is_some() && mark.is_none() {
            let what = "the write-ahead log has no readable checkpoint record";
            findings.push(Finding::new(what, "the state at its creation is used"));
        }
        let mark = match mark {
            Some(mark) => Some(mark),
            None => last_mark(folder)?,
        };
        let mark = newer_mark(mark, checkpoint.as_ref()).unwrap_or_default();
        // Segments above `lo` were sealed just before a crash; the write-ahead log still contains
        // their records.
        spans.retain(|span| journal.is_none_or(|lo| span.lo < lo));
        for name in damaged_facts(folder)? {
            let what = format!("facts/{name}: it is damaged");
            findings.push(Finding::new(&what, "it is deleted; the queue continues without it"));
        }
        let mut found = Self { folder: folder.into(), spans, journal, checkpoint, mark, findings };
        if journal.is_none() && found.missing_journal().is_none() {
            let remedy = "according to the checkpoint it was empty; the rest is kept";
            found.findings.push(Finding::new(NO_JOURNAL, remedy));
        }
        Ok(found)
    }

    /// Problems outside the segments.
    pub(in crate::queue) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The last known state of the store.
    pub(in crate::queue) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The position after the newest record. The write-ahead log may contain newer records than its
    /// last checkpoint record shows.
    pub(in crate::queue) fn tail(&self) -> Seq {
        let sealed = self.spans.last().map_or(0, |span| span.last.0 + 1);
        Seq(self.mark.tail.max(sealed))
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
    pub(in crate::queue) fn examine(&self, from: Seq) -> io::Result<Option<Examined>> {
        let head = Seq(self.mark.head);
        let from = from.max(head);
        match (self.spans.iter().find(|span| span.last >= from), self.journal) {
            (Some(span), _) => examine::segment(&self.folder, *span, head).map(Some),
            (None, Some(lo)) => {
                let examined = examine::journal(&self.folder, lo, head, Seq(self.mark.tail))?;
                Ok(examined.filter(|examined| from <= examined.last.max(lo)))
            }
            (None, None) => Ok(self.missing_journal().filter(|missing| from <= missing.last)),
        }
    }

    /// The records that the missing write-ahead log contained, if any.
    fn missing_journal(&self) -> Option<Examined> {
        let sealed = self.spans.last().map_or(0, |span| span.last.0 + 1);
        let begin = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.lo.0);
        let first = begin.max(sealed).max(self.mark.head);
        let missing = self.mark.tail.saturating_sub(first);
        let trouble = Some(NO_JOURNAL.to_owned());
        let last = Seq(self.mark.tail.saturating_sub(1));
        let examined = Examined { first: Seq(first), last, records: Vec::new(), missing, trouble };
        (missing > 0).then_some(examined)
    }

    /// The number of entries lost by the time the queue was last used.
    pub(in crate::queue) fn lost_before(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.lost)
    }
}

fn newest_mark(folder: &Path, lo: Seq) -> io::Result<Option<Mark>> {
    let notes = journal::read(folder, lo)?.notes;
    Ok(notes.into_iter().rev().find_map(|note| match note {
        Note::Mark(mark) => Some(mark),
        Note::Record(..) | Note::Opened(_) | Note::Closed => None,
    }))
}

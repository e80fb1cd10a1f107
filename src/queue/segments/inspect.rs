//! A store that nobody has open, seen as it lies there: nothing is opened, mended or swept.

use std::io;
use std::path::{Path, PathBuf};

use super::examine;
use super::folder::{Span, damaged_facts, has_format, journals, spans};
use super::recover::last_mark;
use crate::entry::Seq;
use crate::queue::disk;
use crate::queue::examine::Finding;
use crate::queue::journal::{self, Mark, Note};
use crate::queue::store::Examined;

/// What lies in the folder of a store.
#[derive(Debug)]
pub(in crate::queue) struct Untouched {
    folder: PathBuf,
    /// The sealed segments, oldest first.
    spans: Vec<Span>,
    journal: Option<Seq>,
    mark: Mark,
    findings: Vec<Finding>,
}

/// Whether there is a store in the folder, or something that is left of one.
pub(in crate::queue) fn is_store(folder: &Path) -> bool {
    let is_any = |names: io::Result<bool>| names.unwrap_or(false);
    folder.join("FORMAT").exists()
        || is_any(journals(folder).map(|journals| !journals.is_empty()))
        || is_any(spans(folder, "q-").map(|spans| !spans.is_empty()))
}

impl Untouched {
    /// Looks at names, and at the newest journal.
    pub(in crate::queue) fn look(folder: &Path) -> io::Result<Self> {
        let (journals, mut spans) = (journals(folder)?, spans(folder, "q-")?);
        let mut findings = Vec::new();
        if !has_format(folder)? {
            findings.push(Finding::new("FORMAT: it is missing or damaged", "it is written anew"));
        }
        let journal = journals.last().copied();
        let mark = match journal {
            Some(lo) => newest_mark(folder, lo)?,
            None => None,
        };
        if journal.is_none() {
            let what = "the journal of the newest segment is missing";
            findings.push(Finding::new(what, "what was in it is lost, the rest is kept"));
        } else if mark.is_none() {
            let what = "the journal says nowhere how the queue stood";
            findings.push(Finding::new(what, "what was noted when it was begun is taken"));
        }
        let mark = match mark {
            Some(mark) => mark,
            None => last_mark(folder)?.unwrap_or_default(),
        };
        // Those above were sealed just before a crash: the journal has them too.
        spans.retain(|span| journal.is_none_or(|lo| span.lo < lo));
        for name in damaged_facts(folder)? {
            let what = format!("facts/{name}: it is damaged");
            findings.push(Finding::new(&what, "it is removed, the queue goes on without it"));
        }
        Ok(Self { folder: folder.into(), spans, journal, mark, findings })
    }

    /// What is wrong beside the segments.
    pub(in crate::queue) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Where the store stood.
    pub(in crate::queue) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The position after the newest, unless the journal has newer ones than it says.
    pub(in crate::queue) fn tail(&self) -> Seq {
        let sealed = self.spans.last().map_or(0, |span| span.last.0 + 1);
        Seq(self.mark.tail.max(sealed))
    }

    /// Bytes on the disk.
    pub(in crate::queue) fn disk_bytes(&self) -> u64 {
        disk::used(&self.folder)
    }

    /// What a crash left; it goes when the store is opened.
    pub(in crate::queue) fn leftovers(&self) -> io::Result<Vec<String>> {
        let mut names = disk::names(&self.folder, "")?;
        names.retain(|name| {
            name.starts_with("trash-") || name.starts_with("new-") || name.ends_with(".tmp")
        });
        Ok(names)
    }

    /// Reads the segment that holds `from`, or the next one, to its last byte.
    pub(in crate::queue) fn examine(&self, from: Seq) -> io::Result<Option<Examined>> {
        let head = Seq(self.mark.head);
        let from = from.max(head);
        match (self.spans.iter().find(|span| span.last >= from), self.journal) {
            (Some(span), _) => examine::segment(&self.folder, *span, head).map(Some),
            (None, Some(lo)) => {
                let examined = examine::journal(&self.folder, lo, head)?;
                Ok(examined.filter(|examined| from <= examined.last.max(lo)))
            }
            (None, None) => Ok(None),
        }
    }
}

fn newest_mark(folder: &Path, lo: Seq) -> io::Result<Option<Mark>> {
    let notes = journal::read(folder, lo)?.notes;
    Ok(notes.into_iter().rev().find_map(|note| match note {
        Note::Mark(mark) => Some(mark),
        Note::Record(..) | Note::Opened(_) | Note::Closed => None,
    }))
}

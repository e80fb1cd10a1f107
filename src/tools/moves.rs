//! Entries that come into the queue by hand: an export that is imported, what a server refused.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::line::What;
use super::{Line, Tools};
use crate::clock;
use crate::config::MAX_BATCH_LINES;
use crate::entry::Seq;
use crate::queue::{Appended, QueueError, Stamps};

/// What became of lines that were appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub stored: u64,
    /// Setups that are the same as the one before.
    pub unchanged: u64,
    /// At the queue's bound, and counted there.
    pub dropped: u64,
    /// In memory: the disk does not keep up, or fails.
    pub buffered: u64,
    /// Lines that are none.
    pub refused: u64,
    /// The positions that they got.
    pub first: Option<Seq>,
    pub last: Option<Seq>,
}

impl Moved {
    /// What became of these and of more.
    pub fn add(&mut self, more: Self) {
        self.stored += more.stored;
        self.unchanged += more.unchanged;
        self.dropped += more.dropped;
        self.buffered += more.buffered;
        self.refused += more.refused;
        self.first = self.first.or(more.first);
        self.last = more.last.or(self.last);
    }

    fn note(&mut self, appended: Appended) {
        match appended {
            Appended::Stored(seq) => {
                self.stored += 1;
                self.first = self.first.or(Some(seq));
                self.last = Some(seq);
            }
            Appended::Unchanged => self.unchanged += 1,
            Appended::Dropped(_) => self.dropped += 1,
            Appended::Buffered => self.buffered += 1,
        }
    }
}

/// What the server refused, and has not been queued again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    pub frames: u64,
    pub setups: u64,
    /// Lines that are none.
    pub unreadable: u64,
    /// The positions that they had.
    pub first: Option<Seq>,
    pub last: Option<Seq>,
}

impl Tools {
    /// Appends entries in their order. Each keeps its moment of capture, unless the queue holds a
    /// later one already: then it gets the moment after that.
    pub async fn append(&self, lines: &[Line]) -> Result<Moved, QueueError> {
        let mut moved = Moved::default();
        for lines in lines.chunks(MAX_BATCH_LINES) {
            let make = |stamps: &mut Stamps| {
                let entry = |line: &Line| line.entry(stamps.next(line.captured_at));
                lines.iter().map(entry).collect()
            };
            let appended = self.writer.append(make).await?;
            appended.into_iter().for_each(|one| moved.note(one));
        }
        Ok(moved)
    }

    /// What the server refused.
    pub async fn refused(&self) -> Result<Refusals, QueueError> {
        let (text, head) = self.operator.refused().await?;
        let (lines, unreadable) = refused_lines(&text, head);
        let mut refusals = Refusals { unreadable, ..Refusals::default() };
        for line in &lines {
            match line.what {
                What::Frame(_) => refusals.frames += 1,
                What::Setup(_) => refusals.setups += 1,
            }
        }
        refusals.first = lines.iter().filter_map(|line| line.seq).min();
        refusals.last = lines.iter().filter_map(|line| line.seq).max();
        Ok(refusals)
    }

    /// Appends what the server refused once more. The lines are set aside first, so that each is
    /// taken once, whatever happens then.
    pub async fn requeue(&self) -> Result<Moved, QueueError> {
        let (text, head) = self.operator.take_refused().await?;
        let (lines, unreadable) = refused_lines(&text, head);
        let mut moved = self.append(&lines).await?;
        moved.refused += unreadable;
        Ok(moved)
    }
}

/// The lines of entries that have left the queue, each once, and how many lines are none. After a
/// crash an entry may be noted and queued still, or noted twice.
fn refused_lines(text: &str, head: Seq) -> (Vec<Line>, u64) {
    let now = clock::now();
    let (mut lines, mut unreadable) = (Vec::new(), 0);
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match Line::parse(line.as_bytes(), now) {
            Ok(line) => {
                let is_new = line.seq.is_none_or(|seq| seq < head && seen.insert(seq));
                lines.extend(is_new.then_some(line));
            }
            Err(_) => unreadable += 1,
        }
    }
    (lines, unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_was_refused_is_taken_once_and_not_while_it_is_queued() {
        let line = |seq: u64| {
            format!(r#"{{"seq":{seq},"captured_at":"2025-11-22T14:30:22Z","telemetry":{{}}}}"#)
        };
        let text = [line(3), line(4), line(3), "half of a li".into(), line(9), line(10)].join("\n");
        let (lines, unreadable) = refused_lines(&text, Seq(9));
        let seqs: Vec<_> = lines.iter().filter_map(|line| line.seq).collect();
        assert_eq!((seqs, unreadable), (vec![Seq(3), Seq(4)], 1));
    }
}

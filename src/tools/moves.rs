//! Entries appended by the operator: imported exports and requeued dead letters.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::line::What;
use super::{Line, Tools};
use crate::entry::Seq;
use crate::platform::clock;
use crate::queue::{Appended, QueueError, Stamps};
use crate::source::lines::MAX_BATCH_LINES;

/// The outcome of appending lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub stored: u64,
    /// Setups identical to the previous one.
    pub unchanged: u64,
    /// Entries dropped because the queue is full; its ledger counts them.
    pub dropped: u64,
    /// Entries in memory: the disk is too slow or fails.
    pub buffered: u64,
    /// Invalid lines.
    pub refused: u64,
    /// The sequence numbers of the first and the last stored entry.
    pub first: Option<Seq>,
    pub last: Option<Seq>,
}

impl Moved {
    /// Adds the outcome of later lines.
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

/// The dead letters: entries that the server refused and that were not requeued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    pub frames: u64,
    pub setups: u64,
    /// Invalid lines.
    pub unreadable: u64,
    /// The lowest and the highest sequence number that they had.
    pub first: Option<Seq>,
    pub last: Option<Seq>,
}

impl Tools {
    /// Appends entries in the given order. Each keeps its capture time, unless the queue already
    /// holds a later one: then it gets the next moment after that.
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

    /// Counts the dead letters.
    pub async fn refused(&self) -> Result<Refusals, QueueError> {
        let (text, head) = self.operator.dead_letters().await?;
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

    /// Requeues the dead letters. Their file is renamed first, so that each is requeued at most
    /// once, even after a crash.
    pub async fn requeue(&self) -> Result<Moved, QueueError> {
        let (text, head) = self.operator.archive_dead_letters().await?;
        let (lines, unreadable) = refused_lines(&text, head);
        let mut moved = self.append(&lines).await?;
        moved.refused += unreadable;
        Ok(moved)
    }
}

/// Parses dead letters; returns one line for each entry that has left the queue, and the number of
/// invalid lines. After a crash an entry may be listed twice, or listed and still queued.
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
    fn a_dead_letter_is_requeued_once_and_not_while_still_queued() {
        let line = |seq: u64| {
            format!(r#"{{"seq":{seq},"captured_at":"2025-11-22T14:30:22Z","telemetry":{{}}}}"#)
        };
        let text = [line(3), line(4), line(3), "half of a li".into(), line(9), line(10)].join("\n");
        let (lines, unreadable) = refused_lines(&text, Seq(9));
        let seqs: Vec<_> = lines.iter().filter_map(|line| line.seq).collect();
        assert_eq!((seqs, unreadable), (vec![Seq(3), Seq(4)], 1));
    }
}

//! Acknowledging delivered entries, and looking up the disposition of any entry.

use std::io;

use super::Engine;
use super::cursors::{Cursor, Index};
use crate::entry::{Entry, Seq, content_members};
use crate::queue::batch::RefusedEntry;
use crate::queue::disposition::{self, DestinationDisposition, Disposition, DispositionRange};
use crate::queue::ledger::DropReason;
use crate::queue::storage::SideLog;
use crate::queue::{Batch, Limit};

impl Engine {
    /// Acknowledges a batch whose entries a destination has received. It must be the destination's
    /// oldest batch: entries before it would leave with it, unsent and missing from the ledger.
    pub(in crate::queue) fn ack(&mut self, of: Index, batch: &Batch) -> io::Result<()> {
        let head = self.cursors[of].committed.max(self.store.head());
        let ahead = batch.records.first().map(|(first, _)| *first).filter(|first| *first > head);
        // Entries before it may have been downsampled.
        if ahead.is_some()
            && ahead > self.read_records(head, Limit::ONE)?.first().map(|(seq, _)| *seq)
        {
            let text = "a batch must not be removed before an older one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // Some of the entries may have been dropped since they were read. All three are in order of
        // position.
        let Batch { entries, refused, records } = batch;
        let entries = &entries[entries.partition_point(|entry| entry.seq < head)..];
        let refused = &refused[refused.partition_point(|refused| refused.entry.seq < head)..];
        let records = &records[records.partition_point(|(seq, _)| *seq < head)..];
        let Some(&(last, _)) = records.last() else { return Ok(()) };
        let count = records.len() as u64;
        self.put_in_force(of, entries.iter())?;
        for refused in refused {
            let line = dead_letter(refused, &self.cursors[of].name);
            self.store.append_line(SideLog::DeadLetters, &line)?;
        }
        let (delivered, dead_letters) = (entries.len() as u64, refused.len() as u64);
        let mut cursors = self.cursors.clone();
        let cursor = &mut cursors[of];
        cursor.ledger.delivered += delivered;
        cursor.ledger.dead_letters += dead_letters;
        cursor.ledger.drop(DropReason::Corrupt, count - delivered - dead_letters);
        self.record_dispositions(cursor, batch, head)?;
        cursor.advance(Seq(last.0 + 1), count);
        self.commit(cursors)
    }

    /// Records the disposition of the entries of an acknowledged batch.
    fn record_dispositions(
        &mut self,
        cursor: &mut Cursor,
        batch: &Batch,
        head: Seq,
    ) -> io::Result<()> {
        let is_downsampled = self.is_downsampled_at(head);
        for &(seq, _) in batch.records.iter().filter(|(seq, _)| *seq >= head) {
            let disposition = match seq {
                seq if batch.entries.binary_search_by_key(&seq, |entry| entry.seq).is_ok() => {
                    Disposition::Delivered
                }
                seq if batch.refused.iter().any(|refused| refused.entry.seq == seq) => {
                    Disposition::DeadLetter
                }
                _ => Disposition::Dropped(DropReason::Corrupt),
            };
            self.record_disposition(
                cursor,
                DispositionRange { first: seq, last: seq, disposition },
                is_downsampled,
            )?;
        }
        Ok(())
    }

    /// Whether the segment that contains a position was downsampled.
    pub(super) fn is_downsampled_at(&self, seq: Seq) -> bool {
        let segment = if seq <= self.store.head() {
            self.store.oldest_sealed_segment().filter(|segment| segment.last >= seq)
        } else {
            self.store.sealed_segments().into_iter().find(|segment| segment.last >= seq)
        };
        segment.is_some_and(|segment| segment.level > 0)
    }

    /// The disposition of an entry for each destination.
    pub(in crate::queue) fn dispositions(
        &mut self,
        seq: Seq,
    ) -> io::Result<Vec<DestinationDisposition>> {
        let found = self.read_records(seq, Limit::ONE)?;
        let is_held = found.first().is_some_and(|(found, _)| *found == seq);
        let is_queued = |cursor: &Cursor| is_held && cursor.committed <= seq;
        let is_new = seq >= self.store.tail();
        let lines = if is_new || self.cursors.iter().all(is_queued) {
            String::new()
        } else {
            self.store.lines(SideLog::Dispositions)?
        };
        let dispositions = self.cursors.iter().map(|cursor| DestinationDisposition {
            destination: cursor.name.to_string(),
            disposition: if is_new {
                Disposition::NotAssigned
            } else if is_queued(cursor) {
                Disposition::Queued
            } else {
                disposition::find(&lines, &cursor.name, cursor.disposition, seq)
            },
        });
        Ok(dispositions.collect())
    }
}

/// Formats a dead letter: one JSON object with the reason and the unchanged frame or setup.
fn dead_letter(refused: &RefusedEntry, destination: &str) -> String {
    let Entry { seq, stint, captured_at, kind, json } = &refused.entry;
    let reason = serde_json::Value::from(refused.reason.as_str());
    let content = content_members(*kind, "telemetry", json);
    format!(
        r#"{{"seq":{seq},"stint":{stint},"captured_at":"{captured_at}","cause":"refused","reason":{reason},"destination":"{destination}",{content}}}"#
    )
}

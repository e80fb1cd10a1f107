//! Dropping entries on an operator's request, from the head or the middle of the queue.
//!
//! Each step drops entries of one segment and updates the metadata atomically with that, so an
//! append never waits for long, and after a crash the ledger balances with some of the entries
//! dropped.
//!
//! - A drop from the head works like an eviction: a setup that leaves becomes the one in force.
//! - A drop from the middle proceeds from the newest segment to the oldest, by [`Storage::replace`](crate::queue::storage::Storage::replace).
//!   It keeps setups that later entries depend on, and entries that may be in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use super::Engine;
use super::eviction::{DROP_STEP_BYTES, DROP_STEP_ENTRIES};
use crate::entry::{Entry, Kind, Seq, StintId};
use crate::queue::disposition::{Disposition, DispositionRange};
use crate::queue::ledger::DropReason;
use crate::queue::storage::{SegmentInfo, SideLog};
use crate::queue::{Limit, record};

/// The result of one step of a drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeStep {
    pub dropped: u64,
    /// Setups that were kept because later entries depend on them.
    pub setups: Vec<Seq>,
    /// Entries below this position were kept because they may be in flight.
    pub in_flight_below: Option<Seq>,
    /// The remaining range to drop, inclusive; `None` when the drop is complete.
    pub rest: Option<(Seq, Seq)>,
}

const DISPOSITION: Disposition = Disposition::Dropped(DropReason::Operator);
/// How far beyond the dropped range a step searches for an entry of the same stint, in entries and
/// bytes of records: the size of a full segment, so that a step stays short.
const LOOK_AHEAD: Limit = Limit { entries: 4096, bytes: 4 << 20 };

impl Engine {
    /// Drops entries from `first` to `last` inclusive, as many as fit in one step.
    pub(in crate::queue) fn drop_between(
        &mut self,
        first: Seq,
        last: Seq,
    ) -> io::Result<PurgeStep> {
        let last = last.min(Seq(self.usable_store()?.tail().0.saturating_sub(1)));
        let oldest = self.read_records(self.store.head(), Limit::ONE)?;
        match oldest.first() {
            Some((oldest, _)) if *oldest > last || first > last => Ok(PurgeStep::default()),
            Some((oldest, _)) if *oldest < first => self.drop_inside(first, last),
            Some(_) => self.drop_from_head(last),
            None => Ok(PurgeStep::default()),
        }
    }

    fn drop_from_head(&mut self, last: Seq) -> io::Result<PurgeStep> {
        let limit = Limit { entries: DROP_STEP_ENTRIES, bytes: DROP_STEP_BYTES };
        let mut records = self.read_records(self.store.head(), limit)?;
        records.truncate(records.partition_point(|(seq, _)| *seq <= last));
        let Some(&(end, _)) = records.last() else { return Ok(PurgeStep::default()) };
        let dropped = records.len() as u64;
        self.drop_from(&records, DropReason::Operator)?;
        let next = Seq(end.0 + 1);
        let rest = (next <= last).then_some((next, last));
        Ok(PurgeStep { dropped, rest, ..PurgeStep::default() })
    }

    /// Drops the oldest records of the queue, for each destination that has not received them.
    pub(super) fn drop_from(
        &mut self,
        oldest: &[(Seq, Vec<u8>)],
        reason: DropReason,
    ) -> io::Result<()> {
        let Some(&(last, _)) = oldest.last() else { return Ok(()) };
        let is_downsampled = self.is_downsampled_at(self.store.head());
        let mut cursors = self.cursors.clone();
        for (of, cursor) in cursors.iter_mut().enumerate() {
            let own = &oldest[oldest.partition_point(|(seq, _)| *seq < cursor.committed)..];
            if own.is_empty() {
                continue;
            }
            let decoded = own.iter().map(|(seq, bytes)| record::decode(*seq, bytes).ok());
            let entries: Vec<Option<Entry>> = decoded.collect();
            self.put_in_force(of, entries.iter().flatten())?;
            for (&(seq, _), entry) in own.iter().zip(&entries) {
                let reason = if entry.is_some() { reason } else { DropReason::Corrupt };
                let run = DispositionRange {
                    first: seq,
                    last: seq,
                    disposition: Disposition::Dropped(reason),
                };
                self.record_disposition(cursor, run, is_downsampled)?;
                cursor.ledger.drop(reason, 1);
            }
            cursor.advance(Seq(last.0 + 1), own.len() as u64);
        }
        self.commit(cursors)
    }

    /// Drops entries from the middle of the queue, where older entries remain.
    fn drop_inside(&mut self, first: Seq, last: Seq) -> io::Result<PurgeStep> {
        let out_below = self.in_flight_below(first, last);
        let first = first.max(out_below.unwrap_or(first));
        let mut step = PurgeStep { in_flight_below: out_below, ..PurgeStep::default() };
        if first > last {
            return Ok(step);
        }
        let sealed = self.store.sealed_segments();
        if sealed.last().is_none_or(|newest| newest.last < last) {
            self.usable_store()?.seal()?;
        }
        let segments = self.store.sealed_segments();
        let index = segments.partition_point(|segment| segment.first <= last);
        let Some((segment, older)) = segments[..index].split_last() else { return Ok(step) };
        if segment.last < first {
            return Ok(step);
        }
        let begin = first.max(segment.first);
        step.rest = (first < begin).then(|| (first, Seq(begin.0 - 1)));
        let all = self.read_between(segment.first, segment.last)?;
        step.setups = self.setups_that_stay(&all, begin, last)?;
        let goes = |seq: Seq| (begin..=last).contains(&seq) && !step.setups.contains(&seq);
        let (gone, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|(seq, _)| goes(*seq));
        step.dropped = gone.len() as u64;
        if gone.is_empty() {
            return Ok(step);
        }
        let gone: Vec<Seq> = gone.into_iter().map(|(seq, _)| seq).collect();
        self.note_gone(&gone, &step.setups)?;
        self.put_in_place(segment, older.last(), kept, &gone)?;
        Ok(step)
    }

    /// The last setup of each stint in the range to drop, unless a later setup replaces it.
    fn setups_that_stay(
        &mut self,
        records: &[(Seq, Vec<u8>)],
        first: Seq,
        last: Seq,
    ) -> io::Result<Vec<Seq>> {
        let mut setups = BTreeMap::new();
        for entry in decoded(records).filter(|entry| (first..=last).contains(&entry.seq)) {
            if entry.kind == Kind::Setup {
                setups.insert(entry.stint, entry.seq);
            }
        }
        if setups.is_empty() {
            return Ok(Vec::new());
        }
        let (undecided, is_all) = self.retain_needed(&mut setups, Seq(last.0 + 1))?;
        // The stint of an undecided setup may continue beyond the look-ahead, or with the next
        // entry.
        setups.retain(|stint, _| {
            !undecided.contains(stint) || !is_all || self.stints.may_continue(*stint)
        });
        let mut setups: Vec<Seq> = setups.into_values().collect();
        setups.sort();
        Ok(setups)
    }

    /// Removes each setup from `setups` that a later setup of the same stint, at or after `from`,
    /// replaces. Returns the stints without any entry within [`LOOK_AHEAD`], and whether all
    /// records were readable up to the end of the queue.
    fn retain_needed(
        &mut self,
        setups: &mut BTreeMap<StintId, Seq>,
        mut from: Seq,
    ) -> io::Result<(BTreeSet<StintId>, bool)> {
        let mut undecided: BTreeSet<StintId> = setups.keys().copied().collect();
        let (mut is_readable, mut left) = (true, LOOK_AHEAD);
        // A read does not cross the end of a segment: continue with the next ones.
        while !undecided.is_empty() && left.entries > 0 && left.bytes > 0 {
            let records = self.read_records(from, left)?;
            let Some(&(last, _)) = records.last() else { return Ok((undecided, is_readable)) };
            from = Seq(last.0 + 1);
            let bytes = records.iter().map(|(_, record)| record.len()).sum();
            left.entries = left.entries.saturating_sub(records.len());
            left.bytes = left.bytes.saturating_sub(bytes);
            for (seq, bytes) in &records {
                let Ok(entry) = record::decode(*seq, bytes) else {
                    is_readable = false;
                    continue;
                };
                if undecided.remove(&entry.stint) && entry.kind == Kind::Setup {
                    setups.remove(&entry.stint);
                }
            }
        }
        Ok((undecided, false))
    }

    /// Records the disposition of dropped entries. Until the metadata is updated the lines are
    /// premature; but then the entries are still queued, or have left in a crash in between.
    fn note_gone(&mut self, gone: &[Seq], setups: &[Seq]) -> io::Result<()> {
        let is_one_run =
            |one: &Seq, next: &Seq| !setups.iter().any(|setup| one < setup && setup < next);
        for part in gone.chunk_by(is_one_run) {
            self.note_part_gone(part)?;
        }
        Ok(())
    }

    fn note_part_gone(&mut self, part: &[Seq]) -> io::Result<()> {
        for cursor in &self.cursors {
            let own = &part[part.partition_point(|seq| *seq < cursor.committed)..];
            if let (Some(&first), Some(&last)) = (own.first(), own.last()) {
                self.store.append_line(
                    SideLog::Dispositions,
                    &DispositionRange { first, last, disposition: DISPOSITION }.line(&cursor.name),
                )?;
            }
        }
        Ok(())
    }

    /// Replaces a segment by the records that are kept. A segment of which nothing is kept is
    /// merged into the next older one: if a store replaces a segment by nothing, a crash may
    /// restore the old one.
    fn put_in_place(
        &mut self,
        segment: &SegmentInfo,
        older: Option<&SegmentInfo>,
        mut kept: Vec<(Seq, Vec<u8>)>,
        gone: &[Seq],
    ) -> io::Result<()> {
        let (mut first, mut level) = (segment.first, segment.level);
        if let Some(older) = older.filter(|_| kept.is_empty()) {
            kept = self.read_between(older.first, older.last)?;
            (first, level) = (older.first, older.level);
        }
        let cursors =
            self.without(gone, |ledger, entries| ledger.drop(DropReason::Operator, entries));
        let metadata = self.encode_metadata(&cursors)?;
        self.usable_store()?.replace(first, segment.last, level, kept, &metadata)?;
        self.cursors = cursors;
        Ok(())
    }
}

fn decoded(records: &[(Seq, Vec<u8>)]) -> impl Iterator<Item = Entry> {
    records.iter().filter_map(|(seq, bytes)| record::decode(*seq, bytes).ok())
}

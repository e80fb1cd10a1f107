//! Opens the store: scans the folder, repairs it where necessary, and counts the records.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use super::active::ActiveSegment;
use super::cache::MAX_LOADED;
use super::checkpoint::{self, CheckpointFile, SavedCheckpoint};
use super::facts::{read_facts, remove_damaged_facts};
use super::folder::{
    Segment, borrowed, build, discard, finish_rewrite, highest_position, publish,
    quarantine_segment, read_seal, remove_leftovers, remove_other_wals,
};
use super::format::check_format;
use super::recover::{
    RecoveredSegment, Trust, find_newest, gaps, last_mark, newer_checkpoint, write_checkpoint,
};
use super::{Options, SEGMENT_ENTRIES, SegmentStore};
use crate::entry::Seq;
use crate::queue::storage::names::{SeqRange, ranges};
use crate::queue::storage::sealed::SealedSegment;
use crate::queue::storage::wal::Wal;
use crate::queue::storage::{FIRST, Records, Storage, Usage, disk, quarantine};

impl SegmentStore {
    pub(super) fn start(folder: &Path, options: Options, trust: &Trust) -> io::Result<Self> {
        disk::create_folder(folder)?;
        quarantine::move_strays(folder)?;
        disk::create_folder(&folder.join("facts"))?;
        check_format(folder)?;
        let highest = highest_position(folder)?;
        remove_leftovers(folder)?;
        remove_damaged_facts(folder)?;
        let facts = read_facts(folder)?;
        let checkpoint = checkpoint::read(folder);
        let found = match find_newest(folder, &options, trust, checkpoint.as_ref())? {
            Some(newest) => newest,
            None => Self::without_journal(folder, highest, trust, checkpoint.as_ref())?,
        };
        let RecoveredSegment {
            base_seq,
            records,
            end,
            checkpoint: mut mark,
            index,
            is_uncertain,
            missing,
        } = found;
        finish_rewrite(folder, &mark)?;
        mark.appended += end.0.saturating_sub(mark.tail.max(base_seq.0));
        let mut store = Self {
            folder: folder.into(),
            options,
            sealed: VecDeque::new(),
            active: None,
            loaded: VecDeque::new(),
            head: Seq(mark.head),
            durable_head: Seq(mark.head),
            tail: end,
            appended: mark.appended,
            released: mark.released,
            usage: Usage::default(),
            metadata: std::mem::take(&mut mark.metadata),
            replaced: (0, 0),
            dirty: true,
            sealed_bytes: 0,
            largest_bytes: 0,
            other_bytes: 0,
            checkpoints: CheckpointFile::open(folder),
            lost_ranges: Vec::new(),
            facts,
            lock: None,
        };
        store.find_sealed(base_seq)?;
        store.active = Some(match index {
            Some(index) => {
                // The segment had just been sealed when the process ended; its write-ahead log is
                // complete and stays active.
                ranges(folder, "q-")?
                    .into_iter()
                    .filter(|range| range.base_seq >= base_seq)
                    .try_for_each(|range| discard(folder, range))?;
                let boot = store.options.boot.clone();
                let wal = store.with_ballast(|_| Wal::reopen(folder, base_seq, &boot))?;
                ActiveSegment::continued(base_seq, wal, &index, &records)
            }
            None => {
                if is_uncertain {
                    let highest = highest.map_or(end, |seq| seq.max(end));
                    store.skip_to(Seq(highest.0 + SEGMENT_ENTRIES));
                }
                store.seal_found(base_seq, end, records)?
            }
        });
        remove_other_wals(folder, store.active()?.base_seq);
        store.count_held()?;
        store.say_what_is_lost(base_seq, missing, checkpoint.as_ref());
        store.append_checkpoint()?;
        if store.usage().records == 0 {
            store.head = store.tail;
        }
        store.fill_ballast();
        store.measure_others();
        store.measure_sealed();
        store.flush()?;
        store.remove_released()?;
        Ok(store)
    }

    /// Determines the state of the store when nothing is left of the active segment.
    fn without_journal(
        folder: &Path,
        highest: Option<Seq>,
        trust: &Trust,
        checkpoint: Option<&SavedCheckpoint>,
    ) -> io::Result<RecoveredSegment> {
        let known = match trust {
            Trust::Nothing(mark) => Some(mark.clone()),
            Trust::Disk => newer_checkpoint(last_mark(folder)?, checkpoint),
        };
        let floor = highest.max(known.as_ref().map(|mark| Seq(mark.tail)));
        // There may have been one more segment of which not even the name is left.
        let base_seq = floor.map_or(FIRST, |seq| Seq(seq.0 + 2 * SEGMENT_ENTRIES));
        let mut mark = known.unwrap_or_default();
        let sealed = ranges(folder, "q-")?;
        let begin = checkpoint.map_or(Seq(0), |checkpoint| checkpoint.base_seq);
        let begin = begin.max(sealed.last().map_or(FIRST, |range| Seq(range.last.0 + 1)));
        let last = Seq(mark.tail.saturating_sub(1));
        let missing = gaps(begin.max(Seq(mark.head)), last, std::iter::empty(), 0);
        // All existing records count as unreleased.
        let first = sealed.first().map_or(base_seq, |range| range.base_seq);
        mark.head = mark.head.max(first.0);
        mark.tail = base_seq.0;
        let records = Vec::new();
        Ok(RecoveredSegment {
            base_seq,
            records,
            end: base_seq,
            checkpoint: mark,
            index: None,
            is_uncertain: false,
            missing,
        })
    }

    /// Counts the unreleased records. The caller's metadata is from the same moment as `released`,
    /// so the ledger balances whatever was lost since.
    fn count_held(&mut self) -> io::Result<()> {
        let newest = self.active.iter().map(ActiveSegment::usage);
        for held in self.sealed.iter().map(|segment| segment.pending).chain(newest) {
            self.usage += held;
        }
        self.release_below(self.head)?;
        // If only an old checkpoint record was left, there may be more records than it counts.
        self.appended = self.appended.max(self.released + self.usage.records);
        Ok(())
    }

    /// Logs the records that were lost since the last flush, and stores their positions. `missing`
    /// are those of the active segment, which began at `newest`.
    fn say_what_is_lost(
        &mut self,
        newest: Seq,
        missing: Vec<(Seq, Seq)>,
        checkpoint: Option<&SavedCheckpoint>,
    ) {
        let entries: u64 = missing.iter().map(|(first, last)| last.0 - first.0 + 1).sum();
        if let (Some((first, _)), Some((_, last))) = (missing.first(), missing.last()) {
            tracing::error!(
                entries, %first, %last,
                "entries are lost: the queue's newest write-ahead log was cut, damaged or deleted; \
                 counted as dropped (corrupt)"
            );
        }
        let lost = self.lost().saturating_sub(checkpoint.map_or(u64::MAX, |known| known.lost));
        let others = lost.saturating_sub(entries);
        if others > 0 {
            tracing::error!(
                entries = others,
                "entries are lost: segments of the queue were damaged or deleted; counted as dropped \
                 (corrupt)"
            );
            // Positions skipped at a start are in these gaps too; no entry has them.
            let mut next = self.head;
            let found: Vec<_> = self.sealed.iter().map(|segment| segment.range).collect();
            for range in found.into_iter().filter(|range| range.last >= self.head) {
                let last = Seq(range.base_seq.0.saturating_sub(1));
                self.lost_ranges.extend(gaps(next, last, std::iter::empty(), 0));
                next = Seq(range.last.0 + 1);
            }
            let end = Seq(newest.0.saturating_sub(1));
            self.lost_ranges.extend(gaps(next, end, std::iter::empty(), 0));
        }
        self.lost_ranges.extend(missing);
    }

    /// Finds the sealed segments below `newest`, and deletes the released ones.
    fn find_sealed(&mut self, newest: Seq) -> io::Result<()> {
        for range in ranges(&self.folder, "q-")?.into_iter().filter(|range| range.base_seq < newest)
        {
            if range.last < self.head {
                discard(&self.folder, range)?;
                continue;
            }
            let segment = match read_seal(&range.path(&self.folder), range)? {
                Some(segment) if segment.is_empty() => {
                    discard(&self.folder, range)?;
                    None
                }
                Some(segment) => Some(segment),
                None => self.seal_again(range)?,
            };
            self.sealed.extend(segment);
        }
        // The first segments may have grown since their seals were written, because they were
        // opened for reading.
        for segment in self.sealed.iter_mut().take(MAX_LOADED) {
            segment.disk_bytes = disk::used(&segment.range.path(&self.folder));
        }
        Ok(())
    }

    /// Reseals the readable records of a segment whose seal is missing or damaged.
    fn seal_again(&mut self, range: SeqRange) -> io::Result<Option<Segment>> {
        let (sealed, trouble) =
            SealedSegment::read(&range.path(&self.folder), range.base_seq, None)?;
        let records = sealed.all();
        tracing::error!(
            segment = %range.base_seq, records = records.len(),
            error = trouble.map(tracing::field::display),
            "the seal of a queue segment is missing or damaged; readable records are kept",
        );
        let seqs = records.iter().map(|(seq, _)| *seq);
        self.lost_ranges.extend(gaps(range.base_seq.max(self.head), range.last, seqs, 0));
        let segment = if records.is_empty() {
            None
        } else {
            Some(build(&self.folder, range, &sealed, Usage::of(&records), 0)?)
        };
        quarantine_segment(&self.folder, range)?;
        segment.iter().try_for_each(|segment| publish(&self.folder, segment.range))?;
        Ok(segment)
    }

    /// Skips the positions that may have been assigned to records of which nothing is left: no
    /// segment, whether its name survived or not, extended beyond `tail`.
    fn skip_to(&mut self, tail: Seq) {
        if self.head >= self.tail {
            self.head = tail;
        }
        self.tail = tail;
    }

    /// Seals the recovered records of the active segment and starts a new one.
    fn seal_found(
        &mut self,
        base_seq: Seq,
        end: Seq,
        mut records: Records,
    ) -> io::Result<ActiveSegment> {
        records.retain(|(seq, _)| *seq >= self.head);
        if !records.is_empty() {
            let range = SeqRange { base_seq, last: Seq(end.0 - 1) };
            let sealed = SealedSegment::new(base_seq, borrowed(&records))?;
            let segment = self.with_ballast(|store| {
                build(&store.folder, range, &sealed, Usage::of(&records), 0)
            })?;
            // The new segment includes the records that were sealed before the process ended.
            for old in
                ranges(&self.folder, "q-")?.into_iter().filter(|old| old.base_seq >= base_seq)
            {
                discard(&self.folder, old)?;
            }
            publish(&self.folder, range)?;
            self.sealed.push_back(segment);
        }
        let (checkpoint, boot) = (self.checkpoint(), self.options.boot.clone());
        let tail = self.tail;
        let wal = self.with_ballast(|store| {
            write_checkpoint(&store.folder, &checkpoint)?;
            Wal::create(&store.folder, tail, &boot, &checkpoint)
        })?;
        Ok(ActiveSegment::new(tail, wal))
    }
}

//! Eviction: which entries are removed when the queue reaches a limit.

use std::io;

use super::Engine;
use super::cursors::positions;
use super::downsampling::{self, Downsampled};
use crate::config::WhenFull;
use crate::entry::{QueueTime, Seq};
use crate::queue::ledger::DropReason;
use crate::queue::storage::SideLog;
use crate::queue::{Limit, disposition, record};

/// The maximum entries, and bytes of their records, that one step drops from the head of the queue.
pub const DROP_STEP_ENTRIES: usize = 1024;
pub(super) const DROP_STEP_BYTES: usize = 1 << 20;

/// The space that must be free before a waiting source continues: one batch of lines.
const BLOCK_BYTES: usize = 1 << 20;

/// The limit that is exceeded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shortfall {
    Nothing,
    /// The number of excess entries.
    Entries(u64),
    Bytes,
}

impl Engine {
    fn shortfall(&self, record: Option<usize>) -> Shortfall {
        let entries = self.store.usage().records + u64::from(record.is_some());
        if entries > self.limits.max_entries {
            Shortfall::Entries(entries - self.limits.max_entries)
        } else if self.store.disk_bytes_with(record.unwrap_or(0)) > self.limits.max_bytes {
            Shortfall::Bytes
        } else {
            Shortfall::Nothing
        }
    }

    /// The number of entries that a waiting source may append now.
    pub(in crate::queue) fn room(&self) -> u64 {
        let usage = self.store.usage().records;
        match self.limits.when_full {
            // A batch that is larger than the whole queue must be accepted when the queue is empty.
            WhenFull::Block if usage == 0 => u64::MAX,
            WhenFull::Block if self.shortfall(Some(BLOCK_BYTES)) == Shortfall::Bytes => 0,
            WhenFull::Block => self.limits.max_entries.saturating_sub(usage),
            _ => u64::MAX,
        }
    }

    /// Makes room for a record of `record` bytes, or evicts until the queue is within its limits.
    /// Returns `false` if that is not possible.
    pub(super) fn make_room(&mut self, record: Option<usize>) -> io::Result<bool> {
        let mut is_tidy = false;
        loop {
            let shortfall = self.shortfall(record);
            if shortfall == Shortfall::Bytes && !is_tidy {
                // Released segments are deleted from disk only after the release is durable.
                self.flush()?;
                self.maintain()?;
                is_tidy = true;
                continue;
            }
            let found = match self.limits.when_full {
                _ if shortfall == Shortfall::Nothing => {
                    return Ok(true);
                }
                // A source that can wait has already waited for room.
                WhenFull::Thin | WhenFull::Block => {
                    self.downsample()? || self.evict_oldest(shortfall)?
                }
                WhenFull::DropOldest => self.evict_oldest(shortfall)?,
                // A lowered limit also applies to existing entries.
                _ if record.is_none() => self.evict_oldest(shortfall)?,
                WhenFull::DropNewest => false,
            };
            if !found {
                return Ok(false);
            }
            is_tidy = false;
        }
    }

    /// Downsamples the oldest segments; returns `false` if no more frames can be removed.
    fn downsample(&mut self) -> io::Result<bool> {
        let old = self.recent.begins_at();
        let mut segments = self.store.sealed_segments();
        segments.retain(|segment| segment.last < old);
        let most = self.limits.segment_entries();
        while let Some(step) = downsampling::next(&segments, most) {
            let (first, last) = (segments[step.first].first, segments[step.last].last);
            let records = self.read_between(first, last)?;
            let before: Vec<Seq> = records.iter().map(|(seq, _)| *seq).collect();
            let Downsampled { records, level } =
                downsampling::downsample(records, step.level, |seq| {
                    seq < old && !self.is_in_flight(seq)
                });
            let mut gone = before.clone();
            gone.retain(|seq| records.binary_search_by_key(seq, |(left, _)| *left).is_err());
            if !gone.is_empty() {
                let had = positions(&self.cursors);
                let line = disposition::downsampled_line(&before, level, &records, &had);
                self.store.append_line(SideLog::Dispositions, &line)?;
            }
            let cursors = self.without(&gone, |ledger, entries| ledger.downsampled += entries);
            let metadata = self.encode_metadata(&cursors)?;
            self.usable_store()?.replace(first, last, level, records, &metadata)?;
            self.cursors = cursors;
            if !gone.is_empty() {
                return Ok(true);
            }
            segments = self.store.sealed_segments();
            segments.retain(|segment| segment.last < old);
        }
        Ok(false)
    }

    /// Drops the excess entries, or the oldest segment if the disk limit is exceeded; returns
    /// `false` if there is nothing to drop.
    fn evict_oldest(&mut self, shortfall: Shortfall) -> io::Result<bool> {
        if let Shortfall::Entries(excess) = shortfall {
            let most = excess.min(DROP_STEP_ENTRIES as u64) as usize;
            return self.drop_oldest(most, DropReason::QueueFull, |_, _| true);
        }
        if self.store.usage().records == 0 {
            return Ok(false);
        }
        if self.store.oldest_sealed_segment().is_none() {
            self.usable_store()?.seal()?;
        }
        let Some(segment) = self.store.oldest_sealed_segment() else { return Ok(true) };
        while self
            .drop_oldest(DROP_STEP_ENTRIES, DropReason::QueueFull, |seq, _| seq <= segment.last)?
        {
        }
        Ok(true)
    }

    /// Drops entries that are older than `newest` by more than the limit. After a long stop it
    /// drops them in portions, so that no append waits for all of them.
    pub(super) fn expire(&mut self, newest: QueueTime) -> io::Result<()> {
        let oldest_allowed = newest.0.saturating_sub(self.limits.max_age_ms());
        // Usually one entry expires for each one appended.
        let mut most = 1;
        while most <= DROP_STEP_ENTRIES
            && self.oldest()?.is_some_and(|oldest| oldest.queued_at.0 < oldest_allowed)
            && self.drop_oldest(most, DropReason::Expired, |_, record| {
                record::fields(record).is_some_and(|record| record.queued_at.0 < oldest_allowed)
            })?
        {
            most *= 2;
        }
        Ok(())
    }

    /// Drops the oldest entries for which `goes` is true, at most `most`; returns `false` if
    /// nothing was dropped. Destinations that have received them lose nothing.
    fn drop_oldest(
        &mut self,
        most: usize,
        reason: DropReason,
        goes: impl Fn(Seq, &[u8]) -> bool,
    ) -> io::Result<bool> {
        let limit = Limit { entries: most, bytes: DROP_STEP_BYTES };
        let mut oldest = self.read_records(self.store.head(), limit)?;
        let going = oldest.iter().take_while(|(seq, bytes)| goes(*seq, bytes)).count();
        oldest.truncate(going);
        self.drop_from(&oldest, reason)?;
        Ok(!oldest.is_empty())
    }
}

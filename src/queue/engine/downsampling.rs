//! Downsampling: which frames a full queue removes, so that it covers a day at a lower resolution
//! instead of one hour followed by a gap.
//!
//! Each segment has a level. At level k it contains, for each stream, the frames of
//! [rank](RetentionFlags::rank) k or higher, that is every 2^k-th, and the [marked](RetentionFlags) frames: the first
//! and the last of a lap, each frame at which the state of the gearbox, the pits or the session
//! changes, and the first after a setup or a start. Setups are always kept. Therefore two
//! consecutive remaining frames of a stint are at most 2^k original frames apart, within a segment
//! and across its boundaries.
//!
//! The oldest segment of the lowest level is downsampled first. So no segment reaches level k + 1
//! while level k would suffice, and newer data never has the lower resolution.
//!
//! [RetentionFlags]: crate::queue::record::RetentionFlags

use std::collections::HashMap;

use crate::entry::{Kind, Seq, StintId};
use crate::queue::record::{self, Record};
use crate::queue::storage::SegmentInfo;

/// Every 65,536th frame, nine hours apart at 2 Hz; the other remaining frames are marked.
pub(super) const MAX_LEVEL: u32 = 16;

/// Merges the segments from index `first` to `last` inclusive into one of this level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MergeStep {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) level: u32,
}

/// Chooses what to downsample next; `None` if every segment is at the highest level. A merged
/// segment should not contain many more than `most` records.
pub(super) fn next(segments: &[SegmentInfo], most: u64) -> Option<MergeStep> {
    let lowest = segments.iter().map(|segment| segment.level).min()?;
    let index = segments.iter().position(|segment| segment.level == lowest)?;
    let level = lowest + 1;
    let records = |index: usize| segments[index].usage.records;
    let (mut first, mut last) = (index, index);
    if index > 0
        && segments[index - 1].level == level
        && records(index - 1) + records(index) / 2 <= most
    {
        first -= 1;
    } else if let Some(next) = segments.get(index + 1)
        && next.level == lowest
        && (records(index) + next.usage.records) / 2 <= most
    {
        last += 1;
    }
    (lowest < MAX_LEVEL).then_some(MergeStep { first, last, level })
}

/// The records that remain after downsampling.
#[derive(Debug)]
pub(super) struct Downsampled {
    pub(super) records: Vec<(Seq, Vec<u8>)>,
    pub(super) level: u32,
}

/// Downsamples consecutive records to `level` or, if that removes none, to the lowest level that
/// removes some. Records that are not free are kept, and so is the last frame of each stint,
/// because its successor, which may have to keep it, is not known here.
pub(super) fn downsample(
    mut records: Vec<(Seq, Vec<u8>)>,
    level: u32,
    is_free: impl Fn(Seq) -> bool,
) -> Downsampled {
    /// Kept at every level.
    const ALWAYS: u32 = u32::MAX;
    let mut ranks = vec![ALWAYS; records.len()];
    // Per stint: whether the next newer frame keeps its predecessor.
    let mut wanted: HashMap<StintId, bool> = HashMap::new();
    for (index, (seq, bytes)) in records.iter().enumerate().rev() {
        // Undecodable records are kept here and counted as corrupt when they are sent.
        let Some(Record { stint, kind: Kind::Frame, flags, .. }) = record::fields(bytes) else {
            continue;
        };
        let wants = flags.keeps_predecessor();
        let is_wanted = wanted.insert(stint, wants).unwrap_or(true);
        if !is_wanted && !flags.is_kept() && is_free(*seq) {
            ranks[index] = flags.rank(*seq);
        }
    }
    let lowest_rank = ranks.iter().min().copied().unwrap_or(ALWAYS);
    let level = level.max(lowest_rank.saturating_add(1)).min(MAX_LEVEL);
    let mut ranks = ranks.into_iter();
    records.retain(|_| ranks.next().is_none_or(|rank| rank >= level));
    Downsampled { records, level }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::entry::QueueTime;
    use crate::queue::record::RetentionFlags;
    use crate::queue::storage::Usage;

    fn segments(levels: &[u32], records: u64) -> Vec<SegmentInfo> {
        let segment = |(index, level): (usize, &u32)| SegmentInfo {
            first: Seq(index as u64 * 100),
            last: Seq(index as u64 * 100 + 99),
            usage: Usage { records, bytes: 0 },
            level: *level,
        };
        levels.iter().enumerate().map(segment).collect()
    }

    #[test]
    fn downsampling_starts_with_the_oldest_segments_of_the_lowest_level() {
        for (levels, records, first, last, level) in [
            (&[0][..], 100, 0, 0, 1),
            (&[0, 0], 100, 0, 1, 1),
            (&[0, 0], 120, 0, 0, 1),
            (&[1, 0, 0], 50, 0, 1, 1),
            (&[1, 0, 0], 100, 1, 2, 1),
            (&[2, 1, 1], 50, 0, 1, 2),
            (&[3, 2, 16, 0], 100, 3, 3, 1),
        ] {
            let step = next(&segments(levels, records), 100);
            assert_eq!(step, Some(MergeStep { first, last, level }), "{levels:?}");
        }
        assert_eq!(next(&segments(&[16, 16], 1), 100), None);
        assert_eq!(next(&[], 100), None);
    }

    #[test]
    fn downsampling_keeps_flagged_frames_their_predecessors_and_setups() {
        let record = |seq: u64| {
            let (kind, flags) = match seq {
                5 => (Kind::Frame, RetentionFlags::KEEP),
                // The setup between the two laps does not hide the last frame of the first.
                10 => (Kind::Setup, RetentionFlags::default()),
                11 => (Kind::Frame, RetentionFlags::KEEP_WITH_PREDECESSOR),
                _ => (Kind::Frame, RetentionFlags::default()),
            };
            let record = Record::new(StintId(1), QueueTime(0), kind, flags, "{}");
            (Seq(seq), record::encode(&record).unwrap())
        };
        let left = |level, free: Range<Seq>| {
            let is_free = |seq| free.contains(&seq);
            let downsampled = downsample((1..20).map(record).collect(), level, is_free);
            (
                downsampled.records.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(),
                downsampled.level,
            )
        };
        let all = Seq(0)..Seq(100);
        assert_eq!(left(3, all), (vec![5, 8, 9, 10, 11, 16, 19], 3));
        assert_eq!(left(3, Seq(4)..Seq(18)), (vec![1, 2, 3, 5, 8, 9, 10, 11, 16, 18, 19], 3));
        // Nothing is removed at any level.
        assert_eq!(left(1, Seq(5)..Seq(6)).1, MAX_LEVEL);
    }

    #[test]
    fn interleaved_cars_are_downsampled_equally() {
        let mut frames = [0, 0];
        let mut record = |seq: u64| {
            let car = seq % 2;
            let flags = RetentionFlags::numbered(frames[car as usize]);
            frames[car as usize] += 1;
            let record = Record::new(StintId(car), QueueTime(0), Kind::Frame, flags, "{}");
            (Seq(seq), record::encode(&record).unwrap())
        };
        let all: Vec<_> = (0..40).map(&mut record).collect();
        let left = downsample(all, 2, |_| true).records;
        let left: Vec<u64> = left.iter().map(|(seq, _)| seq.0).collect();
        // Every fourth of each, and the last of each.
        assert_eq!(left, [0, 1, 8, 9, 16, 17, 24, 25, 32, 33, 38, 39]);
    }
}

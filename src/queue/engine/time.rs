//! How the queue's own clock relates to the system's clocks, over restarts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::entry::{CapturedAt, QueueTime};
use crate::platform::clock::Reading;
use crate::queue::Stamp;

/// A wall clock that shows a time before this one, 2026-01-01, is wrong: the program did not exist.
const FIRST_CREDIBLE: CapturedAt = CapturedAt(1_767_225_600_000);

/// A change of the wall clock against queue time by more than this is persisted.
const PERSISTED_STEP_MS: i64 = 1000;

/// Queue time minus the system's clocks, in ms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClockOffsets {
    /// The boot of the system that `uptime` belongs to.
    boot: String,
    /// Queue time minus uptime; constant within a boot.
    pub(super) uptime: i64,
    /// Queue time minus wall clock at the newest entry; changes when the wall clock is set.
    wall: i64,
}

impl ClockOffsets {
    /// Continues the queue's clock. Within a boot of the system it advances by the uptime since
    /// `stored` was written. After a reboot, only the wall clock shows how much time has passed
    /// since `newest`, the newest entry. As it may have been set meanwhile, it only decides whether
    /// the stint continues: what passes is at most `longest`, just more than the longest pause within
    /// a stint, so that no entry expires while the system is off.
    pub(super) fn at_start(
        stored: Option<&Self>,
        newest: Option<QueueTime>,
        boot: &str,
        read: Reading,
        longest: Duration,
    ) -> Self {
        let uptime = match (stored, newest) {
            (Some(stored), _) if stored.boot == boot && !boot.is_empty() => stored.uptime,
            (_, None) => read.wall.0.saturating_sub(read.uptime_ms),
            (stored, Some(newest)) => {
                let wall = stored.map_or(0, |stored| stored.wall);
                let then = CapturedAt(newest.0.saturating_sub(wall));
                let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
                let now = newest.0.saturating_add(elapsed(then, read.wall).min(longest));
                now.saturating_sub(read.uptime_ms)
            }
        };
        let offsets = Self { boot: boot.to_owned(), uptime, wall: 0 };
        let wall = offsets.queue_time(read.uptime_ms).0.saturating_sub(read.wall.0);
        let known = stored.map(|stored| stored.wall).filter(|known| !is_step(*known, wall));
        Self { wall: known.unwrap_or(wall), ..offsets }
    }

    /// The queue time at this uptime of the system.
    pub(super) fn queue_time(&self, uptime_ms: i64) -> QueueTime {
        QueueTime(uptime_ms.saturating_add(self.uptime))
    }

    /// Follows the wall clock; returns whether the change must be persisted.
    pub(super) fn follow(&mut self, stamp: Stamp) -> bool {
        let wall = stamp.queued_at.0.saturating_sub(stamp.wall.0);
        let is_set = is_step(self.wall, wall);
        if is_set {
            self.wall = wall;
        }
        is_set
    }
}

/// Whether the wall clock was set between two offsets.
fn is_step(before: i64, after: i64) -> bool {
    after.saturating_sub(before).saturating_abs() > PERSISTED_STEP_MS
}

/// The time from `then` to `now` by the wall clock, in ms; 0 if one of them cannot be right.
fn elapsed(then: CapturedAt, now: CapturedAt) -> i64 {
    let elapsed = now.0.saturating_sub(then.0);
    if then < FIRST_CREDIBLE || now < FIRST_CREDIBLE || elapsed < 0 {
        tracing::warn!(
            newest_entry = %then,
            now = %now,
            "cannot tell how long the system was off, because its clock was or is wrong; the stint \
             continues"
        );
        return 0;
    }
    elapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_796_040_000_000;
    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 8766 * HOUR;
    const LONGEST: Duration = Duration::from_hours(9);

    fn read(uptime_ms: i64, wall: i64) -> Reading {
        Reading { uptime_ms, wall: CapturedAt(wall) }
    }

    /// The queue time of the newest entry, captured `hours` after the boot `a`, and the stored offsets.
    fn first_run(wall: i64, hours: i64) -> (ClockOffsets, QueueTime) {
        let offsets = ClockOffsets::at_start(None, None, "a", read(0, wall), LONGEST);
        let newest = offsets.queue_time(hours * HOUR);
        (offsets, newest)
    }

    fn restarted(wall_then: i64, boot: &str, uptime_hours: i64, wall_now: i64) -> i64 {
        let (stored, newest) = first_run(wall_then, 2);
        let read = read(uptime_hours * HOUR, wall_now);
        let offsets = ClockOffsets::at_start(Some(&stored), Some(newest), boot, read, LONGEST);
        offsets.queue_time(read.uptime_ms).0 - newest.0
    }

    #[test]
    fn a_new_queue_starts_at_the_wall_clock() {
        assert_eq!(first_run(NOON, 0).1, QueueTime(NOON));
    }

    #[test]
    fn within_a_boot_only_the_uptime_counts() {
        for wall in [0, NOON - YEAR, NOON, NOON + 240 * HOUR, NOON + 6 * YEAR] {
            assert_eq!(restarted(NOON, "a", 3, wall), HOUR, "{wall}");
        }
    }

    #[test]
    fn after_a_reboot_the_wall_clock_counts_up_to_the_end_of_the_stint() {
        assert_eq!(restarted(NOON, "b", 0, NOON + 10 * HOUR), 8 * HOUR);
        assert_eq!(restarted(NOON, "b", 0, NOON + YEAR), 9 * HOUR);
        // Without an identifier, two boots cannot be told from one.
        let (stored, newest) = first_run(NOON, 2);
        let stored = ClockOffsets { boot: String::new(), ..stored };
        let read = read(100 * HOUR, NOON + 3 * HOUR);
        let offsets = ClockOffsets::at_start(Some(&stored), Some(newest), "", read, LONGEST);
        assert_eq!(offsets.queue_time(read.uptime_ms).0 - newest.0, HOUR);
    }

    #[test]
    fn a_wall_clock_that_cannot_be_right_does_not_count() {
        let dead = NOON - 7 * YEAR;
        // Dead at the newest entry, right now; right, then dead; set back between the boots.
        for (then, now) in [(dead, NOON), (NOON, dead), (NOON, NOON - HOUR), (dead, dead + YEAR)] {
            assert_eq!(restarted(then, "b", 0, now), 0, "{then} {now}");
        }
    }

    #[test]
    fn a_clock_that_was_corrected_during_the_run_counts_after_the_reboot() {
        let (mut stored, newest) = first_run(NOON - 7 * YEAR, 2);
        let stamp = Stamp { queued_at: newest, wall: CapturedAt(NOON) };
        assert!(stored.follow(stamp));
        assert!(!stored.follow(Stamp { queued_at: QueueTime(newest.0 + 1), ..stamp }));
        let read = read(0, NOON + HOUR);
        let offsets = ClockOffsets::at_start(Some(&stored), Some(newest), "b", read, LONGEST);
        assert_eq!(offsets.queue_time(0).0 - newest.0, HOUR);
    }

    #[test]
    fn arbitrary_clocks_never_panic() {
        for at in [i64::MIN, -1, 0, i64::MAX] {
            for newest in [None, Some(QueueTime(i64::MIN)), Some(QueueTime(i64::MAX))] {
                let offsets =
                    ClockOffsets::at_start(None, newest, "b", read(at, -at.max(-1)), LONGEST);
                offsets.queue_time(at);
            }
        }
    }
}

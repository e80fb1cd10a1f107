//! The times that entries get when they enter the queue.

use std::time::Duration;

use crate::entry::{CapturedAt, QueueTime};
use crate::platform::clock::{Clock, Reading};

/// The wall clock counts as set if it differs by more than this from where the uptime says it
/// should be, plus [`DRIFT_PER_MILLE`] of the time since the last stamp.
const STEP_TOLERANCE_MS: i64 = 50;

/// How fast a time service slews the wall clock at most, twice what Linux and Windows do.
const DRIFT_PER_MILLE: i64 = 1;

/// A step of at least this length is logged.
const LOGGED_STEP: Duration = Duration::from_secs(1);

/// The time of an entry on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Defines the order of the queue: strictly later than the previous entry's, for all streams
    /// together.
    pub queued_at: QueueTime,
    /// The wall clock, strictly later than the previous entry's unless the clock was set back in
    /// between.
    pub wall: CapturedAt,
}

/// Assigns the times of entries.
#[derive(Debug)]
pub struct Stamps {
    clock: Clock,
    /// Queue time minus uptime, in ms.
    offset: i64,
    last: Option<QueueTime>,
    /// The readings of both clocks at the last stamp.
    read: Reading,
    last_wall: CapturedAt,
}

impl Stamps {
    /// Queue time is the uptime plus `offset`, and the first stamp is later than `last`.
    pub(super) fn new(clock: Clock, offset: i64, last: Option<QueueTime>) -> Self {
        let read = clock.read();
        Self { clock, offset, last, read, last_wall: CapturedAt(i64::MIN) }
    }

    /// The queue time now.
    pub(super) fn now(&self) -> QueueTime {
        self.at(self.clock.read())
    }

    /// The stamp of the next entry.
    pub fn stamp(&mut self) -> Stamp {
        self.stamp_at(self.clock.read())
    }

    /// The stamp of the next entry if the clocks show `read`.
    pub fn stamp_at(&mut self, read: Reading) -> Stamp {
        let elapsed = read.uptime_ms.saturating_sub(self.read.uptime_ms);
        let step = read.wall.0.saturating_sub(self.read.wall.0).saturating_sub(elapsed);
        let drift = (elapsed / 1000).saturating_mul(DRIFT_PER_MILLE);
        let is_set = step.saturating_abs() > STEP_TOLERANCE_MS.saturating_add(drift);
        if is_set {
            log_step(step, self.read.wall, read.wall);
        }
        let next = self.last_wall.0.saturating_add(1);
        self.last_wall = if is_set { read.wall } else { CapturedAt(read.wall.0.max(next)) };
        self.read = read;
        let next = self.last.map_or(i64::MIN, |last| last.0.saturating_add(1));
        let queued_at = QueueTime(self.at(read).0.max(next));
        self.last = Some(queued_at);
        Stamp { queued_at, wall: self.last_wall }
    }

    fn at(&self, read: Reading) -> QueueTime {
        QueueTime(read.uptime_ms.saturating_add(self.offset))
    }
}

fn log_step(step_ms: i64, before: CapturedAt, after: CapturedAt) {
    let step = Duration::from_millis(step_ms.unsigned_abs());
    if step < LOGGED_STEP {
        return;
    }
    let direction = if step_ms > 0 { "forward" } else { "back" };
    let step = jiff::SignedDuration::try_from(step).unwrap_or_default();
    tracing::warn!(
        %before,
        %after,
        "the system clock was set {direction} by {step:#}; new timestamps follow it, the order of \
         the queue and the stints do not depend on it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_763_812_800_000;

    fn read(uptime_ms: i64, wall_ms: i64) -> Reading {
        Reading { wall: CapturedAt(NOON + wall_ms), uptime_ms }
    }

    fn stamps() -> Stamps {
        Stamps::new(Clock::new("test", || read(0, 0)), NOON, None)
    }

    #[test]
    fn timestamps_follow_a_step_of_the_clock_at_once_and_the_order_does_not() {
        for step in [-2 * 3_600_000, -5000, -86_400_000_000, -100, 7_200_000, 864_000_000] {
            let mut stamps = stamps();
            let before = stamps.stamp_at(read(500, 500));
            let after = stamps.stamp_at(read(1000, 1000 + step));
            assert_eq!(after.wall, CapturedAt(NOON + 1000 + step));
            assert_eq!(after.queued_at.0 - before.queued_at.0, 500);
            let later = stamps.stamp_at(read(1500, 1500 + step));
            assert_eq!(later.wall, CapturedAt(NOON + 1500 + step));
        }
    }

    #[test]
    fn entries_of_one_moment_get_distinct_times() {
        let mut stamps = stamps();
        let times: Vec<_> = (0..10_000).map(|_| stamps.stamp_at(read(7, 7))).collect();
        assert!(times.windows(2).all(|pair| pair[1].wall.0 == pair[0].wall.0 + 1));
        assert!(times.windows(2).all(|pair| pair[1].queued_at.0 == pair[0].queued_at.0 + 1));
        // They are ahead of the clock, which was not set: the next ones stay later.
        assert!(stamps.stamp_at(read(500, 500)).wall > times[9999].wall);
    }

    #[test]
    fn a_clock_that_is_slewed_stays_in_order() {
        let mut stamps = stamps();
        let mut last = stamps.stamp_at(read(0, 0));
        for second in 1..4000 {
            let stamp = stamps.stamp_at(read(second * 1000, second * 1000 - second / 2));
            assert!(stamp.wall > last.wall);
            last = stamp;
        }
        // An hour without entries.
        let stamp = stamps.stamp_at(read(8_000_000, 8_000_000 - 5_500));
        assert!(stamp.wall > last.wall);
    }

    #[test]
    fn an_arbitrary_clock_never_panics() {
        let mut stamps = Stamps::new(Clock::new("", || read(0, 0)), i64::MAX, None);
        for (uptime_ms, wall) in [(i64::MAX, i64::MIN), (i64::MIN, i64::MAX), (0, 0)] {
            stamps.stamp_at(Reading { wall: CapturedAt(wall), uptime_ms });
        }
    }
}

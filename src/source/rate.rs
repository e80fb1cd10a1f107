//! Limits the rate of a source.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::entry::CapturedAt;

/// A source may exceed its rate for a while if it was slower before: its average over this time
/// counts. A reader whose output is buffered in blocks of 8 KiB hands over this many seconds of
/// short samples at once.
const AVERAGED_OVER: Duration = Duration::from_secs(60);

/// A sample that arrives early by up to this part of the period is on time, so that a source with
/// exactly this rate loses nothing to jitter.
const EARLY: f64 = 0.25;

/// Samples that arrive within this time of each other are of one block.
const BLOCK_GAP: Duration = Duration::from_millis(5);

/// A source is a flood after this many consecutive samples that arrived early and not in a block.
/// It then gets no credit for earlier pauses.
const FLOOD_AFTER: u32 = 3;

/// A token bucket: each period adds one sample that may pass, up to [`AVERAGED_OVER`].
///
/// Time passes as fast as the source's own timestamps advance, or as the samples arrive, whichever
/// is faster: samples that arrive in one block were not captured at one moment, and a source with a
/// stopped clock is not silenced.
#[derive(Debug)]
pub(super) struct RateLimiter {
    /// In ms; 0 keeps every sample.
    period: f64,
    /// The number of samples that may pass now.
    credit: f64,
    /// Consecutive samples that arrived early and not in a block.
    early: u32,
    last_own: Option<CapturedAt>,
    last_arrival: Option<Instant>,
    follows: Option<watch::Receiver<f64>>,
}

impl RateLimiter {
    /// Limits to `hz` samples per second; 0 keeps every sample.
    pub(super) fn new(hz: f64) -> Self {
        let period = if hz > 0.0 { 1000.0 / hz } else { 0.0 };
        let mut limiter = Self {
            period,
            credit: 0.0,
            early: 0,
            last_own: None,
            last_arrival: None,
            follows: None,
        };
        limiter.credit = limiter.most();
        limiter
    }

    /// Applies each new value of `hz`.
    pub(super) fn following(self, hz: watch::Receiver<f64>) -> Self {
        Self { follows: Some(hz), ..self }
    }

    /// The limit in samples per second; 0 means none.
    pub(super) fn hz(&self) -> f64 {
        if self.period > 0.0 { 1000.0 / self.period } else { 0.0 }
    }

    /// Whether a sample passes that arrives at `arrival`, with its own timestamp if it has one.
    pub(super) fn admits(&mut self, own: Option<CapturedAt>, arrival: Instant) -> bool {
        self.follow();
        if self.period == 0.0 {
            return true;
        }
        let arrived = self
            .last_arrival
            .replace(arrival)
            .map_or(Duration::ZERO, |last| arrival.saturating_duration_since(last));
        let captured = own.map_or(Duration::ZERO, |own| {
            self.last_own.replace(own).map_or(Duration::ZERO, |last| last.age(own))
        });
        let elapsed = arrived.max(captured);
        let periods = elapsed.as_secs_f64() * 1000.0 / self.period;
        if periods >= 1.0 - EARLY {
            self.early = 0;
        } else if elapsed > BLOCK_GAP {
            self.early += 1;
        }
        if self.early == FLOOD_AFTER {
            self.credit = self.credit.min(0.0);
        }
        self.credit = (self.credit + periods).min(self.most());
        let passes = self.credit >= 1.0 - EARLY;
        if passes {
            self.credit -= 1.0;
        }
        passes
    }

    fn most(&self) -> f64 {
        if self.period > 0.0 {
            (AVERAGED_OVER.as_secs_f64() * 1000.0 / self.period).max(1.0)
        } else {
            0.0
        }
    }

    fn follow(&mut self) {
        let Some(hz) = &mut self.follows else { return };
        if hz.has_changed().unwrap_or(false) {
            let hz = *hz.borrow_and_update();
            *self = Self { follows: self.follows.take(), ..Self::new(hz) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a sample arrive at each of these milliseconds, and returns how many pass.
    fn passed(limiter: &mut RateLimiter, arrivals: impl IntoIterator<Item = u64>) -> usize {
        let start = Instant::now();
        let arrives = |ms| start + Duration::from_millis(ms);
        arrivals.into_iter().filter(|&ms| limiter.admits(None, arrives(ms))).count()
    }

    #[test]
    fn a_flood_gets_no_credit_for_earlier_pauses() {
        for step in [10, 16, 100] {
            let arrivals = (0..25_000).step_by(step).chain((85_000..110_000).step_by(step));
            let passed = passed(&mut RateLimiter::new(2.0), arrivals);
            assert!((100..=108).contains(&passed), "every {step} ms: {passed}");
        }
    }

    /// A limiter of 2 Hz whose credit is used up.
    fn exhausted() -> RateLimiter {
        let mut limiter = RateLimiter::new(2.0);
        assert_eq!(passed(&mut limiter, std::iter::repeat_n(0, 1000)), 120);
        limiter
    }

    #[test]
    fn a_faster_source_is_limited_without_drift() {
        for step in [1, 7, 10, 16, 100, 130, 499] {
            let passed = passed(&mut exhausted(), (0..100_000).step_by(step));
            assert!((199..=201).contains(&passed), "every {step} ms: {passed}");
        }
    }

    #[test]
    fn jitter_at_the_configured_rate_loses_no_sample() {
        let jitter = [0, 60, -70, 90, -20];
        let arrivals =
            (1..1000_u64).map(|n| (n * 500).saturating_add_signed(jitter[n as usize % 5]));
        assert_eq!(passed(&mut exhausted(), arrivals), 999);
    }

    #[test]
    fn rate_0_keeps_every_sample() {
        assert_eq!(passed(&mut RateLimiter::new(0.0), 0..100), 100);
    }

    /// A Python program that prints 2 samples a second into a pipe.
    #[test]
    fn a_reader_that_writes_in_blocks_loses_nothing() {
        let blocks = (1..50_u64).flat_map(|block| std::iter::repeat_n(block * 12_000, 24));
        assert_eq!(passed(&mut RateLimiter::new(2.0), blocks), 49 * 24);
        // Also if it was slower before, and from the first block on.
        let blocks = (0..50_u64).flat_map(|block| std::iter::repeat_n(block * 40_000, 80));
        assert_eq!(passed(&mut RateLimiter::new(2.0), blocks), 50 * 80);
    }

    #[test]
    fn a_block_is_judged_by_the_timestamps_of_its_samples() {
        let now = Instant::now();
        let mut limiter = exhausted();
        let hour = (0..7200).filter(|n| limiter.admits(Some(CapturedAt(n * 500)), now)).count();
        assert!((7199..=7200).contains(&hour), "{hour}");
        let mut limiter = exhausted();
        let fast = (0..72_000).filter(|n| limiter.admits(Some(CapturedAt(n * 50)), now)).count();
        assert!((7199..=7201).contains(&fast), "{fast}");
    }

    #[test]
    fn no_clock_of_a_source_silences_it() {
        let start = Instant::now();
        let walls: [fn(u64) -> i64; 4] = [
            |_| 7,
            |second| -(second as i64) * 3_600_000,
            |second| {
                if second > 50 { second as i64 * 1000 - 7_200_000 } else { second as i64 * 1000 }
            },
            |second| second as i64 / 10 * 10_000,
        ];
        for (which, wall) in walls.iter().enumerate() {
            let mut limiter = exhausted();
            let passed = (1..1000_u64).filter(|&second| {
                let own = Some(CapturedAt(wall(second)));
                limiter.admits(own, start + Duration::from_secs(second))
            });
            assert_eq!(passed.count(), 999, "{which}");
        }
    }
}

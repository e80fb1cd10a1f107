//! Delays between attempts. No other file uses the `backoff` crate.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use rand::Rng;
use rand::rngs::SmallRng;

/// Exponential backoff with full jitter: each delay is drawn between the minimum and a ceiling that
/// doubles up to the maximum. It never gives up.
///
/// The crate computes the ceiling; the jitter comes from `rng`, which a test can seed.
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    ceiling: ExponentialBackoff,
    rng: SmallRng,
}

impl Backoff {
    /// Delays between `min` and `max`.
    pub fn new(min: Duration, max: Duration, rng: SmallRng) -> Self {
        let ceiling = ExponentialBackoffBuilder::new()
            .with_initial_interval(min.saturating_mul(2).min(max))
            .with_max_interval(max)
            .with_multiplier(2.0)
            .with_randomization_factor(0.0)
            .with_max_elapsed_time(None)
            .build();
        Self { min, ceiling, rng }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling.next_backoff().unwrap_or(self.ceiling.max_interval);
        self.rng.random_range(self.min..=ceiling.max(self.min))
    }

    /// Restarts with short delays, after a success.
    pub fn reset(&mut self) {
        self.ceiling.reset();
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(60);

    fn backoff(seed: u64) -> Backoff {
        Backoff::new(MIN, MAX, SmallRng::seed_from_u64(seed))
    }

    #[test]
    fn delays_stay_within_bounds_and_grow_to_the_maximum() {
        let mut longest = Duration::ZERO;
        for seed in 0..200 {
            let mut backoff = backoff(seed);
            for attempt in 0..200_u32 {
                let ceiling = (MIN * 2).saturating_mul(1 << attempt.min(10)).min(MAX);
                let delay = backoff.next_delay();
                assert!((MIN..=ceiling).contains(&delay), "attempt {attempt}: {delay:?}");
                longest = longest.max(delay);
            }
        }
        assert!(longest > MAX * 9 / 10, "jitter reaches up to the ceiling, got {longest:?}");
    }

    #[test]
    fn a_reset_makes_the_next_delay_short() {
        let mut backoff = backoff(1);
        (0..20).for_each(|_| assert!(backoff.next_delay() > Duration::ZERO));
        backoff.reset();
        assert!(backoff.next_delay() <= MIN * 2);
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let (mut a, mut b) = (backoff(7), backoff(7));
        assert!((0..50).all(|_| a.next_delay() == b.next_delay()));
    }
}

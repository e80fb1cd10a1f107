//! Counts samples that are missing during a drive, by cause: the game or the agent.

use std::time::{Duration, Instant};

/// A longer time between two samples counts as a gap of the game.
const LMU_GAP_AFTER: Duration = Duration::from_millis(100);

/// The state since the last new sample.
#[derive(Debug)]
pub(super) struct Gaps {
    period: Duration,
    /// When the last look was due.
    due: Option<Instant>,
    /// When the last new sample was due.
    sampled: Option<Instant>,
    /// The number of looks since then that found nothing new.
    empty: u64,
}

/// The number of missing samples, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// The game had no new sample when it was read.
    pub by_game: u64,
    /// The agent did not read the game in time.
    pub by_agent: u64,
}

impl Gaps {
    /// Creates the counter for one look per period.
    pub(super) fn new(period: Duration) -> Self {
        Self { period, due: None, sampled: None, empty: 0 }
    }

    /// Counts a look at a driven game that was due at `due`.
    ///
    /// Samples that the game left out are counted when the next sample arrives; without a next
    /// sample it was not a gap but the end of the drive.
    pub(super) fn look(&mut self, due: Instant, is_new: bool) -> Missing {
        let mut missing = Missing::default();
        if let Some(before) = self.due.replace(due) {
            let periods = due.saturating_duration_since(before).as_secs_f64();
            let periods = (periods / self.period.as_secs_f64()).round();
            missing.by_agent = (periods as u64).saturating_sub(1);
        }
        if !is_new {
            self.empty += 1;
            return missing;
        }
        let empty = std::mem::take(&mut self.empty);
        // A game that updates more slowly than it is read has no gaps.
        let since = self.sampled.replace(due).map(|before| due.saturating_duration_since(before));
        if since.is_some_and(|since| since > LMU_GAP_AFTER) {
            missing.by_game = empty;
        }
        missing
    }

    /// Resets the counter at the end of a drive.
    pub(super) fn end(&mut self) {
        *self = Self::new(self.period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each look: its time in ms, whether it found a new sample, and the expected missing samples.
    #[track_caller]
    fn check(period_ms: u64, looks: &[(u64, bool, u64, u64)]) {
        let start = Instant::now();
        let mut gaps = Gaps::new(Duration::from_millis(period_ms));
        for &(at, is_new, by_game, by_agent) in looks {
            let missing = gaps.look(start + Duration::from_millis(at), is_new);
            assert_eq!(missing, Missing { by_game, by_agent }, "at {at} ms");
        }
    }

    #[test]
    fn a_steady_drive_has_no_gap() {
        check(500, &[(0, true, 0, 0), (500, true, 0, 0), (1000, true, 0, 0)]);
    }

    #[test]
    fn samples_missed_by_a_hanging_game_are_counted() {
        let looks = [(0, true, 0, 0), (500, false, 0, 0), (1000, false, 0, 0), (1500, true, 2, 0)];
        check(500, &looks);
    }

    #[test]
    fn samples_missed_by_a_delayed_agent_are_counted() {
        check(500, &[(0, true, 0, 0), (2000, true, 0, 3), (2500, false, 0, 0), (3500, true, 1, 1)]);
    }

    #[test]
    fn a_game_slower_than_the_polling_rate_has_no_gap() {
        check(5, &[(0, true, 0, 0), (5, false, 0, 0), (10, false, 0, 0), (15, true, 0, 0)]);
    }

    #[test]
    fn the_end_of_a_drive_is_not_a_gap() {
        let start = Instant::now();
        let mut gaps = Gaps::new(Duration::from_millis(500));
        gaps.look(start, true);
        gaps.look(start + Duration::from_millis(500), false);
        gaps.end();
        let missing = gaps.look(start + Duration::from_secs(60), true);
        assert_eq!(missing, Missing::default());
    }
}

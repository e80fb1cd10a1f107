//! The progress of a task and how fast it advances.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::terminal::StatusLine;
use crate::agent::LINE_INTERVAL;

/// The window over which the status line averages its rates and the remaining time.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Shows the progress of a task on the status line.
#[derive(Debug)]
pub(super) struct ProgressLine {
    line: Option<StatusLine>,
    task: String,
    of: u64,
    rate: Rate,
    looked: Option<Instant>,
}

impl ProgressLine {
    /// Begins a task of `of` entries or bytes, with none done yet.
    pub(super) fn begin(task: impl Into<String>, of: u64) -> Self {
        // A tool must not lose its output, so it waits for a stopped terminal without a limit.
        let line = StatusLine::begin(Duration::MAX);
        let mut progress =
            Self { line, task: task.into(), of, rate: Rate::default(), looked: None };
        progress.at(0);
        progress
    }

    /// Creates a progress that is not shown.
    pub(super) fn hidden() -> Self {
        Self { line: None, task: String::new(), of: 0, rate: Rate::default(), looked: None }
    }

    /// Sets the number of entries or bytes that are done.
    pub(super) fn at(&mut self, done: u64) {
        let Some(line) = &self.line else { return };
        let now = Instant::now();
        let is_soon = self.looked.is_some_and(|looked| now - looked < LINE_INTERVAL);
        if is_soon && done < self.of {
            return;
        }
        self.looked = Some(now);
        let rate = self.rate.look(now, done as f64);
        line.show(format!("{}: {}", self.task, how_far(done as f64, self.of as f64, rate)));
    }
}

/// Formats progress, such as "40 %, 14 s left"; `rate` is per second.
pub(super) fn how_far(done: f64, of: f64, rate: Option<f64>) -> String {
    if done >= of {
        return "100 %".into();
    }
    let percent = (100.0 * done / of).floor();
    match rate.filter(|rate| *rate > 0.0) {
        Some(rate) => format!("{percent} %, {} left", span((of - done) / rate)),
        None => format!("{percent} %"),
    }
}

/// Formats a number of seconds for people.
pub(super) fn span(seconds: f64) -> String {
    // Cap absurd estimates.
    let seconds = seconds.ceil().min(360_000_000.0) as u64;
    match seconds.div_ceil(60) {
        0..=1 => format!("{seconds} s"),
        minutes @ 2..60 => format!("{minutes} min"),
        minutes => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// Measures how fast a number grows, over the last [`RATE_WINDOW`].
#[derive(Debug, Default)]
pub(super) struct Rate(VecDeque<(Instant, f64)>);

impl Rate {
    /// Adds a measurement and returns the growth per second; `None` for the first one.
    pub(super) fn look(&mut self, now: Instant, number: f64) -> Option<f64> {
        self.0.push_back((now, number));
        while self.0.get(1).is_some_and(|(at, _)| now - *at >= RATE_WINDOW) {
            self.0.pop_front();
        }
        let (at, first) = *self.0.front()?;
        let seconds = (now - at).as_secs_f64();
        (seconds > 0.0).then(|| (number - first).max(0.0) / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_shows_percent_done_and_time_left() {
        for (done, of, rate, said) in [
            (0.0, 200.0, None, "0 %"),
            (50.0, 200.0, Some(0.0), "25 %"),
            (50.0, 200.0, Some(10.0), "25 %, 15 s left"),
            (199.9, 200.0, Some(10.0), "99 %, 1 s left"),
            (0.0, 600.0, Some(10.0), "0 %, 60 s left"),
            (0.0, 601.0, Some(10.0), "0 %, 2 min left"),
            (0.0, 71_990.0, Some(10.0), "0 %, 2 h 0 min left"),
            (0.0, 1e300, Some(1e-9), "0 %, 100000 h 0 min left"),
            (200.0, 200.0, Some(10.0), "100 %"),
            (300.0, 200.0, None, "100 %"),
            (0.0, 0.0, None, "100 %"),
        ] {
            assert_eq!(how_far(done, of, rate), said);
        }
    }

    #[test]
    fn a_rate_is_averaged_over_the_last_seconds() {
        let mut rate = Rate::default();
        let start = Instant::now();
        for (second, number, expected) in [
            (0, 1000.0, None),
            (1, 1002.0, Some(2.0)),
            // A smaller number does not count as growth.
            (2, 1000.0, Some(0.0)),
            (12, 1050.0, Some(5.0)),
            (22, 1110.0, Some(6.0)),
            // A task with steps longer than the window still has a rate.
            (52, 1410.0, Some(10.0)),
        ] {
            let look = rate.look(start + Duration::from_secs(second), number);
            assert_eq!(look, expected, "{second} s");
        }
        for second in 53..90 {
            rate.look(start + Duration::from_secs(second), 1410.0);
        }
        assert!(rate.0.len() < 13, "{rate:?}");
    }
}

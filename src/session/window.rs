//! Sizes batches: large enough to amortize the round trip, and small enough that a slow network or
//! server confirms a batch well within the proof timeout.

use std::time::Duration;

/// The batch size on a link whose latency is not yet known.
const FIRST_WINDOW_ENTRIES: usize = 16;

/// The batch window, by the time that a batch takes in excess of a single entry: the next batch is
/// twice as large below the first bound and half as large above the second.
const WINDOW_GROWS_BELOW: Duration = Duration::from_millis(250);
const WINDOW_SHRINKS_ABOVE: Duration = Duration::from_secs(1);

/// The batch size. It doubles while a full batch takes hardly longer than a single entry, and
/// halves when a batch takes much longer.
#[derive(Debug)]
pub(super) struct Window {
    entries: usize,
    /// The time for a single entry, which is the lower bound for any batch.
    alone: Duration,
}

impl Default for Window {
    fn default() -> Self {
        Self { entries: FIRST_WINDOW_ENTRIES, alone: Duration::ZERO }
    }
}

impl Window {
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Adapts to a batch of `entries` that was confirmed after `took`; `most` is the upper limit.
    pub(super) fn sent(&mut self, entries: usize, took: Duration, most: usize) {
        if entries == 1 {
            self.alone = took;
        }
        let longer = took.saturating_sub(self.alone);
        if longer > WINDOW_SHRINKS_ABOVE {
            self.shrink(2);
        } else if longer < WINDOW_GROWS_BELOW && entries >= self.entries {
            self.entries = (2 * self.entries).min(most.max(FIRST_WINDOW_ENTRIES));
        }
    }

    /// Shrinks after a batch without an answer in time.
    pub(super) fn not_answered(&mut self) {
        self.shrink(8);
    }

    fn shrink(&mut self, by: usize) {
        self.entries = (self.entries / by).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1000;
    const TIMEOUT: Duration = Duration::from_secs(5);

    /// A server that accepts `a_second` entries per second, with a round trip of `away`.
    #[derive(Clone, Copy)]
    struct SimulatedServer {
        a_second: f64,
        away: Duration,
    }

    /// A window after the first entry on a link, which is sent alone.
    fn begun(server: SimulatedServer) -> Window {
        let mut window = Window::default();
        window.sent(1, server.away, MOST);
        window
    }

    /// Sends 100 batches. Returns the final batch size and how many batches timed out.
    fn settle(window: &mut Window, server: SimulatedServer) -> (usize, usize) {
        let mut too_long = 0;
        for _ in 0..100 {
            let entries = window.entries();
            let took = server.away + Duration::from_secs_f64(entries as f64 / server.a_second);
            if took > TIMEOUT {
                window.not_answered();
                too_long += 1;
            } else {
                window.sent(entries, took, MOST);
            }
        }
        (window.entries(), too_long)
    }

    #[test]
    fn the_batch_size_adapts_to_the_server() {
        for away in [1, 50, 700, 3000].map(Duration::from_millis) {
            let server = SimulatedServer { a_second: 5_000.0, away };
            let (entries, too_long) = settle(&mut begun(server), server);
            assert_eq!((entries, too_long), (MOST, 0), "{away:?}");
        }
        let away = Duration::from_millis(1);
        for a_second in [4.0, 20.0, 100.0, 1_000.0] {
            let server = SimulatedServer { a_second, away };
            let (entries, too_long) = settle(&mut begun(server), server);
            let takes = entries as f64 / a_second;
            assert!((0.2..=1.5).contains(&takes), "{a_second}: {entries} entries, {takes} s");
            assert_eq!(too_long, 0, "{a_second}");
        }
    }

    #[test]
    fn the_window_follows_changes_in_throughput_and_latency() {
        let near = SimulatedServer { a_second: 5_000.0, away: Duration::from_millis(1) };
        let mut window = begun(near);
        settle(&mut window, near);
        let (entries, too_long) = settle(&mut window, SimulatedServer { a_second: 10.0, ..near });
        assert!((4..=16).contains(&entries) && too_long <= 2, "{entries} {too_long}");
        let far = SimulatedServer { away: Duration::from_secs(3), ..near };
        let (entries, too_long) = settle(&mut window, far);
        assert_eq!((entries, too_long), (MOST, 0));
    }

    #[test]
    fn the_window_grows_only_on_full_batches_and_is_never_empty() {
        let mut window = Window::default();
        window.sent(FIRST_WINDOW_ENTRIES - 1, Duration::ZERO, MOST);
        assert_eq!(window.entries(), FIRST_WINDOW_ENTRIES);
        for _ in 0..10 {
            window.not_answered();
        }
        assert_eq!(window.entries(), 1);
        window.sent(1, Duration::from_secs(4), MOST);
        assert_eq!(window.entries(), 2);
    }
}

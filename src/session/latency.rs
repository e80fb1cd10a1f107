//! Delivery latency over the last minute, for the status page. `/metrics` has the full history.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::entry::{CapturedAt, Entry};
use serde::Serialize;
use tokio::time::Instant;

/// The latencies on the status page cover the entries delivered within this window, at most this
/// many; each takes 32 bytes of memory.
const LATENCY_WINDOW: Duration = Duration::from_secs(60);
const LATENCIES: usize = 1000;

/// Time of delivery and latency from capture to proof, for recently delivered entries.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Arc<Mutex<VecDeque<(Instant, Duration)>>>);

/// Latency percentiles in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Median latency.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Number of entries measured.
    pub entries: usize,
}

impl Latencies {
    pub(super) fn note(&self, now: CapturedAt, delivered: &[Entry]) {
        let mut latest = self.latest();
        for entry in delivered {
            if latest.len() >= LATENCIES {
                latest.pop_front();
            }
            latest.push_back((Instant::now(), entry.captured_at.age(now)));
        }
    }

    /// Percentiles over the last minute and at most the newest `LATENCIES` entries; `None` if
    /// nothing was delivered.
    pub fn lately(&self) -> Option<Latency> {
        let mut sorted: Vec<Duration> = self
            .latest()
            .iter()
            .filter(|(at, _)| at.elapsed() <= LATENCY_WINDOW)
            .map(|(_, latency)| *latency)
            .collect();
        sorted.sort_unstable();
        let (p50, p99) = (percentile(&sorted, 50)?, percentile(&sorted, 99)?);
        Some(Latency { p50, p99, entries: sorted.len() })
    }

    fn latest(&self) -> MutexGuard<'_, VecDeque<(Instant, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A percentile in seconds, by nearest rank; `None` for an empty slice.
fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    Some(sorted.get(rank.checked_sub(1)?)?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Kind, Seq, StintId};

    /// Records one entry for each latency in milliseconds.
    fn deliver(latencies: &Latencies, took: impl IntoIterator<Item = i64>) {
        for took in took {
            let captured_at = CapturedAt(1_000_000 - took);
            let (seq, stint, kind) = (Seq(1), StintId(1), Kind::Frame);
            let entry = Entry { seq, stint, captured_at, kind, json: String::new() };
            latencies.note(CapturedAt(1_000_000), &[entry]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_latency_covers_the_last_minute() {
        let latencies = Latencies::default();
        assert_eq!(latencies.lately(), None);
        deliver(&latencies, 1..=200);
        let expected = Latency { p50: 0.1, p99: 0.198, entries: 200 };
        assert_eq!(latencies.lately(), Some(expected));
        tokio::time::advance(LATENCY_WINDOW + Duration::from_millis(1)).await;
        assert_eq!(latencies.lately(), None);
        deliver(&latencies, [-5]);
        assert_eq!(latencies.lately(), Some(Latency { p50: 0.0, p99: 0.0, entries: 1 }));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_newest_latencies_are_kept() {
        let latencies = Latencies::default();
        deliver(&latencies, 1..=LATENCIES as i64 + 500);
        let lately = latencies.lately().unwrap();
        assert_eq!((lately.p50, lately.entries), (1.0, LATENCIES));
    }
}

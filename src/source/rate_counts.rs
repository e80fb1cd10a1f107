//! Counts the samples that the rate limit leaves out, for the log and the status page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The samples of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RateCount {
    pub samples: u64,
    /// How many of them were left out, because the source is faster than its limit.
    pub left_out: u64,
    /// The limit in samples per second.
    pub limit_hz: f64,
}

/// The counts of all sources of an agent, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct RateCounts(Arc<Mutex<BTreeMap<&'static str, RateCount>>>);

impl RateCounts {
    pub(super) fn add(&self, source: &'static str, samples: u64, left_out: u64, limit_hz: f64) {
        let mut counts = self.counts();
        let count = counts.entry(source).or_default();
        count.samples += samples;
        count.left_out += left_out;
        count.limit_hz = limit_hz;
    }

    /// The sources whose samples were left out since the last call, and their counts since then.
    pub(crate) fn take(&self) -> Vec<(&'static str, RateCount)> {
        let counts = std::mem::take(&mut *self.counts());
        counts.into_iter().filter(|(_, count)| count.left_out > 0).collect()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<&'static str, RateCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The limits of a queue, and of one read.

use std::time::Duration;

use super::storage;
use crate::config::{Durability, QueueConfig, StintConfig, WhenFull};
use crate::entry::QueueTime;

/// The limits of a queue, and its policy when it reaches them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_entries: u64,
    /// Total disk usage in bytes, as `du` counts it.
    pub max_bytes: u64,
    pub max_age: Duration,
    pub when_full: WhenFull,
    pub durability: Durability,
    /// A pause of up to this length continues a stint; a longer one starts a new stint.
    pub resume_after: Duration,
}

impl Limits {
    /// The limits from the configuration.
    pub fn new(queue: &QueueConfig, stint: &StintConfig) -> Self {
        Self {
            max_entries: queue.max_entries,
            max_bytes: queue.max_bytes,
            max_age: queue.max_age,
            when_full: queue.when_full,
            durability: queue.durability,
            resume_after: stint.resume_after,
        }
    }

    /// Whether an entry queued at `next`, after a pause of the recording, belongs to the stint
    /// whose newest entry was queued at `newest`.
    pub(super) fn continues(&self, newest: QueueTime, next: QueueTime, pause: Duration) -> bool {
        let silence = i128::from(next.0) - i128::from(newest.0);
        silence.max(pause.as_millis() as i128) <= self.resume_after.as_millis() as i128
    }

    /// The approximate number of records in a segment.
    pub(super) fn segment_entries(&self) -> u64 {
        storage::segment_entries(self.max_entries)
    }

    pub(super) fn max_age_ms(&self) -> i64 {
        i64::try_from(self.max_age.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The maximum size of one read; both bounds apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub entries: usize,
    pub bytes: usize,
}

impl Limit {
    /// One record, however large.
    pub const ONE: Self = Self { entries: 1, bytes: usize::MAX };
    /// Everything that the store returns in one read: at most one segment.
    pub(super) const WHOLE_SEGMENT: Self = Self { entries: usize::MAX, bytes: usize::MAX };
}

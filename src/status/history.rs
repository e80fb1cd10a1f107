//! The history on the status page: queue lengths, drains and failures.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::time::Instant;

use super::Badge;
use super::drain::Drain;
use crate::entry::CapturedAt;
use crate::queue::QueueStatus;
use crate::session::DestinationWatch;

/// The number of queue lengths that the status page plots: one hour.
const STATUS_LOOKS: usize = 360;

/// The number of recent failures on the status page.
const STATUS_TROUBLES: usize = 5;

/// The history on the status page: the length of the queue at regular intervals, and recent
/// failures.
#[derive(Clone, Debug, Default)]
pub struct StatusHistory {
    memory: Arc<Mutex<HistoryData>>,
}

#[derive(Debug, Default)]
struct HistoryData {
    /// How each destination drains, by name.
    drains: BTreeMap<String, Drain>,
    /// The latest queue lengths, oldest first.
    looks: VecDeque<QueueSample>,
    /// The latest failures, oldest first.
    troubles: VecDeque<Trouble>,
}

/// The length of the queue at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueSample {
    pub at: Instant,
    pub entries: u64,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Trouble {
    /// The time of its latest occurrence, in milliseconds since 1970.
    at: CapturedAt,
    /// The destination that it is about, if there are several.
    destination: Option<String>,
    /// The message for a driver.
    message: String,
    /// The technical error, for support.
    detail: String,
}

impl StatusHistory {
    /// Records the current length of the queue.
    pub fn look(&self, entries: u64) {
        let at = Instant::now();
        let mut memory = self.memory();
        if memory.looks.len() >= STATUS_LOOKS {
            memory.looks.pop_front();
        }
        memory.looks.push_back(QueueSample { at, entries });
    }

    /// The status badge of the agent.
    pub fn badge(&self, queue: &QueueStatus, destinations: &[DestinationWatch]) -> Badge {
        let badges = destinations
            .iter()
            .map(|watch| (&*watch.name, self.destination_badge(queue, watch)))
            .collect();
        Badge::new(queue, badges)
    }

    /// The status badge of a destination.
    pub(super) fn destination_badge(&self, queue: &QueueStatus, watch: &DestinationWatch) -> Badge {
        let queued = queue.destination(&watch.name).map_or(0, |destination| destination.queued);
        let drain = self.memory().drains.get(&watch.name).copied().unwrap_or_default();
        Badge::of_destination(queued, &watch.session.borrow(), drain)
    }

    /// Records how a destination drains.
    pub fn drains(&self, destination: &str, drain: Drain) {
        self.memory().drains.insert(destination.to_owned(), drain);
    }

    /// Records a failure. A repetition replaces the earlier entry with the same message.
    pub fn trouble(
        &self,
        at: CapturedAt,
        destination: Option<String>,
        message: impl Into<String>,
        detail: String,
    ) {
        let message = message.into();
        let mut memory = self.memory();
        let troubles = &mut memory.troubles;
        let known = troubles
            .iter()
            .position(|old| old.message == message && old.destination == destination);
        if let Some(known) = known {
            troubles.remove(known);
        } else if troubles.len() >= STATUS_TROUBLES {
            troubles.pop_front();
        }
        troubles.push_back(Trouble { at, destination, message, detail });
    }

    /// The latest queue lengths and the latest failures, oldest first.
    pub(super) fn latest(&self) -> (Vec<QueueSample>, Vec<Trouble>) {
        let HistoryData { looks, troubles, .. } = &*self.memory();
        (looks.iter().copied().collect(), troubles.iter().cloned().collect())
    }

    fn memory(&self) -> MutexGuard<'_, HistoryData> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_problem_is_listed_only_once() {
        let history = StatusHistory::default();
        let words = ["a", "b", "c", "d", "e", "f"];
        for (at, message) in (0..).zip(words.iter().chain(&["c", "e"])) {
            history.trouble(CapturedAt(at), None, *message, String::new());
        }
        let (_, troubles) = history.latest();
        let kept: Vec<_> = troubles.iter().map(|kept| (&*kept.message, kept.at.0)).collect();
        assert_eq!(kept, [("b", 1), ("d", 3), ("f", 5), ("c", 6), ("e", 7)]);
    }

    #[test]
    fn the_oldest_status_sample_is_evicted() {
        let history = StatusHistory::default();
        (0..STATUS_LOOKS as u64 + 5).for_each(|entries| history.look(entries));
        let memory = history.memory();
        assert_eq!((memory.looks.len(), memory.looks[0].entries), (STATUS_LOOKS, 5));
    }
}

//! Whether the queue of a destination drains fast enough: a pure function of its length, sampled at
//! regular intervals.

use crate::queue::DestinationStatus;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// How often the drain of the queue is judged.
pub(crate) const DRAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The queue falls behind only if it has not shrunk for this many consecutive intervals.
const DRAIN_INTERVALS: usize = 3;

/// The queue falls behind only if its oldest entry is this much older than its newest. Entries that
/// wait for a proof, which takes up to 90 s and a verification, are not a backlog.
const BEHIND_AFTER: Duration = Duration::from_mins(2);

/// How the queue drains while a session is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Drain {
    /// At most a batch in flight is queued.
    #[default]
    Level,
    /// The queue shrinks; at this rate it is empty after `ready_in`.
    CatchingUp { ready_in: Duration },
    /// Entries arrive faster than they are delivered.
    FallingBehind,
}

/// Up to this many entries are a batch in flight, not a backlog.
pub(crate) const ON_ITS_WAY: u64 = 10;

/// Judges a queue from its length at every `DRAIN_INTERVAL`. One interval without progress proves
/// little: the server may have been busy, or a source added many entries at once.
#[derive(Debug, Default)]
pub struct Watch {
    /// The latest lengths of the queue, oldest first.
    looks: VecDeque<u64>,
    judged: Drain,
}

impl Watch {
    /// Adds a sample and returns the judgement; while it is too early to judge, the previous one.
    pub fn look(&mut self, queue: &DestinationStatus) -> Drain {
        if self.looks.len() > DRAIN_INTERVALS {
            self.looks.pop_front();
        }
        self.looks.push_back(queue.queued);
        let first = self.looks.front().copied().unwrap_or_default();
        let is_stuck = self.looks.len() > DRAIN_INTERVALS
            && first > ON_ITS_WAY
            && self.looks.iter().all(|entries| *entries >= first);
        if queue.queued <= ON_ITS_WAY {
            self.judged = Drain::Level;
        } else if queue.queued < first {
            let time = DRAIN_INTERVAL.as_secs_f64() * (self.looks.len() - 1) as f64;
            let rate = (first - queue.queued) as f64 / time;
            let ready_in = Duration::from_secs_f64(queue.queued as f64 / rate);
            self.judged = Drain::CatchingUp { ready_in };
        } else if is_stuck && queue.lag > BEHIND_AFTER {
            self.judged = Drain::FallingBehind;
        }
        self.judged
    }

    /// Discards the samples: without a session nothing drains, so later ones do not continue them.
    pub fn pause(&mut self) {
        self.looks.clear();
    }
}

impl Drain {
    /// Seconds until the queue has caught up, for the metric: 0 when level, infinite when it falls
    /// behind.
    pub fn seconds(self) -> f64 {
        match self {
            Self::Level => 0.0,
            Self::CatchingUp { ready_in } => ready_in.as_secs_f64(),
            Self::FallingBehind => f64::INFINITY,
        }
    }

    /// Whether both are the same state, whatever the time left: then the change is not logged.
    pub fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level => f.write_str("everything is delivered"),
            Self::CatchingUp { ready_in } => {
                write!(f, "catching up, about {} s left", ready_in.as_secs().max(1))
            }
            Self::FallingBehind => {
                f.write_str("the server is slower than the source; the queue keeps the rest")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds a sample of a queue whose entries span `seconds`.
    fn look(watch: &mut Watch, queued: u64, seconds: u64) -> Drain {
        let lag = Duration::from_secs(seconds);
        watch.look(&DestinationStatus { queued, lag, ..DestinationStatus::default() })
    }

    /// The judgement after these lengths, of a queue whose entries span an hour.
    fn judged(looks: &[u64]) -> Drain {
        let mut watch = Watch::default();
        looks.iter().map(|queued| look(&mut watch, *queued, 3600)).last().unwrap_or_default()
    }

    fn catching_up(seconds: u64) -> Drain {
        Drain::CatchingUp { ready_in: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_time_to_drain_follows_from_the_drain_rate() {
        for (looks, expected) in [
            (&[0, 0][..], Drain::Level),
            (&[0, 3], Drain::Level),
            (&[7200, 2], Drain::Level),
            (&[1000, 500], catching_up(10)),
            (&[520, 500], catching_up(250)),
            (&[1000, 900, 500], catching_up(20)),
            (&[9000, 1000, 900, 800, 700], catching_up(70)),
        ] {
            assert_eq!(judged(looks), expected, "{looks:?}");
        }
    }

    #[test]
    fn a_queue_falls_behind_only_after_several_intervals_without_progress() {
        for (looks, expected) in [
            (&[500][..], Drain::Level),
            (&[500, 500, 500], Drain::Level),
            (&[500, 500, 500, 500], Drain::FallingBehind),
            (&[400, 500, 499, 600], Drain::FallingBehind),
            // The server was busy for a moment.
            (&[1000, 500, 500, 500], catching_up(30)),
            (&[500, 500, 499, 500], catching_up(9980)),
            // A source added many entries at once.
            (&[0, 0, 0, 500], Drain::Level),
            (&[0, 500, 300, 100], Drain::Level),
            // It was behind; one smaller length is not a recovery yet, but it is progress.
            (&[500, 500, 500, 500, 500, 499], catching_up(14_970)),
            (&[500, 500, 500, 500, 501], Drain::FallingBehind),
        ] {
            assert_eq!(judged(looks), expected, "{looks:?}");
        }
        assert_eq!(Drain::FallingBehind.seconds(), f64::INFINITY);
    }

    #[test]
    fn entries_awaiting_proof_are_not_a_backlog() {
        // At 2 frames a second, from a server that confirms nothing.
        let mut watch = Watch::default();
        for entries in (0..100).map(|look| 180.min(look * 20)) {
            assert_eq!(look(&mut watch, entries, entries / 2), Drain::Level);
        }
    }

    #[test]
    fn an_outage_does_not_count_as_falling_behind() {
        let mut watch = Watch::default();
        for queued in 500..503 {
            look(&mut watch, queued, 3600);
        }
        watch.pause();
        assert_eq!(look(&mut watch, 900, 3600), Drain::Level);
        assert_eq!(look(&mut watch, 600, 3600), catching_up(20));
    }
}

//! Whether what is queued gets less as fast as it should: a pure judgement from looks at regular
//! intervals.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::config::{BEHIND_AFTER, DRAIN_INTERVAL, DRAIN_INTERVALS};
use crate::queue::QueueStatus;

/// How a queue drains while there is a session.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Drain {
    /// Nothing waits but what is on its way.
    #[default]
    Level,
    /// It gets less; at this rate it is empty after so long.
    CatchingUp { ready_in: Duration },
    /// More comes in than goes out.
    FallingBehind,
}

/// So few entries are no backlog: a batch on its way.
pub(crate) const ON_ITS_WAY: u64 = 10;

/// Looks at a queue every [`DRAIN_INTERVAL`]. One in which nothing left says little: the server may
/// have been busy, or a source handed in many entries at once.
#[derive(Debug, Default)]
pub struct Watch {
    /// Entries in the queue, the last looks, oldest first.
    looks: VecDeque<u64>,
    judged: Drain,
}

impl Watch {
    /// One more look. While it is too early to judge, what was judged before holds.
    pub fn look(&mut self, queue: &QueueStatus) -> Drain {
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
        } else if is_stuck && lag(queue) > BEHIND_AFTER {
            self.judged = Drain::FallingBehind;
        }
        self.judged
    }

    /// Without a session nothing drains: what follows is no continuation.
    pub fn pause(&mut self) {
        self.looks.clear();
    }
}

/// How much older the oldest entry is than the newest.
fn lag(queue: &QueueStatus) -> Duration {
    let (Some(oldest), Some(newest)) = (queue.oldest, queue.newest) else { return Duration::ZERO };
    oldest.age(newest)
}

impl Drain {
    /// Seconds until it has caught up, for the metric: 0 when level, infinite when never.
    pub fn seconds(self) -> f64 {
        match self {
            Self::Level => 0.0,
            Self::CatchingUp { ready_in } => ready_in.as_secs_f64(),
            Self::FallingBehind => f64::INFINITY,
        }
    }

    /// Whether the two are the same news for a person.
    pub fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level => f.write_str("the dashboard has everything"),
            Self::CatchingUp { ready_in } => {
                write!(f, "catching up, about {} s left", ready_in.as_secs().max(1))
            }
            Self::FallingBehind => {
                f.write_str("the server takes less than is driven; the queue keeps the rest")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{CapturedAt, Seq, StintId};
    use crate::queue::ledger::Ledger;

    /// A queue with entries of the last `seconds`.
    fn queue(entries: u64, seconds: i64) -> QueueStatus {
        QueueStatus {
            head: Seq(1),
            tail: Seq(1 + entries),
            entries,
            bytes: 0,
            disk_bytes: 0,
            max_entries: 1,
            max_bytes: 1,
            oldest: Some(CapturedAt(0)),
            newest: Some(CapturedAt(seconds * 1000)),
            stint: StintId(1),
            stints: std::sync::Arc::default(),
            appended: entries,
            ledger: Ledger::default(),
            imbalance: 0,
            queued: entries,
            others: Vec::new(),
            buffered: 0,
            undurable_since: None,
            storage_error: None,
            disk_is_full: false,
            stuck: None,
        }
    }

    /// What is judged after these looks at a queue with entries of an hour.
    fn judged(looks: &[u64]) -> Drain {
        let mut watch = Watch::default();
        looks.iter().map(|entries| watch.look(&queue(*entries, 3600))).last().unwrap_or_default()
    }

    fn catching_up(seconds: u64) -> Drain {
        Drain::CatchingUp { ready_in: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_queue_that_gets_less_is_empty_at_its_rate() {
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
    fn only_what_does_not_get_less_for_several_intervals_falls_behind() {
        for (looks, expected) in [
            (&[500][..], Drain::Level),
            (&[500, 500, 500], Drain::Level),
            (&[500, 500, 500, 500], Drain::FallingBehind),
            (&[400, 500, 499, 600], Drain::FallingBehind),
            // The server was busy for a moment.
            (&[1000, 500, 500, 500], catching_up(30)),
            (&[500, 500, 499, 500], catching_up(9980)),
            // Many entries came at once.
            (&[0, 0, 0, 500], Drain::Level),
            (&[0, 500, 300, 100], Drain::Level),
            // It was behind, and is not sure to be so no more.
            (&[500, 500, 500, 500, 500, 499], catching_up(14_970)),
            (&[500, 500, 500, 500, 501], Drain::FallingBehind),
        ] {
            assert_eq!(judged(looks), expected, "{looks:?}");
        }
        assert_eq!(Drain::FallingBehind.seconds(), f64::INFINITY);
    }

    #[test]
    fn what_waits_for_its_proof_is_no_backlog() {
        // At 2 frames a second, from a server that confirms nothing.
        let mut watch = Watch::default();
        for entries in (0..100).map(|look| 180.min(look * 20)) {
            assert_eq!(watch.look(&queue(entries, entries as i64 / 2)), Drain::Level);
        }
    }

    #[test]
    fn an_outage_is_no_slow_server() {
        let mut watch = Watch::default();
        for look in 0..3 {
            watch.look(&queue(500 + look, 3600));
        }
        watch.pause();
        assert_eq!(watch.look(&queue(900, 3600)), Drain::Level);
        assert_eq!(watch.look(&queue(600, 3600)), catching_up(20));
    }
}

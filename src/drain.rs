//! Whether what is queued gets less as fast as it should: a pure judgement from two looks.

use std::fmt;
use std::time::Duration;

use crate::queue::QueueStatus;

/// How a queue drains while there is a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Nothing waits but what is on its way.
    Level,
    /// It gets less; at this rate it is empty after so long.
    CatchingUp { ready_in: Duration },
    /// More comes in than goes out.
    FallingBehind,
}

/// So few entries are no backlog: a batch on its way.
const ON_ITS_WAY: u64 = 10;

impl Drain {
    /// What two looks at the queue, `between` apart, say.
    pub fn judge(earlier: &QueueStatus, later: &QueueStatus, between: Duration) -> Self {
        if later.entries <= ON_ITS_WAY || between.is_zero() {
            return Self::Level;
        }
        let less = earlier.entries.saturating_sub(later.entries) as f64 / between.as_secs_f64();
        let seconds = later.entries as f64 / less;
        match Duration::try_from_secs_f64(seconds) {
            Ok(ready_in) if less > 0.0 => Self::CatchingUp { ready_in },
            _ => Self::FallingBehind,
        }
    }

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
    use crate::entry::{Seq, StintId};
    use crate::queue::ledger::Ledger;

    fn queue(entries: u64) -> QueueStatus {
        QueueStatus {
            head: Seq(1),
            tail: Seq(1 + entries),
            entries,
            bytes: 0,
            disk_bytes: 0,
            oldest: None,
            newest: None,
            stint: StintId(1),
            appended: entries,
            ledger: Ledger::default(),
            imbalance: 0,
            buffered: 0,
            undurable_since: None,
            storage_error: None,
        }
    }

    #[test]
    fn what_two_looks_say() {
        for (earlier, later, expected) in [
            (0, 0, Drain::Level),
            (0, 3, Drain::Level),
            (7200, 2, Drain::Level),
            (1000, 500, Drain::CatchingUp { ready_in: Duration::from_secs(10) }),
            (520, 500, Drain::CatchingUp { ready_in: Duration::from_secs(250) }),
            (500, 500, Drain::FallingBehind),
            (400, 500, Drain::FallingBehind),
        ] {
            let judged = Drain::judge(&queue(earlier), &queue(later), Duration::from_secs(10));
            assert_eq!(judged, expected, "{earlier} -> {later}");
        }
        assert_eq!(Drain::judge(&queue(50), &queue(50), Duration::ZERO), Drain::Level);
        assert_eq!(Drain::FallingBehind.seconds(), f64::INFINITY);
    }
}

//! Counts the outcomes of the lines of an input.

use std::fmt;

use super::Taken;
use super::lines::Place;

/// How many refused lines are reported with their reasons.
pub const MAX_REPORTED_LINES: usize = 3;

/// The outcomes of the lines of an input. Empty lines are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    pub lines: u64,
    /// Lines that were stored, or that are a setup equal to the previous one.
    pub taken: u64,
    /// Samples left out because the source is faster than `update_rate_hz`.
    pub rate_limited: u64,
    /// Samples that the queue dropped.
    pub dropped: u64,
    /// Lines that are not valid samples.
    pub refused: u64,
    /// The numbers of the first refused lines and the reasons; at most [`MAX_REPORTED_LINES`].
    pub first_refused: Vec<(u64, String)>,
}

impl LineCounts {
    /// Counts one line.
    pub fn count(&mut self, place: Place, taken: &Taken) {
        self.lines += 1;
        match taken {
            Taken::Stored(_) | Taken::Unchanged | Taken::Buffered => self.taken += 1,
            Taken::RateLimited => self.rate_limited += 1,
            Taken::Dropped(_) => self.dropped += 1,
            Taken::Refused(refused) => {
                self.refused += 1;
                if self.first_refused.len() < MAX_REPORTED_LINES {
                    self.first_refused.push((place.line, refused.message.clone()));
                }
            }
        }
    }

    /// Lines that are valid samples.
    pub fn samples(&self) -> u64 {
        self.lines - self.refused
    }
}

/// `24 lines: 22 taken, 2 refused`; other outcomes only if there were any.
impl fmt::Display for LineCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { taken, rate_limited, dropped, refused, .. } = self;
        write!(f, "{}: {taken} taken, {refused} refused", lines(self.lines))?;
        for (count, outcome) in [(rate_limited, "rate-limited"), (dropped, "dropped")] {
            if *count > 0 {
                write!(f, ", {count} {outcome}")?;
            }
        }
        Ok(())
    }
}

/// Formats a number of lines: `1 line`, `2 lines`.
pub(crate) fn lines(count: u64) -> String {
    if count == 1 { "1 line".into() } else { format!("{count} lines") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Seq;
    use crate::fields::{Reason, Refused};
    use crate::queue::ledger::DropReason;

    #[test]
    fn each_line_is_counted_under_its_outcome() {
        let refused = |message: &str| {
            Taken::Refused(Refused { reason: Reason::NotJson, message: message.into() })
        };
        let mut counts = LineCounts::default();
        assert_eq!(counts.to_string(), "0 lines: 0 taken, 0 refused");
        counts.count(Place { line: 2, end: 9 }, &Taken::Stored(Seq(1)));
        assert_eq!(counts.to_string(), "1 line: 1 taken, 0 refused");
        let more = [
            Taken::Unchanged,
            Taken::Buffered,
            Taken::RateLimited,
            Taken::Dropped(DropReason::QueueFull),
            refused("a"),
            refused("b"),
            refused("c"),
            refused("d"),
        ];
        for (line, taken) in (3..).zip(&more) {
            counts.count(Place { line, end: 0 }, taken);
        }
        assert_eq!(counts.to_string(), "9 lines: 3 taken, 4 refused, 1 rate-limited, 1 dropped");
        assert_eq!(counts.samples(), 5);
        let first = [(7, "a".into()), (8, "b".into()), (9, "c".into())];
        assert_eq!(counts.first_refused, first);
    }
}

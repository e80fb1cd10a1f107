//! Dispositions: how each entry left the queue. Ranges of positions with the same disposition are
//! one line each, so that an operator can look up a position years later.
//!
//! The range that still grows is in the metadata; the others are in a [side
//! log](super::storage::SideLog::Dispositions), as JSON Lines such as
//! `{"first":1,"last":500,"disposition":"delivered","destination":"server"}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ledger::DropReason;
use crate::entry::Seq;

/// The disposition of an entry: where it is, or how it left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&str", try_from = "String")]
pub enum Disposition {
    Delivered,
    /// A dead letter: the server refused it.
    DeadLetter,
    Dropped(DropReason),
    /// Removed by downsampling to make room.
    Downsampled,
    /// Lost because files of the queue were damaged, truncated or deleted.
    Lost,
    Queued,
    /// The position has not been assigned yet.
    NotAssigned,
    /// The position was skipped at a start, or its line has been deleted since.
    Unknown,
}

/// The disposition of an entry for one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationDisposition {
    pub destination: String,
    pub disposition: Disposition,
}

impl Disposition {
    /// The name in side logs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::DeadLetter => "dead_letter",
            Self::Dropped(reason) => reason.as_str(),
            Self::Downsampled => "downsampled",
            Self::Lost => "lost",
            Self::Queued => "queued",
            Self::NotAssigned => "not_assigned",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Disposition> for &str {
    fn from(disposition: Disposition) -> Self {
        disposition.as_str()
    }
}

impl TryFrom<String> for Disposition {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        [
            Self::Delivered,
            Self::DeadLetter,
            Self::Downsampled,
            Self::Lost,
            Self::Queued,
            Self::NotAssigned,
            Self::Unknown,
        ]
        .into_iter()
        .chain(DropReason::ALL.map(Self::Dropped))
        .find(|disposition| disposition.as_str() == word)
        .ok_or_else(|| format!("{word:?} is not a disposition"))
    }
}

/// A range of positions with the same disposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DispositionRange {
    pub(super) first: Seq,
    pub(super) last: Seq,
    pub(super) disposition: Disposition,
}

impl DispositionRange {
    pub(super) fn line(self, destination: &str) -> String {
        let Self { first, last, disposition } = self;
        let disposition = disposition.as_str();
        format!(
            r#"{{"first":{first},"last":{last},"disposition":"{disposition}","destination":"{destination}"}}"#
        )
    }

    /// Extends this range by `next` if it has the same disposition and follows directly; otherwise
    /// returns it. A gap is allowed if the segment was downsampled (`is_downsampled`).
    pub(super) fn join(&mut self, next: Self, is_downsampled: bool) -> Option<Self> {
        let follows = next.first.0 == self.last.0 + 1 || is_downsampled;
        if next.disposition != self.disposition || next.first <= self.last || !follows {
            return Some(next);
        }
        self.last = next.last;
        None
    }
}

/// The line for a downsampled segment whose records were at `before` and are now `left`. Every
/// position was removed except the multiples of 2^`level` that are not listed in `gone`, and the
/// positions listed in `kept`; with a single stream both lists are short. `had` is the position
/// below which each destination had already received everything, and therefore lost nothing.
pub(super) fn downsampled_line(
    before: &[Seq],
    level: u32,
    left: &[(Seq, Vec<u8>)],
    had: &BTreeMap<&str, u64>,
) -> String {
    let (first, last) =
        (before.first().map_or(0, |seq| seq.0), before.last().map_or(0, |seq| seq.0));
    let mut kept: Vec<Seq> = left.iter().map(|(seq, _)| *seq).collect();
    let mut gone = before.to_vec();
    gone.retain(|seq| seq.0.is_multiple_of(1 << level) && kept.binary_search(seq).is_err());
    kept.retain(|seq| !seq.0.is_multiple_of(1 << level));
    let [kept, gone, had] = [json!(kept), json!(gone), json!(had)];
    format!(
        r#"{{"first":{first},"last":{last},"disposition":"downsampled","level":{level},"kept":{kept},"gone":{gone},"had":{had}}}"#
    )
}

/// The line for a range of lost records. `had` is the position below which each destination had
/// already received everything, and therefore lost nothing.
pub(super) fn lost_line(first: Seq, last: Seq, had: &BTreeMap<&str, u64>) -> String {
    let had = json!(had);
    format!(r#"{{"first":{first},"last":{last},"disposition":"lost","had":{had}}}"#)
}

#[derive(Deserialize)]
struct DispositionLine {
    first: u64,
    last: u64,
    disposition: Disposition,
    #[serde(default)]
    level: u32,
    #[serde(default)]
    kept: Vec<u64>,
    #[serde(default)]
    gone: Vec<u64>,
    /// The destination of a disposition range.
    #[serde(default)]
    destination: String,
    #[serde(default)]
    had: BTreeMap<String, u64>,
}

impl DispositionLine {
    /// Whether the line applies to this position of a destination. A downsampled line does not
    /// apply to the entries that it kept: they left in another way.
    fn is_about(&self, destination: &str, seq: Seq) -> bool {
        let is_own = match self.disposition {
            Disposition::Downsampled => self.was_queued_for(destination, seq) && !self.keeps(seq),
            Disposition::Lost => self.was_queued_for(destination, seq),
            _ => self.destination == destination,
        };
        is_own && (self.first..=self.last).contains(&seq.0)
    }

    /// Whether the destination had not yet received the entry.
    fn was_queued_for(&self, destination: &str, seq: Seq) -> bool {
        self.had.get(destination).is_none_or(|had| seq.0 >= *had)
    }

    /// Whether downsampling kept the entry.
    fn keeps(&self, seq: Seq) -> bool {
        if seq.0.is_multiple_of(1 << self.level.min(63)) {
            !self.gone.contains(&seq.0)
        } else {
            self.kept.contains(&seq.0)
        }
    }
}

/// Looks up the disposition of a position that is not queued for a destination. The newest matching
/// line wins, with one exception: an entry removed from the middle of the queue (downsampled, lost,
/// or dropped by an operator) is covered again by later ranges, so the oldest such line takes
/// precedence.
pub(super) fn find(
    notes: &str,
    destination: &str,
    growing: Option<DispositionRange>,
    seq: Seq,
) -> Disposition {
    let growing = growing.map(|run| run.line(destination));
    let lines = notes.lines().chain(growing.as_deref());
    let about = lines
        .filter_map(|line| serde_json::from_str::<DispositionLine>(line).ok())
        .filter(|line| line.is_about(destination, seq))
        .map(|line| line.disposition);
    let mut found = Disposition::Unknown;
    for disposition in about {
        if matches!(
            disposition,
            Disposition::Downsampled
                | Disposition::Lost
                | Disposition::Dropped(DropReason::Operator)
        ) {
            return disposition;
        }
        found = disposition;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line for frames at these positions from a single stream.
    fn downsampled(before: impl Iterator<Item = u64>, level: u32) -> String {
        let before: Vec<Seq> = before.map(Seq).collect();
        let is_left = |seq: &&Seq| seq.0.is_multiple_of(1 << level);
        let left: Vec<_> = before.iter().filter(is_left).map(|seq| (*seq, Vec::new())).collect();
        downsampled_line(&before, level, &left, &BTreeMap::new())
    }

    #[test]
    fn downsampling_interleaved_cars_records_each_position() {
        let before: Vec<Seq> = (1..=8).map(Seq).collect();
        let left: Vec<_> = [1, 4, 5, 8].map(|seq| (Seq(seq), Vec::new())).to_vec();
        let line = downsampled_line(&before, 1, &left, &BTreeMap::new());
        for seq in before {
            let expected = if left.iter().any(|(left, _)| *left == seq) {
                Disposition::Unknown
            } else {
                Disposition::Downsampled
            };
            assert_eq!(find(&line, "server", None, seq), expected, "{seq}: {line}");
        }
    }

    #[test]
    fn each_position_has_its_recorded_disposition() {
        let run = |first, last, disposition| DispositionRange {
            first: Seq(first),
            last: Seq(last),
            disposition,
        };
        let six_to_twenty: Vec<Seq> = (6..=20).map(Seq).collect();
        let left: Vec<_> = [7, 8, 12, 16, 20].map(|seq| (Seq(seq), Vec::new())).to_vec();
        let lines = [
            run(1, 5, Disposition::Delivered).line("server"),
            downsampled_line(&six_to_twenty, 2, &left, &BTreeMap::new()),
            "no JSON".into(),
            run(6, 9, Disposition::Dropped(DropReason::QueueFull)).line("server"),
        ]
        .join("\n");
        let growing = run(10, 16, Disposition::DeadLetter);
        for (seq, disposition) in [
            (0, Disposition::Unknown),
            (5, Disposition::Delivered),
            (6, Disposition::Downsampled),
            (7, Disposition::Dropped(DropReason::QueueFull)),
            (8, Disposition::Dropped(DropReason::QueueFull)),
            (9, Disposition::Downsampled),
            (12, Disposition::DeadLetter),
            (13, Disposition::Downsampled),
            (18, Disposition::Downsampled),
            (20, Disposition::Unknown),
        ] {
            assert_eq!(find(&lines, "server", Some(growing), Seq(seq)), disposition, "{seq}");
        }
    }

    #[test]
    fn an_earlier_disposition_wins_over_a_later_range_that_covers_it() {
        let run = |first, last, disposition| DispositionRange {
            first: Seq(first),
            last: Seq(last),
            disposition,
        };
        let operator = Disposition::Dropped(DropReason::Operator);
        let lines = [
            downsampled(1..=20, 1),
            run(8, 12, operator).line("server"),
            downsampled((2..=7).chain(13..=20).filter(|seq| seq % 2 == 0), 2),
            run(1, 20, Disposition::Delivered).line("server"),
        ]
        .join("\n");
        for (seq, disposition) in [
            (7, Disposition::Downsampled),
            (9, Disposition::Downsampled),
            (10, operator),
            (12, operator),
            (14, Disposition::Downsampled),
            (16, Disposition::Delivered),
        ] {
            assert_eq!(find(&lines, "server", None, Seq(seq)), disposition, "{seq}");
        }
    }

    #[test]
    fn each_destination_has_its_own_disposition() {
        let run = |first, last, disposition| DispositionRange {
            first: Seq(first),
            last: Seq(last),
            disposition,
        };
        let before: Vec<Seq> = (1..=8).map(Seq).collect();
        let left: Vec<_> = [2, 4, 6, 8].map(|seq| (Seq(seq), Vec::new())).to_vec();
        let had = [("server", 5), ("b", 1)].into();
        let lines = [
            downsampled_line(&before, 1, &left, &had),
            run(1, 8, Disposition::Delivered).line("server"),
            run(2, 4, Disposition::Dropped(DropReason::Expired)).line("b"),
        ]
        .join("\n");
        let growing = Some(run(6, 8, Disposition::Delivered));
        let expired = Disposition::Dropped(DropReason::Expired);
        for (seq, server, b) in [
            (3, Disposition::Delivered, Disposition::Downsampled),
            (4, Disposition::Delivered, expired),
            (7, Disposition::Downsampled, Disposition::Downsampled),
            (8, Disposition::Delivered, Disposition::Delivered),
        ] {
            assert_eq!(find(&lines, "server", None, Seq(seq)), server, "{seq}");
            assert_eq!(find(&lines, "b", growing, Seq(seq)), b, "{seq}");
        }
    }

    #[test]
    fn a_lost_entry_is_lost_only_to_destinations_that_had_not_received_it() {
        let had = [("server", 5), ("b", 1)].into();
        let delivered =
            DispositionRange { first: Seq(1), last: Seq(8), disposition: Disposition::Delivered };
        let lines =
            [lost_line(Seq(3), Seq(6), &had), delivered.line("server"), delivered.line("b")];
        let lines = lines.join("\n");
        for (seq, server, b) in [
            (2, Disposition::Delivered, Disposition::Delivered),
            (4, Disposition::Delivered, Disposition::Lost),
            (6, Disposition::Lost, Disposition::Lost),
            (7, Disposition::Delivered, Disposition::Delivered),
        ] {
            assert_eq!(find(&lines, "server", None, Seq(seq)), server, "{seq}");
            assert_eq!(find(&lines, "b", None, Seq(seq)), b, "{seq}");
        }
    }

    #[test]
    fn consecutive_ranges_of_one_disposition_are_merged() {
        let run = |first, last| DispositionRange {
            first: Seq(first),
            last: Seq(last),
            disposition: Disposition::Delivered,
        };
        let mut growing = run(1, 5);
        assert_eq!(growing.join(run(6, 9), false), None);
        assert_eq!(growing, run(1, 9));
        assert_eq!(growing.join(run(12, 13), false), Some(run(12, 13)));
        assert_eq!(growing.join(run(12, 13), true), None);
        assert_eq!(growing, run(1, 13));
    }
}

//! What became of the entries that are gone: runs of positions with one fate, a line for each, so
//! that a person can ask for one position years later.
//!
//! The run that still grows lies in the books; the others are [notes](super::store::Notes::Fates), JSON Lines such
//! as `{"first":1,"last":500,"fate":"delivered"}`.

use serde::{Deserialize, Serialize};

use super::ledger::DropReason;
use crate::entry::Seq;

/// Where an entry is, or how it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Delivered,
    /// Set aside: the server refuses it.
    Refused,
    Dropped(DropReason),
    /// Left out to make room.
    Thinned,
    Queued,
    /// No entry has this position yet.
    NotGivenYet,
    /// The position was skipped at a start, what was there was lost, or it is too long ago.
    Unknown,
}

impl Fate {
    /// The word in notes and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Dropped(reason) => reason.as_str(),
            Self::Thinned => "thinned",
            Self::Queued => "queued",
            Self::NotGivenYet => "not_given_yet",
            Self::Unknown => "unknown",
        }
    }

    /// The fate that has this word.
    pub fn parse(word: &str) -> Option<Self> {
        let dropped = DropReason::ALL.into_iter().map(Self::Dropped);
        let others = [
            Self::Delivered,
            Self::Refused,
            Self::Thinned,
            Self::Queued,
            Self::NotGivenYet,
            Self::Unknown,
        ];
        others.into_iter().chain(dropped).find(|fate| fate.as_str() == word)
    }
}

/// Positions next to each other that left in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) first: Seq,
    pub(super) last: Seq,
    pub(super) fate: Fate,
}

impl Run {
    pub(super) fn line(self) -> String {
        let Self { first, last, fate } = self;
        format!(r#"{{"first":{first},"last":{last},"fate":"{}"}}"#, fate.as_str())
    }

    /// Takes `next` in if it goes on from here; else gives it back as a run of its own. What was
    /// thinned out between the two does not part them.
    pub(super) fn join(&mut self, next: Self, is_thinned: bool) -> Option<Self> {
        let follows = next.first.0 == self.last.0 + 1 || is_thinned;
        if next.fate != self.fate || next.first <= self.last || !follows {
            return Some(next);
        }
        self.last = next.last;
        None
    }
}

/// The line for what was left out between two positions: all but the multiples of 2^`level` and
/// those in `kept`.
pub(super) fn thinned_line(first: Seq, last: Seq, level: u32, left: &[(Seq, Vec<u8>)]) -> String {
    let others = left.iter().filter(|(seq, _)| !seq.0.is_multiple_of(1 << level));
    let kept: Vec<String> = others.map(|(seq, _)| seq.to_string()).collect();
    format!(
        r#"{{"first":{first},"last":{last},"fate":"thinned","level":{level},"kept":[{}]}}"#,
        kept.join(",")
    )
}

#[derive(Deserialize)]
struct Line {
    first: u64,
    last: u64,
    fate: String,
    #[serde(default)]
    level: u32,
    #[serde(default)]
    kept: Vec<u64>,
}

impl Line {
    /// Whether the line is about this position. An entry that thinning kept left in another way.
    fn is_about(&self, seq: Seq) -> bool {
        let every = 1_u64 << self.level.min(63);
        let is_kept = || seq.0.is_multiple_of(every) || self.kept.contains(&seq.0);
        (self.first..=self.last).contains(&seq.0) && (self.fate != "thinned" || !is_kept())
    }
}

/// What the notes say of a position that is not held. The newest line that is about it counts. But
/// what was taken out of the middle, thinned or dropped by a person, is out for good: later lines go
/// over it, so the oldest such line counts before all others.
pub(super) fn find(notes: &str, growing: Option<Run>, seq: Seq) -> Fate {
    let growing = growing.map(Run::line);
    let lines = notes.lines().chain(growing.as_deref());
    let about = lines
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .filter(|line| line.is_about(seq))
        .filter_map(|line| Fate::parse(&line.fate));
    let mut found = Fate::Unknown;
    for fate in about {
        if matches!(fate, Fate::Thinned | Fate::Dropped(DropReason::Operator)) {
            return fate;
        }
        found = fate;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_position_has_the_fate_that_was_noted() {
        let run = |first, last, fate| Run { first: Seq(first), last: Seq(last), fate };
        let notes = [
            run(1, 5, Fate::Delivered).line(),
            thinned_line(Seq(6), Seq(20), 2, &[(Seq(7), vec![]), (Seq(8), vec![])]),
            "no JSON".into(),
            run(6, 9, Fate::Dropped(DropReason::QueueFull)).line(),
        ]
        .join("\n");
        let growing = run(10, 16, Fate::Refused);
        for (seq, fate) in [
            (0, Fate::Unknown),
            (5, Fate::Delivered),
            (6, Fate::Thinned),
            (7, Fate::Dropped(DropReason::QueueFull)),
            (8, Fate::Dropped(DropReason::QueueFull)),
            (9, Fate::Thinned),
            (12, Fate::Refused),
            (13, Fate::Thinned),
            (18, Fate::Thinned),
            (20, Fate::Unknown),
        ] {
            assert_eq!(find(&notes, Some(growing), Seq(seq)), fate, "{seq}");
        }
    }

    #[test]
    fn what_was_taken_out_of_the_middle_first_counts_before_what_goes_over_it() {
        let run = |first, last, fate| Run { first: Seq(first), last: Seq(last), fate };
        let operator = Fate::Dropped(DropReason::Operator);
        let notes = [
            thinned_line(Seq(1), Seq(20), 1, &[]),
            run(8, 12, operator).line(),
            thinned_line(Seq(1), Seq(20), 2, &[]),
            run(1, 20, Fate::Delivered).line(),
        ]
        .join("\n");
        for (seq, fate) in [
            (7, Fate::Thinned),
            (9, Fate::Thinned),
            (10, operator),
            (12, operator),
            (14, Fate::Thinned),
            (16, Fate::Delivered),
        ] {
            assert_eq!(find(&notes, None, Seq(seq)), fate, "{seq}");
        }
    }

    #[test]
    fn a_run_takes_in_what_goes_on_from_it() {
        let run = |first, last| Run { first: Seq(first), last: Seq(last), fate: Fate::Delivered };
        let mut growing = run(1, 5);
        assert_eq!(growing.join(run(6, 9), false), None);
        assert_eq!(growing, run(1, 9));
        assert_eq!(growing.join(run(12, 13), false), Some(run(12, 13)));
        assert_eq!(growing.join(run(12, 13), true), None);
        assert_eq!(growing, run(1, 13));
    }
}

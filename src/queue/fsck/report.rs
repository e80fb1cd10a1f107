//! Checks entries for damage and disorder, in pure functions over the records that were read.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::entry::{CapturedAt, Entry, QueueTime, Seq, StintId};
use crate::queue::record;
use crate::queue::storage::SegmentContents;

/// The maximum number of findings that are listed for one segment.
pub(crate) const MAX_FINDINGS: usize = 100;

/// One problem that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The location and nature of the problem.
    pub problem: String,
    /// What pitwire or the operator can do about it.
    pub remedy: String,
}

impl Finding {
    pub fn new(problem: &str, remedy: &str) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

/// The place of an entry in the order of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryPosition {
    pub seq: Seq,
    pub stint: StintId,
    pub queued_at: QueueTime,
    pub captured_at: CapturedAt,
}

/// The result of checking one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentReport {
    /// The position range of the segment, inclusive.
    pub first: Seq,
    pub last: Seq,
    /// The number of readable entries, and of unreadable ones.
    pub entries: u64,
    pub missing: u64,
    /// At most `MAX_FINDINGS`.
    pub findings: Vec<Finding>,
    /// The oldest and the newest entry.
    pub ends: Option<(EntryPosition, EntryPosition)>,
}

const QUARANTINED: &str = "readable records are kept, the rest counts as dropped (corrupt); a \
                         damaged segment is moved to quarantine/ when it is read";
const CORRUPT: &str = "it is skipped when the queue is sent and counts as dropped (corrupt)";
const NOTHING: &str = "nothing can be done about it";

/// Checks the records that were read from a segment.
pub(in crate::queue) fn report(examined: &SegmentContents) -> SegmentReport {
    let SegmentContents { first, last, records, missing, trouble } = examined;
    let place = format!("entries {first} to {last}");
    let mut findings = Vec::new();
    match (missing, trouble) {
        (0, None) => {}
        (0, Some(trouble)) => {
            findings
                .push(Finding::new(&format!("{place}: {trouble}; all can be read"), QUARANTINED));
        }
        (missing, trouble) => {
            let trouble = trouble.as_deref().unwrap_or("it is damaged");
            let problem = format!("{place}: {trouble}; {missing} cannot be read");
            findings.push(Finding::new(&problem, QUARANTINED));
        }
    }
    let mut ends: Option<(EntryPosition, EntryPosition)> = None;
    for (seq, bytes) in records {
        let entry = match record::decode(*seq, bytes) {
            Ok(entry) => entry,
            Err(error) => {
                findings.push(Finding::new(&format!("entry {seq}: {error}"), CORRUPT));
                continue;
            }
        };
        if let Err(error) = serde_json::from_str::<IgnoredAny>(&entry.json) {
            findings.push(Finding::new(&format!("entry {seq}: invalid JSON: {error}"), NOTHING));
        }
        let queued_at = record::fields(bytes).map_or(QueueTime(0), |record| record.queued_at);
        let Entry { stint, captured_at, .. } = entry;
        let place = EntryPosition { seq: *seq, stint, queued_at, captured_at };
        findings.extend(ends.and_then(|(_, before)| out_of_order(before, place)));
        ends = Some((ends.map_or(place, |(first, _)| first), place));
    }
    if let Some(more) = findings.len().checked_sub(MAX_FINDINGS).filter(|more| *more > 0) {
        findings.truncate(MAX_FINDINGS - 1);
        findings.push(Finding::new(&format!("{place}: {} more like these", more + 1), NOTHING));
    }
    SegmentReport {
        first: *first,
        last: *last,
        entries: records.len() as u64,
        missing: *missing,
        findings,
        ends,
    }
}

/// Checks the order of two consecutive entries.
pub fn out_of_order(before: EntryPosition, after: EntryPosition) -> Option<Finding> {
    let problem = if after.seq <= before.seq {
        format!("entry {}: it comes after entry {}", after.seq, before.seq)
    } else if after.queued_at <= before.queued_at {
        let (at, earlier) = (after.queued_at.0, before.queued_at.0);
        format!(
            "entry {}: queued at {at} ms, not after {earlier} of entry {}",
            after.seq, before.seq
        )
    } else if after.stint < before.stint {
        format!("entry {}: of stint {}, after stint {}", after.seq, after.stint, before.stint)
    } else {
        return None;
    };
    Some(Finding::new(&problem, NOTHING))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Kind;
    use crate::queue::record::{Record, RetentionFlags};

    fn examined(records: &[(u64, u64, i64, &str)]) -> SegmentReport {
        let record = |&(seq, stint, at, json): &(u64, u64, i64, &str)| {
            let (at, flags) = (QueueTime(at), RetentionFlags::default());
            let record = Record::new(StintId(stint), at, Kind::Frame, flags, json);
            (Seq(seq), record::encode(&record).unwrap())
        };
        report(&SegmentContents {
            first: Seq(1),
            last: Seq(1000),
            records: records.iter().map(record).collect(),
            missing: 0,
            trouble: None,
        })
    }

    #[test]
    fn entries_in_order_yield_no_findings() {
        let examination = examined(&[(1, 1, 10, "{}"), (4, 1, 11, "{}"), (5, 3, 900, "{}")]);
        assert_eq!(examination.findings, []);
        let (first, last) = examination.ends.unwrap();
        assert_eq!((first.seq, last.seq, examination.entries), (Seq(1), Seq(5), 3));
    }

    #[test]
    fn out_of_order_and_invalid_entries_are_found() {
        for (records, expected) in [
            (&[(2, 1, 10, "{}"), (2, 1, 11, "{}")][..], "entry 2: it comes after entry 2"),
            (&[(2, 1, 10, "{}"), (3, 1, 10, "{}")], "entry 3: queued at 10 ms, not after 10"),
            (&[(2, 2, 10, "{}"), (3, 1, 11, "{}")], "entry 3: of stint 1, after stint 2"),
            (&[(7, 1, 10, "{")], "entry 7: invalid JSON"),
        ] {
            let findings = examined(records).findings;
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].problem.starts_with(expected), "{findings:?}");
        }
    }

    #[test]
    fn the_findings_of_a_segment_are_bounded() {
        let records: Vec<_> = (1..=1000).map(|seq| (seq, 1, 5, "{}")).collect();
        let findings = examined(&records).findings;
        assert_eq!(findings.len(), MAX_FINDINGS);
        assert!(findings.last().unwrap().problem.contains("900 more like these"), "{findings:?}");
    }
}

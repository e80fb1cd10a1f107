//! Tracks where the newest minute begins, which is what viewers at the pit wall are watching.

use std::collections::VecDeque;
use std::time::Duration;

use crate::entry::{CapturedAt, QueueTime, Seq};

/// Entries younger than this, relative to the newest, are never downsampled.
pub const RECENT: Duration = Duration::from_secs(60);

/// Positions and queue times in the newest minute, one per second.
#[derive(Debug)]
pub(super) struct Recent {
    seconds: VecDeque<(QueueTime, CapturedAt, Seq)>,
    begins_at: Seq,
}

impl Recent {
    /// At a start, only the queue time of the newest entry is known.
    pub(super) fn new(newest: Option<(QueueTime, CapturedAt)>, tail: Seq) -> Self {
        Self {
            seconds: newest.map(|(at, captured_at)| (at, captured_at, tail)).into_iter().collect(),
            begins_at: Seq(0),
        }
    }

    /// Records an appended entry. An entry is a minute old if that much time has passed since it
    /// was queued, or between the capture of both: a backlog may arrive within a second.
    pub(super) fn note(&mut self, at: QueueTime, captured_at: CapturedAt, seq: Seq) {
        let has_passed = |since: (QueueTime, CapturedAt), passed: Duration| {
            let queued = at.0.saturating_sub(since.0.0);
            let captured = captured_at.0.saturating_sub(since.1.0).saturating_abs();
            queued.max(captured) >= passed.as_millis() as i64
        };
        let last = self.seconds.back();
        if last.is_none_or(|last| has_passed((last.0, last.1), Duration::from_secs(1))) {
            self.seconds.push_back((at, captured_at, seq));
        }
        let is_old = |old: &mut (QueueTime, CapturedAt, Seq)| has_passed((old.0, old.1), RECENT);
        while let Some((.., seq)) = self.seconds.pop_front_if(is_old) {
            self.begins_at = seq;
        }
    }

    /// The position where the newest minute begins: entries below are older.
    pub(super) fn begins_at(&self) -> Seq {
        self.begins_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_minute_begins_a_minute_before_the_newest_entry() {
        let mut recent = Recent::new(None, Seq(1));
        for n in 0..1000 {
            recent.note(QueueTime(n * 100), CapturedAt(0), Seq(1 + n as u64));
            assert!(recent.seconds.len() <= 62, "{}", recent.seconds.len());
        }
        // The last entry was queued at 99,900 ms; the last second that is a minute old began at
        // 39,000.
        assert_eq!(recent.begins_at(), Seq(391));
    }

    #[test]
    fn entries_from_before_a_restart_are_old_after_a_minute() {
        let mut recent = Recent::new(Some((QueueTime(5000), CapturedAt(0))), Seq(100));
        recent.note(QueueTime(64_000), CapturedAt(0), Seq(100));
        assert_eq!(recent.begins_at(), Seq(0));
        recent.note(QueueTime(65_000), CapturedAt(0), Seq(101));
        assert_eq!(recent.begins_at(), Seq(100));
    }

    #[test]
    fn a_backlog_that_arrives_at_once_is_as_old_as_its_capture_times_say() {
        let mut recent = Recent::new(None, Seq(1));
        for n in 0..1000 {
            recent.note(QueueTime(n), CapturedAt(n * 500), Seq(1 + n as u64));
            assert!(recent.seconds.len() <= 62, "{}", recent.seconds.len());
        }
        assert_eq!(recent.begins_at(), Seq(879));
    }
}

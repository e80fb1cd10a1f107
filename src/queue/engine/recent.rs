//! Tracks where the newest minute begins, which is what viewers at the pit wall are watching.

use std::collections::VecDeque;
use std::time::Duration;

use crate::entry::{QueueTime, Seq};

/// Entries younger than this, relative to the newest, are never downsampled.
pub const RECENT: Duration = Duration::from_secs(60);

/// Positions and queue times in the newest minute, one per second.
#[derive(Debug)]
pub(super) struct Recent {
    seconds: VecDeque<(QueueTime, Seq)>,
    begins_at: Seq,
}

impl Recent {
    /// At a start, only the queue time of the newest entry is known.
    pub(super) fn new(newest: Option<QueueTime>, tail: Seq) -> Self {
        Self {
            seconds: newest.map(|newest| (newest, tail)).into_iter().collect(),
            begins_at: Seq(0),
        }
    }

    /// Records an appended entry.
    pub(super) fn note(&mut self, at: QueueTime, seq: Seq) {
        let last = self.seconds.back();
        if last.is_none_or(|(last, _)| at.0.saturating_sub(last.0) >= 1000) {
            self.seconds.push_back((at, seq));
        }
        let old = at.0.saturating_sub(RECENT.as_millis() as i64);
        while let Some((_, seq)) = self.seconds.pop_front_if(|(at, _)| at.0 <= old) {
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
            recent.note(QueueTime(n * 100), Seq(1 + n as u64));
            assert!(recent.seconds.len() <= 62, "{}", recent.seconds.len());
        }
        // The last entry was queued at 99,900 ms; the last second that is a minute old began at
        // 39,000.
        assert_eq!(recent.begins_at(), Seq(391));
    }

    #[test]
    fn entries_from_before_a_restart_are_old_after_a_minute() {
        let mut recent = Recent::new(Some(QueueTime(5000)), Seq(100));
        recent.note(QueueTime(64_000), Seq(100));
        assert_eq!(recent.begins_at(), Seq(0));
        recent.note(QueueTime(65_000), Seq(101));
        assert_eq!(recent.begins_at(), Seq(100));
    }
}

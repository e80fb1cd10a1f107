//! Tracks up to which stream sequence an agent's entries are delivered, from their queue positions
//! and the head of the queue. Pure.

use crate::entry::Seq;
use std::collections::VecDeque;

/// The maximum stream positions per agent that are remembered until the entries before them are
/// delivered; beyond that, the newest are kept.
const HUB_MARKS: usize = 1024;

/// Maps stream sequences to the queue position up to which entries must have left the queue.
#[derive(Debug)]
pub(super) struct AckTracker {
    /// Everything up to this stream sequence is delivered.
    after: u64,
    /// All queued entries of this stream are at or before this position.
    newest: Seq,
    waiting: VecDeque<(Seq, u64)>,
}

impl AckTracker {
    /// Creates the tracker of a stream that is delivered up to `after`. The queue ends before
    /// `tail` and may still hold earlier entries of the stream.
    pub(super) fn new(after: u64, tail: Seq) -> Self {
        Self { after, newest: Seq(tail.0.saturating_sub(1)), waiting: VecDeque::new() }
    }

    /// Records that the stream was received up to `place`; its newest entry, if any, is at
    /// `stored`.
    pub(super) fn taken(&mut self, place: u64, newest_stored: Option<Seq>) {
        self.newest = newest_stored.unwrap_or(self.newest).max(self.newest);
        let is_full = self.waiting.len() >= HUB_MARKS;
        match self.waiting.back_mut() {
            Some(back) if back.0 == self.newest || is_full => *back = (self.newest, place),
            _ => self.waiting.push_back((self.newest, place)),
        }
    }

    /// The stream sequence up to which everything is delivered, given the head of the queue.
    pub(super) fn delivered(&mut self, head: Seq) -> u64 {
        while let Some(&(_, place)) = self.waiting.front().filter(|(seq, _)| *seq < head) {
            self.after = place;
            self.waiting.pop_front();
        }
        self.after
    }

    /// Whether everything that was received is delivered.
    pub(super) fn is_all_delivered(&mut self, head: Seq) -> bool {
        self.delivered(head);
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_delivered_once_all_earlier_entries_left_the_queue() {
        let mut acks = AckTracker::new(10, Seq(5));
        // Nothing was stored, but the queue still holds an earlier entry.
        acks.taken(11, None);
        assert_eq!(acks.delivered(Seq(4)), 10);
        acks.taken(13, Some(Seq(7)));
        acks.taken(14, None);
        assert_eq!(acks.delivered(Seq(5)), 11);
        assert_eq!(acks.delivered(Seq(7)), 11);
        assert!(!acks.is_all_delivered(Seq(7)));
        assert_eq!(acks.delivered(Seq(8)), 14);
        assert!(acks.is_all_delivered(Seq(8)));
    }

    #[test]
    fn remembered_positions_are_bounded_and_include_the_newest() {
        let mut acks = AckTracker::new(0, Seq(1));
        for place in 1..=10_000 {
            acks.taken(place, Some(Seq(place)));
            assert!(acks.waiting.len() <= HUB_MARKS);
            assert!(acks.delivered(Seq(1)) == 0);
        }
        assert_eq!(acks.delivered(Seq(500)), 499);
        assert_eq!(acks.delivered(Seq(10_001)), 10_000);
    }
}

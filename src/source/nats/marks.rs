//! How far an agent's stream is delivered: from the places in it that are in the queue, and where the
//! queue begins. Pure.

use std::collections::VecDeque;

use crate::config::HUB_MARKS;
use crate::entry::Seq;
use crate::planted::planted;

/// Places in a stream, each with the position in the queue that must have left it.
#[derive(Debug)]
pub(super) struct Marks {
    /// Up to there everything is delivered.
    after: u64,
    /// Everything of this stream in the queue is at or before it.
    newest: Seq,
    waiting: VecDeque<(Seq, u64)>,
}

impl Marks {
    /// Of a stream that is delivered up to `after`, while the queue ends before `tail`: entries of it may
    /// be there from earlier.
    pub(super) fn new(after: u64, tail: Seq) -> Self {
        Self { after, newest: Seq(tail.0.saturating_sub(1)), waiting: VecDeque::new() }
    }

    /// Everything up to this place is taken; the newest that was stored of it is there in the queue.
    pub(super) fn taken(&mut self, place: u64, stored: Option<Seq>) {
        self.newest = stored.unwrap_or(self.newest).max(self.newest);
        let is_full = self.waiting.len() >= HUB_MARKS;
        match self.waiting.back_mut() {
            Some(back) if back.0 == self.newest || is_full => *back = (self.newest, place),
            _ => self.waiting.push_back((self.newest, place)),
        }
    }

    /// Up to where it is delivered when the queue begins at `head`.
    pub(super) fn delivered(&mut self, head: Seq) -> u64 {
        while let Some(&(_, place)) =
            self.waiting.front().filter(|(seq, _)| *seq < head || planted("taken_is_delivered"))
        {
            self.after = place;
            self.waiting.pop_front();
        }
        self.after
    }

    /// Whether all that was taken is delivered.
    pub(super) fn is_all_delivered(&mut self, head: Seq) -> bool {
        self.delivered(head);
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_delivered_when_what_lies_before_it_has_left_the_queue() {
        let mut marks = Marks::new(10, Seq(5));
        // Nothing to store, and an entry from earlier is in the queue.
        marks.taken(11, None);
        assert_eq!(marks.delivered(Seq(4)), 10);
        marks.taken(13, Some(Seq(7)));
        marks.taken(14, None);
        assert_eq!(marks.delivered(Seq(5)), 11);
        assert_eq!(marks.delivered(Seq(7)), 11);
        assert!(!marks.is_all_delivered(Seq(7)));
        assert_eq!(marks.delivered(Seq(8)), 14);
        assert!(marks.is_all_delivered(Seq(8)));
    }

    #[test]
    fn however_many_there_are_few_are_remembered_and_the_newest_is() {
        let mut marks = Marks::new(0, Seq(1));
        for place in 1..=10_000 {
            marks.taken(place, Some(Seq(place)));
            assert!(marks.waiting.len() <= HUB_MARKS);
            assert!(marks.delivered(Seq(1)) == 0);
        }
        assert_eq!(marks.delivered(Seq(500)), 499);
        assert_eq!(marks.delivered(Seq(10_001)), 10_000);
    }
}

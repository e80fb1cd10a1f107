//! Capture times that define the order of the queue.

use crate::entry::CapturedAt;

/// Assigns capture times that strictly increase.
#[derive(Debug)]
pub struct Stamps {
    last: Option<CapturedAt>,
}

impl Stamps {
    pub(super) fn after(last: Option<CapturedAt>) -> Self {
        Self { last }
    }

    /// Returns `at`, or the first time after the last stamp if the clock stood still or went back.
    pub fn next(&mut self, at: CapturedAt) -> CapturedAt {
        let stamp = match self.last {
            Some(last) if at <= last => CapturedAt(last.0.saturating_add(1)),
            _ => at,
        };
        self.last = Some(stamp);
        stamp
    }
}

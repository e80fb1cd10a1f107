//! Entries of this queue that another hub of the same name has delivered.
//!
//! The hubs' assignment table proves it: a position in it moves only on delivery. The page cannot
//! show it, because its newest entries are ones that this hub never had.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::entry::{Entry, Seq, StintId};

/// Stints that are remembered; the oldest is forgotten first. A league has at most some hundreds.
const MAX_STINTS: usize = 1024;

/// The newest entry of each stint that another hub has delivered, with all before it. Clones share
/// the same state.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeliveredElsewhere(Arc<Mutex<BTreeMap<StintId, Seq>>>);

impl DeliveredElsewhere {
    /// Records that the entries of a stint are delivered up to this one.
    pub(crate) fn note(&self, stint: StintId, newest: Seq) {
        let mut stints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = stints.entry(stint).or_insert(newest);
        *known = newest.max(*known);
        while stints.len() > MAX_STINTS {
            stints.pop_first();
        }
    }

    /// Whether another hub has delivered this entry.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        let stints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stints.get(&entry.stint).is_some_and(|newest| entry.seq <= *newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{CapturedAt, Kind};

    #[test]
    fn entries_up_to_the_noted_position_of_a_stint_count_as_delivered() {
        let elsewhere = DeliveredElsewhere::default();
        elsewhere.note(StintId(1), Seq(5));
        elsewhere.note(StintId(1), Seq(3));
        let has = |stint, seq| {
            let (seq, stint) = (Seq(seq), StintId(stint));
            let (captured_at, json) = (CapturedAt(0), String::new());
            elsewhere.has(&Entry { seq, stint, captured_at, kind: Kind::Frame, json })
        };
        assert!(has(1, 5) && has(1, 1));
        assert!(!has(1, 6) && !has(2, 1));
    }
}

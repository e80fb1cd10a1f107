//! Tracks entries that a later one, a *probe*, was sent before, to find out whether the server can
//! process them. Stored in the queue, because it must outlive the process.
//!
//! An entry that the server shows proves all entries of its stint that were sent before it: usually
//! every earlier one. It does not if it was sent as a probe. The overtaken entries follow the probe
//! on the same connection, in order and before all others, so any other entry that the server shows
//! proves them too.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::entry::{Seq, StintId};

/// The entries that probes overtook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Overtaken {
    entries: BTreeMap<Seq, StintId>,
    probes: BTreeSet<Seq>,
}

impl Overtaken {
    /// The probe is about to be sent before these entries.
    pub(super) fn extend(&mut self, probe: Seq, entries: impl IntoIterator<Item = (Seq, StintId)>) {
        self.probes.insert(probe);
        self.entries.extend(entries);
    }

    /// Whether the entry was overtaken: then only a proof of the entry itself, or of a later entry
    /// other than the probe, shows that the server has it.
    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.entries.contains_key(&seq)
    }

    /// The server has this entry of the stint.
    pub(super) fn proven(&mut self, stint: StintId, seq: Seq) {
        if self.probes.contains(&seq) {
            self.entries.remove(&seq);
        } else {
            self.entries.retain(|entry, of| *of != stint || *entry > seq);
        }
    }

    /// The stint gets a new page, which has none of its entries.
    pub(super) fn page_is_new(&mut self, stint: StintId) {
        self.entries.retain(|_, of| *of != stint);
    }

    /// Serializes it for [`Overtaken::decode`].
    pub(super) fn encode(&self) -> Vec<u8> {
        // Numbers in maps and sets always encode.
        rmp_serde::to_vec(self).unwrap_or_default()
    }

    /// The value that was encoded. Nothing is overtaken if the bytes are unreadable.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        rmp_serde::from_slice(bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the state of the delivery; starting without it");
            Self::default()
        })
    }

    /// The entries up to `last` left the queue.
    pub(super) fn removed(&mut self, last: Seq) {
        self.entries.retain(|seq, _| *seq > last);
        self.probes.retain(|seq| *seq > last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STINT: StintId = StintId(1);

    /// Entry 4 was sent before 1, 2 and 3; 2 belongs to another stint.
    fn overtaken() -> Overtaken {
        let mut overtaken = Overtaken::default();
        overtaken.extend(Seq(4), [(Seq(1), STINT), (Seq(2), StintId(2)), (Seq(3), STINT)]);
        overtaken
    }

    fn left(overtaken: &Overtaken) -> Vec<u64> {
        overtaken.entries.keys().map(|seq| seq.0).collect()
    }

    #[test]
    fn a_probe_proves_no_entry_that_it_overtook() {
        let mut overtaken = overtaken();
        overtaken.proven(STINT, Seq(4));
        assert_eq!(left(&overtaken), [1, 2, 3]);
    }

    #[test]
    fn an_entry_that_was_sent_in_its_place_proves_the_earlier_ones_of_its_stint() {
        let mut overtaken = overtaken();
        overtaken.proven(STINT, Seq(1));
        assert_eq!(left(&overtaken), [2, 3]);
        overtaken.proven(STINT, Seq(9));
        assert_eq!(left(&overtaken), [2]);
    }

    #[test]
    fn an_overtaken_probe_proves_itself() {
        let mut overtaken = overtaken();
        overtaken.extend(Seq(9), [(Seq(4), STINT)]);
        overtaken.proven(STINT, Seq(4));
        assert_eq!(left(&overtaken), [1, 2, 3]);
    }

    #[test]
    fn it_survives_encoding() {
        assert_eq!(Overtaken::decode(&overtaken().encode()), overtaken());
        assert_eq!(Overtaken::decode(b"odd"), Overtaken::default());
    }

    #[test]
    fn entries_that_left_the_queue_are_forgotten() {
        let mut overtaken = overtaken();
        overtaken.removed(Seq(4));
        assert_eq!(overtaken, Overtaken::default());
    }
}

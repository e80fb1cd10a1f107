//! Tracks the newest entry of each stint that the server is known to store. Pure; survives a
//! reconnect.
//!
//! Entries are identified by their content. An entry of ours that is echoed or shown proves itself
//! and every earlier entry of its stint: a connection preserves the order, and each connection
//! starts at the head of the queue with the entries that were not proven before. Entries of another
//! publisher prove nothing.

use crate::entry::{Entry, Kind, MAX_SESSIONS, Seq, StintId};
use crate::sink::{EntryId, Shown};
use std::collections::BTreeMap;

/// Maximum number of stints to remember. For an older one, the queue is searched again.
const MAX_STINTS: usize = 2 * MAX_SESSIONS;

/// The newest stored entry of each stint.
#[derive(Debug, Default)]
pub(super) struct KnownStored {
    stints: BTreeMap<StintId, StoredPage>,
}

/// The stored entries of one stint in its session.
#[derive(Debug, Default)]
struct StoredPage {
    session: String,
    frame: Option<(Seq, EntryId)>,
    setup: Option<(Seq, EntryId)>,
    /// The newest frame that was sent.
    sent: Option<(Seq, EntryId)>,
}

impl StoredPage {
    fn newest(&self, kind: Kind) -> Option<(Seq, EntryId)> {
        match kind {
            Kind::Frame => self.frame,
            Kind::Setup => self.setup,
        }
    }
}

impl KnownStored {
    /// Tracks the stint in this session, and discards what another session stored.
    pub(super) fn bind(&mut self, stint: StintId, session: &str) {
        if self.stints.get(&stint).is_some_and(|page| page.session == session) {
            return;
        }
        while self.stints.len() >= MAX_STINTS {
            self.stints.pop_first();
        }
        self.stints.insert(stint, StoredPage { session: session.into(), ..StoredPage::default() });
    }

    /// Discards the stint because the server lost its session.
    pub(super) fn forget(&mut self, stint: StintId) {
        self.stints.remove(&stint);
    }

    /// Whether the session is known to store an entry of the stint.
    pub(super) fn has_any(&self, stint: StintId, session: &str) -> bool {
        let page = self.stints.get(&stint).filter(|page| page.session == session);
        page.is_some_and(|page| page.frame.is_some() || page.setup.is_some())
    }

    /// Whether the server stores this entry.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        self.newest(entry.stint, entry.kind).is_some_and(|(newest, _)| entry.seq <= newest)
    }

    /// The newest entry of this kind that the server stores.
    pub(super) fn newest(&self, stint: StintId, kind: Kind) -> Option<(Seq, EntryId)> {
        self.stints.get(&stint)?.newest(kind)
    }

    /// Records that the server stores this entry.
    pub(super) fn note(&mut self, entry: &Entry, id: EntryId) {
        let Some(page) = self.stints.get_mut(&entry.stint) else { return };
        let newest = match entry.kind {
            Kind::Frame => &mut page.frame,
            Kind::Setup => &mut page.setup,
        };
        if newest.is_none_or(|(seq, _)| seq < entry.seq) {
            *newest = Some((entry.seq, id));
        }
    }

    /// Records that the entry was handed to a connection.
    pub(super) fn note_sent(&mut self, entry: &Entry, id: EntryId) {
        if entry.kind == Kind::Frame
            && let Some(page) = self.stints.get_mut(&entry.stint)
        {
            page.sent = Some((entry.seq, id)).max(page.sent);
        }
    }

    /// The newest frame that was sent.
    pub(super) fn newest_sent(&self, stint: StintId) -> Option<(Seq, EntryId)> {
        self.stints.get(&stint)?.sent
    }

    /// The shown entries that are not known to be stored; each may be a queued entry.
    pub(super) fn unknown(&self, stint: StintId, shown: Shown) -> Shown {
        let known = |kind| self.newest(stint, kind).map(|(_, id)| id);
        Shown {
            frame: shown.frame.filter(|id| known(Kind::Frame) != Some(*id)),
            setup: shown.setup.filter(|id| known(Kind::Setup) != Some(*id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::CapturedAt;

    const STINT: StintId = StintId(1);

    fn entry(seq: u64, kind: Kind) -> Entry {
        let (captured_at, json) = (CapturedAt(0), String::new());
        Entry { seq: Seq(seq), stint: STINT, captured_at, kind, json }
    }

    fn stored(seqs: &[u64]) -> KnownStored {
        let mut stored = KnownStored::default();
        stored.bind(STINT, "page");
        seqs.iter().for_each(|seq| stored.note(&entry(*seq, Kind::Frame), EntryId(*seq)));
        stored
    }

    #[test]
    fn a_stored_entry_confirms_earlier_ones_of_its_kind() {
        let stored = stored(&[5, 3]);
        let has = |seq, kind| stored.has(&entry(seq, kind));
        assert!(has(1, Kind::Frame) && has(5, Kind::Frame));
        assert!(!has(6, Kind::Frame) && !has(1, Kind::Setup));
        assert!(!stored.has(&Entry { stint: StintId(2), ..entry(1, Kind::Frame) }));
    }

    #[test]
    fn a_new_session_has_no_stored_entries() {
        let mut stored = stored(&[5]);
        stored.bind(STINT, "page");
        assert!(stored.has(&entry(5, Kind::Frame)));
        stored.bind(STINT, "another page");
        assert!(!stored.has(&entry(1, Kind::Frame)));
    }

    #[test]
    fn only_entries_not_known_to_be_stored_are_searched_for() {
        let stored = stored(&[5]);
        let shown = |frame| Shown { frame: Some(EntryId(frame)), setup: None };
        assert_eq!(stored.unknown(STINT, shown(5)), Shown::default());
        assert_eq!(stored.unknown(STINT, shown(6)), shown(6));
    }

    #[test]
    fn the_number_of_remembered_stints_is_bounded() {
        let mut stored = KnownStored::default();
        for stint in 0..3 * MAX_STINTS as u64 {
            stored.bind(StintId(stint), "page");
        }
        assert_eq!(stored.stints.len(), MAX_STINTS);
    }
}

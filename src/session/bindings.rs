//! The sessions that are bound on a link, and the entries sent on it.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::SessionError;
use super::find_stored::IN_TRANSIT;
use super::poison::InFlight;
use super::stored::KnownStored;
use super::verify::next_verification;
use crate::config::DeliveryConfig;
use crate::entry::{Entry, MAX_SESSIONS, Seq, StintId};
use crate::queue::Batch;
use crate::sink::{Addressed, EntryId, Joined, Shown, Sink};

/// The sessions bound on a link, and the delivery state of that link.
#[derive(Debug)]
pub(super) struct Bindings {
    by_stint: BTreeMap<StintId, Bound>,
    /// After this time, nothing that an earlier link sent is still in flight.
    pub(super) settled_at: Instant,
    /// Whether the warning was logged that another publisher hides our entries.
    pub(super) is_hidden: bool,
    /// The last position that was sent. A batch that does not follow it comes after a gap, which
    /// may have contained a setup.
    pub(super) sent: Option<Seq>,
    /// Batches that were sent and wait for a stronger proof, oldest first.
    pub(super) unproven: Vec<Unproven>,
    pub(super) verify_at: Instant,
    /// Entries of the queue that are being published.
    pub(super) in_flight: Vec<InFlight>,
    /// The setup in force that is being published.
    pub(super) setup_in_flight: Option<Seq>,
}

/// A bound session.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) session: String,
    /// The session was requested on this link, and the server has not shown data for it yet.
    pub(super) is_new: bool,
    /// The session is an earlier or a configured one of which the server has shown nothing yet: it
    /// is empty, or the server does not know it.
    pub(super) is_unconfirmed: bool,
    /// What the server showed of the session before the currently unproven entries were sent.
    pub(super) shown: Shown,
    /// The last position that was sent to the session.
    pub(super) sent: Option<Seq>,
    /// The newest setup that was sent to the session outside of a batch.
    pub(super) setup_apart: Option<Seq>,
}

/// A batch that was sent and waits for proof.
#[derive(Debug)]
pub(super) struct Unproven {
    pub(super) sent_at: Instant,
    pub(super) batch: Batch,
    /// The identities of the batch's entries, in order.
    pub(super) ids: Vec<EntryId>,
}

/// Whether the server stores the newest unproven entry, judged by the newest entry on its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageCheck {
    /// The page shows our entry.
    Stored,
    /// The page shows an older entry of ours, or has not changed.
    Missing,
    /// Another publisher wrote to the page since; our entry may be stored or not.
    Hidden,
}

impl Bindings {
    pub(super) fn new(settings: &DeliveryConfig) -> Self {
        Self {
            by_stint: BTreeMap::new(),
            settled_at: Instant::now() + IN_TRANSIT,
            is_hidden: false,
            sent: None,
            unproven: Vec::new(),
            verify_at: next_verification(settings),
            in_flight: Vec::new(),
            setup_in_flight: None,
        }
    }

    /// The entries of the queue that are unproven because only time can prove them.
    pub(super) fn written(&self) -> impl Iterator<Item = InFlight> {
        self.each_unproven().map(|(entry, _)| InFlight::of(entry))
    }

    pub(super) fn of(&self, stint: StintId) -> Result<&Bound, SessionError> {
        self.by_stint.get(&stint).ok_or(SessionError::Unbound(stint))
    }

    pub(super) fn of_mut(&mut self, stint: StintId) -> Result<&mut Bound, SessionError> {
        self.by_stint.get_mut(&stint).ok_or(SessionError::Unbound(stint))
    }

    /// The stints that have a session on this link.
    pub(super) fn stints(&self) -> Vec<StintId> {
        self.by_stint.keys().copied().collect()
    }

    /// Pairs entries with their identities and their sessions.
    pub(super) fn addressed<'a>(
        &'a self,
        sink: &impl Sink,
        entries: &[&'a Entry],
    ) -> Result<Vec<Addressed<'a>>, SessionError> {
        entries
            .iter()
            .map(|&entry| {
                let session = &self.of(entry.stint)?.session;
                Ok(Addressed { session, entry, id: sink.identify(entry) })
            })
            .collect()
    }

    pub(super) fn has_unproven(&self) -> bool {
        !self.unproven.is_empty()
    }

    pub(super) fn unproven_entries(&self) -> usize {
        self.unproven.iter().map(|unproven| unproven.batch.entries().len()).sum()
    }

    /// The unproven entries and their identities, oldest first.
    fn each_unproven(&self) -> impl Iterator<Item = (&Entry, EntryId)> {
        self.unproven
            .iter()
            .flat_map(|unproven| unproven.batch.entries().iter().zip(unproven.ids.iter().copied()))
    }

    /// The newest unproven entry of each stint.
    pub(super) fn newest_unproven(&self) -> BTreeMap<StintId, (&Entry, EntryId)> {
        self.each_unproven().map(|(entry, id)| (entry.stint, (entry, id))).collect()
    }

    /// Whether the server's answer shows the newest unproven entry of a stint. No entry may be in
    /// flight when the server is asked. `stored` is the newest entry of ours that the server is known
    /// to store: if it shows that one, the unproven ones are missing.
    pub(super) fn presence(
        &self,
        newest: &Entry,
        shown: Shown,
        stored: Option<EntryId>,
    ) -> PageCheck {
        let Some(id) = shown.newest(newest.kind) else { return PageCheck::Missing };
        let matching =
            self.each_unproven().filter(|(entry, own)| entry.kind == newest.kind && *own == id);
        let before =
            self.by_stint.get(&newest.stint).and_then(|bound| bound.shown.newest(newest.kind));
        match matching.last() {
            // With a fixed id several stints share a page: this may be a newer entry of another
            // stint.
            Some((entry, _)) if entry.seq >= newest.seq => PageCheck::Stored,
            Some(_) => PageCheck::Missing,
            None if before == Some(id) || stored == Some(id) => PageCheck::Missing,
            None => PageCheck::Hidden,
        }
    }

    /// Whether the answer to a join confirms the session of this stint, or at least casts no doubt on
    /// it.
    pub(super) fn is_as_expected(
        &self,
        stint: StintId,
        joined: Joined,
        stored: &KnownStored,
    ) -> bool {
        let newest = self.newest_unproven().remove(&stint);
        match (joined, newest) {
            (Joined::Unanswered, _) | (Joined::Known(_), None) => true,
            (Joined::Silent, None) => self.of(stint).is_ok_and(|bound| bound.is_new),
            (Joined::Silent, Some(_)) => false,
            (Joined::Known(shown), Some((entry, _))) => {
                let stored = stored.newest(stint, entry.kind).map(|(_, id)| id);
                self.presence(entry, shown, stored) != PageCheck::Missing
            }
        }
    }

    /// The stint whose session was used most recently.
    pub(super) fn latest(&self) -> Option<StintId> {
        let latest = self.by_stint.iter().max_by_key(|(stint, bound)| (bound.sent, **stint));
        latest.map(|(stint, _)| *stint)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_stint.is_empty()
    }

    /// Adds the session of a stint, and evicts the least recently used ones.
    pub(super) fn insert(&mut self, stint: StintId, bound: Bound) {
        while self.by_stint.len() >= 2 * MAX_SESSIONS
            && let Some(oldest) = self.by_stint.iter().min_by_key(|(_, bound)| bound.sent)
        {
            let oldest = *oldest.0;
            self.by_stint.remove(&oldest);
        }
        self.by_stint.insert(stint, bound);
    }
}

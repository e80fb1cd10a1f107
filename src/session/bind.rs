//! Binds a session for each stint: reuses it while the server knows it, otherwise requests a new
//! one.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::capability::Evidence;
use super::deliver::SessionKnown;
use super::poison::InFlight;
use super::stored::KnownStored;
use super::{Session, SessionError, next_verification};
use crate::config::{DeliveryConfig, ProofChoice, SessionChoice};
use crate::entry::{Entry, Kind, MAX_SESSIONS, Seq, StintId};
use crate::queue::{Batch, Limit, PAGE_BYTES, PAGE_ENTRIES};
use crate::session::MAX_UNPROVEN_ENTRIES;
use crate::sink::{
    Addressed, EntryId, JOIN_TIMEOUT, JoinWait, Joined, Link, Proof, Shown, Sink, SinkError,
};

/// Entries of an earlier link may still be in transit in the server. The session polls what the
/// server holds until that is stable, with this pause and at most this often.
const STORED_PAUSE: Duration = Duration::from_millis(250);
const STORED_LOOKS: u32 = 20;

const NO_JOIN: &str = "it answers no join_session";

/// Number of entries at the head of the queue that are compared with a page when this process binds
/// it for the first time: all that an earlier process may have sent without proof, plus as many
/// that were proven but whose removal was not durable yet.
const SEARCHED_ENTRIES: usize = 2 * MAX_UNPROVEN_ENTRIES;

/// The sessions bound on a link, and the delivery state of that link.
#[derive(Debug)]
pub(super) struct Bindings {
    by_stint: BTreeMap<StintId, Bound>,
    /// After this time, nothing that an earlier link sent is still in flight.
    settled_at: Instant,
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

/// What is known of a session when it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The server knows it.
    Known,
    /// It was requested on this link, or the server cannot be asked about it.
    New,
    /// The server showed nothing of it: it is empty, or the server does not know it.
    Unconfirmed,
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
    /// The last position that was sent to the session; `setup_apart` is the position of the newest
    /// setup that was sent outside of a batch.
    pub(super) sent: Option<Seq>,
    setup_apart: Option<Seq>,
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
pub(super) enum Presence {
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
            settled_at: Instant::now() + STORED_PAUSE * STORED_LOOKS,
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
        let addressed = |&entry: &&'a Entry| {
            let session = &self.of(entry.stint)?.session;
            Ok(Addressed { session, entry, id: sink.identify(entry) })
        };
        entries.iter().map(addressed).collect()
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
    ) -> Presence {
        let Some(id) = shown.newest(newest.kind) else { return Presence::Missing };
        let matching =
            self.each_unproven().filter(|(entry, own)| entry.kind == newest.kind && *own == id);
        let before =
            self.by_stint.get(&newest.stint).and_then(|bound| bound.shown.newest(newest.kind));
        match matching.last() {
            // With a fixed id several stints share a page: this may be a newer entry of another
            // stint.
            Some((entry, _)) if entry.seq >= newest.seq => Presence::Stored,
            Some(_) => Presence::Missing,
            None if before == Some(id) || stored == Some(id) => Presence::Missing,
            None => Presence::Hidden,
        }
    }

    /// Whether the answer to a join is no reason to doubt the session of this stint.
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
                self.presence(entry, shown, stored) != Presence::Missing
            }
        }
    }

    /// The stint whose session was used most recently.
    pub(super) fn latest(&self) -> Option<StintId> {
        let latest = self.by_stint.iter().max_by_key(|(stint, bound)| (bound.sent, **stint));
        latest.map(|(stint, _)| *stint)
    }

    /// Evicts the least recently used sessions.
    fn make_room(&mut self) {
        while self.by_stint.len() >= 2 * MAX_SESSIONS
            && let Some(oldest) = self.by_stint.iter().min_by_key(|(_, bound)| bound.sent)
        {
            let oldest = *oldest.0;
            self.by_stint.remove(&oldest);
        }
    }
}

impl<S: Sink> Session<S> {
    /// Binds the stint's session: the remembered one if the server knows it, otherwise a new one
    /// whose first entry is the setup in force.
    pub(super) async fn bind(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        let remembered = match &self.choice {
            SessionChoice::Fixed(id) => Some(id.clone()),
            SessionChoice::Auto => self.reader.session(stint, self.sink.server()).await?,
        };
        let Some(session) = remembered else {
            return self.bind_new(link, bindings, stint).await;
        };
        let may_be_empty = !self.learned.stored.has_any(stint, &session);
        let joined = if self.never_asks() {
            self.learned.stored.bind(stint, &session);
            Joined::Known(Shown::default())
        } else {
            let mut joined = self.join(link, &session).await?;
            if joined == Joined::Silent {
                joined = self.join_again(link, &session, joined).await?;
            }
            self.wait_until_stable(link, bindings, stint, &session, joined).await?
        };
        match (joined, &self.choice) {
            (Joined::Known(_), _) => {
                self.bound(bindings, stint, session, Origin::Known, joined);
                self.refresh_setup(link, bindings, stint).await
            }
            // An empty session looks like an unknown one until an entry is sent to it.
            (Joined::Silent, SessionChoice::Auto) if may_be_empty => {
                self.bound(bindings, stint, session, Origin::Unconfirmed, joined);
                match self.send_setup(link, bindings, stint).await? {
                    SessionKnown::Yes => Ok(()),
                    SessionKnown::No => self.rebind(link, bindings, stint).await,
                }
            }
            (Joined::Silent, SessionChoice::Fixed(_)) => {
                self.bound(bindings, stint, session, Origin::Unconfirmed, joined);
                self.refresh_setup(link, bindings, stint).await
            }
            (Joined::Unanswered, SessionChoice::Fixed(_))
                if !self.learned.capability.has_no_joins() =>
            {
                self.observe(Evidence::JoinTimedOut);
                Err(SinkError::Timeout(JOIN_TIMEOUT, NO_JOIN).into())
            }
            (Joined::Unanswered, SessionChoice::Fixed(_)) => {
                self.bound(bindings, stint, session, Origin::New, joined);
                self.refresh_setup(link, bindings, stint).await
            }
            // Its first entry got no proof. The session may still exist: another one for each try
            // would cost viewers their page.
            (Joined::Silent, SessionChoice::Auto)
                if self.learned.isolation.has_failure()
                    && !self.learned.capability.keeps_nothing()
                    && self.learned.stored.is_empty_in(stint, &session) =>
            {
                self.bound(bindings, stint, session, Origin::New, joined);
                self.refresh_setup(link, bindings, stint).await
            }
            // A single timeout may be a slow server: a new session would cost viewers their page.
            (Joined::Unanswered, SessionChoice::Auto)
                if !self.learned.capability.has_no_joins() =>
            {
                self.observe(Evidence::JoinTimedOut);
                Err(SinkError::Timeout(JOIN_TIMEOUT, NO_JOIN).into())
            }
            (Joined::Silent | Joined::Unanswered, SessionChoice::Auto) => {
                self.forgotten("unknown_on_connect");
                tracing::warn!("the server no longer knows the session; requesting a new one");
                self.bind_new(link, bindings, stint).await
            }
        }
    }

    /// Requests a session and joins it, so that the server echoes its events to us.
    pub(super) async fn bind_new(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        self.learned.isolation.page_is_new();
        if let SessionChoice::Fixed(_) = self.choice {
            return Err(SessionError::UnknownSession);
        }
        let limit = self.settings.proof_timeout;
        let session = timeout(limit, link.request_session(stint))
            .await
            .map_err(|_| SinkError::Timeout(limit, "it assigns no session"))??;
        let joined = match self.keeps_from_echoes() {
            true => Joined::Silent,
            false => self.join(link, &session).await?,
        };
        self.reader.set_session(stint, self.sink.server(), &session).await?;
        self.bound(bindings, stint, session, Origin::New, joined);
        self.refresh_setup(link, bindings, stint).await
    }

    /// Whether echoes are available but disabled by `delivery.proof`: they double the server's
    /// work.
    fn keeps_from_echoes(&self) -> bool {
        let choice = self.settings.proof;
        self.sink.strongest_proof() == Proof::Echo
            && matches!(choice, ProofChoice::Ack | ProofChoice::Written)
    }

    /// Whether acknowledgements are trusted without any verification, as most clients do.
    fn never_asks(&self) -> bool {
        self.keeps_from_echoes()
            && self.settings.proof == ProofChoice::Ack
            && self.settings.verify_interval.is_zero()
    }

    /// Whether sessions are joined on a link other than the publishing one, which then receives no
    /// echoes.
    fn asks_on_another_link(&self) -> bool {
        self.keeps_from_echoes()
            && self.settings.proof == ProofChoice::Ack
            && !self.learned.capability.has_several_workers()
    }

    /// Asks whether the server knows the session. Joins on the link itself, which then receives the
    /// echoes of the session, or on a separate link if echoes are not wanted.
    pub(super) async fn join(
        &mut self,
        link: &mut S::Link,
        session: &str,
    ) -> Result<Joined, SessionError> {
        // The link bounds the wait for an answer; this bounds the wait for a link that accepts no
        // more data.
        let limit = self.settings.proof_timeout.max(3 * JOIN_TIMEOUT);
        let late = |_| SinkError::Timeout(limit, NO_JOIN);
        let joined = if self.asks_on_another_link() {
            let mut aside = self.open().await?;
            timeout(limit, aside.join(session, JoinWait::Ack)).await.map_err(late)??
        } else {
            let answer =
                if self.learned.capability.has_no_joins() { JoinWait::Data } else { JoinWait::Ack };
            timeout(limit, link.join(session, answer)).await.map_err(late)??
        };
        if joined != Joined::Unanswered {
            self.observe(Evidence::JoinAnswered);
        }
        Ok(joined)
    }

    /// Asks on the publishing link itself if another link gave this answer, which would make the
    /// caller doubt the session. Behind a load balancer the other link may have reached a different
    /// process, which does not know the session.
    pub(super) async fn join_again(
        &mut self,
        link: &mut S::Link,
        session: &str,
        joined: Joined,
    ) -> Result<Joined, SessionError> {
        if !self.asks_on_another_link() {
            return Ok(joined);
        }
        let limit = self.settings.proof_timeout.max(3 * JOIN_TIMEOUT);
        let own = timeout(limit, link.join(session, JoinWait::Ack))
            .await
            .map_err(|_| SinkError::Timeout(limit, NO_JOIN))??;
        match (joined, own) {
            (_, Joined::Unanswered) => Ok(joined),
            (Joined::Silent, Joined::Known(_)) | (Joined::Known(_), Joined::Silent) => {
                tracing::warn!(
                    "connections to the server reach different processes with different sessions; \
                     enable sticky sessions in its load balancer"
                );
                self.observe(Evidence::LinksDisagree);
                Ok(own)
            }
            _ => Ok(own),
        }
    }

    /// Waits until the page of the session no longer changes. An entry of ours that it shows is
    /// recorded as stored, with all before it.
    ///
    /// The server may still read entries of an earlier link after this link has joined; sending
    /// them again would publish them twice. If another publisher writes to the page, late entries
    /// cannot be seen, so this does not wait for them.
    async fn wait_until_stable(
        &mut self,
        link: &mut S::Link,
        bindings: &Bindings,
        stint: StintId,
        session: &str,
        mut joined: Joined,
    ) -> Result<Joined, SessionError> {
        let Joined::Known(shown) = joined else { return Ok(joined) };
        self.find_stored(stint, session, shown).await?;
        for _ in 0..STORED_LOOKS {
            let Joined::Known(shown) = joined else { break };
            let newest_sent = self.learned.stored.newest_sent(stint).map(|(_, id)| id);
            let is_complete = newest_sent.is_some() && shown.frame == newest_sent;
            let is_settled = Instant::now() >= bindings.settled_at;
            if self.reader.queued() == 0 || is_complete || is_settled {
                break;
            }
            sleep(STORED_PAUSE).await;
            let before = std::mem::replace(&mut joined, self.join(link, session).await?);
            let Joined::Known(shown) = joined else { break };
            if joined == before || !self.find_stored(stint, session, shown).await? {
                break;
            }
        }
        Ok(joined)
    }

    /// Searches the queue for the entries that the server shows. Returns whether it found one that
    /// was not known to be stored.
    async fn find_stored(
        &mut self,
        stint: StintId,
        session: &str,
        shown: Shown,
    ) -> Result<bool, SessionError> {
        self.learned.stored.bind(stint, session);
        let mut wanted = self.learned.stored.unknown(stint, shown);
        // Until this process has sent a frame, the page may show any that an earlier process sent,
        // also one that the server reads only now.
        let is_ours_alone = self.learned.stored.newest_sent(stint).is_some();
        let end = self.learned.sent.filter(|_| is_ours_alone);
        let (mut from, mut left, mut found) = (Seq(0), SEARCHED_ENTRIES, false);
        while wanted != Shown::default() && left > 0 && end.is_none_or(|end| from <= end) {
            let limit = Limit { entries: PAGE_ENTRIES.min(left), bytes: PAGE_BYTES };
            let page = self.reader.look_ahead(from, limit).await?;
            let Some(next) = page.next else { break };
            left = left.saturating_sub(page.entries.len().max(1));
            from = next;
            for entry in page.entries.iter().filter(|entry| entry.stint == stint) {
                // Several entries may have this content. Take the first, which claims the fewest
                // entries as stored.
                let id = self.sink.identify(entry);
                if wanted.newest(entry.kind) == Some(id) && end.is_none_or(|end| entry.seq <= end) {
                    self.learned.stored.note(entry, id);
                    self.learned.skipped.remove(&entry.seq);
                    found = true;
                    match entry.kind {
                        Kind::Frame => wanted.frame = None,
                        Kind::Setup => wanted.setup = None,
                    }
                }
            }
        }
        Ok(found)
    }

    /// Records that the server no longer knows the session.
    pub(super) fn forgotten(&self, cause: &'static str) {
        self.meter.rebound(cause);
        self.status.send_modify(|status| status.forgotten_at = Some(Instant::now()));
    }

    fn bound(
        &mut self,
        bindings: &mut Bindings,
        stint: StintId,
        session: String,
        origin: Origin,
        joined: Joined,
    ) {
        let is_new = origin != Origin::Known;
        let is_unconfirmed = origin == Origin::Unconfirmed;
        // A mistyped id would be a dead link.
        let shows_page = !(is_unconfirmed && matches!(self.choice, SessionChoice::Fixed(_)));
        if is_new {
            self.learned.stored.forget(stint);
        }
        self.learned.stored.bind(stint, &session);
        let shown = match joined {
            Joined::Known(shown) => shown,
            Joined::Silent | Joined::Unanswered => Shown::default(),
        };
        let page = self.sink.page(&session).filter(|_| shows_page);
        if page.is_none() && shows_page {
            tracing::info!(%stint, name = session, on = self.sink.server(), "stint name assigned");
        }
        let verified = matches!(joined, Joined::Known(_)) && !self.never_asks();
        let is_first = bindings.by_stint.is_empty();
        self.status.send_modify(|status| {
            if is_first || status.stint <= Some(stint) {
                status.session = Some(session.clone());
                status.stint = Some(stint);
                status.page.clone_from(&page);
            }
            if let Some(page) = page {
                status.show(stint, page);
            }
            status.verified = if is_first { verified } else { status.verified };
            if shows_page {
                status.last_error = None;
                status.user_message = None;
            }
        });
        bindings.make_room();
        if verified {
            self.observe(Evidence::SessionShown);
        } else if joined == Joined::Unanswered
            && !self.learned.capability.has_shown()
            && bindings.unproven_entries() == 0
        {
            // Otherwise the server can be asked, and unproven entries wait for its answer.
            self.observe(Evidence::JoinsGivenUp);
        }
        let bound = Bound { session, is_new, is_unconfirmed, shown, sent: None, setup_apart: None };
        bindings.by_stint.insert(stint, bound);
    }

    /// Records that the server knows the session of this stint, and shows its page.
    pub(super) fn confirmed(
        &self,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        let bound = bindings.of_mut(stint)?;
        bound.is_new = false;
        if !std::mem::take(&mut bound.is_unconfirmed) {
            return Ok(());
        }
        let page = self.sink.page(&bound.session);
        self.status.send_modify(|status| {
            if status.stint <= Some(stint) {
                status.page.clone_from(&page);
            }
            if let Some(page) = page {
                status.show(stint, page);
            }
            status.last_error = None;
            status.user_message = None;
        });
        Ok(())
    }

    /// Sends the setup in force at the head of the queue, unless the page has it or a newer one, or
    /// the server did not take it before and has to take another entry first.
    pub(super) async fn refresh_setup(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        match (self.send_setup(link, bindings, stint).await?, &self.choice) {
            (SessionKnown::Yes, _) => Ok(()),
            (SessionKnown::No, SessionChoice::Fixed(_)) => Err(SessionError::UnknownSession),
            (SessionKnown::No, SessionChoice::Auto) => {
                Err(SessionError::NotKept("it forgot the session immediately"))
            }
        }
    }

    /// Like [`Session::refresh_setup`], but returns whether the server knows the session.
    async fn send_setup(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<SessionKnown, SessionError> {
        let bound = bindings.of(stint)?;
        let isolation = &self.learned.isolation;
        if let Some(setup) = self.reader.setup_in_force(stint).await?
            && !isolation.defers(setup.seq)
            && !self.learned.stored.has(&setup)
            && bound.shown.setup != Some(self.sink.identify(&setup))
            && (bound.setup_apart.max(bound.sent) < Some(setup.seq)
                || isolation.deferred_setup() == Some(setup.seq))
        {
            if self.publish_apart(link, bindings, &setup).await? == SessionKnown::No {
                return Ok(SessionKnown::No);
            }
            bindings.of_mut(stint)?.setup_apart = Some(setup.seq);
        }
        Ok(SessionKnown::Yes)
    }
}

//! The session of each stint: keep it for as long as the server knows it, else ask for a new one.

use std::collections::BTreeMap;

use tokio::time::{Instant, sleep, timeout};

use super::{Session, SessionError, next_verification};
use crate::config::{
    DeliveryConfig, JOIN_TIMEOUT, MAX_SESSIONS, ProofChoice, STORED_LOOKS, STORED_PAUSE,
    SessionChoice, UNANSWERED_JOINS, WITHOUT_PROOF_LINKS,
};
use crate::entry::{CapturedAt, Entry, Kind, Seq, StintId};
use crate::planted::planted;
use crate::queue::Batch;
use crate::sink::{Addressed, Answer, Joined, Link, Proof, Sink, SinkError};

const NO_JOIN: &str = "it answers no join_session";

/// The sessions that are bound on a link, and what is known about the server there.
#[derive(Debug)]
pub(super) struct Bindings {
    by_stint: BTreeMap<StintId, Bound>,
    /// Later than this nothing that an earlier link sent is on its way.
    settled_at: Instant,
    /// The server answers when a session is joined, as far as is known.
    pub(super) answers_join: bool,
    /// It answers no event, but shows what it stored: it is asked instead.
    pub(super) asks: bool,
    /// It has answered on this link.
    pub(super) has_answered: bool,
    /// Entries were found stored that had no proof on an earlier link.
    pub(super) has_found_stored: bool,
    /// What the link gives; learned with the first entry.
    pub(super) proof: Option<Proof>,
    /// The last position that was sent; a batch that does not follow it comes after a gap, which
    /// may have held a setup.
    pub(super) sent: Option<Seq>,
    /// Batches that are sent and wait for a stronger proof than they have, oldest first.
    pub(super) unproven: Vec<(Instant, Batch)>,
    pub(super) verify_at: Instant,
}

/// A session that is bound.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) session: String,
    /// The server was asked for this session on this link and has not shown data for it yet.
    pub(super) is_new: bool,
    /// What the server held of this stint when the session was joined.
    pub(super) stored: Stored,
    /// The last position that was sent to it, and that of the newest setup that was sent apart.
    pub(super) sent: Option<Seq>,
    setup_apart: Option<Seq>,
}

/// The newest frame and setup that a server holds for a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stored {
    pub(super) frame: Option<CapturedAt>,
    pub(super) setup: Option<CapturedAt>,
}

impl Stored {
    /// Whether the server has this entry: it keeps a stint's entries in order, so it has all that
    /// are not newer than the newest.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        match entry.kind {
            Kind::Frame => self.frame >= Some(entry.captured_at),
            Kind::Setup => self.setup >= Some(entry.captured_at),
        }
    }
}

impl Bindings {
    pub(super) fn new(settings: &DeliveryConfig) -> Self {
        Self {
            by_stint: BTreeMap::new(),
            settled_at: Instant::now() + STORED_PAUSE * STORED_LOOKS,
            answers_join: true,
            asks: false,
            has_answered: false,
            has_found_stored: false,
            proof: None,
            sent: None,
            unproven: Vec::new(),
            verify_at: next_verification(settings),
        }
    }

    pub(super) fn of(&self, stint: StintId) -> Result<&Bound, SessionError> {
        self.by_stint.get(&stint).ok_or(SessionError::Unbound(stint))
    }

    pub(super) fn of_mut(&mut self, stint: StintId) -> Result<&mut Bound, SessionError> {
        self.by_stint.get_mut(&stint).ok_or(SessionError::Unbound(stint))
    }

    /// The stints that have a session here.
    pub(super) fn stints(&self) -> Vec<StintId> {
        self.by_stint.keys().copied().collect()
    }

    /// Entries with the session that each goes to.
    pub(super) fn addressed<'a>(
        &'a self,
        entries: &[&'a Entry],
    ) -> Result<Vec<Addressed<'a>>, SessionError> {
        let stint_of = |entry: &Entry| match entries.first() {
            Some(first) if planted("sent_to_the_page_of_another_stint") => first.stint,
            _ => entry.stint,
        };
        let addressed = |&entry: &&'a Entry| {
            let session = &self.of(stint_of(entry))?.session;
            Ok(Addressed { session, entry })
        };
        entries.iter().map(addressed).collect()
    }

    pub(super) fn has_unproven(&self) -> bool {
        !self.unproven.is_empty()
    }

    pub(super) fn unproven_entries(&self) -> usize {
        self.unproven.iter().map(|(_, batch)| batch.entries().len()).sum()
    }

    /// The newest of the unproven entries of each stint.
    pub(super) fn newest_unproven(&self) -> BTreeMap<StintId, &Entry> {
        let entries = self.unproven.iter().flat_map(|(_, batch)| batch.entries());
        entries.map(|entry| (entry.stint, entry)).collect()
    }

    /// The stint whose session was sent to last.
    pub(super) fn latest(&self) -> Option<StintId> {
        let latest = self.by_stint.iter().max_by_key(|(stint, bound)| (bound.sent, **stint));
        latest.map(|(stint, _)| *stint)
    }

    /// Leaves the sessions that were not sent to for the longest time.
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
    /// Binds the stint's session: the remembered one if the server knows it, else a new one, with
    /// the setup in force as its first entry.
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
        let joined = if self.never_asks() {
            Joined::Known { frame: None, setup: None }
        } else {
            let joined = self.join(link, &session).await?;
            self.at_rest(link, bindings, &session, joined).await?
        };
        match (joined, &self.choice) {
            (Joined::Known { frame, setup }, choice) => {
                // A fixed id may hold frames of other queues, which say nothing about ours.
                let stored = match choice {
                    SessionChoice::Auto => Stored { frame, setup },
                    SessionChoice::Fixed(_) => Stored::default(),
                };
                self.bound(bindings, stint, session, false, joined, stored);
                self.refresh_setup(link, bindings, stint).await
            }
            (_, SessionChoice::Fixed(_)) => {
                self.bound(bindings, stint, session, true, joined, Stored::default());
                self.refresh_setup(link, bindings, stint).await
            }
            // It may be slow for once: viewers would lose their page for that.
            (Joined::Unanswered, SessionChoice::Auto) if !self.answers_no_join() => {
                self.learned.unanswered_joins += 1;
                Err(SinkError::Timeout(JOIN_TIMEOUT, NO_JOIN).into())
            }
            (Joined::Silent | Joined::Unanswered, SessionChoice::Auto) => {
                self.forgotten("unknown_on_connect");
                tracing::warn!(
                    "the server does not know the session any more, asking for a new one"
                );
                self.bind_new(link, bindings, stint).await
            }
        }
    }

    /// Asks for a session and joins it, so that its events come back to us.
    pub(super) async fn bind_new(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        if let SessionChoice::Fixed(_) = self.choice {
            return Err(SessionError::NotKept("it does not know server.session_id"));
        }
        let limit = self.settings.proof_timeout;
        let session = timeout(limit, link.request_session(stint))
            .await
            .map_err(|_| SinkError::Timeout(limit, "it assigns no session"))??;
        let joined = match self.keeps_from_echoes() {
            true => Joined::Silent,
            false => self.join(link, &session).await?,
        };
        if !planted("session_not_remembered") {
            self.reader.set_session(stint, self.sink.server(), &session).await?;
        }
        self.bound(bindings, stint, session, true, joined, Stored::default());
        self.refresh_setup(link, bindings, stint).await
    }

    /// Whether the server could send back what it takes, and is not to: it does twice the work for a
    /// publisher that has joined.
    fn keeps_from_echoes(&self) -> bool {
        let choice = self.settings.proof;
        self.sink.strongest_proof() == Proof::Echo
            && matches!(choice, ProofChoice::Ack | ProofChoice::Written)
    }

    /// Whether the server's acknowledgement is believed whatever happens, as most clients do.
    fn never_asks(&self) -> bool {
        self.keeps_from_echoes()
            && self.settings.proof == ProofChoice::Ack
            && self.settings.verify_interval.is_zero()
    }

    /// Asks whether the server knows the session: on the link itself, after which its entries come
    /// back to us there, or where that is not wanted on a link of its own.
    pub(super) async fn join(
        &mut self,
        link: &mut S::Link,
        session: &str,
    ) -> Result<Joined, SessionError> {
        // The link itself bounds the wait for an answer; this is for one that takes nothing more.
        let limit = self.settings.proof_timeout.max(3 * JOIN_TIMEOUT);
        let late = |_| SinkError::Timeout(limit, NO_JOIN);
        let joined = if self.keeps_from_echoes() && self.settings.proof == ProofChoice::Ack {
            let mut aside = self.open().await?;
            timeout(limit, aside.join(session, Answer::Ack)).await.map_err(late)??
        } else {
            let answer = if self.answers_no_join() { Answer::Data } else { Answer::Ack };
            timeout(limit, link.join(session, answer)).await.map_err(late)??
        };
        if joined != Joined::Unanswered {
            self.learned.unanswered_joins = 0;
        }
        Ok(joined)
    }

    /// Whether the server left so many joins unanswered that it is taken to have no such event, or
    /// to acknowledge none.
    pub(super) fn answers_no_join(&self) -> bool {
        self.learned.unanswered_joins >= UNANSWERED_JOINS
    }

    /// What the server holds of the session once that stands still.
    ///
    /// The server may read what an earlier link sent after this one has joined, and would show it
    /// a second time if it were sent again.
    async fn at_rest(
        &mut self,
        link: &mut S::Link,
        bindings: &Bindings,
        session: &str,
        mut joined: Joined,
    ) -> Result<Joined, SessionError> {
        // A fixed id may hold frames of other queues, which never stand still.
        if let SessionChoice::Fixed(_) = self.choice {
            return Ok(joined);
        }
        for _ in 0..STORED_LOOKS {
            let Joined::Known { frame, .. } = joined else { break };
            let queue = self.reader.status();
            let is_settled = Instant::now() >= bindings.settled_at;
            if self.reader.queued() == 0 || frame >= queue.newest || is_settled {
                break;
            }
            sleep(STORED_PAUSE).await;
            let before = std::mem::replace(&mut joined, self.join(link, session).await?);
            if joined == before {
                break;
            }
        }
        Ok(joined)
    }

    /// The server does not know the session any more.
    pub(super) fn forgotten(&self, cause: &'static str) {
        self.meter.rebound(cause);
        self.status.send_modify(|status| status.forgotten_at = Some(Instant::now()));
    }

    fn bound(
        &mut self,
        bindings: &mut Bindings,
        stint: StintId,
        session: String,
        is_new: bool,
        joined: Joined,
        stored: Stored,
    ) {
        let page = self.sink.page(&session);
        if page.is_none() {
            tracing::info!(%stint, name = session, on = self.sink.server(), "the stint has a name");
        }
        let verified = matches!(joined, Joined::Known { .. }) && !self.never_asks();
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
            status.last_error = None;
            status.last_error_plainly = None;
        });
        bindings.make_room();
        bindings.answers_join &= joined != Joined::Unanswered;
        bindings.asks |= verified && self.learned.found_stored + 1 >= WITHOUT_PROOF_LINKS;
        bindings.has_answered |= verified;
        let bound = Bound { session, is_new, stored, sent: None, setup_apart: None };
        bindings.by_stint.insert(stint, bound);
    }

    /// Sends the setup in force where the queue begins, unless the page has it or a newer one.
    pub(super) async fn refresh_setup(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        let bound = bindings.of(stint)?;
        if let Some(setup) = self.reader.setup_in_force(stint).await?
            && !bound.stored.has(&setup)
            && !planted("setup_not_sent_anew")
            && bound.setup_apart.max(bound.sent) < Some(setup.seq)
        {
            self.publish_apart(link, bindings, &setup).await?;
            bindings.of_mut(stint)?.setup_apart = Some(setup.seq);
        }
        Ok(())
    }
}

//! The session of a stint: keep it for as long as the server knows it, else ask for a new one.

use tokio::time::{Instant, sleep, timeout};

use super::{Session, SessionError, next_verification};
use crate::config::{
    JOIN_TIMEOUT, ProofChoice, STORED_LOOKS, STORED_PAUSE, SessionChoice, UNANSWERED_JOINS,
    WITHOUT_PROOF_LINKS,
};
use crate::entry::{CapturedAt, Entry, Seq, StintId};
use crate::metrics;
use crate::planted::planted;
use crate::queue::Batch;
use crate::sink::{Answer, Joined, Link, Proof, Sink, SinkError};

const NO_JOIN: &str = "it answers no join_session";

/// A session that is bound on a link, and what is known about it there.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) stint: StintId,
    pub(super) session: String,
    /// The server was asked for this session on this link and has not shown data for it yet.
    pub(super) is_new: bool,
    /// The server answers when a session is joined, as far as is known.
    pub(super) answers_join: bool,
    /// It answers no event, but shows what it stored: it is asked instead.
    pub(super) asks: bool,
    /// It has answered on this link.
    pub(super) has_answered: bool,
    /// What the link gives; learned with the first entry.
    pub(super) proof: Option<Proof>,
    /// What the server held of this stint when the session was joined.
    pub(super) stored: Stored,
    /// The last position that was sent; a batch that does not follow it comes after a gap, which
    /// may have held a setup.
    pub(super) sent: Option<Seq>,
    /// The newest setup that was sent apart.
    pub(super) setup_apart: Option<Seq>,
    /// Batches that are sent and wait for a stronger proof than they have, oldest first.
    pub(super) unproven: Vec<(Instant, Batch)>,
    pub(super) verify_at: Instant,
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
            crate::entry::Kind::Frame => self.frame >= Some(entry.captured_at),
            crate::entry::Kind::Setup => self.setup >= Some(entry.captured_at),
        }
    }
}

impl Bound {
    pub(super) fn has_unproven(&self) -> bool {
        !self.unproven.is_empty()
    }

    pub(super) fn unproven_entries(&self) -> usize {
        self.unproven.iter().map(|(_, batch)| batch.entries().len()).sum()
    }
}

impl<S: Sink> Session<S> {
    /// Binds the stint's session: the remembered one if the server knows it, else a new one, with
    /// the setup in force as its first entry.
    pub(super) async fn bind(
        &mut self,
        link: &mut S::Link,
        stint: StintId,
    ) -> Result<Bound, SessionError> {
        let remembered = match &self.choice {
            SessionChoice::Fixed(id) => Some(id.clone()),
            SessionChoice::Auto => self.reader.session(stint, self.sink.server()).await?,
        };
        let Some(session) = remembered else {
            return self.bind_new(link, stint).await;
        };
        let joined = if self.never_asks() {
            Joined::Known { frame: None, setup: None }
        } else {
            let joined = self.join(link, &session).await?;
            self.at_rest(link, &session, joined).await?
        };
        match (joined, &self.choice) {
            (Joined::Known { frame, setup }, choice) => {
                // A fixed id may hold frames of other queues, which say nothing about ours.
                let stored = match choice {
                    SessionChoice::Auto => Stored { frame, setup },
                    SessionChoice::Fixed(_) => Stored::default(),
                };
                let bound = self.bound(stint, session, false, joined, stored);
                self.send_setup_in_force(link, bound).await
            }
            (_, SessionChoice::Fixed(_)) => {
                let bound = self.bound(stint, session, true, joined, Stored::default());
                self.send_setup_in_force(link, bound).await
            }
            // It may be slow for once: viewers would lose their page for that.
            (Joined::Unanswered, SessionChoice::Auto) if !self.answers_no_join() => {
                self.learned.unanswered_joins += 1;
                Err(SinkError::Timeout(JOIN_TIMEOUT, NO_JOIN).into())
            }
            (Joined::Silent | Joined::Unanswered, SessionChoice::Auto) => {
                metrics::rebound("unknown_on_connect");
                tracing::warn!(
                    "the server does not know the session any more, asking for a new one"
                );
                self.bind_new(link, stint).await
            }
        }
    }

    /// Asks for a session and joins it, so that its events come back to us.
    pub(super) async fn bind_new(
        &mut self,
        link: &mut S::Link,
        stint: StintId,
    ) -> Result<Bound, SessionError> {
        if let SessionChoice::Fixed(_) = self.choice {
            return Err(SessionError::NotKept("it does not know server.session_id"));
        }
        let limit = self.settings.proof_timeout;
        let session = timeout(limit, link.request_session())
            .await
            .map_err(|_| SinkError::Timeout(limit, "it assigns no session"))??;
        // A server does twice the work for a publisher that has joined.
        let joined = match self.settings.proof {
            ProofChoice::Ack | ProofChoice::Written => Joined::Silent,
            ProofChoice::Auto | ProofChoice::Echo => self.join(link, &session).await?,
        };
        if !planted("session_not_remembered") {
            self.reader.set_session(stint, self.sink.server(), &session).await?;
        }
        let bound = self.bound(stint, session, true, joined, Stored::default());
        self.send_setup_in_force(link, bound).await
    }

    /// Whether the server's acknowledgement is believed whatever happens, as most clients do.
    fn never_asks(&self) -> bool {
        self.settings.proof == ProofChoice::Ack && self.settings.verify_interval.is_zero()
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
        let joined = if self.settings.proof == ProofChoice::Ack {
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
            if queue.entries == 0 || frame >= queue.newest {
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

    fn bound(
        &mut self,
        stint: StintId,
        session: String,
        is_new: bool,
        joined: Joined,
        stored: Stored,
    ) -> Bound {
        let page = self.sink.page(&session);
        let verified = matches!(joined, Joined::Known { .. }) && !self.never_asks();
        self.status.send_modify(|status| {
            status.session = Some(session.clone());
            status.stint = Some(stint);
            status.page = Some(page);
            status.verified = verified;
            status.last_error = None;
        });
        Bound {
            stint,
            session,
            is_new,
            answers_join: joined != Joined::Unanswered,
            asks: verified && self.learned.found_stored + 1 >= WITHOUT_PROOF_LINKS,
            has_answered: verified,
            proof: None,
            stored,
            sent: None,
            setup_apart: None,
            unproven: Vec::new(),
            verify_at: next_verification(&self.settings),
        }
    }

    /// A page without its setup gets the one that was in force where the queue begins.
    async fn send_setup_in_force(
        &mut self,
        link: &mut S::Link,
        mut bound: Bound,
    ) -> Result<Bound, SessionError> {
        self.refresh_setup(link, &mut bound).await?;
        Ok(bound)
    }

    /// Sends the setup in force where the queue begins, unless the page has it or a newer one.
    pub(super) async fn refresh_setup(
        &mut self,
        link: &mut S::Link,
        bound: &mut Bound,
    ) -> Result<(), SessionError> {
        if let Some(setup) = self.reader.setup_in_force(bound.stint).await?
            && !bound.stored.has(&setup)
            && !planted("setup_not_sent_anew")
            && bound.setup_apart.max(bound.sent) < Some(setup.seq)
        {
            self.publish_apart(link, bound, &setup).await?;
            bound.setup_apart = Some(setup.seq);
        }
        Ok(())
    }
}

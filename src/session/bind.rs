//! Binds a session for each stint: reuses it while the server knows it, otherwise requests a new
//! one.

use tokio::time::{Instant, timeout};

use super::bindings::{Bindings, Bound};
use super::capability::Evidence;
use super::join::NO_JOIN;
use super::setup::SessionKnown;
use super::{Session, SessionError};
use crate::config::SessionChoice;
use crate::entry::StintId;
use crate::sink::{JOIN_TIMEOUT, Joined, Link, Shown, Sink, SinkError};

/// The origin of a session, as known when it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionOrigin {
    /// The server knows it.
    Known,
    /// It was requested on this link, or the server cannot be asked about it.
    New,
    /// The server showed nothing of it: it is empty, or the server does not know it.
    Unconfirmed,
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
                self.bound(bindings, stint, session, SessionOrigin::Known, joined);
                self.refresh_setup(link, bindings, stint).await
            }
            // An empty session looks like an unknown one until an entry is sent to it.
            (Joined::Silent, SessionChoice::Fixed(_)) => {
                self.bound(bindings, stint, session, SessionOrigin::Unconfirmed, joined);
                self.refresh_setup(link, bindings, stint).await
            }
            (Joined::Silent, SessionChoice::Auto) if may_be_empty => {
                self.bound(bindings, stint, session, SessionOrigin::Unconfirmed, joined);
                match self.send_setup(link, bindings, stint).await? {
                    SessionKnown::Yes => Ok(()),
                    // Nothing was sent to it on this link, so nothing has to be read again.
                    SessionKnown::No => self.bind_unknown(link, bindings, stint).await,
                }
            }
            // A single timeout may be a slow server: a new session would cost viewers their page.
            (Joined::Unanswered, _) if !self.learned.capability.has_no_joins() => {
                self.observe(Evidence::JoinTimedOut);
                Err(SinkError::Timeout(JOIN_TIMEOUT, NO_JOIN).into())
            }
            (Joined::Unanswered, SessionChoice::Fixed(_)) => {
                self.bound(bindings, stint, session, SessionOrigin::New, joined);
                self.refresh_setup(link, bindings, stint).await
            }
            (Joined::Silent | Joined::Unanswered, SessionChoice::Auto) => {
                self.bind_unknown(link, bindings, stint).await
            }
        }
    }

    /// Binds a new session in place of one that the server does not know.
    async fn bind_unknown(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        self.forgotten("unknown_on_connect");
        tracing::warn!("the server no longer knows the session; requesting a new one");
        self.bind_new(link, bindings, stint).await
    }

    /// Requests a session and joins it, so that the server echoes its events to us.
    async fn bind_new(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        self.learned.isolation.page_is_new();
        self.learned.overtaken.page_is_new(stint);
        if let SessionChoice::Fixed(_) = self.choice {
            return Err(SessionError::UnknownSession);
        }
        let limit = self.settings.proof_timeout;
        let session = timeout(limit, link.request_session(stint))
            .await
            .map_err(|_| SinkError::Timeout(limit, "it assigns no session"))??;
        let joined = if self.keeps_from_echoes() {
            Joined::Silent
        } else {
            self.join(link, &session).await?
        };
        self.reader.set_session(stint, self.sink.server(), &session).await?;
        self.bound(bindings, stint, session, SessionOrigin::New, joined);
        self.refresh_setup(link, bindings, stint).await
    }

    /// Binds a new session after the server forgot the one of this stint. Unproven entries do not
    /// count as delivered, and the proof of this link is determined again.
    pub(super) async fn rebind(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        if let SessionChoice::Fixed(_) = self.choice {
            return Err(SessionError::UnknownSession);
        }
        self.forgotten("forgotten");
        tracing::warn!("the server forgot the session; requesting a new one");
        self.reader.rewind();
        *bindings = Bindings::new(&self.settings);
        self.observe(Evidence::Connected);
        self.bind_new(link, bindings, stint).await
    }

    /// Records that the server no longer knows the session.
    fn forgotten(&self, cause: &'static str) {
        self.meter.rebound(cause);
        self.status.send_modify(|status| status.forgotten_at = Some(Instant::now()));
    }

    /// Records that the stint has this session on the link, and shows its page.
    fn bound(
        &mut self,
        bindings: &mut Bindings,
        stint: StintId,
        session: String,
        origin: SessionOrigin,
        joined: Joined,
    ) {
        let is_new = origin != SessionOrigin::Known;
        let is_unconfirmed = origin == SessionOrigin::Unconfirmed;
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
        let is_first = bindings.is_empty();
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
        bindings.insert(stint, bound);
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
}

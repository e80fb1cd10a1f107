//! Asks the server whether it knows a session, and what it stores for it.

use tokio::time::timeout;

use super::capability::Evidence;
use super::{Session, SessionError};
use crate::config::ProofChoice;
use crate::sink::{JOIN_TIMEOUT, JoinWait, Joined, Link, Proof, Sink, SinkError};

/// The description of a server that does not answer a join.
pub(super) const NO_JOIN: &str = "it answers no join_session";

impl<S: Sink> Session<S> {
    /// Asks whether the server knows the session. Joins on the link itself, which then receives the
    /// echoes of the session, or on a separate link if echoes are not wanted.
    pub(super) async fn join(
        &mut self,
        link: &mut S::Link,
        session: &str,
    ) -> Result<Joined, SessionError> {
        let joined = if self.asks_on_another_link() {
            let mut aside = self.open().await?;
            self.join_on(&mut aside, session, JoinWait::Ack).await?
        } else if self.learned.capability.has_no_joins() {
            self.join_on(link, session, JoinWait::Data).await?
        } else {
            self.join_on(link, session, JoinWait::Ack).await?
        };
        if joined != Joined::Unanswered {
            self.observe(Evidence::JoinAnswered);
        }
        Ok(joined)
    }

    async fn join_on(
        &self,
        link: &mut S::Link,
        session: &str,
        answer: JoinWait,
    ) -> Result<Joined, SessionError> {
        // The link bounds the wait for an answer; this bounds the wait for a link that accepts no
        // more data.
        let limit = self.settings.proof_timeout.max(3 * JOIN_TIMEOUT);
        match timeout(limit, link.join(session, answer)).await {
            Ok(joined) => Ok(joined?),
            Err(_) => Err(SinkError::Timeout(limit, NO_JOIN).into()),
        }
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
        let own = self.join_on(link, session, JoinWait::Ack).await?;
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

    /// Whether echoes are available but disabled by `delivery.proof`: they double the server's
    /// work.
    pub(super) fn keeps_from_echoes(&self) -> bool {
        let choice = self.settings.proof;
        self.sink.strongest_proof() == Proof::Echo
            && matches!(choice, ProofChoice::Ack | ProofChoice::Written)
    }

    /// Whether acknowledgements are trusted without any verification, as most clients do.
    pub(super) fn never_asks(&self) -> bool {
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
}

//! Sends the setup in force to a page that lacks it, ahead of the entries of the queue.

use super::bindings::Bindings;
use super::publish::PublishOutcome;
use super::{Session, SessionError};
use crate::config::SessionChoice;
use crate::entry::{Entry, StintId};
use crate::sink::Sink;

/// Whether the server knows the session that an entry was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionKnown {
    Yes,
    No,
}

impl<S: Sink> Session<S> {
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
    pub(super) async fn send_setup(
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

    /// Publishes an entry outside of a batch: the setup in force, when the page lacks it.
    async fn publish_apart(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entry: &Entry,
    ) -> Result<SessionKnown, SessionError> {
        bindings.setup_in_flight = Some(entry.seq);
        let published = self.publish(link, bindings, &[entry]).await?;
        bindings.setup_in_flight = None;
        match published {
            PublishOutcome::Proven | PublishOutcome::Unproven => {}
            PublishOutcome::Refused { .. } => {
                tracing::warn!("the server refuses the setup; skipping it")
            }
            PublishOutcome::Forgotten(_) => return Ok(SessionKnown::No),
        }
        self.meter.resent(1);
        Ok(SessionKnown::Yes)
    }
}

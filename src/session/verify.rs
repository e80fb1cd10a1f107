//! Asks the server whether it still knows the sessions and stores what it acknowledged.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::bindings::{Bindings, PageCheck};
use super::capability::Evidence;
use super::{Session, SessionError};
use crate::config::DeliveryConfig;
use crate::entry::StintId;
use crate::sink::{Joined, Link, Proof, Shown, Sink};

/// On a server that confirms nothing, an entry counts as delivered when the connection outlives
/// twice the ping interval (25 s) and timeout (20 s) after it.
pub(super) const WRITTEN_AFTER: Duration = Duration::from_secs(90);

/// With this many unproven entries and nothing left to send, the server is asked after this pause.
const VERIFY_SOON_ENTRIES: usize = 32;
const VERIFY_SOON: Duration = Duration::from_millis(20);

/// The result of asking the server about the bound sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verified {
    /// The server knows them, and the entries that it acknowledged are proven.
    Known,
    /// The server forgot one: a new one is bound, and all batches in flight will be read again.
    Rebound,
}

/// The server's answer about the session of a stint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionCheck {
    /// It knows the session and stores the entries that it acknowledged.
    Stored,
    /// It does not know the session.
    Forgotten,
    /// The answer proves nothing yet: the entries stay unproven.
    Undecided,
    /// It does not answer joins, so its acknowledgements are all the proof there is.
    NotAnswered,
}

impl<S: Sink> Session<S> {
    /// When to verify next. Many unproven entries, as at the end of a replay, are verified sooner;
    /// ones that only time can prove, at that time.
    pub(super) fn verify_at(&self, bindings: &Bindings) -> Instant {
        match self.learned.capability.proof() {
            Some(Proof::Written) => bindings
                .unproven
                .first()
                .map_or(bindings.verify_at, |oldest| oldest.sent_at + WRITTEN_AFTER),
            Some(Proof::Ack) if bindings.unproven_entries() >= VERIFY_SOON_ENTRIES => {
                bindings.verify_at.min(Instant::now() + VERIFY_SOON)
            }
            Some(Proof::Ack | Proof::Echo) | None => bindings.verify_at,
        }
    }

    /// Asks whether the server still knows the session and stores what it acknowledged.
    pub(super) async fn verify(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
    ) -> Result<Verified, SessionError> {
        bindings.verify_at = next_verification(&self.settings);
        if self.learned.capability.proof() == Some(Proof::Written) {
            while let Some(oldest) = bindings.unproven.first()
                && oldest.sent_at.elapsed() >= WRITTEN_AFTER
            {
                let oldest = bindings.unproven.remove(0);
                self.remove(oldest.batch).await?;
            }
            return Ok(Verified::Known);
        }
        if !self.learned.capability.can_be_asked() {
            return Ok(Verified::Known);
        }
        let mut stints: Vec<StintId> = bindings.newest_unproven().into_keys().collect();
        if stints.is_empty() {
            stints.extend(bindings.latest());
        }
        for stint in stints {
            match self.check_session(link, bindings, stint).await? {
                SessionCheck::Stored => {}
                SessionCheck::Undecided => return Ok(Verified::Known),
                SessionCheck::NotAnswered => {
                    self.remove_unproven(bindings).await?;
                    return Ok(Verified::Known);
                }
                SessionCheck::Forgotten => {
                    self.rebind(link, bindings, stint).await?;
                    return Ok(Verified::Rebound);
                }
            }
        }
        self.remove_unproven(bindings).await?;
        self.verified();
        Ok(Verified::Known)
    }

    /// Asks about the session of one stint.
    async fn check_session(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<SessionCheck, SessionError> {
        let session = bindings.of(stint)?.session.clone();
        let mut joined = self.join(link, &session).await?;
        if !bindings.is_as_expected(stint, joined, &self.learned.stored) {
            joined = self.join_again(link, &session, joined).await?;
        }
        match joined {
            Joined::Known(shown) => {
                self.observe(Evidence::SessionShown);
                self.check_shown(bindings, stint, shown)?;
                bindings.of_mut(stint)?.shown = shown;
                self.confirmed(bindings, stint)?;
                Ok(SessionCheck::Stored)
            }
            Joined::Silent
                if bindings.of(stint)?.is_new
                    && !bindings.newest_unproven().contains_key(&stint) =>
            {
                Ok(SessionCheck::Undecided)
            }
            Joined::Silent => Ok(SessionCheck::Forgotten),
            Joined::Unanswered if self.learned.capability.has_shown() => {
                Err(SessionError::NotKept("it no longer answers join_session"))
            }
            // A single timeout may be a slow server, and the entries may still be missing: keep
            // them unproven.
            Joined::Unanswered if !self.learned.capability.has_no_joins() => {
                self.observe(Evidence::JoinTimedOut);
                Ok(SessionCheck::Undecided)
            }
            Joined::Unanswered => {
                tracing::warn!(
                    "the server does not answer join_session; trusting its acknowledgements \
                     without verification"
                );
                self.observe(Evidence::JoinsGivenUp);
                Ok(SessionCheck::NotAnswered)
            }
        }
    }

    /// Checks that the server stores the newest unproven entry of a stint, given what it shows.
    fn check_shown(
        &mut self,
        bindings: &mut Bindings,
        stint: StintId,
        shown: Shown,
    ) -> Result<(), SessionError> {
        let newest = bindings.newest_unproven().remove(&stint);
        let Some((entry, id)) = newest else { return Ok(()) };
        let stored = self.learned.stored.newest(stint, entry.kind).map(|(_, id)| id);
        match bindings.presence(entry, shown, stored) {
            PageCheck::Missing => {
                return Err(SessionError::NotKept("an acknowledged entry is missing"));
            }
            PageCheck::Hidden => self.hidden(bindings),
            PageCheck::Stored => self.note_stored(entry, id),
        }
        Ok(())
    }

    async fn remove_unproven(&mut self, bindings: &mut Bindings) -> Result<(), SessionError> {
        for unproven in std::mem::take(&mut bindings.unproven) {
            self.remove(unproven.batch).await?;
        }
        Ok(())
    }

    /// Accepts acknowledgements as proof: the server knows the session, but another publisher's
    /// entry hides whether it stores ours. Logs this once per link.
    pub(super) fn hidden(&self, bindings: &mut Bindings) {
        if !std::mem::replace(&mut bindings.is_hidden, true) {
            tracing::warn!(
                "another program publishes to the page and the server echoes nothing; trusting its \
                 acknowledgements without verification"
            );
        }
    }

    /// Waits until every sent entry is proven, or a session turns out to be forgotten.
    pub(super) async fn settle(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
    ) -> Result<Verified, SessionError> {
        while bindings.has_unproven() {
            if self.learned.capability.proof() == Some(Proof::Written) {
                tokio::select! {
                    biased;
                    error = link.closed() => return Err(error.into()),
                    () = sleep_until(self.verify_at(bindings)) => {}
                }
            }
            if self.verify(link, bindings).await? == Verified::Rebound {
                return Ok(Verified::Rebound);
            }
        }
        Ok(Verified::Known)
    }

    /// Shows that the server knows the sessions.
    pub(super) fn verified(&mut self) {
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.verified, true));
    }
}

/// The time of the next verification that the server still knows the session.
pub(super) fn next_verification(settings: &DeliveryConfig) -> Instant {
    // 0 disables verification; a year is far enough away.
    let interval = settings.verify_interval;
    Instant::now() + if interval.is_zero() { Duration::from_hours(24 * 365) } else { interval }
}

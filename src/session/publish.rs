//! Publishes entries, and defines what proves that the server stored them.
//!
//! The first entry on a link determines the kind of proof: the server echoes the entry (`echo`),
//! acknowledges it and then shows it as stored (`ack`), or does neither (`written`). The proof is
//! never weakened silently: a server that answers anything at all is not treated as one that cannot
//! answer. An entry that is only acknowledged stays in the queue until a later query confirms that
//! the server still knows the session and stores the entry.
//!
//! A server shows only the newest entry that it stores, regardless of the publisher. An entry of
//! ours that is echoed or shown proves itself and every entry sent before it; other content on the
//! page proves nothing about our entries. An entry that was not echoed although a newer one was is
//! remembered when the link ends, and sent again. On a server without echoes, an entry that it
//! drops silently cannot be told apart from the others.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::bindings::Bindings;
use super::capability::Evidence;
use super::verify::next_verification;
use super::{Session, SessionError};
use crate::config::ProofChoice;
use crate::entry::{Entry, Seq, StintId};
use crate::sink::{Ack, Addressed, Joined, Link, Proof, Receipt, Sink};

/// How long to wait for missing echoes after a batch was acknowledged.
pub(crate) const ECHO_GRACE: Duration = Duration::from_millis(500);

/// The pause in publishing after which an acknowledgement is requested from a server that takes one
/// entry at a time and echoes each. The server's kernel holds back the echo that follows an
/// acknowledgement for up to 40 ms (Nagle's algorithm against our delayed TCP ACK). So entries of a
/// live source up to 20 Hz are acknowledged, and those of a backlog are not.
const ACK_AFTER_PAUSE: Duration = Duration::from_millis(50);

/// The result of publishing entries.
#[derive(Debug)]
pub(super) enum PublishOutcome {
    Proven,
    /// Sent; the proof is completed by elapsed time or a later query to the server.
    Unproven,
    /// The server stores other entries of the session, but not these.
    Refused {
        seqs: Vec<Seq>,
        are_others_proven: bool,
    },
    /// The server no longer knows the session of this stint.
    Forgotten(StintId),
}

impl PublishOutcome {
    /// The server refuses these entries, and stores the others.
    pub(super) fn refused(seqs: Vec<Seq>) -> Self {
        Self::Refused { seqs, are_others_proven: true }
    }

    /// The result of publishing further entries after these.
    pub(super) fn and(self, next: Self) -> Self {
        let are_others_proven = self.proves_others() && next.proves_others();
        match (self, next) {
            (Self::Forgotten(stint), _) | (_, Self::Forgotten(stint)) => Self::Forgotten(stint),
            (Self::Refused { mut seqs, .. }, Self::Refused { seqs: more, .. }) => {
                seqs.extend(more);
                seqs.sort();
                Self::Refused { seqs, are_others_proven }
            }
            (Self::Refused { seqs, .. }, _) | (_, Self::Refused { seqs, .. }) => {
                Self::Refused { seqs, are_others_proven }
            }
            (Self::Unproven, _) | (_, Self::Unproven) => Self::Unproven,
            (Self::Proven, Self::Proven) => Self::Proven,
        }
    }

    /// Whether the server stores all entries that it does not refuse.
    fn proves_others(&self) -> bool {
        matches!(self, Self::Proven | Self::Refused { are_others_proven: true, .. })
    }
}

/// The outcome of an "unknown session" acknowledgement, which belongs to the last entry.
pub(super) fn forgotten(entries: &[&Entry]) -> PublishOutcome {
    entries.last().map_or(PublishOutcome::Proven, |entry| PublishOutcome::Forgotten(entry.stint))
}

impl<S: Sink> Session<S> {
    /// Publishes entries together and determines their outcome at the server.
    pub(super) async fn publish(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
    ) -> Result<PublishOutcome, SessionError> {
        let proof = self.proof_to_await()?;
        let sent = Instant::now();
        let addressed = bindings.addressed(&self.sink, entries)?;
        self.note_sent(&addressed);
        link.request_acks(self.requests_acks());
        let published = link.publish(&addressed, proof, self.grace());
        let published = timeout(self.publish_limit(), published).await;
        self.published_at = Some(Instant::now());
        self.learned.skipped.extend(link.skipped());
        if !self.learned.skipped.is_empty() {
            for seq in link.came_back() {
                self.learned.skipped.remove(&seq);
            }
        }
        self.note_came_back(&addressed, &link.came_back());
        let Ok(receipt) = published else {
            self.learned.window.not_answered();
            return self.without_proof();
        };
        let receipt = receipt?;
        // Answered: what follows no longer depends on these entries.
        bindings.in_flight.clear();
        if let ([entry], Ack::Plain | Ack::UnknownSession | Ack::Error(_)) = (entries, &receipt.ack)
        {
            self.learned.isolation.answered(entry.seq);
        }
        let (took, most) = (sent.elapsed(), self.settings.batch_max_entries as usize);
        self.meter.proof_latency(took);
        self.learned.window.sent(entries.len(), took, most);
        self.note_inversions(&receipt);
        self.judge(link, bindings, entries, proof, receipt).await
    }

    /// The proof that a publication waits for.
    fn proof_to_await(&self) -> Result<Proof, SessionError> {
        let strongest = self.sink.strongest_proof();
        let proof = self.learned.capability.awaited().unwrap_or(match self.settings.proof {
            ProofChoice::Auto => strongest,
            ProofChoice::Echo => Proof::Echo,
            ProofChoice::Ack => Proof::Ack,
            ProofChoice::Written => Proof::Written,
        });
        if proof > strongest { Err(SessionError::Weak(proof.as_str())) } else { Ok(proof) }
    }

    /// Determines the outcome of entries from the server's receipt for them.
    async fn judge(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
        proof: Proof,
        receipt: Receipt,
    ) -> Result<PublishOutcome, SessionError> {
        match (&receipt.ack, proof) {
            (Ack::UnknownSession, _) => Ok(forgotten(entries)),
            (Ack::Error(text), _) => {
                self.objected(link, bindings, text, entries, receipt.missing).await
            }
            (_, Proof::Written) => {
                if self.learned.capability.proof().is_none() {
                    self.observe(Evidence::WrittenByChoice);
                }
                Ok(PublishOutcome::Unproven)
            }
            (_, Proof::Ack) => {
                self.observe(Evidence::Acknowledged);
                let came_back = receipt.missing.is_empty();
                Ok(if came_back { PublishOutcome::Proven } else { self.acknowledged() })
            }
            (_, Proof::Echo) if receipt.missing.is_empty() => {
                if self.learned.capability.proof().is_none() {
                    self.learn_echo(link, bindings, entries).await?;
                }
                for entry in entries {
                    self.confirmed(bindings, entry.stint)?;
                }
                bindings.verify_at = next_verification(&self.settings);
                Ok(PublishOutcome::Proven)
            }
            (_, Proof::Echo) => self.examine(link, bindings, entries, receipt.missing).await,
        }
    }

    /// Whether to request an acknowledgement beside echoes: not of a backlog for a server that takes
    /// one entry at a time, because each would delay the echo that follows it. If an entry without
    /// one is not echoed, the link ends, and the first entry of the next link is acknowledged.
    fn requests_acks(&self) -> bool {
        let capability = &self.learned.capability;
        let is_costly = capability.proof() == Some(Proof::Echo) && capability.is_one_at_a_time();
        let has_paused = self.published_at.is_none_or(|at| at.elapsed() >= ACK_AFTER_PAUSE);
        // Without one, a session that the server forgot looks like an entry that it cannot process.
        !is_costly || has_paused || self.learned.isolation.is_active()
    }

    /// Records entries before they are handed to the connection: they may arrive even if it fails.
    fn note_sent(&mut self, addressed: &[Addressed<'_>]) {
        for Addressed { entry, id, .. } in addressed {
            self.learned.sent = self.learned.sent.max(Some(entry.seq));
            self.learned.stored.note_sent(entry, *id);
        }
    }

    /// Records which entries were echoed, including those of a publication that failed halfway.
    pub(super) fn note_came_back(&mut self, addressed: &[Addressed<'_>], came_back: &[Seq]) {
        for Addressed { entry, id, .. } in addressed {
            if came_back.contains(&entry.seq) {
                self.note_stored(entry, *id);
            }
        }
    }

    /// The outcome for entries that were only acknowledged.
    pub(super) fn acknowledged(&self) -> PublishOutcome {
        let verifies =
            self.learned.capability.can_be_asked() && !self.settings.verify_interval.is_zero();
        if verifies { PublishOutcome::Unproven } else { PublishOutcome::Proven }
    }

    /// Handles a publication for which neither an echo nor an acknowledgement came in time.
    fn without_proof(&mut self) -> Result<PublishOutcome, SessionError> {
        let error = SessionError::NoProof(self.settings.proof_timeout);
        let mut capability = self.learned.capability;
        if capability.proof().is_some() {
            return Err(error);
        }
        capability.observe(Evidence::NothingConfirmed);
        match (capability.proof(), self.settings.proof) {
            // Only one entry was tried, which may be poison.
            (Some(_), _) if self.learned.isolation.is_undecided() => Err(error),
            (Some(_), ProofChoice::Echo) => Err(SessionError::Weak(Proof::Echo.as_str())),
            (Some(_), ProofChoice::Ack) => Err(SessionError::Weak(Proof::Ack.as_str())),
            (Some(_), ProofChoice::Auto) => {
                self.observe(Evidence::NothingConfirmed);
                Ok(PublishOutcome::Unproven)
            }
            (None, _) | (_, ProofChoice::Written) => {
                self.observe(Evidence::NothingConfirmed);
                Err(error)
            }
        }
    }

    /// Handles the first echo on the link. If the session is new, also joins it to find out whether
    /// the server shows what it stores; otherwise a join cannot be used for verification.
    async fn learn_echo(
        &mut self,
        link: &mut S::Link,
        bindings: &Bindings,
        entries: &[&Entry],
    ) -> Result<(), SessionError> {
        self.observe(Evidence::Echoed);
        let Some(entry) = entries.first() else { return Ok(()) };
        let bound = bindings.of(entry.stint)?;
        if bound.is_new && self.learned.capability.can_be_asked() {
            let session = bound.session.clone();
            match self.join(link, &session).await? {
                Joined::Known(_) => self.observe(Evidence::SessionShown),
                Joined::Silent | Joined::Unanswered => self.observe(Evidence::JoinsGivenUp),
            }
        }
        self.verified();
        Ok(())
    }

    /// Updates the server model with evidence, and logs the proof once it is determined.
    pub(super) fn observe(&mut self, evidence: Evidence) {
        let before = self.learned.capability.proof();
        self.learned.capability.observe(evidence);
        let proof = self.learned.capability.proof();
        let Some(learned) = proof.filter(|_| proof != before) else { return };
        match learned {
            Proof::Written => tracing::warn!(
                "Online, but the server confirms nothing: a frame counts as delivered when the \
                 connection outlives two heartbeats"
            ),
            Proof::Ack => tracing::info!("Online: the server acknowledges each frame"),
            Proof::Echo => tracing::info!("Online: the dashboard confirms each frame"),
        }
        self.status.send_modify(|status| status.proof = Some(learned));
    }

    /// Records that the server changed the order of entries.
    fn note_inversions(&mut self, receipt: &Receipt) {
        if receipt.inversions == 0 {
            return;
        }
        self.meter.inversions(receipt.inversions);
        self.learned.reordered_at = Some(Instant::now());
        if !self.learned.capability.is_one_at_a_time() {
            self.observe(Evidence::Reordered);
            tracing::warn!("the server changes the order of entries; sending one at a time");
        }
    }

    /// The time to wait for missing echoes after an acknowledgement.
    pub(super) fn grace(&self) -> Duration {
        ECHO_GRACE.min(self.settings.proof_timeout / 2)
    }

    /// The time limit of a publication: the acknowledgement may arrive just in time, followed by
    /// the echoes of the batch. Without the grace period, an entry that a slow server refuses would
    /// end the link instead of being identified, and would be retried forever.
    pub(super) fn publish_limit(&self) -> Duration {
        self.settings.proof_timeout + self.grace()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_entry_proves_no_other_that_was_only_acknowledged() {
        let refused = || PublishOutcome::refused(vec![Seq(2)]);
        for outcome in
            [PublishOutcome::Unproven.and(refused()), refused().and(PublishOutcome::Unproven)]
        {
            assert!(matches!(outcome, PublishOutcome::Refused { are_others_proven: false, .. }));
            assert!(!outcome.and(refused()).proves_others());
        }
        assert!(refused().and(PublishOutcome::Proven).proves_others());
    }
}

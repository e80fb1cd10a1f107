//! What happens to one batch, and what counts as proof that the server kept it.
//!
//! The proof is learned with the first entry on a link: sent back to us (`echo`), acknowledged by
//! a server that then shows it as stored (`ack`), or neither (`written`). It never gets weaker in
//! silence: a server that answers anything at all is not taken to be one that cannot. What is only
//! acknowledged stays in the queue until the server, asked anew, still knows the session and holds
//! it.
//!
//! A server shows only the newest that it holds, whoever published it. One of our entries that came
//! back, or that it shows, proves itself and what was sent before it; anything else on the page proves
//! nothing about our entries. An entry that did not come back though a newer one did is remembered over
//! the end of its link, and sent again. Where nothing comes back, one that is refused without a word
//! cannot be told from the others.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::bind::{Bindings, Presence, Unproven};
use super::capability::Evidence;
use super::{Session, SessionError, next_verification};
use crate::clock;
use crate::config::{ECHO_GRACE, MAX_UNPROVEN_ENTRIES, ProofChoice, WRITTEN_AFTER};
use crate::entry::{Entry, Seq, StintId};
use crate::planted::planted;
use crate::queue::Batch;
use crate::sink::{Ack, Addressed, Joined, Link, Proof, Receipt, Sink};

/// What is known after entries were published.
#[derive(Debug)]
pub(super) enum Outcome {
    Proven,
    /// Sent, with a proof that time or the server's word must complete.
    Unproven,
    /// The server keeps others of the session, but not these.
    Refused(Vec<Seq>),
    /// The server does not know the session of this stint any more.
    Forgotten(StintId),
}

/// What the server says of the sessions that are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verified {
    /// It knows them, and what it acknowledged is proven.
    Known,
    /// It forgot one: another one is bound, and all batches that were out will be read again.
    Rebound,
}

impl<S: Sink> Session<S> {
    /// Brings a batch to the server and removes it from the queue, or says why that ended.
    pub(super) async fn deliver(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        mut batch: Batch,
    ) -> Result<(), SessionError> {
        if let (Some((first, last)), sent) = (batch.ends(), bindings.sent) {
            if sent.is_some_and(|sent| first.0 > sent.0 + 1) {
                for stint in bindings.stints() {
                    self.refresh_setup(link, bindings, stint).await?;
                }
            }
            bindings.sent = Some(last);
        }
        let mut missing = Vec::new();
        for entry in batch.entries() {
            if bindings.of(entry.stint).is_err() {
                self.bind(link, bindings, entry.stint).await?;
            }
            let bound = bindings.of_mut(entry.stint)?;
            bound.sent = Some(entry.seq);
            if !self.learned.stored.has(entry)
                || self.learned.passed_over.contains(&entry.seq)
                || planted("sent_again_though_stored")
            {
                missing.push(entry);
            }
        }
        let mut outcome = if missing.is_empty() {
            self.observe(Evidence::FoundStored);
            Outcome::Proven
        } else {
            self.publish(link, bindings, &missing).await?
        };
        if let Outcome::Refused(seqs) = outcome {
            outcome = self.insist(link, bindings, &missing, seqs).await?;
        }
        let sent = missing.len();
        match outcome {
            Outcome::Proven if !bindings.has_unproven() => {}
            // What is out before it must be removed before it.
            Outcome::Proven | Outcome::Unproven => {
                let ids = batch.entries().iter().map(|entry| self.sink.identify(entry)).collect();
                batch.forget_frames();
                bindings.unproven.push(Unproven { sent_at: Instant::now(), batch, ids });
                if bindings.unproven_entries() >= MAX_UNPROVEN_ENTRIES {
                    self.settle(link, bindings).await?;
                }
                return Ok(());
            }
            Outcome::Refused(_) if planted("whole_batch_set_aside") => {
                let all: Vec<Seq> = batch.entries().iter().map(|entry| entry.seq).collect();
                batch.quarantine(&all);
            }
            Outcome::Refused(refused) => batch.quarantine(&refused),
            Outcome::Forgotten(stint) => return self.rebind(link, bindings, stint).await,
        }
        if self.settle(link, bindings).await? == Verified::Rebound {
            return Ok(());
        }
        self.remove(batch).await?;
        self.pace(sent).await;
        Ok(())
    }

    /// Publishes an entry that is in no batch: the setup in force, on a page that lacks it.
    pub(super) async fn publish_apart(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entry: &Entry,
    ) -> Result<(), SessionError> {
        match self.publish(link, bindings, &[entry]).await? {
            Outcome::Proven | Outcome::Unproven => {}
            Outcome::Refused(_) => tracing::warn!("the server refuses the setup, going on without"),
            Outcome::Forgotten(_) => {
                return Err(SessionError::NotKept("it forgot the session at once"));
            }
        }
        self.meter.resent(1);
        Ok(())
    }

    /// Asks whether the server still knows the session and holds what it acknowledged.
    pub(super) async fn verify(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
    ) -> Result<Verified, SessionError> {
        bindings.verify_at = next_verification(&self.settings);
        if self.learned.capability.proof() == Some(Proof::Written) {
            let is_old = |unproven: &Unproven| unproven.sent_at.elapsed() >= WRITTEN_AFTER;
            while bindings.unproven.first().is_some_and(is_old) {
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
            let bound = bindings.of(stint)?;
            let session = bound.session.clone();
            match self.join(link, &session).await? {
                Joined::Known(shown) => {
                    self.observe(Evidence::SessionShown);
                    let newest = bindings.newest_unproven().remove(&stint);
                    let newest = newest.map(|(entry, id)| (entry.clone(), id));
                    if let Some((entry, id)) = newest {
                        match bindings.presence(&entry, shown) {
                            Presence::Missing if !planted("verified_without_a_look") => {
                                let what = "an entry that it acknowledged is missing";
                                return Err(SessionError::NotKept(what));
                            }
                            Presence::Hidden => self.hidden(bindings),
                            Presence::Stored => self.learned.stored.note(&entry, id),
                            Presence::Missing => {}
                        }
                    }
                    bindings.of_mut(stint)?.shown = shown;
                }
                Joined::Silent
                    if bindings.of(stint)?.is_new
                        && !bindings.newest_unproven().contains_key(&stint) =>
                {
                    return Ok(Verified::Known);
                }
                Joined::Silent => {
                    self.rebind(link, bindings, stint).await?;
                    return Ok(Verified::Rebound);
                }
                Joined::Unanswered if self.learned.capability.has_shown() => {
                    let what = "it does not answer join_session any more";
                    return Err(SessionError::NotKept(what));
                }
                // It may be slow for once, and have forgotten all that it acknowledged.
                Joined::Unanswered if !self.learned.capability.has_no_joins() => {
                    self.observe(Evidence::JoinTimedOut);
                    return Ok(Verified::Known);
                }
                Joined::Unanswered => {
                    tracing::warn!("the server cannot be asked about a session; its word must do");
                    self.observe(Evidence::JoinsGivenUp);
                    self.remove_unproven(bindings).await?;
                    return Ok(Verified::Known);
                }
            }
        }
        self.remove_unproven(bindings).await?;
        self.verified();
        Ok(Verified::Known)
    }

    async fn remove_unproven(&mut self, bindings: &mut Bindings) -> Result<(), SessionError> {
        for unproven in std::mem::take(&mut bindings.unproven) {
            self.remove(unproven.batch).await?;
        }
        Ok(())
    }

    /// The server knows the session, but another publisher's entry hides whether it holds ours: its
    /// acknowledgement is all that there is.
    pub(super) fn hidden(&self, bindings: &mut Bindings) {
        if !std::mem::replace(&mut bindings.is_hidden, true) {
            tracing::warn!(
                "another program publishes to the page, and the server sends nothing back: its \
                 acknowledgements are trusted without verification"
            );
        }
    }

    /// Waits until nothing is unproven any more, or a session turns out to be forgotten.
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
                    () = sleep(self.settings.verify_interval) => {}
                }
            }
            if self.verify(link, bindings).await? == Verified::Rebound {
                return Ok(Verified::Rebound);
            }
        }
        Ok(Verified::Known)
    }

    /// The server forgot the session of this stint: nothing that it acknowledged since is taken as
    /// delivered, and all that is known of this link is learned anew.
    async fn rebind(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<(), SessionError> {
        self.forgotten("forgotten");
        tracing::warn!("the server forgot the session, asking for a new one");
        if !planted("new_page_without_what_was_out") {
            self.reader.rewind();
        }
        *bindings = Bindings::new(&self.settings);
        self.observe(Evidence::Connected);
        self.bind_new(link, bindings, stint).await
    }

    async fn publish(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
    ) -> Result<Outcome, SessionError> {
        let strongest = self.sink.strongest_proof();
        let proof = self.learned.capability.awaited().unwrap_or(match self.settings.proof {
            ProofChoice::Auto => strongest,
            ProofChoice::Echo => Proof::Echo,
            ProofChoice::Ack => Proof::Ack,
            ProofChoice::Written => Proof::Written,
        });
        if proof > strongest {
            return Err(SessionError::Weak(proof.as_str()));
        }
        let sent = Instant::now();
        let addressed = bindings.addressed(&self.sink, entries)?;
        self.note_sent(&addressed);
        let published = link.publish(&addressed, proof, self.grace());
        let times = if planted("proof_waited_for_without_end") { 1_000_000 } else { 1 };
        let published = timeout(self.publish_limit() * times, published).await;
        if !planted("passed_over_forgotten") {
            self.learned.passed_over.extend(link.passed_over());
        }
        self.note_came_back(&addressed, &link.came_back());
        let Ok(receipt) = published else {
            self.learned.window.not_answered();
            return self.without_proof();
        };
        if receipt.is_err() && planted("removed_though_not_sent") {
            return Ok(Outcome::Proven);
        }
        let receipt = receipt?;
        let (took, most) = (sent.elapsed(), self.settings.batch_max_entries as usize);
        self.meter.proof_latency(took);
        self.learned.window.sent(entries.len(), took, most);
        self.note_inversions(&receipt);
        match (&receipt.ack, proof) {
            (Ack::UnknownSession, _) => Ok(forgotten(entries)),
            (Ack::Error(text), _) => self.objected(bindings, text, entries, receipt.missing),
            (_, Proof::Written) => {
                if self.learned.capability.proof().is_none() {
                    self.observe(Evidence::WrittenByChoice);
                }
                Ok(Outcome::Unproven)
            }
            (_, Proof::Ack) => {
                self.observe(Evidence::Acknowledged);
                let came_back = receipt.missing.is_empty();
                Ok(if came_back { Outcome::Proven } else { self.acknowledged() })
            }
            (_, Proof::Echo) if planted("acknowledgement_believed") => Ok(Outcome::Proven),
            (_, Proof::Echo) if receipt.missing.is_empty() => {
                if self.learned.capability.proof().is_none() {
                    self.learn_echo(link, bindings, entries).await?;
                }
                for entry in entries {
                    bindings.of_mut(entry.stint)?.is_new = false;
                }
                bindings.verify_at = next_verification(&self.settings);
                Ok(Outcome::Proven)
            }
            (_, Proof::Echo) => self.examine(link, bindings, entries, receipt.missing).await,
        }
    }

    /// Remembers what a connection is about to be handed: it may arrive whatever happens next.
    fn note_sent(&mut self, addressed: &[Addressed<'_>]) {
        for Addressed { entry, id, .. } in addressed {
            self.learned.sent = self.learned.sent.max(Some(entry.seq));
            self.learned.stored.note_sent(entry, *id);
        }
    }

    /// Remembers which entries came back, also of a publication that failed halfway.
    pub(super) fn note_came_back(&mut self, addressed: &[Addressed<'_>], came_back: &[Seq]) {
        for Addressed { entry, id, .. } in addressed {
            if came_back.contains(&entry.seq) {
                self.learned.stored.note(entry, *id);
            }
        }
    }

    fn acknowledged(&self) -> Outcome {
        let verifies = self.learned.capability.can_be_asked()
            && !self.settings.verify_interval.is_zero()
            && !planted("acknowledged_not_verified");
        if verifies { Outcome::Unproven } else { Outcome::Proven }
    }

    /// Neither an echo nor an acknowledgement came in time.
    fn without_proof(&mut self) -> Result<Outcome, SessionError> {
        let error = SessionError::NoProof(self.settings.proof_timeout);
        let mut capability = self.learned.capability;
        if capability.proof().is_some() {
            return Err(error);
        }
        capability.observe(Evidence::NothingConfirmed);
        match (capability.proof(), self.settings.proof) {
            (Some(_), ProofChoice::Echo) => Err(SessionError::Weak(Proof::Echo.as_str())),
            (Some(_), ProofChoice::Ack) => Err(SessionError::Weak(Proof::Ack.as_str())),
            (Some(_), ProofChoice::Auto) => {
                self.observe(Evidence::NothingConfirmed);
                Ok(Outcome::Unproven)
            }
            (None, _) | (_, ProofChoice::Written) => {
                self.observe(Evidence::NothingConfirmed);
                Err(error)
            }
        }
    }

    /// The first entry on the link came back. On a new session this is the moment to find out
    /// whether joining shows what is stored; if not, it cannot serve to verify.
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

    /// Takes evidence of what the server does into account, and reports a proof that is learned.
    pub(super) fn observe(&mut self, evidence: Evidence) {
        let before = self.learned.capability.proof();
        self.learned.capability.observe(evidence);
        let proof = self.learned.capability.proof();
        let Some(learned) = proof.filter(|_| proof != before) else { return };
        if learned == Proof::Written {
            tracing::warn!(
                "the server confirms nothing; an entry counts as delivered when the connection outlives two heartbeats"
            );
        } else {
            tracing::info!(proof = learned.as_str(), "proof of delivery");
        }
        self.status.send_modify(|status| status.proof = Some(learned));
    }

    fn verified(&mut self) {
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.verified, true));
    }

    fn note_inversions(&mut self, receipt: &Receipt) {
        if receipt.inversions == 0 {
            return;
        }
        self.meter.inversions(receipt.inversions);
        if !self.learned.capability.is_one_at_a_time() && !planted("disorder_ignored") {
            self.observe(Evidence::Reordered);
            tracing::warn!("the server changes the order of entries; sending one at a time");
        }
    }

    async fn remove(&mut self, batch: Batch) -> Result<(), SessionError> {
        let proof = self.learned.capability.proof().unwrap_or(Proof::Echo);
        let now = clock::now();
        self.meter.delivered(proof, now, batch.entries());
        self.latencies.note(now, batch.entries());
        if let Some((_, last)) = batch.ends() {
            self.learned.passed_over = self.learned.passed_over.split_off(&Seq(last.0 + 1));
        }
        self.reader.remove_soon(batch).await?;
        if !planted("backoff_never_reset") {
            self.backoff.reset();
        }
        Ok(())
    }

    /// How long to wait after an acknowledgement for what has not come back.
    pub(super) fn grace(&self) -> Duration {
        ECHO_GRACE.min(self.settings.proof_timeout / 2)
    }

    /// The longest time that a publication takes: an acknowledgement may arrive just in time, and
    /// the echoes of the batch after it. Without the grace period, an entry that a slow server
    /// refuses would end the link instead of being identified, and be retried for ever.
    pub(super) fn publish_limit(&self) -> Duration {
        self.settings.proof_timeout + self.grace()
    }

    /// Keeps a replay below `delivery.max_rate`.
    async fn pace(&self, entries: usize) {
        let rate = self.settings.max_rate;
        if rate > 0.0 {
            sleep(Duration::from_secs_f64(entries as f64 / rate)).await;
        }
    }
}

/// The acknowledgement is that of the last entry, and says that its session is not known.
pub(super) fn forgotten(entries: &[&Entry]) -> Outcome {
    entries.last().map_or(Outcome::Proven, |entry| Outcome::Forgotten(entry.stint))
}

//! What happens to one batch, and what counts as proof that the server kept it.
//!
//! The proof is learned with the first entry on a link: sent back to us (`echo`), acknowledged by
//! a server that then shows it as stored (`ack`), or neither (`written`). It never gets weaker in
//! silence: a server that answers anything at all is not taken to be one that cannot. What is only
//! acknowledged stays in the queue until the server, asked anew, still knows the session and holds
//! it.
//!
//! A server shows only the newest that it holds. So an entry that did not come back though a newer
//! one did is remembered over the end of its link, and sent again. Where nothing comes back, one
//! that is refused without a word cannot be told from the others.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::bind::{Bindings, Stored};
use super::{Session, SessionError, next_verification};
use crate::clock;
use crate::config::{
    ECHO_GRACE, MAX_UNPROVEN_ENTRIES, ProofChoice, WITHOUT_PROOF_LINKS, WRITTEN_AFTER,
};
use crate::entry::{Entry, Seq, StintId};
use crate::planted::planted;
use crate::queue::Batch;
use crate::sink::{Ack, Joined, Link, Proof, Receipt, Sink};

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
            if !bound.stored.has(entry)
                || self.learned.passed_over.contains(&entry.seq)
                || planted("sent_again_though_stored")
            {
                missing.push(entry);
            }
        }
        let mut outcome = if missing.is_empty() {
            let is_news = !std::mem::replace(&mut bindings.has_found_stored, true);
            self.learned.found_stored += u32::from(self.learned.without_proof > 0 && is_news);
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
                batch.forget_frames();
                bindings.unproven.push((Instant::now(), batch));
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
        self.remove(bindings, batch).await?;
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
        if bindings.proof == Some(Proof::Written) {
            let old = |sent: &Instant| sent.elapsed() >= WRITTEN_AFTER;
            while bindings.unproven.first().is_some_and(|(sent, _)| old(sent)) {
                let (_, batch) = bindings.unproven.remove(0);
                self.remove(bindings, batch).await?;
            }
            return Ok(Verified::Known);
        }
        if !bindings.answers_join {
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
                Joined::Known { frame, setup } => {
                    bindings.has_answered = true;
                    let stored = Stored { frame, setup };
                    let newest = bindings.newest_unproven().remove(&stint);
                    if newest.is_some_and(|entry| !stored.has(entry))
                        && !planted("verified_without_a_look")
                    {
                        let what = "an entry that it acknowledged is missing";
                        return Err(SessionError::NotKept(what));
                    }
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
                Joined::Unanswered if bindings.has_answered => {
                    let what = "it does not answer join_session any more";
                    return Err(SessionError::NotKept(what));
                }
                // It may be slow for once, and have forgotten all that it acknowledged.
                Joined::Unanswered if !self.answers_no_join() => {
                    self.learned.unanswered_joins += 1;
                    return Ok(Verified::Known);
                }
                Joined::Unanswered => {
                    tracing::warn!("the server cannot be asked about a session; its word must do");
                    bindings.answers_join = false;
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
        for (_, batch) in std::mem::take(&mut bindings.unproven) {
            self.remove(bindings, batch).await?;
        }
        Ok(())
    }

    /// Waits until nothing is unproven any more, or a session turns out to be forgotten.
    pub(super) async fn settle(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
    ) -> Result<Verified, SessionError> {
        while bindings.has_unproven() {
            if bindings.proof == Some(Proof::Written) {
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
        self.bind_new(link, bindings, stint).await
    }

    async fn publish(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
    ) -> Result<Outcome, SessionError> {
        let strongest = self.sink.strongest_proof();
        let proof = bindings.proof.unwrap_or(match self.settings.proof {
            ProofChoice::Auto => strongest,
            ProofChoice::Echo => Proof::Echo,
            ProofChoice::Ack => Proof::Ack,
            ProofChoice::Written => Proof::Written,
        });
        if proof > strongest {
            return Err(SessionError::Weak(proof.as_str()));
        }
        let proof = if bindings.asks { Proof::Written } else { proof };
        let sent = Instant::now();
        let addressed = bindings.addressed(entries)?;
        let published = link.publish(&addressed, proof, self.grace());
        let times = if planted("proof_waited_for_without_end") { 1_000_000 } else { 1 };
        let published = timeout(self.publish_limit() * times, published).await;
        if !planted("passed_over_forgotten") {
            self.learned.passed_over.extend(link.passed_over());
        }
        let Ok(receipt) = published else {
            self.learned.window.not_answered();
            return self.without_proof(bindings);
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
                self.learn(bindings, if bindings.asks { Proof::Ack } else { Proof::Written });
                Ok(Outcome::Unproven)
            }
            (_, Proof::Ack) => {
                self.learn(bindings, Proof::Ack);
                let came_back = receipt.missing.is_empty();
                Ok(if came_back { Outcome::Proven } else { self.acknowledged(bindings) })
            }
            (_, Proof::Echo) if planted("acknowledgement_believed") => Ok(Outcome::Proven),
            (_, Proof::Echo) if receipt.missing.is_empty() => {
                if bindings.proof.is_none() {
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

    fn acknowledged(&self, bindings: &Bindings) -> Outcome {
        let verifies = bindings.answers_join
            && !self.settings.verify_interval.is_zero()
            && !planted("acknowledged_not_verified");
        if verifies { Outcome::Unproven } else { Outcome::Proven }
    }

    /// Neither an echo nor an acknowledgement came in time. A server that answers when a session
    /// is joined can answer, so its silence is no proof of anything.
    fn without_proof(&mut self, bindings: &mut Bindings) -> Result<Outcome, SessionError> {
        let error = SessionError::NoProof(self.settings.proof_timeout);
        if bindings.proof.is_some() {
            return Err(error);
        }
        self.learned.without_proof += 1;
        // A stalled link takes no session request; this server does, and never answers more.
        let never_answers = !bindings.answers_join && !bindings.has_answered;
        if never_answers && !self.answers_no_join() {
            // The acknowledgement of the join, which never came, was in the way on this link.
            self.learned.unanswered_joins += 1;
            return Err(error);
        }
        if self.learned.without_proof < WITHOUT_PROOF_LINKS || !never_answers {
            return Err(error);
        }
        match self.settings.proof {
            ProofChoice::Auto => {
                self.learn(bindings, Proof::Written);
                Ok(Outcome::Unproven)
            }
            ProofChoice::Echo => Err(SessionError::Weak(Proof::Echo.as_str())),
            ProofChoice::Ack => Err(SessionError::Weak(Proof::Ack.as_str())),
            ProofChoice::Written => Err(error),
        }
    }

    /// The first entry on the link came back. On a new session this is the moment to find out
    /// whether joining shows what is stored; if not, it cannot serve to verify.
    async fn learn_echo(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
    ) -> Result<(), SessionError> {
        self.learn(bindings, Proof::Echo);
        self.learned.without_keeping = false;
        let Some(entry) = entries.first() else { return Ok(()) };
        let bound = bindings.of(entry.stint)?;
        if bound.is_new && bindings.answers_join {
            let session = bound.session.clone();
            let joined = self.join(link, &session).await?;
            bindings.answers_join = matches!(joined, Joined::Known { .. });
        }
        self.verified();
        Ok(())
    }

    pub(super) fn learn(&mut self, bindings: &mut Bindings, proof: Proof) {
        if bindings.proof == Some(proof) {
            return;
        }
        if proof == Proof::Written {
            tracing::warn!(
                "the server confirms nothing; an entry counts as delivered when the connection outlives two heartbeats"
            );
        } else {
            self.learned.without_proof = 0;
            if !bindings.asks {
                self.learned.found_stored = 0;
            }
            tracing::info!(proof = proof.as_str(), "proof of delivery");
        }
        bindings.proof = Some(proof);
        self.status.send_modify(|status| status.proof = Some(proof));
    }

    fn verified(&mut self) {
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.verified, true));
    }

    fn note_inversions(&mut self, receipt: &Receipt) {
        if receipt.inversions == 0 {
            return;
        }
        self.meter.inversions(receipt.inversions);
        if !self.learned.one_at_a_time && !planted("disorder_ignored") {
            self.learned.one_at_a_time = true;
            tracing::warn!("the server changes the order of entries; sending one at a time");
        }
    }

    async fn remove(&mut self, bindings: &Bindings, batch: Batch) -> Result<(), SessionError> {
        let proof = bindings.proof.unwrap_or(Proof::Echo);
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

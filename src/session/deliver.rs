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

use super::bind::{Bound, Stored};
use super::{Session, SessionError, next_verification};
use crate::clock;
use crate::config::{
    ECHO_GRACE, MAX_UNPROVEN_ENTRIES, ProofChoice, REFUSAL_PAUSE, REFUSAL_TRIES,
    WITHOUT_PROOF_LINKS, WRITTEN_AFTER,
};
use crate::entry::{Entry, Seq};
use crate::metrics;
use crate::planted::planted;
use crate::queue::Batch;
use crate::sink::{Ack, Joined, Link, Proof, Receipt, Sink};

/// What is known after entries were published.
#[derive(Debug)]
enum Outcome {
    Proven,
    /// Sent, with a proof that time or the server's word must complete.
    Unproven,
    /// The server keeps others of the session, but not these.
    Refused(Vec<Seq>),
    /// The server does not know the session any more.
    Forgotten,
}

/// What the server says of the session that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verified {
    /// It knows it, and what it acknowledged is proven.
    Known,
    /// It forgot it: another one is bound, and all batches that were out will be read again.
    Rebound,
}

impl<S: Sink> Session<S> {
    /// Brings a batch to the server and removes it from the queue, or says why that ended.
    pub(super) async fn deliver(
        &mut self,
        link: &mut S::Link,
        bound: &mut Bound,
        mut batch: Batch,
    ) -> Result<(), SessionError> {
        if let (Some((first, last)), sent) = (batch.ends(), bound.sent) {
            if sent.is_some_and(|sent| first.0 > sent.0 + 1) {
                self.refresh_setup(link, bound).await?;
            }
            bound.sent = Some(last);
        }
        let passed_over = &self.learned.passed_over;
        let is_missing = |entry: &&Entry| {
            !bound.stored.has(entry)
                || passed_over.contains(&entry.seq)
                || planted("sent_again_though_stored")
        };
        let missing: Vec<Entry> = batch.entries().iter().filter(is_missing).cloned().collect();
        let outcome = if missing.is_empty() {
            self.learned.found_stored += u32::from(self.learned.without_proof > 0);
            Outcome::Proven
        } else {
            self.publish(link, bound, &missing).await?
        };
        match outcome {
            Outcome::Proven => {}
            Outcome::Unproven => {
                batch.forget_frames();
                bound.unproven.push((Instant::now(), batch));
                if bound.unproven_entries() >= MAX_UNPROVEN_ENTRIES {
                    self.settle(link, bound).await?;
                }
                return Ok(());
            }
            Outcome::Refused(seqs) => match self.insist(link, bound, &missing, seqs).await? {
                Some(_) if planted("whole_batch_set_aside") => {
                    let all: Vec<Seq> = batch.entries().iter().map(|entry| entry.seq).collect();
                    batch.quarantine(&all);
                }
                Some(refused) => batch.quarantine(&refused),
                None => return self.rebind(link, bound).await,
            },
            Outcome::Forgotten => return self.rebind(link, bound).await,
        }
        self.remove(bound, batch).await?;
        self.pace(missing.len()).await;
        Ok(())
    }

    /// Publishes an entry that is in no batch: the setup in force, on a page that lacks it.
    pub(super) async fn publish_apart(
        &mut self,
        link: &mut S::Link,
        bound: &mut Bound,
        entry: &Entry,
    ) -> Result<(), SessionError> {
        match self.publish(link, bound, std::slice::from_ref(entry)).await? {
            Outcome::Proven | Outcome::Unproven => {}
            Outcome::Refused(_) => tracing::warn!("the server refuses the setup, going on without"),
            Outcome::Forgotten => {
                return Err(SessionError::NotKept("it forgot the session at once"));
            }
        }
        metrics::resent(1);
        Ok(())
    }

    /// Asks whether the server still knows the session and holds what it acknowledged.
    pub(super) async fn verify(
        &mut self,
        link: &mut S::Link,
        bound: &mut Bound,
    ) -> Result<Verified, SessionError> {
        bound.verify_at = next_verification(&self.settings);
        if bound.proof == Some(Proof::Written) {
            let old = |sent: &Instant| sent.elapsed() >= WRITTEN_AFTER;
            while bound.unproven.first().is_some_and(|(sent, _)| old(sent)) {
                let (_, batch) = bound.unproven.remove(0);
                self.remove(bound, batch).await?;
            }
            return Ok(Verified::Known);
        }
        if !bound.answers_join {
            return Ok(Verified::Known);
        }
        let session = bound.session.clone();
        match self.join(link, &session).await? {
            Joined::Known { frame, setup } => {
                bound.has_answered = true;
                let stored = Stored { frame, setup };
                let newest = bound.unproven.last().and_then(|(_, batch)| batch.entries().last());
                if newest.is_some_and(|entry| !stored.has(entry))
                    && !planted("verified_without_a_look")
                {
                    return Err(SessionError::NotKept("an entry that it acknowledged is missing"));
                }
                for (_, batch) in std::mem::take(&mut bound.unproven) {
                    self.remove(bound, batch).await?;
                }
                self.verified();
                Ok(Verified::Known)
            }
            Joined::Silent if bound.is_new && !bound.has_unproven() => Ok(Verified::Known),
            Joined::Silent => {
                self.rebind(link, bound).await?;
                Ok(Verified::Rebound)
            }
            Joined::Unanswered if bound.has_answered => {
                Err(SessionError::NotKept("it does not answer join_session any more"))
            }
            // It may be slow for once, and have forgotten all that it acknowledged.
            Joined::Unanswered if !self.answers_no_join() => {
                self.learned.unanswered_joins += 1;
                Ok(Verified::Known)
            }
            Joined::Unanswered => {
                tracing::warn!("the server cannot be asked about a session; its word must do");
                bound.answers_join = false;
                for (_, batch) in std::mem::take(&mut bound.unproven) {
                    self.remove(bound, batch).await?;
                }
                Ok(Verified::Known)
            }
        }
    }

    /// Waits until nothing is unproven any more, or the session turns out to be forgotten.
    pub(super) async fn settle(
        &mut self,
        link: &mut S::Link,
        bound: &mut Bound,
    ) -> Result<Verified, SessionError> {
        while bound.has_unproven() {
            if bound.proof == Some(Proof::Written) {
                tokio::select! {
                    biased;
                    error = link.closed() => return Err(error.into()),
                    () = sleep(self.settings.verify_interval) => {}
                }
            }
            if self.verify(link, bound).await? == Verified::Rebound {
                return Ok(Verified::Rebound);
            }
        }
        Ok(Verified::Known)
    }

    /// The server forgot the session: nothing that it acknowledged since is taken as delivered.
    async fn rebind(&mut self, link: &mut S::Link, bound: &mut Bound) -> Result<(), SessionError> {
        metrics::rebound("forgotten");
        tracing::warn!("the server forgot the session, asking for a new one");
        if !planted("new_page_without_what_was_out") {
            self.reader.rewind();
        }
        let stint = self.reader.stint().await?;
        *bound = self.bind_new(link, stint).await?;
        Ok(())
    }

    async fn publish(
        &mut self,
        link: &mut S::Link,
        bound: &mut Bound,
        entries: &[Entry],
    ) -> Result<Outcome, SessionError> {
        let proof = bound.proof.unwrap_or(match self.settings.proof {
            ProofChoice::Auto | ProofChoice::Echo => Proof::Echo,
            ProofChoice::Ack => Proof::Ack,
            ProofChoice::Written => Proof::Written,
        });
        let proof = if bound.asks { Proof::Written } else { proof };
        let sent = Instant::now();
        let published = link.publish(&bound.session, entries, proof, self.grace());
        let times = if planted("proof_waited_for_without_end") { 1_000_000 } else { 1 };
        let published = timeout(self.settings.proof_timeout * times, published).await;
        if !planted("passed_over_forgotten") {
            self.learned.passed_over.extend(link.passed_over());
        }
        let Ok(receipt) = published else { return self.without_proof(bound) };
        if receipt.is_err() && planted("removed_though_not_sent") {
            return Ok(Outcome::Proven);
        }
        let receipt = receipt?;
        metrics::proof_latency(sent.elapsed());
        self.note_inversions(&receipt);
        match (&receipt.ack, proof) {
            (Ack::UnknownSession, _) => Ok(Outcome::Forgotten),
            (Ack::Error(text), _) => self.objected(text, entries, receipt.missing),
            (_, Proof::Written) => {
                self.learn(bound, if bound.asks { Proof::Ack } else { Proof::Written });
                Ok(Outcome::Unproven)
            }
            (_, Proof::Ack) => {
                self.learn(bound, Proof::Ack);
                let came_back = receipt.missing.is_empty();
                Ok(if came_back { Outcome::Proven } else { self.acknowledged(bound) })
            }
            (_, Proof::Echo) if planted("acknowledgement_believed") => Ok(Outcome::Proven),
            (_, Proof::Echo) if receipt.missing.is_empty() => {
                if bound.proof.is_none() {
                    self.learn_echo(link, bound).await?;
                }
                bound.is_new = false;
                bound.verify_at = next_verification(&self.settings);
                Ok(Outcome::Proven)
            }
            (_, Proof::Echo) => self.examine(link, bound, entries, receipt.missing).await,
        }
    }

    /// Acknowledged, but not all came back: find out what the server did with the rest.
    async fn examine(
        &mut self,
        link: &mut S::Link,
        bound: &mut Bound,
        entries: &[Entry],
        missing: Vec<Seq>,
    ) -> Result<Outcome, SessionError> {
        let came_back = |entry: &&Entry| !missing.contains(&entry.seq);
        let newest_back = entries.iter().filter(came_back).map(|entry| entry.seq).max();
        if newest_back.is_some() {
            self.learned.without_keeping = false;
            self.learn(bound, Proof::Echo);
            bound.is_new = false;
            if newest_back >= missing.last().copied() {
                return Ok(Outcome::Refused(missing));
            }
        }
        let session = bound.session.clone();
        match self.join(link, &session).await? {
            Joined::Known { frame, setup } => {
                bound.answers_join = true;
                bound.has_answered = true;
                let stored = Stored { frame, setup };
                // What it held before is newer than one that was passed over, and so is what came
                // back.
                let is_kept = |entry: &Entry| stored.has(entry) && !bound.stored.has(entry);
                if !entries.last().is_some_and(is_kept) {
                    let is_stored = |seq: &Seq| {
                        newest_back.is_none_or(|back| back < *seq)
                            && entries.iter().any(|entry| entry.seq == *seq && is_kept(entry))
                    };
                    let refused = missing.into_iter().filter(|seq| !is_stored(seq)).collect();
                    return Ok(Outcome::Refused(refused));
                }
                self.kept_without_echo(bound)
            }
            Joined::Unanswered => {
                bound.answers_join = false;
                self.kept_without_echo(bound)
            }
            Joined::Silent if bound.is_new => {
                self.learned.without_keeping = true;
                Err(SessionError::NotKept("a new session stays empty"))
            }
            Joined::Silent if planted("forgotten_session_kept") => Ok(Outcome::Proven),
            Joined::Silent => Ok(Outcome::Forgotten),
        }
    }

    /// The server has the entries but does not send them back: the next proof must do.
    fn kept_without_echo(&mut self, bound: &mut Bound) -> Result<Outcome, SessionError> {
        if self.settings.proof == ProofChoice::Echo {
            return Err(SessionError::Weak(Proof::Echo.as_str()));
        }
        self.learn(bound, Proof::Ack);
        bound.is_new = false;
        Ok(Outcome::Proven)
    }

    fn acknowledged(&self, bound: &Bound) -> Outcome {
        let verifies = bound.answers_join
            && !self.settings.verify_interval.is_zero()
            && !planted("acknowledged_not_verified");
        if verifies { Outcome::Unproven } else { Outcome::Proven }
    }

    /// The server answered with an error. Which entry it means is only certain for a single one.
    fn objected(
        &mut self,
        text: &str,
        entries: &[Entry],
        missing: Vec<Seq>,
    ) -> Result<Outcome, SessionError> {
        tracing::warn!(error = text, "the server refuses an entry");
        if let [entry] = entries {
            return Ok(Outcome::Refused(vec![entry.seq]));
        }
        if missing.len() < entries.len() {
            return Ok(Outcome::Refused(missing));
        }
        self.learned.one_at_a_time = true;
        Err(SessionError::NotKept("it refused an entry of a batch; going on one at a time"))
    }

    /// Neither an echo nor an acknowledgement came in time. A server that answers when a session
    /// is joined can answer, so its silence is no proof of anything.
    fn without_proof(&mut self, bound: &mut Bound) -> Result<Outcome, SessionError> {
        let error = SessionError::NoProof(self.settings.proof_timeout);
        if bound.proof.is_some() {
            return Err(error);
        }
        self.learned.without_proof += 1;
        // A stalled link takes no session request; this server does, and never answers more.
        let never_answers = !bound.answers_join && !bound.has_answered;
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
                self.learn(bound, Proof::Written);
                Ok(Outcome::Unproven)
            }
            ProofChoice::Echo => Err(SessionError::Weak(Proof::Echo.as_str())),
            ProofChoice::Ack => Err(SessionError::Weak(Proof::Ack.as_str())),
            ProofChoice::Written => Err(error),
        }
    }

    /// Tries refused entries again. Gives those that the server still refuses while it keeps the
    /// session, or `None` if it forgot the session.
    async fn insist(
        &mut self,
        link: &mut S::Link,
        bound: &mut Bound,
        entries: &[Entry],
        mut refused: Vec<Seq>,
    ) -> Result<Option<Vec<Seq>>, SessionError> {
        let tries = if planted("refused_entry_tried_once") { 1 } else { REFUSAL_TRIES };
        for _ in 1..tries {
            sleep(REFUSAL_PAUSE).await;
            let again: Vec<Entry> =
                entries.iter().filter(|entry| refused.contains(&entry.seq)).cloned().collect();
            let proof = bound.proof.unwrap_or(Proof::Echo);
            let published = link.publish(&bound.session, &again, proof, self.grace());
            let receipt = timeout(self.settings.proof_timeout, published)
                .await
                .map_err(|_| SessionError::NoProof(self.settings.proof_timeout))??;
            refused = match (proof, receipt.ack) {
                (_, Ack::UnknownSession) => return Ok(None),
                (Proof::Echo, _) => receipt.missing,
                (_, Ack::Error(_)) => refused,
                (_, _) => Vec::new(),
            };
            if refused.is_empty() {
                return Ok(Some(refused));
            }
        }
        let session = bound.session.clone();
        if bound.answers_join && self.join(link, &session).await? == Joined::Silent {
            return Ok(if bound.is_new { Some(refused) } else { None });
        }
        Ok(Some(refused))
    }

    /// The first entry on the link came back. On a new session this is the moment to find out
    /// whether joining shows what is stored; if not, it cannot serve to verify.
    async fn learn_echo(
        &mut self,
        link: &mut S::Link,
        bound: &mut Bound,
    ) -> Result<(), SessionError> {
        self.learn(bound, Proof::Echo);
        self.learned.without_keeping = false;
        if bound.is_new && bound.answers_join {
            let session = bound.session.clone();
            bound.answers_join = matches!(self.join(link, &session).await?, Joined::Known { .. });
        }
        self.verified();
        Ok(())
    }

    fn learn(&mut self, bound: &mut Bound, proof: Proof) {
        if bound.proof == Some(proof) {
            return;
        }
        if proof == Proof::Written {
            tracing::warn!(
                "the server confirms nothing; an entry counts as delivered when the connection outlives two heartbeats"
            );
        } else {
            self.learned.without_proof = 0;
            if !bound.asks {
                self.learned.found_stored = 0;
            }
            tracing::info!(proof = proof.as_str(), "proof of delivery");
        }
        bound.proof = Some(proof);
        self.status.send_modify(|status| status.proof = Some(proof));
    }

    fn verified(&mut self) {
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.verified, true));
    }

    fn note_inversions(&mut self, receipt: &Receipt) {
        if receipt.inversions == 0 {
            return;
        }
        metrics::inversions(receipt.inversions);
        if !self.learned.one_at_a_time && !planted("disorder_ignored") {
            self.learned.one_at_a_time = true;
            tracing::warn!("the server changes the order of entries; sending one at a time");
        }
    }

    async fn remove(&mut self, bound: &Bound, batch: Batch) -> Result<(), SessionError> {
        let proof = bound.proof.unwrap_or(Proof::Echo);
        metrics::delivered(proof, clock::now(), batch.entries());
        if let Some((_, last)) = batch.ends() {
            self.learned.passed_over = self.learned.passed_over.split_off(&Seq(last.0 + 1));
        }
        self.reader.remove(batch).await?;
        if !planted("backoff_never_reset") {
            self.backoff.reset();
        }
        Ok(())
    }

    /// How long to wait after an acknowledgement for what has not come back. Shorter than the limit
    /// for the proof, or a refused entry would end the link instead of being found out.
    fn grace(&self) -> Duration {
        ECHO_GRACE.min(self.settings.proof_timeout / 2)
    }

    /// Keeps a replay below `delivery.max_rate`.
    async fn pace(&self, entries: usize) {
        let rate = self.settings.max_rate;
        if rate > 0.0 {
            sleep(Duration::from_secs_f64(entries as f64 / rate)).await;
        }
    }
}

//! Delivers one batch, and defines what proves that the server stored it.
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

use tokio::time::{Instant, sleep, timeout};

use super::bind::{Bindings, Presence, Unproven};
use super::capability::Evidence;
use super::poison::{InFlight, kind_name};
use super::{ACK_AFTER_PAUSE, Session, SessionError, next_verification};
use crate::config::{ProofChoice, SessionChoice};
use crate::entry::{Entry, Seq, StintId};
use crate::platform::clock;
use crate::queue::Batch;
use crate::session::{ECHO_GRACE, MAX_UNPROVEN_ENTRIES};
use crate::sink::{Ack, Addressed, Joined, Link, Proof, Receipt, Sink, SinkError};

/// On a server that confirms nothing, an entry counts as delivered when the connection outlives
/// twice the ping interval (25 s) and timeout (20 s) after it.
const WRITTEN_AFTER: Duration = Duration::from_secs(90);

/// The reason of a dead letter that the server acknowledged, in vain or with an error.
const REFUSED: &str = "the server refuses it";

/// The number of failed tries of one entry that are logged as warnings. A server that takes nothing
/// fails every few seconds.
const LOGGED_TRIES: u32 = 10;

/// The result of publishing entries.
#[derive(Debug)]
pub(super) enum Outcome {
    Proven,
    /// Sent; the proof is completed by elapsed time or a later query to the server.
    Unproven,
    /// The server stores other entries of the session, but not these.
    Refused(Vec<Seq>),
    /// The server no longer knows the session of this stint.
    Forgotten(StintId),
}

impl Outcome {
    /// The result of publishing further entries after these.
    fn and(self, next: Self) -> Self {
        match (self, next) {
            (Self::Forgotten(stint), _) | (_, Self::Forgotten(stint)) => Self::Forgotten(stint),
            (Self::Refused(mut seqs), Self::Refused(more)) => {
                seqs.extend(more);
                Self::Refused(seqs)
            }
            (Self::Refused(seqs), _) | (_, Self::Refused(seqs)) => Self::Refused(seqs),
            (Self::Unproven, _) | (_, Self::Unproven) => Self::Unproven,
            (Self::Proven, Self::Proven) => Self::Proven,
        }
    }
}

/// Whether the server knows the session that an entry was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionKnown {
    Yes,
    No,
}

/// The result of asking the server about the bound sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verified {
    /// The server knows them, and the entries that it acknowledged are proven.
    Known,
    /// The server forgot one: a new one is bound, and all batches in flight will be read again.
    Rebound,
}

impl<S: Sink> Session<S> {
    /// Sends a batch to the server, and removes it from the queue once it is proven.
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
            self.learned.isolation.starts(first);
        }
        let (mut missing, mut undeliverable) = (Vec::new(), Vec::new());
        for entry in batch.entries() {
            if let Some(reason) = self.learned.isolation.verdict(entry.seq) {
                undeliverable.push((entry.seq, reason.to_owned()));
                continue;
            }
            if bindings.of(entry.stint).is_err() {
                self.bind(link, bindings, entry.stint).await?;
            }
            let bound = bindings.of_mut(entry.stint)?;
            bound.sent = Some(entry.seq);
            let is_stored = self.learned.stored.has(entry) || self.elsewhere.has(entry);
            if !is_stored || self.learned.skipped.contains(&entry.seq) {
                missing.push(entry);
            } else {
                self.learned.isolation.answered(entry.seq);
            }
        }
        if let Some(suspect) = self.learned.isolation.to_overtake()
            && missing.last().is_some_and(|entry| entry.seq == suspect)
            && let Some((_, last)) = batch.ends()
        {
            self.learned.isolation.lacks_probe(last);
        }
        let mut outcome = if !missing.is_empty() {
            self.publish_queued(link, bindings, &missing).await?
        } else {
            if undeliverable.is_empty() {
                self.observe(Evidence::FoundStored);
            }
            Outcome::Proven
        };
        if let Outcome::Refused(seqs) = outcome {
            outcome = self.retry_refused(link, bindings, &missing, seqs).await?;
        }
        let sent = missing.len();
        for (seq, reason) in undeliverable {
            batch.mark_refused(&[seq], &reason);
        }
        match outcome {
            Outcome::Proven if !bindings.has_unproven() => {}
            // Earlier batches are still unproven, and batches are removed in order.
            Outcome::Proven | Outcome::Unproven => {
                let ids = batch.entries().iter().map(|entry| self.sink.identify(entry)).collect();
                batch.forget_frames();
                bindings.unproven.push(Unproven { sent_at: Instant::now(), batch, ids });
                if bindings.unproven_entries() >= MAX_UNPROVEN_ENTRIES
                    || self.learned.isolation.is_active()
                {
                    self.settle(link, bindings).await?;
                }
                return Ok(());
            }
            Outcome::Refused(refused) => batch.mark_refused(&refused, REFUSED),
            Outcome::Forgotten(stint) => return self.rebind(link, bindings, stint).await,
        }
        if self.settle(link, bindings).await? == Verified::Rebound {
            return Ok(());
        }
        self.remove(batch).await?;
        self.pace(sent).await;
        Ok(())
    }

    /// Publishes an entry outside of a batch: the setup in force, when the page lacks it.
    pub(super) async fn publish_apart(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entry: &Entry,
    ) -> Result<SessionKnown, SessionError> {
        bindings.setup_in_flight = Some(entry.seq);
        let published = self.publish(link, bindings, &[entry]).await?;
        bindings.setup_in_flight = None;
        match published {
            Outcome::Proven | Outcome::Unproven => {}
            Outcome::Refused(_) => tracing::warn!("the server refuses the setup; skipping it"),
            Outcome::Forgotten(_) => return Ok(SessionKnown::No),
        }
        self.meter.resent(1);
        Ok(SessionKnown::Yes)
    }

    /// Asks whether the server still knows the session and stores what it acknowledged.
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
            let joined = self.join(link, &session).await?;
            let joined = if bindings.is_as_expected(stint, joined, &self.learned.stored) {
                joined
            } else {
                self.join_again(link, &session, joined).await?
            };
            match joined {
                Joined::Known(shown) => {
                    self.observe(Evidence::SessionShown);
                    let newest = bindings.newest_unproven().remove(&stint);
                    let newest = newest.map(|(entry, id)| (entry.clone(), id));
                    if let Some((entry, id)) = newest {
                        let stored = self.learned.stored.newest(stint, entry.kind);
                        let stored = stored.map(|(_, id)| id);
                        match bindings.presence(&entry, shown, stored) {
                            Presence::Missing => {
                                let what = "an acknowledged entry is missing";
                                return Err(SessionError::NotKept(what));
                            }
                            Presence::Hidden => self.hidden(bindings),
                            Presence::Stored => self.learned.stored.note(&entry, id),
                        }
                    }
                    bindings.of_mut(stint)?.shown = shown;
                    self.confirmed(bindings, stint)?;
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
                    let what = "it no longer answers join_session";
                    return Err(SessionError::NotKept(what));
                }
                // A single timeout may be a slow server, and the entries may still be missing: keep
                // them unproven.
                Joined::Unanswered if !self.learned.capability.has_no_joins() => {
                    self.observe(Evidence::JoinTimedOut);
                    return Ok(Verified::Known);
                }
                Joined::Unanswered => {
                    tracing::warn!(
                        "the server does not answer join_session; trusting its acknowledgements \
                         without verification"
                    );
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
                    () = sleep(self.settings.verify_interval) => {}
                }
            }
            if self.verify(link, bindings).await? == Verified::Rebound {
                return Ok(Verified::Rebound);
            }
        }
        Ok(Verified::Known)
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

    /// Publishes entries of the queue. If one of them got no proof before, the probe goes first and
    /// the entry follows alone.
    async fn publish_queued(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
    ) -> Result<Outcome, SessionError> {
        let suspect = self.learned.isolation.to_overtake();
        let Some(index) = entries.iter().position(|entry| Some(entry.seq) == suspect) else {
            return self.publish_group(link, bindings, entries).await;
        };
        let (before, suspect_and_after) = entries.split_at(index);
        let (suspect, after) = suspect_and_after.split_at(1);
        let mut outcome = Outcome::Proven;
        if !before.is_empty() {
            outcome = outcome.and(self.publish_group(link, bindings, before).await?);
            if let Outcome::Forgotten(_) = outcome {
                return Ok(outcome);
            }
        }
        let probe = self.learned.isolation.probe(after);
        let (between, probe_and_rest) = after.split_at(probe.unwrap_or(0));
        let (probe, rest) = probe_and_rest.split_at(probe_and_rest.len().min(1));
        if !probe.is_empty() {
            // What the server stores of the probe proves nothing about these.
            let overtaken = suspect.iter().chain(between).map(|entry| entry.seq);
            self.learned.skipped.extend(overtaken);
            outcome = outcome.and(self.publish_until_proven(link, bindings, probe).await?);
            if let Outcome::Forgotten(_) = outcome {
                return Ok(outcome);
            }
            self.backoff.reset();
        }
        outcome = outcome.and(self.publish_until_proven(link, bindings, suspect).await?);
        let is_one_at_a_time = self.learned.capability.is_one_at_a_time();
        let size = if is_one_at_a_time { 1 } else { self.learned.window.entries().max(1) };
        for group in between.chunks(size).chain(rest.chunks(size)) {
            if let Outcome::Forgotten(_) = outcome {
                return Ok(outcome);
            }
            outcome = outcome.and(self.publish_group(link, bindings, group).await?);
        }
        Ok(outcome)
    }

    /// Publishes an entry alone. If only time can prove it, waits for that.
    async fn publish_until_proven(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
    ) -> Result<Outcome, SessionError> {
        let outcome = self.publish_group(link, bindings, entries).await?;
        if self.learned.capability.awaited() != Some(Proof::Written) {
            return Ok(outcome);
        }
        bindings.in_flight = entries.iter().map(|entry| InFlight::of(entry)).collect();
        tokio::select! {
            biased;
            error = link.closed() => return Err(error.into()),
            () = sleep(WRITTEN_AFTER) => {}
        }
        bindings.in_flight.clear();
        self.learned.isolation.proven(entries.iter().map(|entry| entry.seq));
        Ok(outcome)
    }

    /// Publishes entries of the queue together, and records which of them were proven.
    async fn publish_group(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
    ) -> Result<Outcome, SessionError> {
        let in_flight: Vec<_> = entries.iter().map(|entry| InFlight::of(entry)).collect();
        bindings.in_flight.clone_from(&in_flight);
        let outcome = self.publish(link, bindings, entries).await?;
        bindings.in_flight.clear();
        let is_written = self.learned.capability.awaited() == Some(Proof::Written);
        let isolation = &mut self.learned.isolation;
        match &outcome {
            Outcome::Proven => {
                isolation.proven(in_flight.iter().map(|one| one.seq));
                in_flight.iter().for_each(|one| {
                    self.learned.skipped.remove(&one.seq);
                });
            }
            // Acknowledged: the server has processed them.
            Outcome::Unproven if !is_written => {
                isolation.proven(in_flight.iter().map(|one| one.seq));
            }
            Outcome::Unproven | Outcome::Forgotten(_) => {}
            Outcome::Refused(_) => {
                self.note_proven_in_part(link, &in_flight);
            }
        }
        Ok(outcome)
    }

    /// Records which entries of the last publication were proven, and which one was overtaken by
    /// them. Returns whether one was.
    fn note_proven_in_part(&mut self, link: &S::Link, in_flight: &[InFlight]) -> bool {
        let isolation = &mut self.learned.isolation;
        let back = link.came_back();
        isolation.proven(back.iter().copied());
        let passed_over = link.skipped();
        let retried = isolation.retrying().map(|retrying| retrying.seq);
        let overtaken = retried.filter(|seq| passed_over.contains(seq));
        let overtaken = overtaken.or(passed_over.first().copied());
        let Some(overtaken) = in_flight.iter().find(|one| Some(one.seq) == overtaken) else {
            return false;
        };
        isolation.overtaken(*overtaken, back.iter().max().copied(), Instant::now());
        true
    }

    /// Records which entries were in flight without proof when the connection ended with an error.
    pub(super) fn note_failure(
        &mut self,
        link: &S::Link,
        bindings: &Bindings,
        error: &SessionError,
    ) {
        let (SessionError::NoProof(_)
        | SessionError::Sink(
            SinkError::Lost(_) | SinkError::Timeout(..) | SinkError::Protocol(_),
        )) = error
        else {
            return;
        };
        // NATS answers for each entry, and hubs rely on the order of the stream.
        if self.sink.strongest_proof() < Proof::Echo {
            return;
        }
        let reason = error.to_string();
        if let Some(setup) = bindings.setup_in_flight {
            if self.learned.isolation.setup_failed(setup, &reason) {
                tracing::warn!(
                    seq = setup.0,
                    reason,
                    "cannot send the setup in force; skipping it"
                );
            }
            return;
        }
        let mut unproven = bindings.in_flight.clone();
        if !unproven.is_empty() && self.note_proven_in_part(link, &unproven) {
            return self.show_retrying();
        }
        if !unproven.is_empty() {
            let back = link.came_back();
            unproven.retain(|one| !back.contains(&one.seq));
        }
        if self.learned.capability.awaited() == Some(Proof::Written) {
            unproven.splice(..0, bindings.written());
        }
        let now = Instant::now();
        if let Some(InFlight { seq, kind, bytes }) =
            self.learned.isolation.failed(&unproven, &reason, now)
        {
            tracing::error!(
                seq = seq.0,
                kind = kind_name(kind),
                bytes,
                reason,
                "an entry cannot be delivered although others are; it becomes a dead letter"
            );
        }
        self.show_retrying();
    }

    /// Shows the entry that is sent again.
    fn show_retrying(&self) {
        let retrying = self.learned.isolation.retrying();
        if let Some(retrying) = retrying.filter(|retrying| retrying.attempt <= LOGGED_TRIES) {
            tracing::warn!("{retrying}");
        }
        self.status.send_if_modified(|status| {
            std::mem::replace(&mut status.retrying, retrying) != retrying
        });
    }

    fn clear_retrying(&self) {
        if self.learned.isolation.retrying().is_none() {
            self.status.send_if_modified(|status| status.retrying.take().is_some());
        }
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
        match (&receipt.ack, proof) {
            (Ack::UnknownSession, _) => Ok(forgotten(entries)),
            (Ack::Error(text), _) => {
                self.objected(link, bindings, text, entries, receipt.missing).await
            }
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
            (_, Proof::Echo) if receipt.missing.is_empty() => {
                if self.learned.capability.proof().is_none() {
                    self.learn_echo(link, bindings, entries).await?;
                }
                for entry in entries {
                    self.confirmed(bindings, entry.stint)?;
                }
                bindings.verify_at = next_verification(&self.settings);
                Ok(Outcome::Proven)
            }
            (_, Proof::Echo) => self.examine(link, bindings, entries, receipt.missing).await,
        }
    }

    /// Whether to request an acknowledgement beside echoes: not of a backlog for a server that takes
    /// one entry at a time, because each would delay the echo that follows it. If an entry without one is not
    /// echoed, the link ends, and the first entry of the next link is acknowledged.
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
                self.learned.stored.note(entry, *id);
            }
        }
    }

    fn acknowledged(&self) -> Outcome {
        let verifies =
            self.learned.capability.can_be_asked() && !self.settings.verify_interval.is_zero();
        if verifies { Outcome::Unproven } else { Outcome::Proven }
    }

    /// Handles a publication for which neither an echo nor an acknowledgement came in time.
    fn without_proof(&mut self) -> Result<Outcome, SessionError> {
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
                Ok(Outcome::Unproven)
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
        if learned == Proof::Written {
            tracing::warn!(
                "the server confirms nothing; an entry counts as delivered when the connection \
                 outlives two heartbeats"
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
        self.learned.reordered_at = Some(Instant::now());
        if !self.learned.capability.is_one_at_a_time() {
            self.observe(Evidence::Reordered);
            tracing::warn!("the server changes the order of entries; sending one at a time");
        }
    }

    async fn remove(&mut self, batch: Batch) -> Result<(), SessionError> {
        let proof = self.learned.capability.proof().unwrap_or(Proof::Echo);
        let now = clock::now();
        self.meter.delivered(proof.as_str(), now, batch.entries());
        self.latencies.note(now, batch.entries());
        if let Some((_, last)) = batch.ends() {
            self.learned.skipped = self.learned.skipped.split_off(&Seq(last.0 + 1));
            self.learned.isolation.removed(last);
            self.clear_retrying();
        }
        self.reader.ack_unconfirmed(batch).await?;
        self.backoff.reset();
        Ok(())
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

    /// Limits a replay to `delivery.max_rate`.
    async fn pace(&self, entries: usize) {
        let rate = self.settings.max_rate;
        if rate > 0.0 {
            sleep(Duration::from_secs_f64(entries as f64 / rate)).await;
        }
    }
}

/// The outcome of an "unknown session" acknowledgement, which belongs to the last entry.
pub(super) fn forgotten(entries: &[&Entry]) -> Outcome {
    entries.last().map_or(Outcome::Proven, |entry| Outcome::Forgotten(entry.stint))
}

//! Determines what happened to entries without an echo: stored, refused, or sent to a session that
//! the server forgot.
//!
//! A server shows only the newest entry that it stores. An entry that was not echoed although a
//! newer one was is therefore retried, and becomes a dead letter if the retries fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::bindings::Bindings;
use super::capability::Evidence;
use super::poison::InFlight;
use super::publish::{PublishOutcome, forgotten};
use super::{Session, SessionError};
use crate::config::{ProofChoice, SessionChoice};
use crate::entry::{Entry, Kind, Seq, StintId};
use crate::sink::{Ack, Joined, Link, Proof, Shown, Sink};

/// The number of attempts for an entry that the server refuses, and the pause between them: 5 s in
/// all.
const REFUSAL_TRIES: u32 = 3;
const REFUSAL_PAUSE: Duration = Duration::from_millis(2500);

impl<S: Sink> Session<S> {
    /// Determines, stint by stint, what the server did with acknowledged entries that it did not
    /// echo.
    pub(super) async fn examine(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
        missing: Vec<Seq>,
    ) -> Result<PublishOutcome, SessionError> {
        self.came_back(bindings, entries, &missing)?;
        let of_missing = entries.iter().filter(|entry| missing.contains(&entry.seq));
        let stints: BTreeSet<StintId> = of_missing.map(|entry| entry.stint).collect();
        let mut outcome = PublishOutcome::Proven;
        for stint in stints {
            let entries: Vec<&Entry> =
                entries.iter().copied().filter(|entry| entry.stint == stint).collect();
            outcome =
                outcome.and(self.examine_stint(link, bindings, stint, &entries, &missing).await?);
            if let PublishOutcome::Forgotten(_) = outcome {
                break;
            }
        }
        Ok(outcome)
    }

    /// Records that all but the missing entries were echoed, so the server stores what their
    /// sessions receive.
    fn came_back(
        &mut self,
        bindings: &mut Bindings,
        entries: &[&Entry],
        missing: &[Seq],
    ) -> Result<(), SessionError> {
        for entry in entries.iter().filter(|entry| !missing.contains(&entry.seq)) {
            self.observe(Evidence::Echoed);
            self.confirmed(bindings, entry.stint)?;
        }
        Ok(())
    }

    /// Determines the outcome of the missing entries of one stint.
    async fn examine_stint(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
        entries: &[&Entry],
        missing: &[Seq],
    ) -> Result<PublishOutcome, SessionError> {
        let seqs = entries.iter().map(|entry| entry.seq);
        let (missing, back): (Vec<Seq>, Vec<Seq>) = seqs.partition(|seq| missing.contains(seq));
        let newest_back = back.last().copied();
        if newest_back.is_some() && newest_back >= missing.last().copied() {
            return Ok(PublishOutcome::refused(missing));
        }
        let bound = bindings.of(stint)?;
        let (is_new, is_unconfirmed) = (bound.is_new, bound.is_unconfirmed);
        let session = bound.session.clone();
        match self.join(link, &session).await? {
            Joined::Known(shown) => {
                self.observe(Evidence::SessionShown);
                self.examine_shown(bindings, stint, entries, &missing, newest_back, shown)
            }
            // The server echoes others, so it would have echoed these.
            Joined::Unanswered if self.learned.capability.proof() == Some(Proof::Echo) => {
                Ok(PublishOutcome::refused(missing))
            }
            Joined::Unanswered if self.learned.capability.has_shown() => {
                Err(SessionError::NotKept("it no longer answers join_session"))
            }
            Joined::Unanswered => {
                self.observe(Evidence::JoinsGivenUp);
                self.kept_without_echo(bindings, stint)
            }
            Joined::Silent if is_unconfirmed => self.unknown(stint),
            Joined::Silent if is_new => {
                self.observe(Evidence::NewSessionEmpty);
                // A single entry may be one that the server refuses.
                if let [entry] = entries {
                    bindings.in_flight = vec![InFlight::of(entry)];
                }
                Err(SessionError::NotKept("a new session stays empty"))
            }
            Joined::Silent => Ok(PublishOutcome::Forgotten(stint)),
        }
    }

    /// Determines what the server did with the missing entries of a stint by what it shows of the
    /// session.
    fn examine_shown(
        &mut self,
        bindings: &mut Bindings,
        stint: StintId,
        entries: &[&Entry],
        missing: &[Seq],
        newest_back: Option<Seq>,
        shown: Shown,
    ) -> Result<PublishOutcome, SessionError> {
        // The newest entry of each kind that the server shows is stored, with all entries sent
        // before it. Entries without an echo that are older than an echoed one were skipped.
        let frames_to = self.newest_shown(entries, Kind::Frame, shown);
        let setups_to = self.newest_shown(entries, Kind::Setup, shown);
        let refused: Vec<Seq> = entries
            .iter()
            .filter(|entry| {
                let stored_to = match entry.kind {
                    Kind::Frame => frames_to,
                    Kind::Setup => setups_to,
                };
                let is_stored = Some(entry.seq) >= newest_back && Some(entry.seq) <= stored_to;
                missing.contains(&entry.seq) && !is_stored
            })
            .map(|entry| entry.seq)
            .collect();
        if refused.is_empty() {
            self.note_kept(entries);
            return self.kept_without_echo(bindings, stint);
        }
        let shows_ours = frames_to.is_some() || setups_to.is_some();
        let has_changed = shown != bindings.of(stint)?.shown && shown != Shown::default();
        if shows_ours
            || !has_changed
            || newest_back.is_some()
            || self.learned.capability.has_echoed()
        {
            return Ok(PublishOutcome::refused(refused));
        }
        // Another publisher's entry hides whether ours is stored, and this server has never echoed
        // one of ours.
        self.hidden(bindings);
        self.kept_without_echo(bindings, stint)
    }

    /// The newest of these entries that the server shows.
    fn newest_shown(&self, entries: &[&Entry], kind: Kind, shown: Shown) -> Option<Seq> {
        let id = shown.newest(kind)?;
        entries
            .iter()
            .rfind(|entry| entry.kind == kind && self.sink.identify(entry) == id)
            .map(|entry| entry.seq)
    }

    /// Handles an entry that was acknowledged for a session that the server has not shown to know,
    /// and that it does not store.
    fn unknown(&mut self, stint: StintId) -> Result<PublishOutcome, SessionError> {
        if let SessionChoice::Auto = self.choice {
            return Ok(PublishOutcome::Forgotten(stint));
        }
        // The server may have refused the entry instead. Several entries can tell.
        self.observe(Evidence::NewSessionEmpty);
        Err(SessionError::UnknownSession)
    }

    /// Records entries as stored; the server shows the newest of them.
    fn note_kept(&mut self, entries: &[&Entry]) {
        for entry in entries {
            let id = self.sink.identify(entry);
            self.learned.stored.note(entry, id);
        }
    }

    /// Handles entries that the server stores but does not echo: falls back to the next weaker
    /// proof, unless it echoed others and these echoes are only late.
    fn kept_without_echo(
        &mut self,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<PublishOutcome, SessionError> {
        self.confirmed(bindings, stint)?;
        if self.learned.capability.proof() == Some(Proof::Echo) {
            return Ok(PublishOutcome::Proven);
        }
        if self.settings.proof == ProofChoice::Echo {
            return Err(SessionError::Weak(Proof::Echo.as_str()));
        }
        self.observe(Evidence::Acknowledged);
        Ok(PublishOutcome::Proven)
    }

    /// Handles an error in an acknowledgement, which names no entry: without echoes, the refused
    /// entry is only known if a single one was sent.
    pub(super) async fn objected(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        text: &str,
        entries: &[&Entry],
        missing: Vec<Seq>,
    ) -> Result<PublishOutcome, SessionError> {
        tracing::warn!(error = text, "the server refuses an entry");
        // Otherwise a server that forgot the session right away would look like one that never
        // stores.
        self.came_back(bindings, entries, &missing)?;
        if let [entry] = entries {
            return Ok(PublishOutcome::refused(vec![entry.seq]));
        }
        if missing.len() < entries.len() {
            return Ok(PublishOutcome::refused(missing));
        }
        // The server may not know the session, and would refuse the same batch on every link. If it
        // knows it, it may have stored the other entries of the batch, and shows them.
        let unconfirmed = entries
            .iter()
            .map(|entry| entry.stint)
            .find(|stint| bindings.of(*stint).is_ok_and(|bound| bound.is_unconfirmed));
        if let Some(stint) = unconfirmed
            && self.choice == SessionChoice::Auto
        {
            let session = bindings.of(stint)?.session.clone();
            let joined = self.join(link, &session).await?;
            if joined == Joined::Silent
                && self.join_again(link, &session, joined).await? == Joined::Silent
            {
                return Ok(PublishOutcome::Forgotten(stint));
            }
        }
        Err(self.one_at_a_time())
    }

    fn one_at_a_time(&mut self) -> SessionError {
        self.observe(Evidence::RefusedUnnamed);
        self.learned.reordered_at = Some(Instant::now());
        SessionError::NotKept("it refused an entry of a batch; sending one at a time")
    }

    /// Retries refused entries. Returns the ones that the server still refuses although it knows
    /// their session.
    pub(super) async fn retry_refused(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
        mut refused: Vec<Seq>,
    ) -> Result<PublishOutcome, SessionError> {
        for _ in 1..REFUSAL_TRIES {
            sleep(REFUSAL_PAUSE).await;
            let again = with_seqs(entries, &refused);
            let proof = self.learned.capability.proof().unwrap_or(Proof::Echo);
            bindings.in_flight = again.iter().map(|entry| InFlight::of(entry)).collect();
            let addressed = bindings.addressed(&self.sink, &again)?;
            link.request_acks(true);
            let published = link.publish(&addressed, proof, self.grace());
            let receipt = timeout(self.publish_limit(), published)
                .await
                .map_err(|_| SessionError::NoProof(self.settings.proof_timeout))??;
            bindings.in_flight.clear();
            refused = match (proof, receipt.ack) {
                (_, Ack::UnknownSession) => return Ok(forgotten(&again)),
                (Proof::Echo, _) => receipt.missing,
                (_, Ack::Error(_)) => refused,
                (_, _) => Vec::new(),
            };
            if refused.is_empty() {
                let is_echoed = proof == Proof::Echo;
                return Ok(if is_echoed { PublishOutcome::Proven } else { self.acknowledged() });
            }
        }
        if !self.learned.capability.can_be_asked() {
            return Ok(PublishOutcome::refused(refused));
        }
        let mut refused_of: BTreeMap<StintId, usize> = BTreeMap::new();
        for entry in with_seqs(entries, &refused) {
            *refused_of.entry(entry.stint).or_default() += 1;
        }
        for (stint, count) in refused_of {
            let bound = bindings.of(stint)?;
            let session = bound.session.clone();
            let may_be_unknown =
                !bound.is_new || (bound.is_unconfirmed && self.choice == SessionChoice::Auto);
            let joined = self.join(link, &session).await?;
            if joined != Joined::Silent
                || self.join_again(link, &session, joined).await? != Joined::Silent
            {
                continue;
            }
            if may_be_unknown {
                return Ok(PublishOutcome::Forgotten(stint));
            }
            // The new session is empty: either each entry was refused or the session was forgotten.
            // Entries sent one at a time can tell.
            if count > 1 {
                return Err(self.one_at_a_time());
            }
        }
        Ok(PublishOutcome::refused(refused))
    }
}

/// The entries with these positions.
fn with_seqs<'a>(entries: &[&'a Entry], seqs: &[Seq]) -> Vec<&'a Entry> {
    entries.iter().copied().filter(|entry| seqs.contains(&entry.seq)).collect()
}

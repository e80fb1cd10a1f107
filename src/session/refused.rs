//! Determines what happened to entries without an echo: stored, refused, or sent to a session that
//! the server forgot.
//!
//! A server shows only the newest entry that it stores. An entry that was not echoed although a
//! newer one was is therefore retried, and set aside as a dead letter if the retries fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::bind::Bindings;
use super::capability::Evidence;
use super::deliver::{Outcome, forgotten};
use super::poison::InFlight;
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
    ) -> Result<Outcome, SessionError> {
        self.came_back(bindings, entries, &missing)?;
        let of_missing = entries.iter().filter(|entry| missing.contains(&entry.seq));
        let stints: BTreeSet<StintId> = of_missing.map(|entry| entry.stint).collect();
        let mut refused = Vec::new();
        for stint in stints {
            let entries: Vec<&Entry> =
                entries.iter().copied().filter(|entry| entry.stint == stint).collect();
            match self.examine_stint(link, bindings, stint, &entries, &missing).await? {
                Outcome::Proven | Outcome::Unproven => {}
                Outcome::Refused(more) => refused.extend(more),
                Outcome::Forgotten(stint) => return Ok(Outcome::Forgotten(stint)),
            }
        }
        refused.sort();
        Ok(if refused.is_empty() { Outcome::Proven } else { Outcome::Refused(refused) })
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

    /// Determines what the server did with the missing entries of one stint.
    async fn examine_stint(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        stint: StintId,
        entries: &[&Entry],
        missing: &[Seq],
    ) -> Result<Outcome, SessionError> {
        let seqs = entries.iter().map(|entry| entry.seq);
        let (missing, back): (Vec<Seq>, Vec<Seq>) = seqs.partition(|seq| missing.contains(seq));
        let newest_back = back.last().copied();
        if newest_back.is_some() && newest_back >= missing.last().copied() {
            return Ok(Outcome::Refused(missing));
        }
        let bound = bindings.of(stint)?;
        let (session, before) = (bound.session.clone(), bound.shown);
        let (is_new, is_unconfirmed) = (bound.is_new, bound.is_unconfirmed);
        match self.join(link, &session).await? {
            Joined::Known(shown) => {
                self.observe(Evidence::SessionShown);
                // The newest entry of each kind that the server shows is stored, with all entries
                // sent before it. Entries without an echo that are older than an echoed one were
                // skipped.
                let shows =
                    |entry: &Entry| shown.newest(entry.kind) == Some(self.sink.identify(entry));
                let kept_to = |kind| {
                    let shown = entries.iter().rfind(|entry| entry.kind == kind && shows(entry));
                    shown.map(|entry| entry.seq)
                };
                let (frames_to, setups_to) = (kept_to(Kind::Frame), kept_to(Kind::Setup));
                let is_kept = |entry: &Entry| match entry.kind {
                    Kind::Frame => Some(entry.seq) <= frames_to,
                    Kind::Setup => Some(entry.seq) <= setups_to,
                };
                let is_refused = |entry: &&&Entry| {
                    let passed_over = newest_back.is_some_and(|back| entry.seq < back);
                    missing.contains(&entry.seq) && (passed_over || !is_kept(entry))
                };
                let refused: Vec<Seq> =
                    entries.iter().filter(is_refused).map(|entry| entry.seq).collect();
                let is_ours = frames_to.is_some() || setups_to.is_some();
                let is_news = shown != before && shown != Shown::default();
                if refused.is_empty() {
                    self.note_kept(entries);
                    return self.kept_without_echo(bindings, stint);
                }
                if is_ours
                    || !is_news
                    || newest_back.is_some()
                    || self.learned.capability.has_echoed()
                {
                    return Ok(Outcome::Refused(refused));
                }
                // Another publisher's entry hides whether ours is stored, and this server has never
                // echoed one of ours.
                self.hidden(bindings);
                self.kept_without_echo(bindings, stint)
            }
            // The server echoes others, so it would have echoed these.
            Joined::Unanswered if self.learned.capability.proof() == Some(Proof::Echo) => {
                Ok(Outcome::Refused(missing))
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
                Err(SessionError::NotKept("a new session stays empty"))
            }
            Joined::Silent => Ok(Outcome::Forgotten(stint)),
        }
    }

    /// Handles an entry that was acknowledged for a session that the server has not shown to know,
    /// and that it does not store.
    fn unknown(&mut self, stint: StintId) -> Result<Outcome, SessionError> {
        if let SessionChoice::Auto = self.choice {
            return Ok(Outcome::Forgotten(stint));
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
    ) -> Result<Outcome, SessionError> {
        self.confirmed(bindings, stint)?;
        if self.learned.capability.proof() == Some(Proof::Echo) {
            return Ok(Outcome::Proven);
        }
        if self.settings.proof == ProofChoice::Echo {
            return Err(SessionError::Weak(Proof::Echo.as_str()));
        }
        self.observe(Evidence::Acknowledged);
        Ok(Outcome::Proven)
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
    ) -> Result<Outcome, SessionError> {
        tracing::warn!(error = text, "the server refuses an entry");
        // Otherwise a server that forgot the session right away would look like one that never
        // stores.
        self.came_back(bindings, entries, &missing)?;
        if let [entry] = entries {
            return Ok(Outcome::Refused(vec![entry.seq]));
        }
        if missing.len() < entries.len() {
            return Ok(Outcome::Refused(missing));
        }
        // The server may not know the session, and would refuse the same batch on every link. If it
        // knows it, it may have stored the other entries of the batch, and shows them.
        let is_unconfirmed =
            |entry: &&&Entry| bindings.of(entry.stint).is_ok_and(|bound| bound.is_unconfirmed);
        if let Some(stint) = entries.iter().find(is_unconfirmed).map(|entry| entry.stint)
            && self.choice == SessionChoice::Auto
        {
            let session = bindings.of(stint)?.session.clone();
            let joined = self.join(link, &session).await?;
            if joined == Joined::Silent
                && self.join_again(link, &session, joined).await? == Joined::Silent
            {
                return Ok(Outcome::Forgotten(stint));
            }
        }
        Err(self.one_at_a_time())
    }

    fn one_at_a_time(&mut self) -> SessionError {
        self.observe(Evidence::RefusedUnnamed);
        self.learned.reordered_at = Some(Instant::now());
        SessionError::NotKept("it refused an entry of a batch; sending one at a time")
    }

    /// Retries refused entries. Returns those that the server still refuses although it knows their
    /// session.
    pub(super) async fn retry_refused(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
        mut refused: Vec<Seq>,
    ) -> Result<Outcome, SessionError> {
        let of = |refused: &[Seq]| -> Vec<&Entry> {
            entries.iter().copied().filter(|entry| refused.contains(&entry.seq)).collect()
        };
        for _ in 1..REFUSAL_TRIES {
            sleep(REFUSAL_PAUSE).await;
            let again = of(&refused);
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
                return Ok(Outcome::Proven);
            }
        }
        let can_be_asked = self.learned.capability.can_be_asked();
        let mut of_stints: BTreeMap<StintId, usize> = BTreeMap::new();
        for entry in of(&refused) {
            *of_stints.entry(entry.stint).or_default() += 1;
        }
        for (stint, count) in of_stints.into_iter().filter(|_| can_be_asked) {
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
                return Ok(Outcome::Forgotten(stint));
            }
            // The new session is empty: either each entry was refused or the session was forgotten.
            // Entries sent one at a time can tell.
            if count > 1 {
                return Err(self.one_at_a_time());
            }
        }
        Ok(Outcome::Refused(refused))
    }
}

//! What did not come back: kept all the same, refused, or sent to a session that the server forgot?
//!
//! A server shows only the newest that it holds. So an entry that did not come back though a newer
//! one did is tried again, and set aside when that helps nothing.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::{sleep, timeout};

use super::bind::{Bindings, Stored};
use super::deliver::{Outcome, forgotten};
use super::{Session, SessionError};
use crate::config::{ProofChoice, REFUSAL_PAUSE, REFUSAL_TRIES};
use crate::entry::{Entry, Seq, StintId};
use crate::planted::planted;
use crate::sink::{Ack, Joined, Link, Proof, Sink};

impl<S: Sink> Session<S> {
    /// Acknowledged, but not all came back: find out, stint by stint, what the server did with the
    /// rest.
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

    /// All but the missing ones came back: the server keeps what goes to their sessions.
    fn came_back(
        &mut self,
        bindings: &mut Bindings,
        entries: &[&Entry],
        missing: &[Seq],
    ) -> Result<(), SessionError> {
        for entry in entries.iter().filter(|entry| !missing.contains(&entry.seq)) {
            self.learned.without_keeping = false;
            self.learn(bindings, Proof::Echo);
            bindings.of_mut(entry.stint)?.is_new = false;
        }
        Ok(())
    }

    /// Likewise, for all entries of one stint.
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
        let (session, is_new, before) = (bound.session.clone(), bound.is_new, bound.stored);
        match self.join(link, &session).await? {
            Joined::Known { frame, setup } => {
                bindings.answers_join = true;
                bindings.has_answered = true;
                let stored = Stored { frame, setup };
                // What it held before is newer than one that was passed over, and so is what came
                // back.
                let is_kept = |entry: &Entry| stored.has(entry) && !before.has(entry);
                if !entries.last().is_some_and(|entry| is_kept(entry)) {
                    let is_stored = |seq: &Seq| {
                        newest_back.is_none_or(|back| back < *seq)
                            && entries.iter().any(|entry| entry.seq == *seq && is_kept(entry))
                    };
                    let refused = missing.into_iter().filter(|seq| !is_stored(seq)).collect();
                    return Ok(Outcome::Refused(refused));
                }
                self.kept_without_echo(bindings, stint)
            }
            // It shows others, and would have shown these.
            Joined::Unanswered if bindings.proof == Some(Proof::Echo) => {
                Ok(Outcome::Refused(missing))
            }
            Joined::Unanswered => {
                bindings.answers_join = false;
                self.kept_without_echo(bindings, stint)
            }
            Joined::Silent if is_new => {
                self.learned.without_keeping = true;
                Err(SessionError::NotKept("a new session stays empty"))
            }
            Joined::Silent if planted("forgotten_session_kept") => Ok(Outcome::Proven),
            Joined::Silent => Ok(Outcome::Forgotten(stint)),
        }
    }

    /// The server has the entries but does not send them back: the next proof must do, unless it has
    /// sent others back and is late.
    fn kept_without_echo(
        &mut self,
        bindings: &mut Bindings,
        stint: StintId,
    ) -> Result<Outcome, SessionError> {
        bindings.of_mut(stint)?.is_new = false;
        if bindings.proof == Some(Proof::Echo) {
            return Ok(Outcome::Proven);
        }
        if self.settings.proof == ProofChoice::Echo {
            return Err(SessionError::Weak(Proof::Echo.as_str()));
        }
        self.learn(bindings, Proof::Ack);
        Ok(Outcome::Proven)
    }

    /// The server answered with an error. Which entry it means is only certain for a single one.
    pub(super) fn objected(
        &mut self,
        bindings: &mut Bindings,
        text: &str,
        entries: &[&Entry],
        missing: Vec<Seq>,
    ) -> Result<Outcome, SessionError> {
        tracing::warn!(error = text, "the server refuses an entry");
        // Or a server that forgot the rest at once would be taken for one that never kept any.
        self.came_back(bindings, entries, &missing)?;
        if let [entry] = entries {
            return Ok(Outcome::Refused(vec![entry.seq]));
        }
        if missing.len() < entries.len() {
            return Ok(Outcome::Refused(missing));
        }
        Err(self.one_at_a_time())
    }

    fn one_at_a_time(&mut self) -> SessionError {
        self.learned.one_at_a_time = true;
        SessionError::NotKept("it refused an entry of a batch; going on one at a time")
    }

    /// Tries refused entries again: what of them the server still refuses while it keeps their
    /// session.
    pub(super) async fn insist(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
        mut refused: Vec<Seq>,
    ) -> Result<Outcome, SessionError> {
        let of = |refused: &[Seq]| -> Vec<&Entry> {
            entries.iter().copied().filter(|entry| refused.contains(&entry.seq)).collect()
        };
        let tries = if planted("refused_entry_tried_once") { 1 } else { REFUSAL_TRIES };
        for _ in 1..tries {
            sleep(REFUSAL_PAUSE).await;
            let again = of(&refused);
            let proof = bindings.proof.unwrap_or(Proof::Echo);
            let addressed = bindings.addressed(&again)?;
            let published = link.publish(&addressed, proof, self.grace());
            let receipt = timeout(self.publish_limit(), published)
                .await
                .map_err(|_| SessionError::NoProof(self.settings.proof_timeout))??;
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
        let mut of_stints: BTreeMap<StintId, usize> = BTreeMap::new();
        for entry in of(&refused) {
            *of_stints.entry(entry.stint).or_default() += 1;
        }
        for (stint, count) in of_stints.into_iter().filter(|_| bindings.answers_join) {
            let bound = bindings.of(stint)?;
            let (session, is_new) = (bound.session.clone(), bound.is_new);
            if self.join(link, &session).await? != Joined::Silent {
                continue;
            }
            if !is_new {
                return Ok(Outcome::Forgotten(stint));
            }
            // It holds nothing of it: was each of them refused, or the session forgotten?
            if count > 1 {
                return Err(self.one_at_a_time());
            }
        }
        Ok(Outcome::Refused(refused))
    }
}

//! Publishes entries of the queue in the groups and the order that isolate poison entries, and
//! records the outcome.

use tokio::time::{Instant, sleep};

use super::bindings::Bindings;
use super::overtaken::Overtaken;
use super::poison::InFlight;
use super::publish::PublishOutcome;
use super::verify::WRITTEN_AFTER;
use super::{Session, SessionError};
use crate::entry::Entry;
use crate::sink::{Link, Proof, Sink, SinkError};

/// Maximum number of failed attempts at one entry that are logged: a server that accepts nothing
/// fails every few seconds.
const LOGGED_TRIES: u32 = 10;

impl<S: Sink> Session<S> {
    /// Publishes entries of the queue. If one of them failed to get a proof before, the probe is sent
    /// first, and the entry follows alone.
    pub(super) async fn publish_queued(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
    ) -> Result<PublishOutcome, SessionError> {
        let suspect = self.learned.isolation.to_overtake();
        let Some(index) = entries.iter().position(|entry| Some(entry.seq) == suspect) else {
            return self.publish_group(link, bindings, entries).await;
        };
        let (before, suspect_and_after) = entries.split_at(index);
        let (suspect, after) = suspect_and_after.split_at(1);
        let mut outcome = PublishOutcome::Proven;
        if !before.is_empty() {
            outcome = outcome.and(self.publish_group(link, bindings, before).await?);
            if let PublishOutcome::Forgotten(_) = outcome {
                return Ok(outcome);
            }
        }
        let probe = self.learned.isolation.probe(after);
        let (between, probe_and_rest) = after.split_at(probe.unwrap_or(0));
        let (probe, rest) = probe_and_rest.split_at(probe_and_rest.len().min(1));
        if !probe.is_empty() {
            self.overtake(probe[0], suspect.iter().chain(between).copied()).await?;
            outcome = outcome.and(self.publish_until_proven(link, bindings, probe).await?);
            if let PublishOutcome::Forgotten(_) = outcome {
                return Ok(outcome);
            }
            self.backoff.reset();
        }
        outcome = outcome.and(self.publish_until_proven(link, bindings, suspect).await?);
        let is_one_at_a_time = self.learned.capability.is_one_at_a_time();
        let size = if is_one_at_a_time { 1 } else { self.learned.window.entries().max(1) };
        for group in between.chunks(size).chain(rest.chunks(size)) {
            if let PublishOutcome::Forgotten(_) = outcome {
                return Ok(outcome);
            }
            outcome = outcome.and(self.publish_group(link, bindings, group).await?);
        }
        Ok(outcome)
    }

    /// Reads which entries were overtaken while an earlier process delivered.
    pub(super) async fn restore(&mut self) -> Result<(), SessionError> {
        if self.learned.is_restored {
            return Ok(());
        }
        if let Some(state) = self.reader.delivery_state().await? {
            self.learned.overtaken = Overtaken::decode(&state);
        }
        self.learned.is_restored = true;
        Ok(())
    }

    /// Stores which entries the probe is about to overtake. Otherwise a later process could mistake
    /// the stored probe for a proof of these entries.
    async fn overtake(
        &mut self,
        probe: &Entry,
        entries: impl Iterator<Item = &Entry>,
    ) -> Result<(), SessionError> {
        self.learned.overtaken.extend(probe.seq, entries.map(|entry| (entry.seq, entry.stint)));
        let state = self.learned.overtaken.encode();
        Ok(self.reader.set_delivery_state(state).await?)
    }

    /// Publishes an entry alone. If only time can prove it, waits for that.
    async fn publish_until_proven(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        entries: &[&Entry],
    ) -> Result<PublishOutcome, SessionError> {
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
    ) -> Result<PublishOutcome, SessionError> {
        let in_flight: Vec<_> = entries.iter().map(|entry| InFlight::of(entry)).collect();
        bindings.in_flight.clone_from(&in_flight);
        let outcome = self.publish(link, bindings, entries).await?;
        bindings.in_flight.clear();
        let is_written = self.learned.capability.awaited() == Some(Proof::Written);
        let isolation = &mut self.learned.isolation;
        match &outcome {
            PublishOutcome::Proven => {
                isolation.proven(in_flight.iter().map(|one| one.seq));
                for entry in entries {
                    self.learned.skipped.remove(&entry.seq);
                    self.learned.overtaken.proven(entry.stint, entry.seq);
                }
            }
            // Acknowledged: the server has processed them.
            PublishOutcome::Unproven if !is_written => {
                isolation.proven(in_flight.iter().map(|one| one.seq));
            }
            PublishOutcome::Unproven | PublishOutcome::Forgotten(_) => {}
            PublishOutcome::Refused { .. } => {
                self.note_proven_in_part(link, &in_flight);
            }
        }
        Ok(outcome)
    }

    /// Records which entries of the last publication were proven, and which entry they overtook.
    /// Returns whether they overtook one.
    fn note_proven_in_part(&mut self, link: &S::Link, in_flight: &[InFlight]) -> bool {
        let isolation = &mut self.learned.isolation;
        let back = link.came_back();
        isolation.proven(back.iter().copied());
        let skipped = link.skipped();
        let overtaken = isolation
            .retrying()
            .map(|retrying| retrying.seq)
            .filter(|seq| skipped.contains(seq))
            .or(skipped.first().copied());
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
        | SessionError::NotKept(_)
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
        if !unproven.is_empty() {
            if self.note_proven_in_part(link, &unproven) {
                return self.show_retrying();
            }
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
                kind = kind.as_str(),
                bytes,
                reason,
                "an entry cannot be delivered although others are; it becomes a dead letter"
            );
        }
        self.show_retrying();
    }

    /// Shows the entry that is being retried.
    fn show_retrying(&self) {
        let retrying = self.learned.isolation.retrying();
        if let Some(retrying) = retrying.filter(|retrying| retrying.attempt <= LOGGED_TRIES) {
            tracing::warn!("{retrying}");
        }
        self.status.send_if_modified(|status| {
            std::mem::replace(&mut status.retrying, retrying) != retrying
        });
    }

    /// Stops showing an entry as being retried, unless another one is.
    pub(super) fn clear_retrying(&self) {
        if self.learned.isolation.retrying().is_none() {
            self.status.send_if_modified(|status| status.retrying.take().is_some());
        }
    }
}

//! Delivers one batch: sends the entries that the server does not store yet, and removes the batch
//! from the queue once they are proven.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bindings::{Bindings, Unproven};
use super::capability::Evidence;
use super::publish::PublishOutcome;
use super::verify::Verified;
use super::{MAX_UNPROVEN_ENTRIES, Session, SessionError};
use crate::entry::{Entry, Seq};
use crate::platform::clock;
use crate::queue::Batch;
use crate::sink::{Link, Proof, Sink};

/// The reason of a dead letter that the server acknowledged without storing it, or with an error.
const REFUSED: &str = "the server refuses it";

impl<S: Sink> Session<S> {
    /// Sends a batch to the server, and removes it from the queue once it is proven.
    pub(super) async fn deliver(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        mut batch: Batch,
    ) -> Result<(), SessionError> {
        self.begin_batch(link, bindings, &batch).await?;
        let (to_send, undeliverable) = self.sort(link, bindings, &batch).await?;
        if let Some(suspect) = self.learned.isolation.to_overtake()
            && to_send.last().is_some_and(|entry| entry.seq == suspect)
            && let Some((_, last)) = batch.ends()
        {
            self.learned.isolation.lacks_probe(last);
        }
        let mut outcome = PublishOutcome::Proven;
        if !to_send.is_empty() {
            outcome = self.publish_queued(link, bindings, &to_send).await?;
        } else if undeliverable.is_empty() {
            self.observe(Evidence::FoundStored);
        }
        if let PublishOutcome::Refused { seqs, are_others_proven } = outcome {
            outcome = self.retry_refused(link, bindings, &to_send, seqs).await?;
            if !are_others_proven {
                outcome = outcome.and(PublishOutcome::Unproven);
            }
        }
        let sent = to_send.len();
        for (seq, reason) in undeliverable {
            batch.mark_refused(&[seq], &reason);
        }
        match outcome {
            PublishOutcome::Proven if !bindings.has_unproven() => {}
            // Earlier batches are still unproven, and batches are removed in order.
            PublishOutcome::Proven | PublishOutcome::Unproven => {
                self.keep_unproven(link, bindings, batch).await?;
                return self.pace(link, sent).await;
            }
            PublishOutcome::Refused { seqs, are_others_proven } => {
                batch.mark_refused(&seqs, REFUSED);
                if !are_others_proven {
                    self.keep_unproven(link, bindings, batch).await?;
                    return self.pace(link, sent).await;
                }
            }
            PublishOutcome::Forgotten(stint) => return self.rebind(link, bindings, stint).await,
        }
        if self.settle(link, bindings).await? == Verified::Rebound {
            return Ok(());
        }
        self.remove(batch).await?;
        self.pace(link, sent).await
    }

    /// Sends the setups in force if there is a gap before the batch, which may have contained them.
    async fn begin_batch(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        batch: &Batch,
    ) -> Result<(), SessionError> {
        let Some((first, last)) = batch.ends() else { return Ok(()) };
        if bindings.sent.is_some_and(|sent| first.0 > sent.0 + 1) {
            for stint in bindings.stints() {
                self.refresh_setup(link, bindings, stint).await?;
            }
        }
        bindings.sent = Some(last);
        self.learned.isolation.starts(first);
        Ok(())
    }

    /// Binds the stints of a batch. Returns the entries that the server does not store yet, and
    /// the undeliverable ones, with the reason.
    async fn sort<'a>(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        batch: &'a Batch,
    ) -> Result<(Vec<&'a Entry>, Vec<(Seq, String)>), SessionError> {
        let (mut to_send, mut undeliverable) = (Vec::new(), Vec::new());
        for entry in batch.entries() {
            if let Some(reason) = self.learned.isolation.verdict(entry.seq) {
                undeliverable.push((entry.seq, reason.to_owned()));
                continue;
            }
            if bindings.of(entry.stint).is_err() {
                self.bind(link, bindings, entry.stint).await?;
            }
            bindings.of_mut(entry.stint)?.sent = Some(entry.seq);
            let is_stored = self.learned.stored.has(entry) || self.elsewhere.has(entry);
            if !is_stored || self.is_unknown(entry.seq) {
                to_send.push(entry);
            } else {
                self.learned.isolation.answered(entry.seq);
            }
        }
        Ok((to_send, undeliverable))
    }

    /// Keeps a batch that was sent until it is proven. Waits for the proof if there are too many, or
    /// if an entry is being isolated.
    async fn keep_unproven(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
        mut batch: Batch,
    ) -> Result<(), SessionError> {
        let ids = batch.entries().iter().map(|entry| self.sink.identify(entry)).collect();
        batch.forget_frames();
        bindings.unproven.push(Unproven { sent_at: Instant::now(), batch, ids });
        if bindings.unproven_entries() >= MAX_UNPROVEN_ENTRIES || self.learned.isolation.is_active()
        {
            self.settle(link, bindings).await?;
        }
        Ok(())
    }

    /// Removes a proven batch from the queue.
    pub(super) async fn remove(&mut self, batch: Batch) -> Result<(), SessionError> {
        let proof = self.learned.capability.proof().unwrap_or(Proof::Echo);
        let now = clock::now();
        self.meter.delivered(proof.as_str(), now, batch.entries());
        self.latencies.note(now, batch.entries());
        if let Some((_, last)) = batch.ends() {
            self.learned.skipped = self.learned.skipped.split_off(&Seq(last.0 + 1));
            self.learned.overtaken.removed(last);
            self.learned.isolation.removed(last);
            self.clear_retrying();
        }
        self.reader.ack_unconfirmed(batch).await?;
        self.backoff.reset();
        Ok(())
    }

    /// Limits a replay to `delivery.max_rate`, unless the link ends first.
    async fn pace(&self, link: &mut S::Link, entries: usize) -> Result<(), SessionError> {
        let rate = self.settings.max_rate;
        if rate == 0.0 {
            return Ok(());
        }
        tokio::select! {
            biased;
            error = link.closed() => Err(error.into()),
            () = sleep(Duration::from_secs_f64(entries as f64 / rate)) => Ok(()),
        }
    }
}

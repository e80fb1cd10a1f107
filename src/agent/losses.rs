//! Logs what does not reach a server: samples that the rate limit leaves out, and entries that leave
//! the queue undelivered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::platform::clock;
use crate::queue::ledger::{DropReason, Ledger};
use crate::queue::{QueueStatus, Writer};
use crate::source::{RateCount, RateCounts};
use crate::status::StatusHistory;

/// How often losses are logged at most, and how often they are looked for.
const LOSS_LOG_INTERVAL: Duration = Duration::from_mins(1);

/// The message for a driver about a source that is faster than its limit.
const TOO_FAST: &str = "A source is faster than update_rate_hz, so part of its samples is left out. \
                        Raise update_rate_hz, or set it to 0 to keep every sample.";

/// Logs the losses since it last did.
#[derive(Debug)]
pub(super) struct LossLog {
    queue: Writer,
    rates: RateCounts,
    history: StatusHistory,
    /// The ledgers when losses were last logged, by destination.
    logged: Mutex<BTreeMap<String, Ledger>>,
}

impl LossLog {
    pub(super) fn new(queue: Writer, rates: RateCounts, history: StatusHistory) -> Self {
        let logged = Mutex::new(ledgers(&queue.status()));
        Self { queue, rates, history, logged }
    }

    /// Logs every minute.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            sleep(LOSS_LOG_INTERVAL).await;
            self.log();
        }
    }

    pub(super) fn log(&self) {
        let left_out = self.rates.take();
        for (source, RateCount { samples, left_out, limit_hz }) in &left_out {
            tracing::warn!(
                source,
                left_out,
                samples,
                "the source is faster than update_rate_hz = {limit_hz}; raise it, or set it to 0 to \
                 keep every sample"
            );
        }
        if !left_out.is_empty() {
            self.history.trouble(clock::now(), None, TOO_FAST, describe(&left_out));
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = ledgers(&self.queue.status());
        for (destination, ledger) in &now {
            let before = logged.get(destination).copied().unwrap_or_default();
            if let Some(losses) = losses(before, *ledger) {
                tracing::warn!(destination, "entries left the queue undelivered: {losses}");
            }
        }
        *logged = now;
    }
}

fn ledgers(queue: &QueueStatus) -> BTreeMap<String, Ledger> {
    queue.destinations.iter().map(|one| (one.name.clone(), one.ledger)).collect()
}

/// The samples that were left out, of each source.
fn describe(left_out: &[(&'static str, RateCount)]) -> String {
    let sources = left_out.iter().map(|(source, count)| {
        format!("{source}: {} of {} samples in the last minute", count.left_out, count.samples)
    });
    sources.collect::<Vec<_>>().join("; ")
}

/// The entries that left the queue undelivered between two states of its ledger, with their reasons;
/// `None` if no entry did.
fn losses(before: Ledger, now: Ledger) -> Option<String> {
    let dropped = DropReason::ALL.map(|reason| {
        (reason.as_str(), now.dropped(reason).saturating_sub(before.dropped(reason)))
    });
    let downsampled = ("downsampled", now.downsampled.saturating_sub(before.downsampled));
    let losses: Vec<_> = dropped
        .into_iter()
        .chain([downsampled])
        .filter(|(_, entries)| *entries > 0)
        .map(|(reason, entries)| format!("{entries} {reason}"))
        .collect();
    (!losses.is_empty()).then(|| losses.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_named_with_the_entries_lost_since_the_last_line() {
        let before = Ledger { expired: 5, delivered: 3, ..Ledger::default() };
        assert_eq!(losses(before, Ledger { delivered: 900, dead_letters: 1, ..before }), None);
        let now = Ledger { expired: 7, queue_full: 1, downsampled: 40, ..before };
        let expected = "1 queue_full, 2 expired, 40 downsampled";
        assert_eq!(losses(before, now).as_deref(), Some(expected));
    }
}

//! Finds out whether a server that once changed the order of entries keeps it again, so that they
//! can be sent in batches.
//!
//! A server changes the order if it handles two entries of one session at the same time, as with
//! one thread per event. Two frames of a page that are in flight together are therefore enough for
//! a viewer to see the older one last, and no number of clean batches rules it out. So a probe sends
//! no frame of a page: it publishes its own frames to a session that it requested for itself, whose
//! page has no link and no viewers, and compares the order of the echoes. `pitwire doctor` tests a
//! server in the same way. Until a probe is in order, entries stay one at a time, and no inversion is
//! possible.
//!
//! A server that swaps entries rarely may pass a probe. Batches are then no larger than those of the
//! probe, and one more inversion on a page ends batches until pitwire restarts. However long a
//! server runs, it thus shows viewers at most two batches out of order: the first one, and one of at
//! most [`PROBE_BATCH_ENTRIES`] after a probe.
//!
//! A probe costs the server as much as its number of entries, so it waits for a backlog of that size,
//! for [`PROBE_AFTER`] without an inversion, and twice as long after each failure.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::capability::Evidence;
use super::{Session, SessionError};
use crate::entry::{CapturedAt, Entry, Kind, Seq, StintId};
use crate::platform::clock;
use crate::sink::{Ack, Addressed, JoinWait, Joined, Link, Proof, Sink, SinkError};

/// The stint of a probe's entries, which are not part of the queue.
pub const PROBE_STINT: StintId = StintId(u64::MAX);

/// The number of entries in flight together in a probe, and the largest batch after it: enough to
/// replay 1,000 entries/s over 60 ms of round trip.
pub(super) const PROBE_BATCH_ENTRIES: usize = 64;

/// The number of entries of a probe. Threaded Flask servers swapped 1 to 9 of 3,000 frames.
const PROBE_ENTRIES: usize = 2048;

/// The time without an inversion before the first probe.
const PROBE_AFTER: Duration = Duration::from_secs(60);

/// The number of times that a failure doubles the time before the next probe: up to 64 minutes.
const PROBE_DOUBLINGS: u32 = 6;

/// The time before the next probe.
fn probe_pause(failed_probes: u32) -> Duration {
    PROBE_AFTER * 2_u32.pow(failed_probes.min(PROBE_DOUBLINGS))
}

impl<S: Sink> Session<S> {
    /// Whether batches would help, and enough time has passed to probe the order.
    pub(super) fn is_probe_due(&self) -> bool {
        let capability = &self.learned.capability;
        let Some(failed_probes) = capability.failed_probes() else { return false };
        let pause = probe_pause(failed_probes);
        capability.proof() == Some(Proof::Echo)
            && self.settings.max_rate == 0.0
            && self.learned.reordered_at.is_some_and(|at| at.elapsed() >= pause)
            && self.reader.queued() >= PROBE_ENTRIES as u64
    }

    /// Probes the order. Nothing else may be in flight on the link.
    pub(super) async fn probe_order(&mut self, link: &mut S::Link) -> Result<(), SessionError> {
        if self.is_in_order(link).await? {
            self.observe(Evidence::ProbeInOrder);
            tracing::info!("the server keeps the order of entries again; sending small batches");
        } else {
            self.observe(Evidence::ProbeFailed);
            self.learned.reordered_at = Some(Instant::now());
            tracing::debug!("the server still changes the order of entries; sending one at a time");
        }
        Ok(())
    }

    async fn is_in_order(&mut self, link: &mut S::Link) -> Result<bool, SessionError> {
        let Some(session) = self.probe_session(link).await? else { return Ok(false) };
        link.request_acks(true);
        for first in (0..PROBE_ENTRIES).step_by(PROBE_BATCH_ENTRIES) {
            let now = clock::now();
            let entries: Vec<Entry> =
                (first..first + PROBE_BATCH_ENTRIES).map(|number| entry(number, now)).collect();
            let addressed: Vec<Addressed<'_>> = entries
                .iter()
                .map(|entry| Addressed { session: &session, entry, id: self.sink.identify(entry) })
                .collect();
            let published = link.publish(&addressed, Proof::Echo, self.grace());
            let Ok(receipt) = timeout(self.publish_limit(), published).await else {
                return Ok(false);
            };
            let receipt = receipt?;
            let is_refused = matches!(receipt.ack, Ack::UnknownSession | Ack::Error(_));
            if is_refused || !receipt.missing.is_empty() || receipt.inversions > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The session for probes: the one of the previous probe while the server knows it.
    async fn probe_session(&mut self, link: &mut S::Link) -> Result<Option<String>, SessionError> {
        let limit = self.settings.proof_timeout;
        if let Some(session) = self.learned.probe_session.clone() {
            let joined = timeout(limit, link.join(&session, JoinWait::Ack)).await;
            if let Ok(Joined::Known(_)) = joined.unwrap_or(Ok(Joined::Unanswered)) {
                return Ok(Some(session));
            }
        }
        let Ok(session) = timeout(limit, link.request_session(PROBE_STINT)).await else {
            return Ok(None);
        };
        let session = match session {
            Ok(session) => session,
            Err(SinkError::Timeout(..)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let joined = timeout(limit, link.join(&session, JoinWait::Ack)).await;
        joined.unwrap_or(Ok(Joined::Unanswered))?;
        self.learned.probe_session = Some(session.clone());
        Ok(Some(session))
    }
}

/// A frame with every field that the dashboard's schema requires, and unique content.
fn entry(number: usize, captured_at: CapturedAt) -> Entry {
    let json = format!(
        r#"{{"timestamp":"{captured_at}","lap":{number},"position":0,"fuel":0,"fuel_capacity":0,"player_name":"","car_name":"","track_name":"","session_type":"probe"}}"#
    );
    Entry { seq: Seq(number as u64 + 1), stint: PROBE_STINT, captured_at, kind: Kind::Frame, json }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_an_hour() {
        let minutes = [0, 1, 5, 6, 7, u32::MAX].map(|failed| probe_pause(failed).as_secs() / 60);
        assert_eq!(minutes, [1, 2, 32, 64, 64, 64]);
    }
}

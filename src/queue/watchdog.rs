//! Detects a queue worker that makes no progress: a disk or a library can block it forever.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The maximum duration of one step of the worker. The longest bounded step, reading a whole
/// segment from a busy disk, takes a few seconds.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// The worker's current step and its start time; `None` while it waits for work.
#[derive(Debug, Default)]
pub(super) struct Heartbeat(Mutex<Option<Step>>);

type Step = (&'static str, Instant);

impl Heartbeat {
    /// Records that the worker starts a step, which ends the previous one.
    pub(super) fn begin(&self, step: &'static str) {
        *self.step() = Some((step, Instant::now()));
    }

    /// Records that the worker waits for work.
    pub(super) fn idle(&self) {
        *self.step() = None;
    }

    /// Returns the current step if it has taken too long at time `now`.
    pub(super) fn stuck(&self, now: Instant) -> Option<Stuck> {
        let (step, since) = (*self.step())?;
        let lasts = now.saturating_duration_since(since);
        (lasts >= STEP_TIMEOUT).then_some(Stuck { step, since })
    }

    fn step(&self) -> MutexGuard<'_, Option<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step of the queue worker that has exceeded its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub step: &'static str,
    pub since: Instant,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.since.elapsed().as_secs();
        write!(f, "the queue worker has made no progress for {seconds} s ({})", self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_step_is_reported_until_the_worker_is_idle() {
        let heartbeat = Heartbeat::default();
        let now = Instant::now();
        assert_eq!(heartbeat.stuck(now + STEP_TIMEOUT * 2), None, "it waits for work");
        heartbeat.begin("flush");
        assert_eq!(heartbeat.stuck(now + STEP_TIMEOUT / 2), None);
        let stuck = heartbeat.stuck(now + STEP_TIMEOUT * 2).unwrap();
        assert_eq!(stuck.step, "flush");
        heartbeat.idle();
        assert_eq!(heartbeat.stuck(now + STEP_TIMEOUT * 2), None);
    }
}

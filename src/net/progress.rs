//! The state of one connection, and how long its client has kept the server waiting.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{KillSwitch, ReadGate};

/// The maximum time from the connection, or the head of a later request, to the end of the
/// request's body. Longer than the HTTP source needs to report a slow body.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(45);

/// How long a client may read nothing while data is sent to it. A client that has answered a ping
/// within this time has read.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that has not read for this long may be disconnected for a new one. Shorter pauses are
/// normal on a busy machine.
const BUSY_CLIENT: Duration = Duration::from_secs(2);

/// The state of one connection, shared by its task, its stream and its listener.
#[derive(Clone, Debug)]
pub(super) struct TrackedConnection(Arc<ProgressState>);

#[derive(Debug)]
struct ProgressState {
    kill_switch: KillSwitch,
    read_gate: ReadGate,
    progress: Mutex<Activity>,
    /// Notified when a response is complete.
    answered: Arc<Notify>,
}

#[derive(Clone, Copy, Debug)]
struct Activity {
    phase: Phase,
    since: Instant,
    /// Since when writes are blocked because the client does not read.
    unread_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A request is incomplete: the connection is new, or the head of a request has arrived.
    Requesting,
    /// A response is pending.
    Answering,
    /// All requests are answered, and the next one has not begun.
    KeptAlive,
    /// A WebSocket that its client has not used yet.
    UpgradedUnused,
    Upgraded,
}

/// The next step of a client on an idle connection. At a limit, connections are closed in this
/// order; while most of them wait for their next request, those are closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WaitsFor {
    Request,
    Reader,
    NextRequest,
}

/// Why a connection is closed independently of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stalled {
    #[error("the request was not complete within {REQUEST_TIMEOUT:?}")]
    Request,
    #[error("the client read nothing for {WRITE_TIMEOUT:?}")]
    Unread,
}

impl TrackedConnection {
    /// The state of a connection that was just accepted.
    pub(super) fn new(answered: Arc<Notify>) -> Self {
        let now = Instant::now();
        let progress = Activity { phase: Phase::Requesting, since: now, unread_since: None };
        Self(Arc::new(ProgressState {
            kill_switch: KillSwitch::default(),
            read_gate: ReadGate::default(),
            progress: Mutex::new(progress),
            answered,
        }))
    }

    pub(super) fn kill_switch(&self) -> &KillSwitch {
        &self.0.kill_switch
    }

    pub(super) fn read_gate(&self) -> &ReadGate {
        &self.0.read_gate
    }

    /// Records that the head of a request has arrived, but not its whole body.
    pub(super) fn request_begun(&self) {
        let mut progress = self.progress();
        // A new connection is in this phase already, since it was accepted.
        if progress.phase == Phase::KeptAlive {
            progress.enter(Phase::Requesting);
        }
    }

    /// Records that a request has arrived completely.
    pub(super) fn request_complete(&self) {
        self.progress().enter(Phase::Answering);
    }

    /// Records that the response has been passed to the system.
    pub(super) fn answered(&self) {
        let mut progress = self.progress();
        if !matches!(progress.phase, Phase::UpgradedUnused | Phase::Upgraded) {
            progress.enter(Phase::KeptAlive);
        }
        drop(progress);
        self.0.answered.notify_waiters();
    }

    /// Records that the connection has become a WebSocket.
    pub(super) fn upgraded(&self) {
        self.progress().enter(Phase::UpgradedUnused);
    }

    /// Records that the client has sent data.
    pub(super) fn received(&self) {
        let mut progress = self.progress();
        if progress.phase == Phase::UpgradedUnused {
            progress.enter(Phase::Upgraded);
        }
    }

    /// Records a write: whether it was blocked or made progress.
    pub(super) fn sent(&self, is_blocked: bool) {
        let mut progress = self.progress();
        if !is_blocked {
            progress.unread_since = None;
        } else if progress.unread_since.is_none() {
            progress.unread_since = Some(Instant::now());
        }
    }

    /// Whether a response is pending.
    pub(super) fn is_answering(&self) -> bool {
        !self.0.kill_switch.is_killed() && self.progress().phase == Phase::Answering
    }

    /// The step that the client owes, and for how long; `None` if this connection must not be closed
    /// for a new one.
    pub(super) fn waits_for(&self, now: Instant) -> Option<(WaitsFor, Duration)> {
        if self.0.kill_switch.is_killed() {
            return None;
        }
        let progress = *self.progress();
        let waited = now - progress.since;
        match progress.phase {
            Phase::Requesting | Phase::UpgradedUnused => Some((WaitsFor::Request, waited)),
            Phase::KeptAlive => Some((WaitsFor::NextRequest, waited)),
            Phase::Answering | Phase::Upgraded => {
                let unread = now - progress.unread_since?;
                (unread >= BUSY_CLIENT).then_some((WaitsFor::Reader, unread))
            }
        }
    }

    /// Returns when to check again, or why the connection must be closed.
    pub(super) fn stalled(&self, now: Instant) -> Result<Instant, Stalled> {
        let progress = *self.progress();
        let unread = progress.unread_since.map(|since| since + WRITE_TIMEOUT);
        let request =
            (progress.phase == Phase::Requesting).then(|| progress.since + REQUEST_TIMEOUT);
        if unread.is_some_and(|deadline| deadline <= now) {
            return Err(Stalled::Unread);
        }
        if request.is_some_and(|deadline| deadline <= now) {
            return Err(Stalled::Request);
        }
        let deadlines = [unread, request, Some(now + WRITE_TIMEOUT)];
        Ok(deadlines.into_iter().flatten().min().unwrap_or(now + WRITE_TIMEOUT))
    }

    fn progress(&self) -> MutexGuard<'_, Activity> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }
}

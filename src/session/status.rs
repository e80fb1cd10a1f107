//! The status of a session, for the status page and the metrics.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Latencies, RetryRequests, Retrying};
use crate::entry::{MAX_SESSIONS, StintId};
use crate::sink::{Proof, Transport};

/// The status of a session, for the status page and the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionStatus {
    /// An attempt to open a link is running.
    pub connecting: bool,
    /// A link to the server is open.
    pub connected: bool,
    /// The session of the newest stint bound on this link.
    pub session: Option<String>,
    /// The page of the newest bound stint; remains set while disconnected.
    pub page: Option<String>,
    pub stint: Option<StintId>,
    /// The pages of all bound stints, the most recently bound last.
    pub pages: Vec<(StintId, String)>,
    /// The server has shown on this link that it knows the sessions.
    pub verified: bool,
    /// The proof that this link gives; `None` until determined.
    pub proof: Option<Proof>,
    /// How packets reach the server on this link; `None` while disconnected and for NATS.
    pub transport: Option<Transport>,
    /// Number of links opened so far; `failures` counts links that failed to open or ended.
    pub connects: u64,
    pub failures: u64,
    /// Why connecting failed, or why the previous link ended.
    pub last_error: Option<String>,
    /// The last error as a message for a driver.
    pub user_message: Option<String>,
    /// When the server was last found to have forgotten the session. Cleared when the link is lost,
    /// which is then the more important message.
    pub forgotten_at: Option<Instant>,
    /// The current wait before the next attempt, and when it ends.
    pub retry_in: Option<Duration>,
    /// The entry that is sent again because the server confirmed no delivery of it.
    pub retrying: Option<Retrying>,
    pub retry_at: Option<Instant>,
}

impl SessionStatus {
    /// Shows the page of a stint as the most recently bound one.
    pub(super) fn show(&mut self, stint: StintId, page: String) {
        self.pages.retain(|(known, _)| *known != stint);
        let excess = (self.pages.len() + 1).saturating_sub(MAX_SESSIONS);
        self.pages.drain(..excess);
        self.pages.push((stint, page));
    }

    /// The entry that delivery is stuck on. While disconnected, an entry counts only after two
    /// connections ended at it; one may be any loss of the connection.
    pub fn stuck_on(&self) -> Option<Retrying> {
        self.retrying.filter(|retrying| self.connected || retrying.attempt > 2)
    }

    /// Resets everything that is known of the link.
    pub(super) fn unlink(&mut self) {
        self.connecting = false;
        self.connected = false;
        self.verified = false;
        self.proof = None;
        self.transport = None;
        self.session = None;
        self.retry_in = None;
        self.retry_at = None;
    }
}

/// Watches the session of a destination.
#[derive(Clone, Debug)]
pub struct DestinationWatch {
    pub name: String,
    pub session: watch::Receiver<SessionStatus>,
    pub latencies: Latencies,
    pub retry: RetryRequests,
}

/// Sets the status to disconnected when a run of the session ends, even if it is dropped because the
/// runtime shuts down.
pub(super) struct UnlinkOnDrop(pub(super) watch::Sender<SessionStatus>);

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        self.0.send_modify(SessionStatus::unlink);
    }
}

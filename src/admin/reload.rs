//! Requests to the running agent to reload its configuration.

use tokio::sync::{mpsc, oneshot};

use crate::config::ConfigChange;

/// The changed settings, or why the new configuration was rejected.
pub type ReloadOutcome = Result<Vec<ConfigChange>, String>;

/// Where the agent sends the outcome of a request.
pub(crate) type ReloadReply = oneshot::Sender<ReloadOutcome>;

/// Requests reloads. Clones address the same agent.
#[derive(Clone, Debug)]
pub struct ReloadHandle(mpsc::Sender<ReloadReply>);

impl ReloadHandle {
    /// Creates a handle, and the receiver for the agent that serves its requests.
    pub(crate) fn new() -> (Self, mpsc::Receiver<ReloadReply>) {
        // One request is being served and one is queued; further requesters wait to enqueue theirs.
        let (sender, requests) = mpsc::channel(1);
        (Self(sender), requests)
    }

    /// Requests a reload and waits for its outcome.
    pub async fn request(&self) -> ReloadOutcome {
        let (reply, outcome) = oneshot::channel();
        self.0.send(reply).await.map_err(|_| "the agent is ending".to_owned())?;
        outcome.await.map_err(|_| "the agent is ending".to_owned())?
    }
}

//! Applies a changed configuration while the agent runs.
//!
//! At a request, the agent reads and validates the configuration, applies what can change at run
//! time and replies with the changes. An invalid configuration changes nothing.

use std::fmt;
use std::future::pending;

use tokio::sync::mpsc;

use crate::admin::{ReloadHandle, ReloadOutcome, ReloadReply};
use crate::config::Config;
use crate::publisher::DashboardPublisher;

/// Serves reload requests inside the agent.
pub struct Reload {
    requests: mpsc::Receiver<ReloadReply>,
    handle: ReloadHandle,
    read: Box<dyn Fn() -> Result<Config, String> + Send + Sync>,
    /// Called with each configuration that is applied.
    taken: Box<dyn Fn(&Config) + Send + Sync>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl Reload {
    /// `read` must use the same file, environment and arguments as at the start. `taken` is called
    /// with each configuration that is applied.
    pub fn new(
        read: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
        taken: impl Fn(&Config) + Send + Sync + 'static,
    ) -> Self {
        let (handle, requests) = ReloadHandle::new();
        Self { requests, handle, read: Box::new(read), taken: Box::new(taken) }
    }

    pub fn handle(&self) -> ReloadHandle {
        self.handle.clone()
    }

    /// Reads the configuration again, applies what can change at run time and logs the outcome.
    pub(super) async fn apply(&self, publisher: &DashboardPublisher) -> ReloadOutcome {
        let outcome = self.try_apply(publisher).await;
        match &outcome {
            Ok(changes) if changes.is_empty() => {
                tracing::info!("the configuration has not changed");
            }
            Ok(changes) => changes.iter().for_each(|change| tracing::info!("{change}")),
            Err(error) => {
                // Keep the log entry on one line: the error has a line for each problem.
                let error = error.replace('\n', "; ");
                tracing::error!(
                    "the new configuration is rejected, the old one stays active: {error}"
                );
            }
        }
        outcome
    }

    async fn try_apply(&self, publisher: &DashboardPublisher) -> ReloadOutcome {
        let new = (self.read)()?;
        let running = publisher.config();
        let changes = running.changes(&new);
        let config = running.taking_over(new);
        publisher.take_over(config.clone()).await.map_err(|error| error.to_string())?;
        (self.taken)(&config);
        Ok(changes)
    }
}

/// Waits for the next request; without a [`Reload`], waits forever.
pub(super) async fn requested(reload: &mut Option<Reload>) -> (&Reload, ReloadReply) {
    if let Some(reload) = reload
        && let Some(reply) = reload.requests.recv().await
    {
        return (reload, reply);
    }
    pending().await
}

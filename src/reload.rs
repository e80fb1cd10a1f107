//! Configuration reload while the agent runs.
//!
//! A caller [requests](Asking::ask) a reload. The agent reads and validates the configuration,
//! applies what can change at run time and replies with the changes. An invalid configuration
//! changes nothing.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

pub use crate::config::Change;
use crate::config::Config;

/// The changed settings, or why the new configuration was rejected.
pub type Answer = Result<Vec<Change>, String>;

/// Requests reloads. Clones address the same agent.
#[derive(Clone, Debug)]
pub struct Asking(mpsc::Sender<oneshot::Sender<Answer>>);

impl Asking {
    /// Requests a reload and waits for its result.
    pub async fn ask(&self) -> Answer {
        let (reply, answer) = oneshot::channel();
        let is_gone = |_| "the agent is ending".to_owned();
        self.0.send(reply).await.map_err(|_| "the agent is ending".to_owned())?;
        answer.await.map_err(is_gone)?
    }
}

/// Serves reload requests inside the agent.
pub struct Reload {
    asked: mpsc::Receiver<oneshot::Sender<Answer>>,
    asking: Asking,
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
        // One request is being served and one is queued; further requesters wait to enqueue theirs.
        let (sender, asked) = mpsc::channel(1);
        Self { asked, asking: Asking(sender), read: Box::new(read), taken: Box::new(taken) }
    }

    pub fn asking(&self) -> Asking {
        self.asking.clone()
    }

    /// Waits for the next request and returns the channel for its answer.
    pub(crate) async fn asked(&mut self) -> oneshot::Sender<Answer> {
        match self.asked.recv().await {
            Some(reply) => reply,
            None => std::future::pending().await,
        }
    }

    /// Reads the configuration and returns its differences from `running` and the merged
    /// configuration to apply.
    pub(crate) fn read(&self, running: &Config) -> Result<(Vec<Change>, Config), String> {
        let new = (self.read)()?;
        let changes = running.changes(&new);
        Ok((changes, running.taking_over(new)))
    }

    pub(crate) fn taken(&self, config: &Config) {
        (self.taken)(config);
    }
}

//! A configuration that is read anew and taken over while the agent runs.
//!
//! Whoever wants that [asks](Asking::ask); the agent reads, checks, takes over what can change and
//! says what did. A wrong configuration changes nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;

/// A setting that is another than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub key: String,
    /// Secrets are `***`.
    pub old: String,
    pub new: String,
    /// It stays as it was until the agent is started again.
    pub needs_restart: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, old, new, needs_restart } = self;
        write!(f, "{key}: {old:?} -> {new:?}")?;
        if *needs_restart { f.write_str(" needs a restart") } else { Ok(()) }
    }
}

/// What changed, or why nothing did.
pub type Answer = Result<Vec<Change>, String>;

/// The end that asks. Clones ask the same agent.
#[derive(Clone, Debug)]
pub struct Asking(mpsc::Sender<oneshot::Sender<Answer>>);

impl Asking {
    /// Has the configuration read anew, and waits for what comes of it.
    pub async fn ask(&self) -> Answer {
        let (reply, answer) = oneshot::channel();
        let is_gone = |_| "the agent is ending".to_owned();
        self.0.send(reply).await.map_err(|_| "the agent is ending".to_owned())?;
        answer.await.map_err(is_gone)?
    }
}

/// The agent's end.
pub struct Reload {
    asked: mpsc::Receiver<oneshot::Sender<Answer>>,
    asking: Asking,
    read: Box<dyn Fn() -> Result<Config, String> + Send + Sync>,
    /// Told of each configuration that is taken over.
    taken: Box<dyn Fn(&Config) + Send + Sync>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl Reload {
    /// `read` reads the configuration as it was read at the start.
    pub fn new(
        read: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
        taken: impl Fn(&Config) + Send + Sync + 'static,
    ) -> Self {
        // One is at work, and who comes meanwhile waits.
        let (sender, asked) = mpsc::channel(1);
        Self { asked, asking: Asking(sender), read: Box::new(read), taken: Box::new(taken) }
    }

    pub fn asking(&self) -> Asking {
        self.asking.clone()
    }

    /// The next who asks.
    pub(crate) async fn asked(&mut self) -> oneshot::Sender<Answer> {
        match self.asked.recv().await {
            Some(reply) => reply,
            None => std::future::pending().await,
        }
    }

    /// Reads the configuration: what of `running` changes, and what is in force then.
    pub(crate) fn read(&self, running: &Config) -> Result<(Vec<Change>, Config), String> {
        let new = (self.read)()?;
        let changes = running.changes(&new);
        Ok((changes, running.taking_over(new)))
    }

    pub(crate) fn taken(&self, config: &Config) {
        (self.taken)(config);
    }
}

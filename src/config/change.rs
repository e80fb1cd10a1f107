//! A difference between two configurations.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A setting whose value differs from the running one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub key: String,
    /// Secrets are `***`.
    pub old: String,
    pub new: String,
    /// The new value takes effect only after a restart of the agent.
    pub needs_restart: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, old, new, needs_restart } = self;
        write!(f, "{key}: {old:?} -> {new:?}")?;
        if *needs_restart { f.write_str(" needs a restart") } else { Ok(()) }
    }
}

//! The differences between two configurations, and which of them a running agent applies.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::destination::named;
use super::keys::{KEYS, Key, of_server};
use super::{Config, LogConfig, QueueConfig};

/// A setting whose value differs from the running one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    pub key: String,
    /// Secrets are `***`.
    pub old: String,
    pub new: String,
    /// The new value takes effect only after a restart of the agent.
    pub needs_restart: bool,
}

impl fmt::Display for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, old, new, needs_restart } = self;
        write!(f, "{key}: {old:?} -> {new:?}")?;
        if *needs_restart { f.write_str(" needs a restart") } else { Ok(()) }
    }
}

impl Config {
    /// Lists the keys whose values differ in `new`.
    pub(crate) fn changes(&self, new: &Self) -> Vec<ConfigChange> {
        let mut changes = changed(KEYS, self, new);
        let names: BTreeSet<_> = self.destinations.keys().chain(new.destinations.keys()).collect();
        for name in names {
            changes.extend(self.changes_of(name, new));
        }
        changes
    }

    /// Lists the changes of one additional destination. Adding or removing it needs a restart.
    fn changes_of(&self, name: &str, new: &Self) -> Vec<ConfigChange> {
        match (self.destinations.get(name), new.destinations.get(name)) {
            (Some(_), Some(_)) => changed(of_server(), &self.towards(name), &new.towards(name))
                .into_iter()
                .map(|change| ConfigChange { key: named(&change.key, Some(name)), ..change })
                .collect(),
            (old, new) => {
                let [old, new] = [old, new]
                    .map(|server| server.map(|server| server.url.to_string()).unwrap_or_default());
                let key = named("server.url", Some(name));
                vec![ConfigChange { key, old, new, needs_restart: true }]
            }
        }
    }

    /// Merges `new` into this configuration: keys that need a restart keep their old values.
    pub(crate) fn taking_over(&self, new: Self) -> Self {
        let mut destinations = self.destinations.clone();
        for (name, server) in &mut destinations {
            *server = new.destinations.get(name).unwrap_or(server).clone();
        }
        Self {
            update_rate_hz: new.update_rate_hz,
            server: new.server,
            destinations,
            queue: QueueConfig { path: self.queue.path.clone(), ..new.queue },
            delivery: new.delivery,
            log: LogConfig { level: new.log.level, ..self.log.clone() },
            ..self.clone()
        }
    }
}

/// The keys among `keys` whose values differ.
fn changed(keys: &[Key], old: &Config, new: &Config) -> Vec<ConfigChange> {
    // The only accessor of a field borrows it mutably, hence the clones.
    let (mut old, mut new) = (old.clone(), new.clone());
    let mut changes = Vec::new();
    for key in keys {
        let values = [key.show(&mut old), key.show(&mut new)];
        if values[0] == values[1] {
            continue;
        }
        let is_secret = key.is_secret(&mut old);
        let [old, new] =
            values.map(|value| if is_secret && !value.is_empty() { "***".into() } else { value });
        let needs_restart = !is_live(key.name);
        changes.push(ConfigChange { key: key.name.to_owned(), old, new, needs_restart });
    }
    changes
}

/// Whether a key takes effect while the agent runs; the others need a restart.
fn is_live(key: &str) -> bool {
    match key.split_once('.') {
        Some(("queue", name)) => name != "path",
        Some(("server" | "delivery", _)) => true,
        _ => ["update_rate_hz", "log.level"].contains(&key),
    }
}

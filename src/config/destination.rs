//! Additional servers: `[destination.<name>]` has the keys of `[server]`.
//!
//! Destinations have no separate key table. To set a key of a destination, the code swaps the
//! destination with `[server]`, sets the `server.*` key and swaps them back.

use super::Config;
use super::keys::{self, Key};

/// The maximum number of destinations besides `[server]`, and the maximum length of a name.
const MAX_DESTINATIONS: usize = 8;
const MAX_DESTINATION_NAME_BYTES: usize = 32;

/// The name of the destination of `[server]`.
pub const SERVER: &str = "server";

pub(super) const TABLE: &str = "destination";

/// A key, and the destination it belongs to; `None` for keys outside `[destination.<name>]`.
pub(super) struct KeyPath {
    pub(super) destination: Option<String>,
    pub(super) key: &'static Key,
}

/// Resolves a dotted name.
pub(super) fn find(name: &str) -> Option<KeyPath> {
    if let Some(key) = keys::find(name) {
        return Some(KeyPath { destination: None, key });
    }
    let (destination, key) = name.strip_prefix(TABLE)?.strip_prefix('.')?.split_once('.')?;
    let key = keys::find(&format!("server.{key}"))?;
    Some(KeyPath { destination: Some(destination.to_owned()), key })
}

/// The name of the destination that a dotted name belongs to.
pub(super) fn of(name: &str) -> Option<String> {
    find(name)?.destination
}

/// Whether `name` is `destination` or the table of one destination.
pub(super) fn is_table(name: &str) -> bool {
    match name.split_once('.') {
        Some((TABLE, destination)) => !destination.is_empty() && !destination.contains('.'),
        _ => name == TABLE,
    }
}

impl KeyPath {
    /// The dotted name, as written in a file.
    pub(super) fn name(&self) -> String {
        named(self.key.name, self.destination.as_deref())
    }

    /// Runs `work` on the configuration with this destination in the place of `[server]`. The error
    /// is a message about an invalid name or too many destinations.
    pub(super) fn within<T>(
        &self,
        config: &mut Config,
        work: impl FnOnce(&mut Config) -> T,
    ) -> Result<T, String> {
        let Some(name) = &self.destination else { return Ok(work(config)) };
        check_name(name)?;
        if !config.destinations.contains_key(name) && config.destinations.len() >= MAX_DESTINATIONS
        {
            return Err(format!("is one destination too many; write {MAX_DESTINATIONS} at most"));
        }
        swap(config, name);
        let done = work(config);
        swap(config, name);
        Ok(done)
    }
}

/// Checks the name of a destination in `[destination.<name>]`.
fn check_name(name: &str) -> Result<(), String> {
    if !(1..=MAX_DESTINATION_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_name_byte) {
        return Err(format!(
            "{name:?} is not a valid destination name; write 1 to {MAX_DESTINATION_NAME_BYTES} of \
             a-z 0-9 _ -"
        ));
    }
    if name == SERVER {
        return Err(format!("{name:?} is the name of [{SERVER}]; choose another one"));
    }
    Ok(())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte)
}

/// Whether the key is a secret and has a value.
#[cfg(unix)]
pub(super) fn holds_secret(config: &Config, name: &str) -> bool {
    let Some(path) = find(name) else { return false };
    path.within(&mut config.clone(), |config| path.key.holds_secret(config)).unwrap_or(false)
}

/// The dotted name of a `[server]` key within a destination.
pub(super) fn named(key: &str, destination: Option<&str>) -> String {
    match (destination, key.strip_prefix("server.")) {
        (Some(name), Some(key)) => full_name(name, key),
        _ => key.to_owned(),
    }
}

/// The dotted name of a key of a destination.
pub(super) fn full_name(destination: &str, key: &str) -> String {
    format!("{TABLE}.{destination}.{key}")
}

/// Swaps a destination and `[server]`.
pub(super) fn swap(config: &mut Config, name: &str) {
    std::mem::swap(&mut config.server, config.destinations.entry(name.to_owned()).or_default());
}

impl Config {
    /// The names of all destinations. `[server]` is the first, with the name [`SERVER`].
    pub(crate) fn destination_names(&self) -> Vec<String> {
        [SERVER.to_owned()].into_iter().chain(self.destinations.keys().cloned()).collect()
    }

    /// Returns the configuration with `destination` in place of `[server]`.
    pub(crate) fn towards(&self, destination: &str) -> Self {
        let mut config = self.clone();
        if destination != SERVER {
            swap(&mut config, destination);
        }
        config
    }
}

/// The table of a destination, such as `server` or `destination.league`.
pub(crate) fn table_of(destination: &str) -> String {
    if destination == SERVER { SERVER.into() } else { format!("{}.{destination}", TABLE) }
}

/// Replaces the keys of `[server]` in a text of this program with those of a destination.
pub(crate) fn with_keys_of(text: &str, destination: &str) -> String {
    if destination == SERVER {
        return text.to_owned();
    }
    let words = text.split(' ').map(|word| {
        // Only whole words: a host name may be `server.url.example.org`.
        let name = word.trim_matches(|c: char| c.is_ascii_punctuation() && c != '_');
        match keys::of_server().iter().find(|key| key.name == name) {
            Some(key) => word.replacen(name, &named(key.name, Some(destination)), 1),
            None => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_keys_of_its_destination() {
        for (text, expected) in [
            ("check server.url, and that", "check destination.club.url, and that"),
            ("(server.token_file). Set", "(destination.club.token_file). Set"),
            ("http://server.url.example/", "http://server.url.example/"),
            ("delivery.proof = \"echo\"", "delivery.proof = \"echo\""),
        ] {
            assert_eq!(with_keys_of(text, "club"), expected);
            assert_eq!(with_keys_of(text, SERVER), text);
        }
    }
}

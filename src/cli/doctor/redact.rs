//! What must not get out: what opens the server's door, and what opens a page.

use std::path::Path;

use serde_json::Value;

use super::Finding;
use crate::config::{Config, MAX_CONFIG_BYTES, Secret, ServerConfig, SessionChoice};

/// What stands in the place of a secret.
const HIDDEN: &str = "***";

/// Below so many characters a text guards nothing, and is found in any other.
const LEAST_CHARS: usize = 4;

/// Takes secrets out of texts.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    /// The longest first: one may be a part of another.
    secrets: Vec<String>,
}

impl Redactor {
    /// Knows the secrets of a configuration, those in the files that it names too.
    pub(super) fn of(config: &Config) -> Self {
        let hub = &config.source.nats;
        let mut secrets = of_tokens(&hub.token, hub.token_file.as_deref());
        for server in [&config.server].into_iter().chain(config.destinations.values()) {
            secrets.extend(of_server(server));
        }
        secrets.retain(|secret| secret.chars().count() >= LEAST_CHARS);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets }
    }

    pub(super) fn finding(&self, finding: Finding) -> Finding {
        let Finding { severity, subject, what, advice } = finding;
        let (what, advice) = (self.text(&what), advice.map(|advice| self.text(&advice)));
        Finding { severity, subject, what, advice }
    }

    /// The text without secrets, without the ids of sessions, and without links to pages.
    pub(super) fn text(&self, text: &str) -> String {
        let hide = |text: String, secret: &String| {
            let quoted = Value::from(secret.as_str()).to_string();
            // As it stands within a text of JSON.
            let escaped = quoted.get(1..quoted.len() - 1).unwrap_or(secret);
            text.replace(escaped, HIDDEN).replace(secret, HIDDEN)
        };
        without_pages(&without_ids(&self.secrets.iter().fold(text.to_owned(), hide)))
    }
}

fn of_server(server: &ServerConfig) -> Vec<String> {
    let ServerConfig { token, token_file, headers, auth, session_id, .. } = server;
    let mut secrets = of_tokens(token, token_file.as_deref());
    for (_, value) in headers.iter() {
        secrets.extend(value.split_whitespace().chain([value]).map(str::to_owned));
    }
    let mut values: Vec<&Value> = auth.reveal().into_iter().collect();
    while let Some(value) = values.pop() {
        match value {
            Value::Object(pairs) => values.extend(pairs.values()),
            Value::Array(items) => values.extend(items),
            Value::String(text) => secrets.push(text.clone()),
            Value::Number(number) => secrets.push(number.to_string()),
            Value::Null | Value::Bool(_) => {}
        }
    }
    if let SessionChoice::Fixed(id) = session_id {
        secrets.push(id.clone());
    }
    secrets
}

/// A token, and the one in a file.
fn of_tokens(token: &Secret, file: Option<&Path>) -> Vec<String> {
    let in_file = file.and_then(in_file);
    [Some(token), in_file.as_ref()]
        .into_iter()
        .flatten()
        .filter_map(Secret::reveal)
        .map(str::to_owned)
        .collect()
}

fn in_file(path: &Path) -> Option<Secret> {
    // Opening a pipe would wait for somebody to write into it.
    let about = std::fs::metadata(path).ok()?;
    let fits = about.is_file() && about.len() <= MAX_CONFIG_BYTES;
    let bytes = fits.then(|| std::fs::read(path).ok())??;
    Some(Secret::from(String::from_utf8_lossy(&bytes).as_ref()))
}

/// Whoever has the id of a session has its page.
fn without_ids(text: &str) -> String {
    const CHARS: usize = 36;
    let bytes = text.as_bytes();
    let is_id = |at: usize| {
        let id = bytes.get(at..at + CHARS)?;
        let is_uuid = id.iter().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
        is_uuid.then_some(())
    };
    let mut shown = String::with_capacity(text.len());
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        if is_id(at).is_none() {
            at += 1;
            continue;
        }
        shown.push_str(&text[copied..at]);
        shown.push_str(HIDDEN);
        at += CHARS;
        copied = at;
    }
    shown + &text[copied..]
}

/// A server may name its sessions otherwise.
fn without_pages(text: &str) -> String {
    const PAGE: &str = "/dashboard/";
    let mut pieces = text.split(PAGE);
    let mut shown = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let is_id = |c: char| c.is_ascii_alphanumeric() || "-_.~%*".contains(c);
        let rest = piece.trim_start_matches(is_id);
        shown.push_str(PAGE);
        shown.push_str(if rest.len() == piece.len() { "" } else { HIDDEN });
        shown.push_str(rest);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, load};

    #[test]
    fn nothing_that_opens_a_door_or_a_page_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from a file\n").unwrap();
        let mut overrides = Overrides::default();
        for (key, value) in [
            ("server.token", "hunter2"),
            ("server.token_file", file.to_str().unwrap()),
            ("server.headers", "Authorization: Basic YW5hOmxhcA=="),
            ("server.auth", r#"{"who": ["Ana-\"M\"", 77123]}"#),
            ("server.session_id", "our-own-race"),
        ] {
            overrides.set(key, value, "--set");
        }
        let config = load(None, std::iter::empty(), &overrides).unwrap().config;
        let redactor = Redactor::of(&config);
        let id = "5f0b7a5e-8b5e-4f7e-9d0e-0f4c6c1d2e3f";
        for (text, shown) in [
            ("Bearer hunter2!".into(), "Bearer ***!"),
            ("token: from a file".into(), "token: ***"),
            ("Basic YW5hOmxhcA==, YW5hOmxhcA==".into(), "***, ***"),
            (r#"{"who":"Ana-\"M\"","number":77123}"#.into(), r#"{"who":"***","number":***}"#),
            ("https://a/dashboard/our-own-race.".into(), "https://a/dashboard/***"),
            ("http://a/dashboard/x7 is new".into(), "http://a/dashboard/*** is new"),
            ("/dashboard/ and /dashboard/\"x".into(), "/dashboard/ and /dashboard/\"x"),
            (format!("é{id}{id}-"), "é******-"),
            (format!("session={}", id.to_uppercase()), "session=***"),
            ("5f0b7a5e-8b5e-4f7e-9d0e-0f4c6c1d2e3".into(), "5f0b7a5e-8b5e-4f7e-9d0e-0f4c6c1d2e3"),
        ] {
            assert_eq!(redactor.text(&text), shown);
        }
    }
}

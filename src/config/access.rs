//! Credentials for a server: a token, headers, a Socket.IO `auth` payload. None of them is ever
//! printed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::ParseError;
use super::values::Textual;

/// The text shown in place of a secret.
const HIDDEN: &str = "***";

/// A text that is never printed; empty means not set.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, to be sent to the server and nowhere else.
    pub(crate) fn reveal(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| !text.is_empty())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.trim().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { HIDDEN })
    }
}

impl Textual for Secret {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        if text.contains(|c: char| c.is_control()) {
            return Err(ParseError("has control characters in it"));
        }
        *self = text.into();
        Ok(())
    }

    fn show(&self) -> String {
        hidden(self.0.is_empty())
    }

    fn allowed(&self) -> String {
        r#"text without line breaks, or "" for none"#.into()
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn secrets(&self) -> Vec<String> {
        self.reveal().map(str::to_owned).into_iter().collect()
    }
}

/// The minimum length of a token that guards a listener: the number of guesses is not limited.
const MIN_TOKEN_CHARS: usize = 16;

/// Checks that a token can guard a listener; the error completes "a token that …".
pub(crate) fn check_token(token: &str) -> Result<(), String> {
    if token.len() < MIN_TOKEN_CHARS {
        Err(format!("can be guessed; write {MIN_TOKEN_CHARS} characters or more"))
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("no HTTP header can carry; write letters, digits and ASCII punctuation".into())
    } else {
        Ok(())
    }
}

/// HTTP headers, written one per line.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Names and values of the headers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, _)| (name, HIDDEN))).finish()
    }
}

impl Textual for Headers {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        let mut headers = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (name, value) =
                line.split_once(':').ok_or(ParseError("is not a list of headers"))?;
            let (name, value) = (name.trim(), value.trim());
            if name.is_empty()
                || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            {
                return Err(ParseError("has a header with an invalid name"));
            }
            if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
                return Err(ParseError("has a header whose value is not plain ASCII"));
            }
            headers.push((name.into(), value.into()));
        }
        *self = Self(headers);
        Ok(())
    }

    fn show(&self) -> String {
        hidden(self.0.is_empty())
    }

    fn allowed(&self) -> String {
        r#"one "Name: value" per line, or "" for none"#.into()
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn secrets(&self) -> Vec<String> {
        self.iter().flat_map(|(_, value)| in_header(value)).collect()
    }
}

/// The payload of the Socket.IO connect packet.
#[derive(Clone, Default, PartialEq)]
pub struct Auth(Option<serde_json::Value>);

impl Auth {
    /// The payload, to be sent to the server and nowhere else.
    pub(crate) fn reveal(&self) -> Option<&serde_json::Value> {
        self.0.as_ref()
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_none() { "none" } else { HIDDEN })
    }
}

impl Textual for Auth {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = match text.trim() {
            "" => Self(None),
            text => match serde_json::from_str(text) {
                Ok(value @ serde_json::Value::Object(_)) => Self(Some(value)),
                Ok(_) | Err(_) => return Err(ParseError("is not a JSON object")),
            },
        };
        Ok(())
    }

    fn show(&self) -> String {
        hidden(self.0.is_none())
    }

    fn allowed(&self) -> String {
        r#"a JSON object such as '{"token": "…"}', or "" for none"#.into()
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn secrets(&self) -> Vec<String> {
        self.0.as_ref().map(in_json).unwrap_or_default()
    }
}

fn hidden(none: bool) -> String {
    if none { String::new() } else { HIDDEN.into() }
}

/// Words in the value of a header that are not secret.
const SCHEMES: [&str; 4] = ["basic", "bearer", "digest", "token"];

fn is_scheme(word: &str) -> bool {
    SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// The secrets in the value of a header: the value, its words, and the password in `Basic`
/// credentials.
fn in_header(value: &str) -> Vec<String> {
    let mut secrets = vec![value.to_owned()];
    secrets.extend(value.split_whitespace().filter(|word| !is_scheme(word)).map(str::to_owned));
    let decoded = value
        .split_whitespace()
        .last()
        .and_then(|word| STANDARD.decode(word).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((_, password)) = decoded.as_deref().and_then(|both| both.split_once(':')) {
        secrets.push(password.to_owned());
    }
    secrets
}

/// The strings and numbers of a JSON value, all of which may be secrets.
fn in_json(value: &Value) -> Vec<String> {
    let mut secrets = Vec::new();
    let mut values = vec![value];
    while let Some(value) = values.pop() {
        match value {
            Value::Object(pairs) => values.extend(pairs.values()),
            Value::Array(items) => values.extend(items),
            Value::String(text) => secrets.push(text.clone()),
            Value::Number(number) => secrets.push(number.to_string()),
            Value::Null | Value::Bool(_) => {}
        }
    }
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};

    #[test]
    fn secrets_are_hidden_in_listings_and_error_messages() {
        let mut overrides = Overrides::default();
        for (key, value) in [
            ("server.token", "hunter2"),
            ("source.nats.token", "hunter2"),
            ("server.headers", "X-Key: hunter2"),
            ("server.proxy", "http://me:hunter2@proxy:3128"),
            ("server.auth", r#"{"key": "hunter2"}"#),
        ] {
            overrides.set(key, value, "--set");
        }
        let config = config::load(None, std::iter::empty(), &overrides).unwrap().config;
        assert_eq!(config.server.token.reveal(), Some("hunter2"));
        assert_eq!(config.server.headers.iter().collect::<Vec<_>>(), [("X-Key", "hunter2")]);
        for text in [format!("{config:?}"), config::to_toml(&config)] {
            assert!(text.contains(HIDDEN) && !text.contains("hunter2"), "{text}");
        }
        for (key, value) in [
            ("server.token", "hunter2\u{7}"),
            ("server.headers", "hunter2"),
            ("server.headers", "X-Key: hunter2\u{7}"),
            ("server.auth", "hunter2"),
            ("server.proxy", "socks5://me:hunter2@proxy"),
        ] {
            let mut overrides = Overrides::default();
            overrides.set(key, value, "--set");
            let problems = config::load(None, std::iter::empty(), &overrides).unwrap_err();
            let text = problems.to_string();
            assert!(text.contains(HIDDEN) && !text.contains("hunter2"), "{text}");
        }
    }
}

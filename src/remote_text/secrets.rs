//! Replaces secrets and session ids in a text.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::is_unsafe;
use crate::config::{self, Config, CredentialFile, Secret};

/// A shorter secret protects nothing and occurs in any other text.
const MIN_SECRET_CHARS: usize = 4;
/// A shorter base64 form occurs in other texts by chance.
const MIN_BASE64_CHARS: usize = 5;
/// Length of a UUID with its hyphens.
const UUID_CHARS: usize = 36;

const SECRET: &str = "[secret]";
const SESSION: &str = "[session]";
/// What precedes the session id in a link to a page.
const PAGE: &str = "/dashboard/";

/// The secrets that remote text must not repeat.
///
/// A secret is recognized verbatim, percent-encoded in part or as a whole, quoted as JSON, in base64
/// at any offset (so within `Basic` credentials), and with invisible characters in between. It is
/// not recognized when a server splits it over several messages, changes it in another way
/// (reversed, in hexadecimal, encoded twice), or when it has fewer than 4 characters. A session id
/// is recognized if it is a UUID, a fixed one of the configuration, or follows `/dashboard/`.
#[derive(Clone, Default)]
pub struct Secrets {
    secrets: Arc<[String]>,
    /// All recognized forms of all secrets, longest first, because one may contain another.
    forms: Arc<[String]>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.secrets.len())
    }
}

impl Secrets {
    /// Ignores secrets that are too short to be recognized.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<String> = secrets
            .into_iter()
            .filter(|secret| secret.chars().count() >= MIN_SECRET_CHARS)
            .collect();
        secrets.sort();
        secrets.dedup();
        let mut forms: Vec<String> = secrets.iter().flat_map(|secret| forms(secret)).collect();
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        Self { secrets: secrets.into(), forms: forms.into() }
    }

    /// The secrets of a configuration, without those in its token files.
    pub fn of(config: &Config) -> Self {
        Self::new(config::secrets(config))
    }

    /// The secrets of a configuration and of its token files. Reads the files, which may block.
    pub(crate) fn with_files_of(config: &Config) -> Self {
        let Config { source, metrics, serve, .. } = config;
        let servers = [&config.server].into_iter().chain(config.destinations.values());
        let files = servers
            .map(|server| &server.token_file)
            .chain([&source.nats.token_file, &source.http.token_file])
            .chain([&source.socketio.token_file, &metrics.token_file, &serve.token_file])
            .flatten();
        Self::of(config).and(files.filter_map(token_in))
    }

    /// Adds secrets.
    #[must_use]
    pub fn and(&self, more: impl IntoIterator<Item = String>) -> Self {
        Self::new(self.secrets.iter().cloned().chain(more))
    }

    /// Replaces secrets and session ids in a text of any length; changes nothing else.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.replace(text, text.len())
    }

    /// Replaces secrets and session ids that begin in the first `shown_bytes` of the text and drops
    /// the rest.
    pub(super) fn replace(&self, text: &str, shown_bytes: usize) -> String {
        let mut shown = String::new();
        let (mut at, mut copied) = (0, 0);
        while at < shown_bytes {
            match self.hidden_at(text, at) {
                Some((end, placeholder)) => {
                    shown.push_str(text.get(copied..at).unwrap_or_default());
                    shown.push_str(placeholder);
                    (at, copied) = (end, end);
                }
                None => at += 1,
            }
        }
        let end = text.floor_char_boundary(shown_bytes);
        shown.push_str(text.get(copied..end).unwrap_or_default());
        shown
    }

    /// If a secret or session id begins at this byte: its end, and the placeholder for it.
    fn hidden_at(&self, text: &str, at: usize) -> Option<(usize, &'static str)> {
        if !text.is_char_boundary(at) {
            return None;
        }
        if let Some(end) = self.forms.iter().find_map(|form| end_of(text, at, form)) {
            return Some((end, SECRET));
        }
        if let Some(end) = end_of_uuid(text, at) {
            return Some((end, SESSION));
        }
        let id = text.get(..at)?.ends_with(PAGE).then(|| text.get(at..))??;
        let after_id =
            id.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-_.~%".contains(c));
        let end = text.len() - after_id.len();
        (end > at).then_some((end, SESSION))
    }
}

/// The recognized forms of a secret; percent-encoding is handled separately.
fn forms(secret: &str) -> Vec<String> {
    let quoted = Value::from(secret).to_string();
    let mut forms = vec![secret.to_owned()];
    forms.extend(quoted.get(1..quoted.len() - 1).map(str::to_owned));
    for offset in 0..3 {
        let padded = [&[0; 3][..offset], secret.as_bytes()].concat();
        // Only the characters that do not depend on the bytes around the secret.
        let (start, end) = ((offset * 8).div_ceil(6), padded.len() * 8 / 6);
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&padded);
            forms.extend(
                encoded
                    .get(start..end)
                    .filter(|form| form.len() >= MIN_BASE64_CHARS)
                    .map(str::to_owned),
            );
        }
    }
    forms
}

/// The end of `form`, if it begins at this byte of the text.
fn end_of(text: &str, at: usize, form: &str) -> Option<usize> {
    if text.as_bytes().get(at..)?.starts_with(form.as_bytes()) {
        return Some(at + form.len());
    }
    // Text that begins at an invisible character also begins at the visible one after it.
    if text.get(at..)?.starts_with(is_unsafe) {
        return None;
    }
    let mut letters = Letters { text, at };
    form.bytes().all(|wanted| letters.next() == Some(wanted)).then_some(letters.at)
}

/// The end of a UUID, if one begins at this byte of the text.
fn end_of_uuid(text: &str, at: usize) -> Option<usize> {
    if text.get(at..)?.starts_with(is_unsafe) {
        return None;
    }
    let mut letters = Letters { text, at };
    let is_uuid = (0..UUID_CHARS).all(|place| match (place, letters.next()) {
        (8 | 13 | 18 | 23, letter) => letter == Some(b'-'),
        (_, letter) => letter.is_some_and(|letter| letter.is_ascii_hexdigit()),
    });
    is_uuid.then_some(letters.at)
}

/// Iterates over the bytes of a text, decodes percent-encoding and skips invisible characters.
struct Letters<'a> {
    text: &'a str,
    at: usize,
}

impl Iterator for Letters<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let (&byte, after) = rest.split_first()?;
            if byte == b'%'
                && let [high, low, ..] = *after
                && let (Some(high), Some(low)) = (hex(high), hex(low))
            {
                self.at += 3;
                return u8::try_from(high * 16 + low).ok();
            }
            let c = self.text.get(self.at..).and_then(|rest| rest.chars().next());
            match c {
                Some(c) if is_unsafe(c) => self.at += c.len_utf8(),
                _ => {
                    self.at += 1;
                    return Some(byte);
                }
            }
        }
    }
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> Option<u32> {
    char::from(digit).to_digit(16)
}

fn token_in(file: &CredentialFile) -> Option<String> {
    let text = file.read().ok()?;
    Secret::from(text.as_str()).reveal().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::config::{Overrides, load};

    const ID: &str = "5f0b7a5e-8b5e-4f7e-9d0e-0f4c6c1d2e3f";

    fn secrets() -> Secrets {
        Secrets::new(["hunter2/secret", "Ana-\"M\"", "50%41x", "abc"].map(str::to_owned))
    }

    #[test]
    fn secrets_are_redacted_in_percent_and_json_encodings() {
        for (text, shown) in [
            ("no token hunter2/secret!", "no token [secret]!"),
            ("hunter2/secrethunter2/secret", "[secret][secret]"),
            ("?token=hunter2%2Fsecret&", "?token=[secret]&"),
            ("?token=%68unter2%2fsecre%74", "?token=[secret]"),
            (r#"{"who":"Ana-\"M\""}"#, r#"{"who":"[secret]"}"#),
            ("50%41x, 50%2541x", "[secret], [secret]"),
            ("hun\u{200b}ter2/\nsecret", "[secret]"),
            ("hunter2/secre", "hunter2/secre"),
            ("abc is too short", "abc is too short"),
        ] {
            assert_eq!(secrets().redact(text.as_ref()), shown);
        }
    }

    #[test]
    fn secrets_are_redacted_inside_base64() {
        for user in ["", "a", "bo", "ana", "dave"] {
            let basic = STANDARD.encode(format!("{user}:hunter2/secret"));
            let shown = secrets().redact(&format!("Basic {basic}"));
            // Characters that also encode a part of the user name are not replaced.
            assert!(shown.contains(SECRET) && shown.len() < 28, "{user}: {shown}");
        }
    }

    #[test]
    fn session_ids_are_redacted() {
        let upper = ID.to_uppercase();
        for (text, shown) in [
            (format!("no session {ID}."), "no session [session]."),
            (format!("session-{upper}"), "session-[session]"),
            (format!("é{ID}{ID}-"), "é[session][session]-"),
            (ID.replace('-', "%2D"), "[session]"),
            ("http://a/dashboard/x7 is new".into(), "http://a/dashboard/[session] is new"),
            ("/dashboard/ and /dashboard/\"x".into(), "/dashboard/ and /dashboard/\"x"),
            (ID[1..].into(), &ID[1..]),
        ] {
            assert_eq!(secrets().redact(text.as_ref()), shown);
        }
    }

    #[test]
    fn every_secret_in_the_configuration_is_redacted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from a file\n").unwrap();
        let mut overrides = Overrides::default();
        for (key, value) in [
            ("server.token", "hunter2"),
            ("server.token_file", file.to_str().unwrap()),
            ("server.headers", "Authorization: Basic YW5hOmxhcHRpbWU="),
            ("server.auth", r#"{"who": ["Ana-\"M\"", 77123]}"#),
            ("server.session_id", "our-own-race"),
            ("source.nats.token", "of the hub"),
            ("destination.club.url", "http://127.0.0.1:1"),
            ("destination.club.token", "of the club"),
        ] {
            overrides.set(key, value, "--set");
        }
        let config = load(None, std::iter::empty(), &overrides).unwrap().config;
        let secrets = Secrets::with_files_of(&config);
        for (text, shown) in [
            ("Bearer hunter2!", "Bearer [secret]!"),
            ("token: from a file", "token: [secret]"),
            ("Basic YW5hOmxhcHRpbWU=, YW5hOmxhcHRpbWU=", "[secret], [secret]"),
            ("ana:laptime", "ana:[secret]"),
            (r#"{"who":"Ana-\"M\"","number":77123}"#, r#"{"who":"[secret]","number":[secret]}"#),
            ("no session our-own-race", "no session [secret]"),
            ("of the hub, of the club", "[secret], [secret]"),
        ] {
            assert_eq!(secrets.redact(text), shown);
        }
        assert!(!format!("{secrets:?}").contains("hunter2"));
    }
}

//! Text from servers and other programs, made safe to log and show.
//!
//! Errors can hold such text only as a [`RemoteText`], whose constructors sanitize it:
//! every configured secret becomes `[secret]`, every session id `[session]`; control, bidi and
//! invisible characters are escaped; the length is bounded.
//!
//! A secret is recognized verbatim, percent-encoded in part or as a whole, quoted as JSON, in
//! base64 at any offset (so within `Basic` credentials), and with invisible characters in between.
//! It is not recognized when a server splits it over several messages, changes it in another way
//! (reversed, in hexadecimal, encoded twice), or when it has fewer than 4
//! characters. A session id is recognized if it is a UUID, a fixed one of the configuration, or
//! follows `/dashboard/`.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::Deref;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::config::{self, Config, CredentialFile, Secret};

/// The maximum characters of a remote text that are shown: one log line.
const MAX_CHARS: usize = 200;
/// The maximum bytes of a remote text that are scanned. The rest is never shown, so even megabytes
/// cost no time.
const MAX_SCANNED_BYTES: usize = 16 << 10;
/// Bytes at the end of a truncated text that are not shown, because a secret may be truncated
/// there.
const CUT_BYTES: usize = MAX_SCANNED_BYTES / 2;
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

/// Text of a server or another program that is safe to log and to show.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteText(String);

impl RemoteText {
    /// Sanitizes `text` as the module documentation describes.
    pub fn new(text: impl fmt::Display, secrets: &Secrets) -> Self {
        let mut scanned = Bounded::default();
        let shown_bytes = match write!(scanned, "{text}") {
            Ok(()) => scanned.0.len(),
            Err(fmt::Error) => scanned.0.len().saturating_sub(CUT_BYTES),
        };
        Self(shorten(&secrets.replace(&scanned.0, shown_bytes)))
    }

    /// Adds a prefix and a suffix of our own; they are escaped too, but not shortened.
    #[must_use]
    pub fn within(self, before: &str, after: &str) -> Self {
        Self(format!("{}{}{}", escape(before), self.0, escape(after)))
    }
}

/// Text of this program.
impl From<&'static str> for RemoteText {
    fn from(text: &'static str) -> Self {
        Self(escape(text).into_owned())
    }
}

impl Deref for RemoteText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RemoteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RemoteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A string that fails to grow beyond [`MAX_SCANNED_BYTES`].
#[derive(Default)]
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_SCANNED_BYTES - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

/// Escapes unsafe characters and truncates after [`MAX_CHARS`] characters.
fn shorten(text: &str) -> String {
    let mut shown = String::new();
    let mut count = 0;
    for c in text.chars() {
        let mut buffer = [0; 4];
        let piece = escape(c.encode_utf8(&mut buffer));
        count += piece.chars().count();
        if count > MAX_CHARS {
            let last = shown.char_indices().nth(MAX_CHARS - 1).map_or(shown.len(), |(at, _)| at);
            shown.truncate(last);
            shown.push('…');
            return shown;
        }
        shown.push_str(&piece);
    }
    shown
}

/// Escapes control, bidi and invisible characters, which could forge a log line, control a terminal
/// or make a text look like another one.
///
/// Uses JSON escapes, so that JSON text keeps its meaning.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    escape_if(text, is_unsafe)
}

/// [`escape`] for text with several lines and columns: keeps line feeds and tabs.
pub(crate) fn escape_lines(text: &str) -> Cow<'_, str> {
    escape_if(text, |c| is_unsafe(c) && c != '\n' && c != '\t')
}

fn escape_if(text: &str, is_unsafe: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_unsafe(c) => escaped.push(c),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
    }
    escaped.into()
}

/// Whether a character is invisible or has an effect on the text around it.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, joiners, fillers.
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            // Text direction.
            | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{206f}'
            // Line and paragraph separator.
            | '\u{2028}' | '\u{2029}'
            // Variation selectors, annotations, tags.
            | '\u{fe00}'..='\u{fe0f}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// The secrets that remote text must not repeat.
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
    fn replace(&self, text: &str, shown_bytes: usize) -> String {
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
    // Opening a pipe would block until another program writes to it.
    let is_file = std::fs::metadata(file.path().ok()?).ok()?.is_file();
    let text = is_file.then(|| file.read().ok())??;
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
            assert_eq!(&*RemoteText::new(text, &secrets()), shown);
        }
    }

    #[test]
    fn secrets_are_redacted_inside_base64() {
        for user in ["", "a", "bo", "ana", "dave"] {
            let basic = STANDARD.encode(format!("{user}:hunter2/secret"));
            let shown = RemoteText::new(format!("Basic {basic}"), &secrets());
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
            assert_eq!(&*RemoteText::new(text, &secrets()), shown);
        }
    }

    #[test]
    fn control_and_invisible_characters_in_remote_text_are_escaped() {
        for (text, shown) in [
            ("Größe 😀", "Größe 😀"),
            ("a\r\n2026 ERROR b", "a\\r\\n2026 ERROR b"),
            ("\u{1b}[2J\u{9b}2J", "\\u001b[2J\\u009b2J"),
            ("\u{202e}txt\u{2066}", "\\u202etxt\\u2066"),
            ("a\u{200b}b\u{feff}", "a\\u200bb\\ufeff"),
            ("\u{2028}x\0\u{e0041}", "\\u2028x\\u0000\\udb40\\udc41"),
        ] {
            assert_eq!(&*RemoteText::new(text, &Secrets::default()), shown);
        }
    }

    #[test]
    fn a_long_text_is_truncated_without_leaking_part_of_a_secret() {
        let secrets = Secrets::new(["s".repeat(1000)]);
        for text in [
            "é".repeat(500),
            "\n".repeat(500),
            "s".repeat(MAX_SCANNED_BYTES + 900),
            "x".repeat(190) + &"s".repeat(1000),
        ] {
            let shown = RemoteText::new(&text, &secrets);
            assert!(shown.chars().count() <= MAX_CHARS, "{shown}");
            assert!(!shown.contains("ss"), "{shown}");
        }
        let cut = RemoteText::new("é".repeat(201), &secrets);
        assert_eq!(*cut, format!("{}…", "é".repeat(199)));
        assert_eq!(*RemoteText::new("é".repeat(200), &secrets), "é".repeat(200));
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

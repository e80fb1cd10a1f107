//! Text from servers and other programs, made safe to log and show.
//!
//! Errors can hold such text only as a [`RemoteText`], whose constructors sanitize it:
//! every configured secret becomes `[secret]`, every session id `[session]`; control, bidi and
//! invisible characters are escaped; the length is bounded.
//!
//! [`Secrets`] describes which forms of a secret are recognized.

pub(crate) mod cells;
mod secrets;

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::Deref;

pub use self::secrets::Secrets;

/// The maximum characters of a remote text that are shown: one log line.
const MAX_CHARS: usize = 200;
/// The maximum bytes of a remote text that are scanned. The rest is never shown, so even megabytes
/// cost no time.
const MAX_SCANNED_BYTES: usize = 16 << 10;
/// Bytes at the end of a truncated text that are not shown, because a secret may be truncated
/// there.
const CUT_BYTES: usize = MAX_SCANNED_BYTES / 2;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}

//! A configuration value as written, before the type of its key is known.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::ParseError;
use super::units::{parse_duration, parse_size};

/// A raw value from a file, a variable or a flag.
pub(super) enum RawValue<'a> {
    Switch(bool),
    /// Kept as text, so that no digit is lost before the type is known.
    Number(Cow<'a, str>),
    Text(&'a str),
    /// From a variable or a flag, which carry no type.
    Untyped(&'a str),
    /// `a table`, `a list`: a type that no key accepts.
    Other(&'static str),
}

impl RawValue<'_> {
    pub(super) fn switch(&self) -> Result<bool, ParseError> {
        match self {
            Self::Switch(value) => Ok(*value),
            Self::Untyped(text) => text.trim().parse().map_err(|_| ParseError("is not a switch")),
            Self::Number(_) | Self::Text(_) | Self::Other(_) => Err(ParseError("is not a switch")),
        }
    }

    pub(super) fn number(&self) -> Result<f64, ParseError> {
        self.digits("is not a number")?.parse().map_err(|_| ParseError("is not a number"))
    }

    pub(super) fn whole(&self) -> Result<u64, ParseError> {
        let digits = self.digits("is not a whole number")?;
        let number: i128 = digits.parse().map_err(|_| ParseError("is not a whole number"))?;
        u64::try_from(number).map_err(|_| ParseError("is out of range"))
    }

    fn digits(&self, otherwise: &'static str) -> Result<&str, ParseError> {
        match self {
            Self::Number(digits) => Ok(digits),
            Self::Untyped(digits) => Ok(digits.trim()),
            Self::Text(_) => Err(ParseError("is text and not a number")),
            Self::Switch(_) | Self::Other(_) => Err(ParseError(otherwise)),
        }
    }

    pub(super) fn size(&self) -> Result<u64, ParseError> {
        match self {
            Self::Number(_) => self.whole(),
            Self::Text(text) | Self::Untyped(text) => parse_size(text),
            Self::Switch(_) | Self::Other(_) => Err(ParseError("is not a size")),
        }
    }

    pub(super) fn time(&self) -> Result<Duration, ParseError> {
        match self {
            Self::Number(_) => Err(ParseError("has no unit")),
            Self::Text(text) | Self::Untyped(text) => parse_duration(text),
            Self::Switch(_) | Self::Other(_) => Err(ParseError("is not a duration")),
        }
    }

    pub(super) fn text(&self) -> Result<&str, ParseError> {
        match self {
            Self::Text(text) | Self::Untyped(text) => Ok(text),
            Self::Switch(_) | Self::Number(_) | Self::Other(_) => Err(ParseError("is not text")),
        }
    }
}

/// Formats the value for the log: on one short line, without what may be a password.
impl fmt::Display for RawValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(value) => value.fmt(f),
            Self::Number(digits) => f.write_str(&shorten(digits)),
            Self::Text(text) | Self::Untyped(text) => {
                let (before_query, query) = text.split_once('?').unwrap_or((text, ""));
                let query = if query.is_empty() { "" } else { "?***" };
                match before_query.rsplit_once('@') {
                    Some((_, host)) => write!(f, "{:?}", shorten(&format!("***@{host}{query}"))),
                    None => write!(f, "{:?}", shorten(&format!("{before_query}{query}"))),
                }
            }
            Self::Other(kind) => f.write_str(kind),
        }
    }
}

/// Quotes a text for an error message or the log, without what may be a password.
pub(crate) fn quoted(text: &str) -> String {
    RawValue::Text(text).to_string()
}

/// Truncates a long text.
pub(super) fn shorten(text: &str) -> Cow<'_, str> {
    const MAX_CHARS: usize = 80;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

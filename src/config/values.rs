//! Parsing and formatting of textual values: words, paths, addresses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::file;
use super::units::{parse_duration, show_duration};
use super::{
    Durability, LogFormat, LogLevel, ProofChoice, SessionChoice, TransportChoice, Units, WhenFull,
};

/// Why a text is invalid, as a phrase that follows it: `is not a duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub(super) &'static str);

/// A value with a textual form.
pub(super) trait Textual {
    /// Parses `text` into this value; an invalid text leaves it unchanged.
    fn read(&mut self, text: &str) -> Result<(), ParseError>;
    /// Formats the value so that [`Textual::read`] parses it again.
    fn show(&self) -> String;
    /// The allowed values, as a phrase that follows "write".
    fn allowed(&self) -> String;
    /// What to write instead of an invalid text, as a phrase that follows "write"; `None` for any
    /// of the allowed values. `table` is the table of the key, such as `server`.
    fn correction(&self, _invalid: &str, _table: &str) -> Option<String> {
        None
    }
    /// Whether the value is a secret, which not even an error message may quote.
    fn is_secret(&self) -> bool {
        false
    }
    /// The texts in this value that must never be logged, even if a server sends them back.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The name of an agent on NATS: 1 to 64 of `A-Z a-z 0-9 _ -`, because it is part of subjects and
/// stream names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentName(String);

impl AgentName {
    const MAX_CHARS: usize = 64;

    pub(super) fn pitwire() -> Self {
        Self("pitwire".into())
    }

    /// Makes a name from any text: replaces invalid characters with `-`.
    pub(super) fn made_of(text: &str) -> Option<Self> {
        let name: String = text
            .trim()
            .chars()
            .take(Self::MAX_CHARS)
            .map(|c| if is_name_char(c) { c } else { '-' })
            .collect();
        Some(Self(name)).filter(|name| !name.0.is_empty())
    }
}

/// Whether a character may be in the name of an agent or in a session id.
fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AgentName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let is_valid =
            (1..=Self::MAX_CHARS).contains(&text.len()) && text.chars().all(is_name_char);
        if is_valid { Ok(Self(text.into())) } else { Err(ParseError("is not a name")) }
    }
}

impl Textual for AgentName {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = text.parse()?;
        Ok(())
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn allowed(&self) -> String {
        r#"1 to 64 letters, digits, "_" and "-""#.into()
    }
}

/// A set of agent names; empty means all agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentNames(Vec<AgentName>);

impl AgentNames {
    /// Whether the set contains the agent.
    pub fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|known| known.0 == name)
    }
}

impl Textual for AgentNames {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names = names.map(str::parse).collect::<Result<_, ParseError>>();
        *self = Self(names.map_err(|_| ParseError("has an invalid name"))?);
        Ok(())
    }

    fn show(&self) -> String {
        self.0.iter().map(AgentName::to_string).collect::<Vec<_>>().join(", ")
    }

    fn allowed(&self) -> String {
        r#"agent names separated by commas, or "" for all"#.into()
    }
}

impl Textual for Option<AgentName> {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = if text.is_empty() { None } else { Some(text.parse()?) };
        Ok(())
    }

    fn show(&self) -> String {
        self.as_ref().map(AgentName::to_string).unwrap_or_default()
    }

    fn allowed(&self) -> String {
        r#"1 to 64 letters, digits, "_" and "-", or "" for the name of this PC"#.into()
    }
}

impl FromStr for SessionChoice {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "auto" => Ok(Self::Auto),
            id if (1..=128).contains(&id.len()) && id.chars().all(is_name_char) => {
                Ok(Self::Fixed(id.into()))
            }
            _ => Err(ParseError("is not a session id")),
        }
    }
}

impl Textual for SessionChoice {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = text.parse()?;
        Ok(())
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Fixed(id) => id.clone(),
        }
    }

    fn allowed(&self) -> String {
        r#""auto", or an id of 1 to 128 letters, digits, "_" and "-""#.into()
    }

    fn secrets(&self) -> Vec<String> {
        match self {
            Self::Auto => Vec::new(),
            Self::Fixed(id) => vec![id.clone()],
        }
    }
}

impl Textual for Durability {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = match text {
            "entry" => Self::Entry,
            "os" => Self::Os,
            text => match parse_duration(text)? {
                within if WITHIN.contains(&within) => Self::Within(within),
                _ => return Err(ParseError("is out of range")),
            },
        };
        Ok(())
    }

    fn show(&self) -> String {
        match self {
            Self::Entry => "entry".into(),
            Self::Within(within) => show_duration(*within),
            Self::Os => "os".into(),
        }
    }

    fn allowed(&self) -> String {
        let [min, max] = [WITHIN.start(), WITHIN.end()].map(|end| show_duration(*end));
        format!(r#""entry", "os", or a number and a unit such as "200ms" ({min} to {max})"#)
    }
}

const WITHIN: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

impl Textual for PathBuf {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = path(text)?;
        Ok(())
    }

    fn show(&self) -> String {
        self.display().to_string()
    }

    fn allowed(&self) -> String {
        "the full path of a directory".into()
    }

    fn correction(&self, invalid: &str, _table: &str) -> Option<String> {
        path_correction(invalid)
    }
}

impl Textual for Option<PathBuf> {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = if text.is_empty() { None } else { Some(path(text)?) };
        Ok(())
    }

    fn show(&self) -> String {
        self.as_deref().map(Path::display).map(|path| path.to_string()).unwrap_or_default()
    }

    fn allowed(&self) -> String {
        r#"the full path of a file, or "" for none"#.into()
    }

    fn correction(&self, invalid: &str, _table: &str) -> Option<String> {
        path_correction(invalid)
    }
}

/// What to write instead of a path whose backslashes TOML has interpreted.
pub(super) fn path_correction(invalid: &str) -> Option<String> {
    let is_interpreted = invalid.contains(char::is_control) && !invalid.contains('\0');
    is_interpreted.then(|| file::BACKSLASHES.into())
}

pub(super) fn path(text: &str) -> Result<PathBuf, ParseError> {
    if text.is_empty() {
        return Err(ParseError("is empty"));
    }
    // U+FFFD replaces invalid UTF-8 of the environment, so the intended path is unknown.
    if text.contains(['\0', '\u{FFFD}']) {
        return Err(ParseError("is not a path"));
    }
    // "C:\temp" between double quotes: TOML reads \t as a tab.
    if text.contains(char::is_control) {
        return Err(ParseError("has a control character"));
    }
    // Only a shell expands "~"; here it would create a directory of that name.
    if text == "~" || text.starts_with("~/") || text.starts_with("~\\") {
        return Err(ParseError(r#"begins with "~", which is not expanded"#));
    }
    Ok(PathBuf::from(text))
}

impl Textual for SocketAddr {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = text.parse().map_err(|_| ParseError("is not an IP address and a port"))?;
        Ok(())
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn allowed(&self) -> String {
        format!("an IP address and a port such as \"{self}\"")
    }
}

/// A value that is one of a fixed set of words.
trait Choice: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

impl LogLevel {
    /// The word in the configuration and in a log filter.
    pub(crate) fn as_str(self) -> &'static str {
        self.word()
    }
}

impl Choice for WhenFull {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("downsample", Self::Thin),
        ("drop_oldest", Self::DropOldest),
        ("drop_newest", Self::DropNewest),
        ("block", Self::Block),
    ];
}

impl Choice for ProofChoice {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("echo", Self::Echo),
        ("ack", Self::Ack),
        ("written", Self::Written),
    ];
}

impl Choice for TransportChoice {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("websocket", Self::Websocket), ("polling", Self::Polling)];
}

impl Choice for Units {
    const WORDS: &'static [(&'static str, Self)] =
        &[("label", Self::Label), ("upstream", Self::Upstream)];
}

impl Choice for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl<T: Choice> Textual for T {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        let named = T::WORDS.iter().find(|(word, _)| *word == text);
        *self = named.ok_or(ParseError("is not one of the choices"))?.1;
        Ok(())
    }

    fn show(&self) -> String {
        self.word().into()
    }

    fn allowed(&self) -> String {
        T::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ")
    }
}

/// Whether an address is a loopback address, also in its IPv4-mapped IPv6 form.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

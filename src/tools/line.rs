//! The line format of an entry, for exports, imports and dead letters.
//!
//! `{"seq":1,"stint":1,"captured_at":"…","kind":"frame","frame":{…}}`, or
//! `"kind":"setup","timestamp":"…","setup":{…}`. Dead letters have `telemetry` in place of `frame`,
//! and no `kind`; the parser accepts both.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::entry::{CapturedAt, Entry, Seq, content_members};
use crate::fields::{self, Frame, MAX_SAMPLE_BYTES, Reason, Refused, Setup};
use crate::queue::{Content, NewEntry, Stamp};

/// The maximum line of an export: an entry, its position and its timestamp; a longer one is refused.
pub const MAX_LINE_BYTES: usize = MAX_SAMPLE_BYTES + 2048;

/// Formats an entry as a line, without the line break.
pub fn export_line(entry: &Entry) -> String {
    let Entry { seq, stint, captured_at, kind, json } = entry;
    let content = content_members(*kind, "frame", json);
    let kind = kind.as_str();
    format!(
        r#"{{"seq":{seq},"stint":{stint},"captured_at":"{captured_at}","kind":"{kind}",{content}}}"#
    )
}

/// An entry parsed from a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The sequence number that the entry had; it gets a new one when it is appended.
    pub seq: Option<Seq>,
    pub captured_at: CapturedAt,
    pub content: LineContent,
}

/// The content of a line: a frame or a setup.
#[derive(Clone, Debug, PartialEq)]
pub enum LineContent {
    Frame(Frame),
    Setup(Setup),
}

impl Line {
    /// Parses a line.
    ///
    /// # Errors
    /// If the line is malformed, or the dashboard would reject its frame or setup.
    pub fn parse(text: &[u8]) -> Result<Self, Refused> {
        if text.len() > MAX_LINE_BYTES {
            let message = format!("{} bytes; at most {MAX_LINE_BYTES} are allowed", text.len());
            return Err(Refused { reason: Reason::TooLarge, message });
        }
        let text = fields::decoded(text)?;
        let text = fields::without_non_finite(text).map_or(Cow::Borrowed(text), Cow::Owned);
        let members = fields::members(&text)?;
        let seq = value(&members, "seq").map(Seq);
        let captured_at = captured_at(&members)?;
        Ok(Self { seq, captured_at, content: content(&members)? })
    }

    /// Converts the line to an entry, ready to be appended; `previous` is the capture time of the
    /// entry before it.
    pub fn entry(&self, stamp: Stamp, previous: Option<CapturedAt>) -> NewEntry {
        let captured_at = self.captured_at;
        let pause = previous.map_or(Duration::ZERO, |previous| previous.age(captured_at));
        let (content, json) = match &self.content {
            LineContent::Frame(frame) => {
                (Content::Frame(frame.situation()), frame.clone().json(captured_at))
            }
            LineContent::Setup(setup) => {
                (Content::Setup { fingerprint: setup.fingerprint() }, setup.entry_json(captured_at))
            }
        };
        NewEntry { captured_at, pause, ..NewEntry::new(stamp, content, json) }
    }
}

type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

fn value<'a, T: Deserialize<'a>>(members: &Members<'a>, key: &str) -> Option<T> {
    serde_json::from_str(members.get(key)?.get()).ok()
}

fn captured_at(members: &Members<'_>) -> Result<CapturedAt, Refused> {
    let refused = |reason, why: &str| {
        let given = members.get("captured_at").map_or("null", |given| given.get());
        let message = format!("captured_at: {} {why}", fields::shorten(given));
        Err(Refused { reason, message })
    };
    let given: Option<String> = value(members, "captured_at");
    let Some(moment) = given.and_then(|given| CapturedAt::parse(&given)) else {
        let why = "is not a timestamp; write one such as \"2025-11-22T14:30:22.123Z\"";
        return refused(Reason::WrongType, why);
    };
    Ok(moment)
}

fn content(members: &Members<'_>) -> Result<LineContent, Refused> {
    let frame = members.get("frame").or_else(|| members.get("telemetry"));
    match (frame, members.get("setup")) {
        (Some(frame), None) => self::frame(frame.get()).map(LineContent::Frame),
        (None, Some(setup)) => {
            let setup = Setup::parse(setup.get().as_bytes())?;
            let timestamp = members.get("timestamp").map_or("null", |timestamp| timestamp.get());
            setup.with_timestamp(timestamp).map(LineContent::Setup)
        }
        (frame, _) => {
            let which = if frame.is_some() { "both" } else { "neither" };
            let message = format!("frame, setup: {which} given; send a line with one of the two");
            Err(Refused { reason: Reason::WrongType, message })
        }
    }
}

/// A frame of an export has a timestamp, and was mapped before it was queued. One without, as a
/// person may write it, is a sample.
fn frame(text: &str) -> Result<Frame, Refused> {
    match fields::members(text) {
        Ok(members) if members.contains_key("timestamp") => Frame::verbatim(text.as_bytes()),
        Ok(_) | Err(_) => Frame::parse(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Kind, QueueTime, StintId};

    const NOW: CapturedAt = CapturedAt(1_763_821_822_123);
    const STAMP: Stamp = Stamp { queued_at: QueueTime(0), wall: CapturedAt(0) };

    fn refused(text: &str) -> String {
        Line::parse(text.as_bytes()).unwrap_err().message
    }

    #[test]
    fn lines_of_exports_and_dead_letters_are_parsed() {
        let at = "2025-11-22T14:30:22.123Z";
        for text in [
            format!(
                r#"{{"seq":7,"stint":1,"captured_at":"{at}","kind":"frame","frame":{{"lap":3}}}}"#
            ),
            format!(
                r#"{{"seq":7,"captured_at":"{at}","cause":"refused","telemetry":{{"lap":3}}}}"#
            ),
        ] {
            let line = Line::parse(text.as_bytes()).unwrap();
            assert_eq!((line.seq, line.captured_at), (Some(Seq(7)), NOW));
            assert_eq!(line.content, LineContent::Frame(Frame::parse(br#"{"lap":3}"#).unwrap()));
        }
        let text = format!(r#"{{"captured_at":"{at}","setup":{{"wing":7}}}}"#);
        let line = Line::parse(text.as_bytes()).unwrap();
        assert_eq!(line.content, LineContent::Setup(Setup::parse(br#"{"wing":7}"#).unwrap()));
        assert_eq!(
            line.entry(STAMP, None).json,
            format!(r#"{{"timestamp":"{at}","setup":{{"wing":7}}}}"#)
        );
    }

    #[test]
    fn an_exported_entry_is_imported_byte_for_byte() {
        for (kind, json) in [
            (Kind::Frame, r#"{"timestamp":1763821822.50,"lap":"one","extra":{"a":[null,1e1]}}"#),
            (Kind::Setup, r#"{"timestamp":"2025-11-22T14:30:22.5","setup":{"wing":7.0,"a":1}}"#),
        ] {
            let (seq, stint, captured_at) = (Seq(7), StintId(1), NOW);
            let entry = Entry { seq, stint, captured_at, kind, json: json.into() };
            let line = Line::parse(export_line(&entry).as_bytes()).unwrap();
            assert_eq!(line.entry(STAMP, None).json, json);
        }
    }

    #[test]
    fn an_invalid_line_is_refused_with_its_reason() {
        let at = r#""captured_at":"2025-11-22T14:30:22.123Z""#;
        for (text, expected) in [
            ("7", "not an object"),
            ("{", "not JSON"),
            (r#"{"frame":{}}"#, "captured_at: null is not a timestamp"),
            (r#"{"captured_at":"noon","frame":{}}"#, "captured_at: \"noon\" is not a timestamp"),
            (&format!("{{{at}}}"), "frame, setup: neither given"),
            (&format!(r#"{{{at},"frame":{{}},"setup":{{}}}}"#), "frame, setup: both given"),
            (&format!(r#"{{{at},"frame":{{"lap":"one"}}}}"#), "lap: \"one\" is not a whole number"),
            (&format!(r#"{{{at},"frame":7}}"#), "a number is not an object"),
        ] {
            let message = refused(text);
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }
}

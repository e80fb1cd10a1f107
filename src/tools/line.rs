//! The line format of an entry, for exports, imports and dead letters.
//!
//! `{"seq":1,"stint":1,"captured_at":"…","kind":"frame","frame":{…}}`, or `"kind":"setup","setup":{…}`.
//! Dead letters have `telemetry` in place of `frame`, and no `kind`; the parser accepts both.

use super::Item;
use crate::config::{MAX_CLOCK_LEAD, MAX_LINE_BYTES};
use crate::entry::{CapturedAt, Seq};
use crate::fields::{self, Frame, Json, Object, Reason, Refused, Setup};
use crate::queue::{Content, NewEntry};

/// Formats an entry as a line, without the line break.
pub fn export_line(item: &Item) -> String {
    let Item { seq, stint, captured_at, kind, json, .. } = item;
    let json = json.as_ref().map_or("null", |json| json.get());
    let kind = kind.as_str();
    format!(
        r#"{{"seq":{seq},"stint":{stint},"captured_at":"{captured_at}","kind":"{kind}","{kind}":{json}}}"#
    )
}

/// An entry parsed from a line, with the same checks as a sample from a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The sequence number that the entry had; it gets a new one when it is appended.
    pub seq: Option<Seq>,
    pub captured_at: CapturedAt,
    pub what: What,
}

/// The content of a line: a frame or a setup.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Frame(Frame),
    Setup(Setup),
}

impl Line {
    /// Parses a line; `now` is the current time.
    ///
    /// # Errors
    /// If the line is malformed, or the dashboard would reject its frame or setup.
    pub fn parse(text: &[u8], now: CapturedAt) -> Result<Self, Refused> {
        if text.len() > MAX_LINE_BYTES {
            let message = format!("{} bytes; at most {MAX_LINE_BYTES} are allowed", text.len());
            return Err(Refused { reason: Reason::TooLarge, message });
        }
        let read = fields::read_envelope(text)?;
        let Some(object) = read.as_object() else {
            let message = "not an object; send a line of pitwire queue export".into();
            return Err(Refused { reason: Reason::NotObject, message });
        };
        let seq = object.get("seq").and_then(Json::as_u64).map(Seq);
        let captured_at = captured_at(object, now)?;
        Ok(Self { seq, captured_at, what: what(object)? })
    }

    /// Converts the line to an entry with the given capture time, ready to be appended.
    pub fn entry(&self, captured_at: CapturedAt) -> NewEntry {
        let (content, json) = match &self.what {
            What::Frame(frame) => {
                (Content::Frame(frame.situation()), frame.clone().json(captured_at))
            }
            What::Setup(setup) => {
                (Content::Setup { fingerprint: setup.fingerprint() }, setup.json().to_owned())
            }
        };
        NewEntry { driven_at: None, captured_at, content, json }
    }
}

fn captured_at(object: &Object<'_>, now: CapturedAt) -> Result<CapturedAt, Refused> {
    let given = object.get("captured_at").unwrap_or(&Json::Null);
    let refused = |reason, why: &str| {
        let message = format!("captured_at: {} {why}", fields::quoted(given));
        Err(Refused { reason, message })
    };
    let Some(moment) = given.as_str().and_then(CapturedAt::parse) else {
        let why = "is not a timestamp; write one such as \"2025-11-22T14:30:22.123Z\"";
        return refused(Reason::WrongType, why);
    };
    if moment.0 > now.0.saturating_add(MAX_CLOCK_LEAD.as_millis() as i64) {
        let why = "is more than 24 h ahead of this PC's clock; set the clock or correct the line";
        return refused(Reason::OutOfRange, why);
    }
    Ok(moment)
}

fn what(object: &Object<'_>) -> Result<What, Refused> {
    let frame = object.get("frame").or_else(|| object.get("telemetry"));
    match (frame, object.get("setup")) {
        (Some(frame), None) => Frame::checked(frame).map(What::Frame),
        (None, Some(setup)) => Setup::checked(setup.clone()).map(What::Setup),
        (frame, _) => {
            let which = if frame.is_some() { "both" } else { "neither" };
            let message = format!("frame, setup: {which} given; send a line with one of the two");
            Err(Refused { reason: Reason::WrongType, message })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: CapturedAt = CapturedAt(1_763_821_822_123);

    fn refused(text: &str) -> String {
        Line::parse(text.as_bytes(), NOW).unwrap_err().message
    }

    #[test]
    fn lines_of_exports_and_of_refused_entries_are_read() {
        let at = "2025-11-22T14:30:22.123Z";
        for text in [
            format!(
                r#"{{"seq":7,"stint":1,"captured_at":"{at}","kind":"frame","frame":{{"lap":3}}}}"#
            ),
            format!(
                r#"{{"seq":7,"captured_at":"{at}","cause":"refused","telemetry":{{"lap":3}}}}"#
            ),
        ] {
            let line = Line::parse(text.as_bytes(), NOW).unwrap();
            assert_eq!((line.seq, line.captured_at), (Some(Seq(7)), NOW));
            assert_eq!(line.what, What::Frame(Frame::parse(br#"{"lap":3}"#).unwrap()));
        }
        let text = format!(r#"{{"captured_at":"{at}","setup":{{"wing":7}}}}"#);
        let line = Line::parse(text.as_bytes(), NOW).unwrap();
        assert_eq!(line.what, What::Setup(Setup::parse(br#"{"wing":7}"#).unwrap()));
        assert_eq!(line.entry(NOW).json, r#"{"wing":7}"#);
    }

    #[test]
    fn what_is_no_line_is_refused_by_name() {
        let at = r#""captured_at":"2025-11-22T14:30:22.123Z""#;
        for (text, expected) in [
            ("7", "not an object"),
            ("{", "not JSON"),
            (r#"{"frame":{}}"#, "captured_at: null is not a timestamp"),
            (r#"{"captured_at":"noon","frame":{}}"#, "captured_at: \"noon\" is not a timestamp"),
            (
                r#"{"captured_at":"2025-11-24T14:30:22.123Z","frame":{}}"#,
                "captured_at: \"2025-11-24T14:30:22.123Z\" is more than 24 h ahead",
            ),
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

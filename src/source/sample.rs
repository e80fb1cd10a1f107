//! Samples: the input of a source before it becomes an entry.
//!
//! Every source parses its text here, so that all of them accept the same:
//! - a flat object of readings, or a frame that already uses the dashboard's field names;
//! - an event of the dashboard, `{"session_id":…,"telemetry":{…}}`, or `{"setup":{…}}` with or
//!   without a `session_id` and a `timestamp`;
//! - a line of an export or of the dead letters: see [`crate::tools`].
//!
//! The object in an event or a line is what counts; the keys beside it are ignored, except for its
//! time.

use serde_json::Value;

use crate::entry::CapturedAt;
use crate::fields::{
    self, CONTAINERS, Form, Frame, Json, Omissions, Reason, Refused, Setup, has_known_field,
};

/// A sample that a source has read and checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A frame of the dashboard.
    Telemetry(Frame),
    /// The car's setup.
    Setup(Setup),
}

/// The kind of an object that is not an event or a line of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bare {
    Telemetry(Form),
    Setup,
}

impl Sample {
    /// Checks a telemetry sample.
    pub fn telemetry(sample: &Value) -> Result<Self, Refused> {
        Frame::of(sample).map(Self::Telemetry)
    }

    /// Checks a setup.
    pub fn setup(setup: &Value) -> Result<Self, Refused> {
        Setup::of(setup).map(Self::Setup)
    }

    /// Parses the text of a sample.
    ///
    /// # Errors
    /// For the reasons of [`Frame::parse`] or [`Setup::parse`], or if a frame and a setup are given.
    pub fn parse(text: &[u8]) -> Result<Self, Refused> {
        read(text, Bare::Telemetry(Form::Mapped), Omissions::default())
    }

    /// Parses the telemetry of an event, from which `omissions` are missing already. It keeps its
    /// extra keys and gets no further fields.
    pub(crate) fn parse_event(text: &[u8], omissions: Omissions) -> Result<Self, Refused> {
        read(text, Bare::Telemetry(Form::AsSent), omissions)
    }

    /// Parses the text of a setup. A bare object is the setup itself.
    pub(crate) fn parse_setup(text: &[u8]) -> Result<Self, Refused> {
        read(text, Bare::Setup, Omissions::default())
    }

    /// The values of the sample that are missing from the entry.
    pub(crate) fn omissions(&self) -> &Omissions {
        match self {
            Self::Telemetry(frame) => frame.omissions(),
            Self::Setup(setup) => setup.omissions(),
        }
    }
}

fn read(text: &[u8], bare: Bare, omissions: Omissions) -> Result<Sample, Refused> {
    fields::parse_finite(text, omissions, |sample, text, omissions| {
        interpret(sample, text, bare, omissions)
    })
}

fn interpret(
    sample: Json<'_>,
    text: &str,
    bare: Bare,
    omissions: Omissions,
) -> Result<Sample, Refused> {
    let Some(container) = container(&sample, bare)? else {
        return match bare {
            Bare::Telemetry(form) => {
                Frame::checked(&sample, text, form, omissions).map(Sample::Telemetry)
            }
            Bare::Setup => Setup::checked(sample, text, omissions).map(Sample::Setup),
        };
    };
    let members = fields::members(text)?;
    let inner = |key| members.get(key).map_or("null", |value| value.get());
    let named = |refused: Refused| {
        let Refused { reason, message } = refused;
        let message =
            if reason == Reason::NotObject { format!("{container}: {message}") } else { message };
        Refused { reason, message }
    };
    if container == "setup" {
        let setup = fields::parse(inner(container))?;
        let setup = Setup::checked(setup, inner(container), omissions).map_err(named)?;
        return setup.with_timestamp(inner("timestamp")).map(Sample::Setup);
    }
    let object = sample.member(container).unwrap_or(&Json::Null);
    // A frame of an export was mapped before it was queued, unless it has no timestamp: then a
    // person has written it.
    let is_exported =
        sample.member("captured_at").is_some() && object.member("timestamp").is_some();
    let form = match bare {
        Bare::Telemetry(form) if !is_exported => form,
        Bare::Setup if !is_exported => Form::Mapped,
        Bare::Telemetry(_) | Bare::Setup => Form::AsSent,
    };
    let frame = Frame::checked(object, inner(container), form, omissions).map_err(named)?;
    let captured_at = sample.member("captured_at").and_then(Json::as_str);
    Ok(Sample::Telemetry(frame.or_captured_at(captured_at.and_then(CapturedAt::parse))))
}

/// The key of the frame or of the setup, if the sample is an event or a line of an export; `None` if
/// it is a bare object.
fn container(sample: &Json<'_>, bare: Bare) -> Result<Option<&'static str>, Refused> {
    let is_given = |key: &&str| sample.member(key).is_some_and(|value| *value != Json::Null);
    let mut given = CONTAINERS.into_iter().filter(is_given);
    let Some(first) = given.next() else { return Ok(None) };
    let Some(object) = sample.as_object() else { return Ok(None) };
    let is_bare = match bare {
        Bare::Telemetry(_) => has_known_field(object),
        // Any key may be a setting, and a car may have a frame.
        Bare::Setup => {
            (first == "frame" && object.get("captured_at").is_none())
                || object
                    .members()
                    .any(|(key, _)| !CONTAINERS.contains(&key) && !BESIDE_CONTENT.contains(&key))
        }
    };
    if is_bare {
        return Ok(None);
    }
    match given.next() {
        None => Ok(Some(first)),
        Some(second) => {
            let message = format!("{first}, {second}: both given; send an object with one of them");
            Err(Refused { reason: Reason::WrongType, message })
        }
    }
}

/// The keys beside the frame or the setup, in an event, an export or a dead letter.
#[rustfmt::skip]
const BESIDE_CONTENT: [&str; 9] = [
    "session_id", "timestamp", "seq", "stint", "captured_at", "kind", "cause", "reason",
    "destination",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::CapturedAt;

    #[track_caller]
    fn stored(sample: Result<Sample, Refused>) -> String {
        match sample.unwrap() {
            Sample::Telemetry(frame) => frame.json(CapturedAt(0)),
            Sample::Setup(setup) => setup.entry_json(CapturedAt(0)),
        }
    }

    #[test]
    fn a_setup_is_recognized_beside_any_key_that_is_not_a_field() {
        let setup = stored(Sample::setup(&serde_json::json!({"wing": 7})));
        for line in [
            r#"{"setup":{"wing":7}}"#,
            "\u{feff}{ \"setup\" : {\"wing\": 7} }",
            r#"{"setup":{"wing":9},"setup":{"wing":7}}"#,
            r#"{"session_id":"a","setup":{"wing":7}}"#,
            r#"{"setup":{"wing":7},"game":"LMU"}"#,
        ] {
            assert_eq!(stored(Sample::parse(line.as_bytes())), setup, "{line}");
        }
        let line = r#"{"timestamp":1763821822.50,"setup":{"wing":7}}"#;
        assert_eq!(stored(Sample::parse(line.as_bytes())), line);
        let both = r#"{"setup":{"wing":7},"lap":1}"#;
        assert_eq!(stored(Sample::parse(both.as_bytes())), stored(Sample::parse(br#"{"lap":1}"#)));
    }

    #[test]
    fn a_posted_setup_is_unwrapped_only_from_an_event_or_an_export() {
        for (text, expected) in [
            (r#"{"wing":7}"#, r#"{"wing":7}"#),
            (r#"{"setup":{"wing":7}}"#, r#"{"wing":7}"#),
            (r#"{"session_id":"a","timestamp":null,"setup":{"wing":7}}"#, r#"{"wing":7}"#),
            (
                r#"{"seq":1,"stint":1,"captured_at":"2025-11-22T14:30:22.123Z","kind":"setup","timestamp":null,"setup":{"wing":7}}"#,
                r#"{"wing":7}"#,
            ),
            (r#"{"setup":{"wing":7},"fuel":3}"#, r#"{"setup":{"wing":7},"fuel":3}"#),
            (r#"{"frame":{"stiffness":7}}"#, r#"{"frame":{"stiffness":7}}"#),
        ] {
            let expected =
                format!(r#"{{"timestamp":"1970-01-01T00:00:00.000Z","setup":{expected}}}"#);
            assert_eq!(stored(Sample::parse_setup(text.as_bytes())), expected, "{text}");
        }
        let frame = Sample::parse_setup(br#"{"session_id":"a","telemetry":{"lap":1}}"#);
        assert_eq!(frame, Sample::parse(br#"{"lap":1}"#));
    }

    #[test]
    fn the_time_of_an_export_line_is_the_time_of_its_frame() {
        let at = "2025-11-22T14:30:22.123Z";
        let line = format!(r#"{{"captured_at":"{at}","frame":{{"lap":1}}}}"#);
        let Ok(Sample::Telemetry(frame)) = Sample::parse(line.as_bytes()) else { panic!() };
        assert_eq!(frame.own_timestamp(), CapturedAt::parse(at));
        let line = format!(r#"{{"captured_at":"{at}","frame":{{"timestamp":7,"lap":1,"x":[]}}}}"#);
        let Ok(Sample::Telemetry(frame)) = Sample::parse(line.as_bytes()) else { panic!() };
        assert_eq!(frame.own_timestamp(), CapturedAt::parse(at));
        assert_eq!(frame.json(CapturedAt(0)), r#"{"timestamp":7,"lap":1,"x":[]}"#);
    }
}

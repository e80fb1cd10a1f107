//! Restores the original entry from a message of an agent's stream. Pure; accepts any message.

use async_nats::{HeaderMap, Subject};
use axum::body::Bytes;

use super::super::intake::Relayed;
use crate::entry::{CapturedAt, CarId, Seq};
use crate::fields::{self, Frame, Reason, Refused, Setup};
use crate::nats::{CAPTURED_AT, SEQ, SETUP, TELEMETRY};
use crate::platform::offload;
use crate::queue::Content;

/// Parses a message into its stream and entry, a large one on another thread.
pub(super) async fn read(
    subject: Subject,
    headers: Option<HeaderMap>,
    payload: Bytes,
) -> Result<(CarId, Relayed), Refused> {
    offload::parse(payload.len(), move || parse(&subject, headers.as_ref(), &payload)).await
}

/// Parses the parts of a message into its stream and entry.
fn parse(
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: &[u8],
) -> Result<(CarId, Relayed), Refused> {
    let Some((car, kind)) = parts(subject) else {
        return Err(foreign(subject, "its subject is not pitwire.<agent>.<stint>.<kind>"));
    };
    match kind {
        // The agent has already mapped it to a frame of the dashboard.
        TELEMETRY => {
            let frame = Frame::verbatim(payload)?;
            let captured_at = captured_at(subject, headers)?;
            let content = Content::Frame(frame.situation());
            let json = frame.json(captured_at);
            Ok((car, Relayed { origin: origin(subject, headers)?, captured_at, content, json }))
        }
        SETUP => {
            let setup = setup(subject, payload)?;
            let captured_at = captured_at(subject, headers)?;
            let content = Content::Setup { fingerprint: setup.fingerprint() };
            let json = setup.entry_json(captured_at);
            Ok((car, Relayed { origin: origin(subject, headers)?, captured_at, content, json }))
        }
        _ => Err(foreign(subject, "it is neither telemetry nor a setup")),
    }
}

/// The capture time in the message's header.
fn captured_at(subject: &str, headers: Option<&HeaderMap>) -> Result<CapturedAt, Refused> {
    headers
        .and_then(|headers| headers.get(CAPTURED_AT))
        .and_then(|at| CapturedAt::parse(at.as_str()))
        .ok_or_else(|| foreign(subject, "its capture time is missing or invalid"))
}

/// The entry's position in the agent's queue, from the message's header.
fn origin(subject: &str, headers: Option<&HeaderMap>) -> Result<Seq, Refused> {
    headers
        .and_then(|headers| headers.get(SEQ))
        .and_then(|seq| seq.as_str().parse().ok())
        .map(Seq)
        .ok_or_else(|| foreign(subject, "its sequence number is missing or invalid"))
}

/// Parses the text of a setup entry: an object with `timestamp` and `setup`.
fn setup(subject: &str, payload: &[u8]) -> Result<Setup, Refused> {
    let text = fields::decoded(payload)?;
    // Applies the limits of a setup, except for its size, to the whole payload.
    fields::parse(text)?;
    let members = fields::members(text)?;
    let Some(setup) = members.get("setup") else {
        return Err(foreign(subject, "it has no setup"));
    };
    let setup = Setup::parse(setup.get().as_bytes())?;
    match members.get("timestamp") {
        Some(timestamp) => setup.with_timestamp(timestamp.get()),
        None => Ok(setup),
    }
}

/// The stream that a subject names: one stint of one agent.
pub(super) fn stint(subject: &str) -> Option<CarId> {
    parts(subject).map(|(car, _)| car)
}

/// Splits a subject into stream and kind.
fn parts(subject: &str) -> Option<(CarId, &str)> {
    let mut parts = subject.split('.');
    let parts = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
    match parts {
        (Some("pitwire"), Some(agent), Some(stint), Some(kind), None) => {
            Some((CarId::from(format!("{agent}.{stint}").as_str()), kind))
        }
        _ => None,
    }
}

/// The refusal of an entry that belongs to another agent than the stream.
pub(super) fn of_another(name: &str, car: &CarId) -> Refused {
    let message = format!("the stream {name} holds an entry of another agent: {:.100}", car.0);
    Refused { reason: Reason::WrongType, message }
}

fn foreign(subject: &str, why: &str) -> Refused {
    let message = format!(
        "a message on {subject:.100} is not from an agent: {why}; only agents may publish to \
         pitwire.>"
    );
    Refused { reason: Reason::WrongType, message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A frame as an agent publishes it.
    fn frame() -> String {
        let moment = CapturedAt::parse("2025-11-22T14:30:22.123Z").unwrap();
        fields::map(&json!({"lap": 3, "speed": 231.0}), moment).unwrap()
    }

    fn at(moment: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SEQ, "7");
        headers.insert(CAPTURED_AT, moment);
        headers
    }

    #[test]
    fn a_message_is_parsed_into_its_original_entry() {
        let headers = at("2025-11-22T14:30:22.123Z");
        for (kind, json) in [
            ("telemetry", &*frame()),
            ("telemetry", r#"{"timestamp":1763821822.50,"lap":"one","extra":{"a":[null]}}"#),
            ("setup", r#"{"timestamp":"2025-11-22T14:30:22.5","setup":{"wing":7.0}}"#),
        ] {
            let subject = format!("pitwire.pc.3-ab.{kind}");
            let (car, entry) = parse(&subject, Some(&headers), json.as_bytes()).unwrap();
            assert_eq!((car, &*entry.json), (CarId::from("pc.3-ab"), json));
            assert_eq!(entry.captured_at.to_string(), "2025-11-22T14:30:22.123Z");
        }
    }

    #[test]
    fn a_message_that_is_not_a_valid_entry_is_refused() {
        let (headers, frame) = (at("2025-11-22T14:30:22.123Z"), frame());
        for (subject, payload, why) in [
            ("pitwire.pc.3.setup", "{\"wing\":7}", "it has no setup"),
            ("pitwire.pc.3.telemetry", "[1]", "array"),
            ("pitwire.pc.3.notes", "{}", "neither telemetry nor a setup"),
            ("pitwire.pc.telemetry", frame.as_str(), "its subject"),
            ("pitwire.pc.3.setup.more", "{}", "its subject"),
            ("other.pc.3.telemetry", frame.as_str(), "its subject"),
        ] {
            let refused = parse(subject, Some(&headers), payload.as_bytes()).unwrap_err();
            assert!(refused.message.contains(why), "{subject}: {refused}");
        }
        let setup = br#"{"setup":{"wing":7}}"#;
        let refused = parse("pitwire.pc.3.setup", Some(&at("noon")), setup).unwrap_err();
        assert!(refused.message.contains("capture time"), "{refused}");
    }

    proptest! {
        #[test]
        fn parsing_an_arbitrary_message_never_panics(
            subject in "[a-z.]{0,40}|pitwire\\.a\\.b\\.(telemetry|setup)",
            moment in "[ -~]{0,30}",
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = parse(&subject, Some(&at(&moment)), &payload);
        }
    }
}

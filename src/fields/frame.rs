//! Maps a sample to a dashboard frame.

use serde_json::Value;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::value::RawValue;

use super::change::situation;
use super::json::{self, Json, Object};
use super::table::{Cell, Checked, FIELDS, REQUIRED, Shape, no_known_field};
use super::verbatim::{compact, without_non_finite};
use super::{Omissions, Reason, Refused, refused};
use crate::entry::{CapturedAt, Situation};

/// The initial buffer for a frame; a typical frame fits without reallocation.
const FRAME_BYTES: usize = 768;

/// The maximum length of a timestamp of ours as JSON.
const MOMENT_BYTES: usize = "\"-262143-01-01T00:00:00.000Z\"".len();

/// The start of a frame whose timestamp is inserted later.
const BEFORE_TIMESTAMP: &str = r#"{"timestamp":"#;

/// A checked telemetry object of the dashboard, complete except possibly for its timestamp.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    text: String,
    /// Where to insert the timestamp; `None` if the frame has one.
    moment_at: Option<usize>,
    own: Option<CapturedAt>,
    situation: Situation,
    omissions: Omissions,
}

/// What becomes of a sample that is not a complete dashboard frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Its known fields are mapped to the dashboard's names; other keys are left out.
    Mapped,
    /// It is kept unchanged.
    AsSent,
}

impl Frame {
    /// Parses a sample: a dashboard frame is kept unchanged, any other sample is mapped.
    ///
    /// # Errors
    /// Refused if the text exceeds [`MAX_SAMPLE_BYTES`], is not UTF-8 or not JSON; and for the
    /// reasons of [`Frame::of`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::fields::MAX_SAMPLE_BYTES
    pub fn parse(text: &[u8]) -> Result<Self, Refused> {
        json::parse_finite(text, Omissions::default(), |sample, text, omissions| {
            Self::checked(&sample, text, Form::Mapped, omissions)
        })
    }

    /// Maps a sample.
    ///
    /// # Errors
    /// Refused if the sample is not an object, is nested too deep, has too many keys or values, has
    /// no value of a known field, or has a known field of the wrong type; or if the text exceeds
    /// [`MAX_SAMPLE_BYTES`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::fields::MAX_SAMPLE_BYTES
    pub fn of(sample: &Value) -> Result<Self, Refused> {
        let json = Json::from(sample);
        json::object(&json)?;
        Self::checked(&json, &sample.to_string(), Form::Mapped, Omissions::default())
    }

    /// Accepts any object as a dashboard frame, whatever its fields are.
    ///
    /// # Errors
    /// Refused if it is not an object, or exceeds the limits of [`Frame::parse`].
    pub(crate) fn verbatim(text: &[u8]) -> Result<Self, Refused> {
        json::parse_finite(text, Omissions::default(), |frame, text, omissions| {
            Self::complete(json::object(&frame)?, compact(text), omissions)
        })
    }

    /// Checks a parsed sample. `text` is its text, from which `omissions` are already missing.
    pub(crate) fn checked(
        sample: &Json<'_>,
        text: &str,
        form: Form,
        omissions: Omissions,
    ) -> Result<Self, Refused> {
        let object = json::object(sample)?;
        let is_complete = REQUIRED.iter().all(|key| object.get(key).is_some());
        if is_complete || form == Form::AsSent {
            Self::as_sent(object, text, is_complete, omissions)
        } else {
            Self::mapped(object, omissions)
        }
    }

    /// Keeps a frame unchanged, except for the values that no dashboard can show.
    fn as_sent(
        object: &Object<'_>,
        text: &str,
        is_complete: bool,
        mut omissions: Omissions,
    ) -> Result<Self, Refused> {
        let mut has_value = false;
        let mut edits = Vec::new();
        for field in &FIELDS {
            let name = [field.name];
            let keys = if is_complete { &name[..] } else { field.keys };
            let Some((key, value)) = field.find(object, keys) else { continue };
            match field.check(key, value)? {
                Checked::Value(gear) if field.shape == Shape::Gear && value.as_str().is_some() => {
                    has_value = true;
                    edits.push((key, Some(gear)));
                }
                Checked::Value(_) | Checked::Absent => has_value = true,
                Checked::OutOfRange(message) => {
                    omissions.note_out_of_range(message);
                    edits.push((key, field.fill.filter(|_| is_complete)));
                }
            }
        }
        if !has_value {
            return Err(omissions.refusal().unwrap_or_else(|| no_known_field(object)));
        }
        Self::complete(object, edited(compact(text), &edits)?, omissions)
    }

    /// Completes the compact text of an object with a place for the timestamp if it has none.
    fn complete(
        object: &Object<'_>,
        mut text: String,
        omissions: Omissions,
    ) -> Result<Self, Refused> {
        let mut own = None;
        let moment_at = match object.get("timestamp") {
            None => {
                let rest = if text == "{}" { "}" } else { &format!(",{}", &text[1..]) };
                text = format!("{BEFORE_TIMESTAMP}{rest}");
                Some(BEFORE_TIMESTAMP.len())
            }
            Some(Json::Null) => {
                let null = range_of("timestamp", &json::members(&text)?, &text)?;
                let start = null.start;
                text.replace_range(null, "");
                Some(start)
            }
            Some(timestamp) => {
                own = timestamp.as_str().and_then(CapturedAt::parse);
                None
            }
        };
        json::bounded(text.len() + moment_at.map_or(0, |_| MOMENT_BYTES))?;
        Ok(Self { text, moment_at, own, situation: situation(object), omissions })
    }

    fn mapped(sample: &Object<'_>, mut omissions: Omissions) -> Result<Self, Refused> {
        let mut text = Vec::with_capacity(FRAME_BYTES);
        text.extend_from_slice(BEFORE_TIMESTAMP.as_bytes());
        let mut has_value = false;
        for field in &FIELDS {
            let cell = match field.find(sample, field.keys) {
                None => field.fill,
                Some((key, value)) => match field.check(key, value)? {
                    Checked::Value(cell) => {
                        has_value = true;
                        Some(cell)
                    }
                    Checked::Absent => {
                        has_value = true;
                        field.fill
                    }
                    Checked::OutOfRange(message) => {
                        omissions.note_out_of_range(message);
                        field.fill
                    }
                },
            };
            if let Some(cell) = cell {
                text.push(b',');
                json::write(&mut text, &field.name)?;
                text.push(b':');
                json::write(&mut text, &cell)?;
            }
        }
        if !has_value {
            return Err(omissions.refusal().unwrap_or_else(|| no_known_field(sample)));
        }
        text.push(b'}');
        json::bounded(text.len() + MOMENT_BYTES)?;
        Ok(Self {
            text: json::utf8(text)?,
            moment_at: Some(BEFORE_TIMESTAMP.len()),
            own: sample.get("timestamp").and_then(Json::as_str).and_then(CapturedAt::parse),
            situation: situation(sample),
            omissions,
        })
    }

    /// The frame with this capture time, unless it has one.
    pub(crate) fn or_captured_at(self, captured_at: Option<CapturedAt>) -> Self {
        Self { own: self.own.or(captured_at), ..self }
    }

    /// The values of the sample that the frame does not have.
    pub fn omissions(&self) -> &Omissions {
        &self.omissions
    }

    /// The capture time of the sample, if its `timestamp` is in RFC 3339 with a time zone.
    /// Other notations are not interpreted: a time without a zone may be local or UTC, and a number
    /// may count seconds or milliseconds.
    pub fn own_timestamp(&self) -> Option<CapturedAt> {
        self.own
    }

    /// The driving situation of the frame.
    pub fn situation(&self) -> Situation {
        self.situation
    }

    /// The object as JSON text, with `captured_at` as its timestamp if it has none.
    pub fn json(self, captured_at: CapturedAt) -> String {
        let Self { mut text, moment_at, .. } = self;
        if let Some(at) = moment_at {
            text.insert_str(at, &format!("\"{captured_at}\""));
        }
        text
    }
}

/// Maps a sample to a frame as JSON text, with `captured_at` as its timestamp if it has none.
///
/// # Errors
/// Refused for the reasons of [`Frame::of`].
pub fn map(sample: &Value, captured_at: CapturedAt) -> Result<String, Refused> {
    Ok(Frame::of(sample)?.json(captured_at))
}

/// Replaces the values of these keys in the compact text of an object; `None` removes the member.
fn edited(mut text: String, edits: &[(&str, Option<Cell<'_>>)]) -> Result<String, Refused> {
    if edits.is_empty() {
        return Ok(text);
    }
    let members = json::members(&text)?;
    let mut replacements = Vec::with_capacity(edits.len());
    for (key, cell) in edits {
        let mut value = Vec::new();
        match cell {
            Some(cell) => json::write(&mut value, cell)?,
            // Removed below, with the key and one comma.
            None => value.extend_from_slice(b"NaN"),
        }
        replacements.push((range_of(key, &members, &text)?, json::utf8(value)?));
    }
    // From the end, so that the ranges before stay valid.
    replacements.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    for (range, value) in replacements {
        text.replace_range(range, &value);
    }
    Ok(without_non_finite(&text).unwrap_or(text))
}

/// Where the value of a key is in the text from which `members` were read.
fn range_of(
    key: &str,
    members: &BTreeMap<Cow<'_, str>, &RawValue>,
    text: &str,
) -> Result<Range<usize>, Refused> {
    let value = members.get(key).map(|value| value.get());
    // The value is a part of the text.
    let range = value.and_then(|value| {
        let start = value.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
        Some(start..start + value.len())
    });
    range
        .filter(|range| text.get(range.clone()) == value)
        .ok_or_else(|| refused(Reason::NotJson, format!("{key}: not found; leave it out")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::super::Setup;
    use super::super::table::{MAX_WHOLE, Shape};
    use super::*;

    const NOW: CapturedAt = CapturedAt(1_763_821_822_123);
    const NOW_TEXT: &str = "2025-11-22T14:30:22.123Z";

    fn mapped(sample: &Value) -> Value {
        serde_json::from_str(&map(sample, NOW).unwrap()).unwrap()
    }

    /// Maps a sample of one key and checks the field on the dashboard; null if it is left out.
    #[track_caller]
    fn check(key: &str, value: Value, field: &str, expected: Value) {
        let seen = mapped(&json!({ key: value.clone() }));
        assert_eq!(seen[field], expected, "{key}: {value}");
        assert_eq!(seen.as_object().unwrap().values().find(|value| value.is_null()), None);
    }

    #[track_caller]
    fn check_refused(key: &str, value: Value, reason: Reason) {
        let refused = map(&json!({ key: value.clone() }), NOW).unwrap_err();
        assert_eq!(refused.reason, reason, "{key}: {value}: {refused}");
        assert!(refused.message.starts_with(key), "{refused}");
    }

    /// A sample with the dashboard's field names, as another program sends it.
    fn dashboard_frame() -> Value {
        json!({
            "timestamp": "2025-11-22T14:30:22.123456+00:00", "lap": 3, "position": 4,
            "lap_time": 61.25, "fuel": 40.5, "fuel_capacity": 75, "player_name": "Zoë",
            "car_name": "Car 27", "track_name": "Autódromo", "session_type": "Race",
            "tire_wear": {"fl": 1.5, "rr": 2}, "strategy": {"stops": [12, null, 30]}, "flag": true,
        })
    }

    /// The default values of a mapped frame, for fields that the sample lacks.
    fn fills() -> Value {
        json!({
            "timestamp": NOW_TEXT, "lap": 0, "position": 0, "fuel": 0.0, "fuel_capacity": 90.0,
            "tire_pressures": {}, "tire_temps": {}, "tire_wear": {}, "brake_temps": {},
            "player_name": "", "car_name": "", "track_name": "", "session_type": "",
        })
    }

    #[test]
    fn an_absent_or_null_field_is_omitted_unless_a_server_requires_it() {
        let keys = FIELDS.iter().flat_map(|field| field.keys).filter(|key| **key != "lap");
        let mut nulls: Map<_, _> = keys.map(|key| (key.to_string(), Value::Null)).collect();
        nulls.insert("tire_temps".into(), json!({}));
        assert_eq!(mapped(&json!({"lap": 0})), fills());
        assert_eq!(mapped(&Value::Object(nulls)), fills());
        let sample = json!({"lap": 0, "throttle": 1.0, "yaw": null, "timestamp": "noon"});
        assert_eq!(mapped(&sample), fills());
        for field in &FIELDS {
            let is_filled = REQUIRED.contains(&field.name) || field.shape == Shape::Wheels;
            assert_eq!(field.fill.is_some(), is_filled, "{}", field.name);
        }
    }

    #[test]
    fn a_sample_without_a_value_of_a_known_field_is_refused() {
        for (sample, expected) in [
            (json!({}), "an empty object; send at least one of lap, position, lap_time, fuel,"),
            (json!({"lap": null, "x": 1}), "every known field is null; leave the sample out"),
            (json!({"timestamp": NOW_TEXT}), "timestamp: no field is known; send at least one of"),
            (json!({"spede": 1}), "spede: did you mean \"speed\" (km/h)?; no field is known: send"),
            (
                json!({"Speed": 53.2, "LapCompleted": 3, "FuelLevel": 12.3, "RPM": 7000}),
                "RPM: did you mean \"rpm\" (revolutions per minute)?; Speed: did you mean \"speed\" (km",
            ),
            (json!({"telemetri": {"lap": 1}}), "telemetri: did you mean \"telemetry\"?; no field"),
        ] {
            let refused = map(&sample, NOW).unwrap_err();
            assert_eq!(refused.reason, Reason::NoKnownField, "{sample}");
            assert!(refused.message.starts_with(expected), "{sample}: {refused}");
            let text = sample.to_string();
            let json = json::parse(&text).unwrap();
            let as_sent = Frame::checked(&json, &text, Form::AsSent, Omissions::default());
            assert_eq!(as_sent, Err(refused), "{sample}");
        }
        let long = json!({"x".repeat(10_000): 1, "\u{1b}[31m": 2});
        let refused = map(&long, NOW).unwrap_err();
        assert!(refused.message.len() < 500 && !refused.message.contains('\u{1b}'), "{refused}");
    }

    #[test]
    fn every_alias_of_a_field_is_recognized() {
        for field in &FIELDS {
            let value = match field.shape {
                Shape::Whole | Shape::Gear => json!(7),
                Shape::Number => json!(28.903_763_440_860_246),
                Shape::Text => json!("Circuito de Jerez – Ángel Nieto"),
                Shape::Wheels => json!({"fl": 1.5, "fr": -273.15, "rl": 3, "rr": 0.1}),
            };
            assert!(field.keys.contains(&field.name), "{}", field.name);
            for key in field.keys {
                check(key, value.clone(), field.name, value.clone());
            }
        }
    }

    #[test]
    fn the_first_non_null_alias_of_a_field_wins() {
        let both = json!({"fuel": null, "fuel_remaining": 9, "position": 1, "race_position": 2,
            "engine_temp": 90, "engine_water_temp": 80});
        let seen = mapped(&both);
        assert_eq!((&seen["fuel"], &seen["position"]), (&json!(9), &json!(1)));
        assert_eq!(seen["engine_water_temp"], 90);
    }

    #[test]
    fn each_field_refuses_values_of_the_wrong_type() {
        for field in &FIELDS {
            for value in [json!("1"), json!(1), json!(1.5), json!(true), json!([1]), json!({})] {
                let fits = match field.shape {
                    Shape::Whole | Shape::Gear => value.is_i64(),
                    Shape::Number => value.is_number(),
                    Shape::Text => value.is_string(),
                    Shape::Wheels => value.is_object(),
                };
                for key in field.keys {
                    if fits {
                        check(key, value.clone(), field.name, value.clone());
                    } else {
                        check_refused(key, value.clone(), Reason::WrongType);
                    }
                }
            }
        }
    }

    /// Maps a sample with a value out of range: the frame has the field's fill.
    #[track_caller]
    fn check_omitted(key: &str, value: Value, expected: &str) {
        let alone = Frame::of(&json!({ key: value.clone() })).unwrap_err();
        assert_eq!(alone.reason, Reason::OutOfRange, "{key}");
        assert!(alone.message.contains(expected), "{alone}");
        let frame = Frame::of(&json!({ key: value, "lap_time": -1 })).unwrap();
        assert_eq!(frame.omissions().out_of_range, 1, "{key}");
        assert!(
            frame.omissions().first().unwrap().starts_with(expected),
            "{:?}",
            frame.omissions()
        );
        assert_eq!(serde_json::from_str::<Value>(&frame.json(NOW)).unwrap(), fills());
    }

    #[test]
    fn a_value_out_of_range_is_omitted_and_reported() {
        for key in ["lap", "position", "race_position", "fuel", "fuel_capacity", "fuel_at_start"] {
            check_omitted(key, json!(-1), &format!("{key}: -1 is below 0 and was omitted; send "));
        }
        check_omitted("fuel", json!(-1e-300), "fuel: -1e-300 is below 0 and was omitted; send ");
        check("lap_time", json!(-2.76), "lap_time", Value::Null);
        check("gear", json!(-1), "gear", json!(-1));
        check("ambient_temp", json!(-12.5), "ambient_temp", json!(-12.5));
    }

    #[test]
    fn reverse_and_neutral_may_be_written_as_letters() {
        for (text, gear) in [("R", -1), ("r", -1), ("N", 0), ("n", 0)] {
            check("gear", json!(text), "gear", json!(gear));
        }
        check_refused("gear", json!("reverse"), Reason::WrongType);
        check_refused("lap", json!("N"), Reason::WrongType);
    }

    #[test]
    fn an_integer_may_be_written_with_a_decimal_point() {
        check("lap", json!(3.0), "lap", json!(3));
        check("gear", json!(-1.0), "gear", json!(-1));
        check("lap", json!(-0.0), "lap", json!(0));
        check("lap", json!(MAX_WHOLE), "lap", json!(MAX_WHOLE));
        check_omitted(
            "lap",
            json!(MAX_WHOLE + 1),
            "lap: 9007199254740992 is beyond 9007199254740991",
        );
        check_omitted("lap", json!(u64::MAX), "lap: 18446744073709551615 is beyond");
        check_omitted("gear", json!(-1e300), "gear: -1e+300 is beyond");
    }

    #[test]
    fn null_and_unknown_wheels_are_omitted() {
        let wheels = json!({"fl": 20.5, "fr": null, "spare": 1, "rl": 3});
        check("tyre_pressure", wheels, "tire_pressures", json!({"fl": 20.5, "rl": 3}));
    }

    /// A dashboard frame with this text for its timestamp, and with extra members after it.
    fn frame_text(timestamp: &str) -> String {
        format!(
            r#"{{"lap":3.0,"position":4,"timestamp":{timestamp},"fuel":4.05e1,"fuel_capacity":75,"player_name":"Zo\u00eb","car_name":"Car 27","track_name":"Autódromo","session_type":"Race","lap_time":-2.76,"rpm":null,"tire_wear":{{"spare":1,"fr":null}},"strategy":{{"stops":[12,null,3.00]}},"strategy":1}}"#
        )
    }

    #[track_caller]
    fn check_unchanged(text: &str) {
        for parse in [Frame::parse, Frame::verbatim] {
            let frame = parse(text.as_bytes()).unwrap();
            assert_eq!(frame.json(NOW), text);
        }
    }

    #[test]
    fn a_dashboard_frame_leaves_byte_for_byte_whatever_its_timestamp_is() {
        for (timestamp, own) in [
            (r#""2025-11-22T14:30:22.123456+00:00""#, Some(NOW)),
            (r#""2025-11-22 14:30:22.123Z""#, Some(NOW)),
            (r#""2025-11-22T16:30:22.123+02:00""#, Some(NOW)),
            (r#""2025-11-22T14:30:22.123456""#, None),
            (r#""22 Nov 2025""#, None),
            ("1763821822", None),
            ("1763821822.1230", None),
            (r#"{"ms":1763821822123}"#, None),
        ] {
            let text = frame_text(timestamp);
            check_unchanged(&text);
            assert_eq!(Frame::parse(text.as_bytes()).unwrap().own_timestamp(), own, "{text}");
        }
    }

    #[test]
    fn a_dashboard_frame_without_a_timestamp_gets_one_and_keeps_its_extra_keys() {
        let with = frame_text(&format!("\"{NOW_TEXT}\""));
        assert_eq!(Frame::parse(frame_text("null").as_bytes()).unwrap().json(NOW), with);
        let without = with.replacen(&format!(r#""timestamp":"{NOW_TEXT}","#), "", 1);
        let frame = Frame::parse(without.as_bytes()).unwrap();
        let expected = format!(r#"{{"timestamp":"{NOW_TEXT}",{}"#, &without[1..]);
        assert_eq!((frame.own_timestamp(), frame.json(NOW)), (None, expected));
        let empty = Frame::verbatim(b" { } ").unwrap().json(NOW);
        assert_eq!(empty, format!(r#"{{"timestamp":"{NOW_TEXT}"}}"#));
    }

    #[test]
    fn only_white_space_and_what_json_cannot_hold_are_removed_from_a_dashboard_frame() {
        let text = frame_text("1763821822");
        let spread = text.replace(',', " ,\r\n\t").replacen('}', r#","spare":NaN}"#, 1);
        let spread = spread.replacen('{', r#"{"speed":Infinity,"extra":[NaN,1e999],"#, 1);
        let expected = text.replacen('{', r#"{"extra":[null,null],"#, 1);
        assert_eq!(Frame::parse(spread.as_bytes()).unwrap().json(NOW), expected);
    }

    #[test]
    fn a_known_field_of_the_wrong_type_is_refused_except_from_another_agent() {
        let mut frame = dashboard_frame();
        frame["tire_temps"] = json!({"fl": "warm"});
        assert_eq!(map(&frame, NOW).unwrap_err().reason, Reason::WrongType);
        let text = frame.to_string();
        assert_eq!(Frame::verbatim(text.as_bytes()).unwrap().json(NOW), text);
        for text in [&b"[1]"[..], b"7", b"\"{}\"", b"null"] {
            assert_eq!(Frame::verbatim(text).unwrap_err().reason, Reason::NotObject);
        }
    }

    #[track_caller]
    fn as_sent(text: &str) -> (String, u64) {
        let json = json::parse(text).unwrap();
        let frame = Frame::checked(&json, text, Form::AsSent, Omissions::default()).unwrap();
        let omitted = frame.omissions().count();
        (frame.json(NOW), omitted)
    }

    #[test]
    fn a_value_out_of_range_is_replaced_in_a_complete_frame_and_the_rest_stays_byte_for_byte() {
        let text = frame_text("1763821822");
        for (from, to) in [
            (r#""lap":3.0"#, r#""lap":-1"#),
            (r#""position":4"#, r#""position":-1.0"#),
            (r#""fuel":4.05e1"#, r#""fuel":-0.01"#),
            (r#""fuel_capacity":75"#, r#""fuel_capacity":-7.50"#),
            (r#""rpm":null"#, r#""gear":1e300,"rpm":null"#),
        ] {
            let sent = text.replacen(from, to, 1);
            let frame = Frame::parse(sent.as_bytes()).unwrap();
            assert_eq!(frame.omissions().out_of_range, 1, "{to}");
            let key = from.split_once(':').unwrap().0;
            let fill = match key {
                r#""fuel""# => Some("0.0"),
                r#""fuel_capacity""# => Some("90.0"),
                r#""rpm""# => None,
                _ => Some("0"),
            };
            let expected =
                fill.map_or(text.clone(), |fill| text.replacen(from, &format!("{key}:{fill}"), 1));
            assert_eq!(frame.json(NOW), expected);
        }
        let reverse = text.replacen(r#""rpm":null"#, r#""gear":"R""#, 1);
        let expected = text.replacen(r#""rpm":null"#, r#""gear":-1"#, 1);
        assert_eq!(Frame::parse(reverse.as_bytes()).unwrap().json(NOW), expected);
    }

    #[test]
    fn a_sample_as_sent_gets_no_further_fields() {
        for (sent, expected, omitted) in [
            (r#"{"lap":3,"x":[1]}"#, r#","lap":3,"x":[1]}"#, 0),
            (r#"{"race_position":3,"gear":"N"}"#, r#","race_position":3,"gear":0}"#, 0),
            (r#"{"fuel":-1,"x":1,"lap":-1,"rpm":2}"#, r#","x":1,"rpm":2}"#, 2),
            (r#"{"race_position":-1,"rpm":1}"#, r#","rpm":1}"#, 1),
            (r#"{"lap_time":-2.5}"#, r#","lap_time":-2.5}"#, 0),
        ] {
            let expected = format!(r#"{{"timestamp":"{NOW_TEXT}"{expected}"#);
            assert_eq!(as_sent(sent), (expected, omitted), "{sent}");
        }
    }

    #[test]
    fn of_two_equal_keys_of_a_mapped_sample_the_later_counts() {
        let text = br#"{"lap": "one", "tyre_wear": {"fl": 1, "fl": 2}, "lap": 2}"#;
        let seen = Frame::parse(text).unwrap().json(NOW);
        assert!(seen.contains(r#""lap":2,"#) && seen.contains(r#""tire_wear":{"fl":2}"#), "{seen}");
    }

    #[test]
    fn a_sample_without_a_required_field_is_not_a_dashboard_frame() {
        for key in REQUIRED {
            let mut frame = dashboard_frame();
            frame.as_object_mut().unwrap().remove(key);
            assert_eq!(Frame::of(&frame).unwrap().own_timestamp(), Some(NOW), "{key}");
            assert_eq!(mapped(&frame)["flag"], Value::Null, "{key}");
        }
    }

    #[test]
    fn numbers_keep_full_precision() {
        for text in ["51.248178375505404", "97.45365320034685", "-3.4e-08", "5e-324", "0.1"] {
            let sample = format!(r#"{{"speed": {text}}}"#);
            let frame = Frame::parse(sample.as_bytes()).unwrap().json(NOW);
            let frame: Value = serde_json::from_str(&frame).unwrap();
            let speed = frame["speed"].as_f64().unwrap();
            assert_eq!(speed.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn an_entry_too_large_after_serialization_is_refused() {
        let mut frame = dashboard_frame();
        frame["extra"] = json!(vec![1e15; 60_000]);
        assert_eq!(map(&frame, NOW).unwrap_err().reason, Reason::TooLarge);
        assert_eq!(Setup::of(&frame).unwrap_err().reason, Reason::TooLarge);
    }
}

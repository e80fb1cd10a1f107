//! Maps a sample to a dashboard frame.

use serde_json::Value;

use super::change::situation;
use super::json::{self, Json, Object};
use super::table::{Cell, FIELDS, REQUIRED};
use super::verbatim::compact;
use super::{Reason, Refused, refused};
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
}

impl Frame {
    /// Parses a sample: a dashboard frame leaves as it came, any other sample is mapped.
    ///
    /// # Errors
    /// Refused if the text exceeds [`MAX_SAMPLE_BYTES`], is not UTF-8 or not JSON; and for the
    /// reasons of [`Frame::of`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::fields::MAX_SAMPLE_BYTES
    pub fn parse(text: &[u8]) -> Result<Self, Refused> {
        let text = json::text(text)?;
        Self::checked(&json::parse(&text)?, &text)
    }

    /// Maps a sample.
    ///
    /// # Errors
    /// Refused if the sample is not an object, is nested too deep, has too many keys or values, or
    /// has a known field of the wrong type or out of range; or if the text exceeds
    /// [`MAX_SAMPLE_BYTES`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::fields::MAX_SAMPLE_BYTES
    pub fn of(sample: &Value) -> Result<Self, Refused> {
        let json = Json::from(sample);
        json::object(&json)?;
        Self::checked(&json, &sample.to_string())
    }

    /// Accepts any object as a dashboard frame, whatever its fields are.
    ///
    /// # Errors
    /// Refused if it is not an object, or exceeds the limits of [`Frame::parse`].
    pub(crate) fn verbatim(text: &[u8]) -> Result<Self, Refused> {
        let text = json::text(text)?;
        Self::as_it_came(json::object(&json::parse(&text)?)?, &text)
    }

    pub(crate) fn checked(sample: &Json<'_>, text: &str) -> Result<Self, Refused> {
        let object = json::object(sample)?;
        if REQUIRED.iter().all(|key| object.get(key).is_some()) {
            check_known_fields(object)?;
            Self::as_it_came(object, text)
        } else {
            Self::mapped(object)
        }
    }

    fn as_it_came(object: &Object<'_>, text: &str) -> Result<Self, Refused> {
        let mut text = compact(text);
        let mut own = None;
        let moment_at = match object.get("timestamp") {
            None => {
                let rest = if object.is_empty() { "}" } else { &format!(",{}", &text[1..]) };
                text = format!("{BEFORE_TIMESTAMP}{rest}");
                Some(BEFORE_TIMESTAMP.len())
            }
            Some(Json::Null) => {
                let null = null_timestamp(&text)?;
                text.replace_range(null..null + "null".len(), "");
                Some(null)
            }
            Some(timestamp) => {
                own = timestamp.as_str().and_then(CapturedAt::parse);
                None
            }
        };
        json::bounded(text.len() + moment_at.map_or(0, |_| MOMENT_BYTES))?;
        Ok(Self { text, moment_at, own, situation: situation(object) })
    }

    fn mapped(sample: &Object<'_>) -> Result<Self, Refused> {
        let mut text = Vec::with_capacity(FRAME_BYTES);
        text.extend_from_slice(BEFORE_TIMESTAMP.as_bytes());
        for (key, cell) in pick(sample)? {
            text.push(b',');
            json::write(&mut text, &key)?;
            text.push(b':');
            json::write(&mut text, &cell)?;
        }
        text.push(b'}');
        json::bounded(text.len() + MOMENT_BYTES)?;
        Ok(Self {
            text: json::utf8(text)?,
            moment_at: Some(BEFORE_TIMESTAMP.len()),
            own: None,
            situation: situation(sample),
        })
    }

    /// The capture time of a dashboard frame, if its `timestamp` is in RFC 3339 with a time zone.
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

/// Checks the known fields of a dashboard frame, whose values are kept in any case.
fn check_known_fields(frame: &Object<'_>) -> Result<(), Refused> {
    for field in &FIELDS {
        if let Some(value) = frame.present(field.name) {
            field.check(field.name, value)?;
        }
    }
    Ok(())
}

/// The offset of the value of `timestamp`, which is null.
fn null_timestamp(text: &str) -> Result<usize, Refused> {
    let members = json::members(text)?;
    let value = members.get("timestamp").map(|value| value.get().as_ptr().addr());
    // The value is a part of the text.
    let offset = value.and_then(|value| value.checked_sub(text.as_ptr().addr()));
    offset
        .filter(|at| text.get(*at..).is_some_and(|rest| rest.starts_with("null")))
        .ok_or_else(|| refused(Reason::WrongType, "timestamp: null; leave it out".into()))
}

/// The fields of a frame in order, each with a checked value.
type Cells<'a> = Vec<(&'a str, Cell<'a>)>;

/// Maps a sample with a source's field names: takes the fields of the table and no others.
fn pick<'a>(sample: &'a Object<'a>) -> Result<Cells<'a>, Refused> {
    let mut cells = Vec::with_capacity(FIELDS.len());
    for field in &FIELDS {
        let found = field.keys.iter().find_map(|key| Some((*key, sample.present(key)?)));
        let cell = match found {
            Some((key, value)) => field.check(key, value)?,
            None => Some(field.absent()),
        };
        cells.extend(cell.map(|cell| (field.name, cell)));
    }
    Ok(cells)
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

    #[test]
    fn an_absent_or_null_field_gets_its_default() {
        let expected = json!({
            "timestamp": NOW_TEXT, "lap": 0, "position": 0, "lap_time": 0.0, "fuel": 0.0,
            "fuel_capacity": 90.0, "tire_pressures": {}, "tire_temps": {}, "tire_wear": {},
            "brake_temps": {}, "engine_water_temp": 0.0, "track_temp": 0.0, "ambient_temp": 0.0,
            "speed": 0.0, "gear": 0, "rpm": 0.0, "player_name": "", "car_name": "",
            "track_name": "", "session_type": "",
        });
        let keys = FIELDS.iter().flat_map(|field| field.keys).filter(|key| **key != "lap");
        let nulls: Map<_, _> = keys.map(|key| (key.to_string(), Value::Null)).collect();
        assert_eq!(mapped(&json!({})), expected);
        assert_eq!(mapped(&Value::Object(nulls)), expected);
        assert_eq!(mapped(&json!({"throttle": 1.0, "yaw": null, "timestamp": "noon"})), expected);
    }

    #[test]
    fn every_alias_of_a_field_is_recognized() {
        for field in &FIELDS {
            let value = match field.shape {
                Shape::Whole => json!(7),
                Shape::Number(_) => json!(28.903_763_440_860_246),
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
                    Shape::Whole => value.is_i64(),
                    Shape::Number(_) => value.is_number(),
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

    #[test]
    fn negative_values_are_refused_for_fields_with_a_minimum() {
        for key in ["lap", "position", "race_position", "fuel", "fuel_capacity", "fuel_at_start"] {
            check_refused(key, json!(-1), Reason::OutOfRange);
        }
        check_refused("fuel", json!(-1e-300), Reason::OutOfRange);
        check("lap_time", json!(-2.76), "lap_time", Value::Null);
        check("gear", json!(-1), "gear", json!(-1));
        check("ambient_temp", json!(-12.5), "ambient_temp", json!(-12.5));
    }

    #[test]
    fn an_integer_may_be_written_with_a_decimal_point() {
        check("lap", json!(3.0), "lap", json!(3));
        check("gear", json!(-1.0), "gear", json!(-1));
        check("lap", json!(-0.0), "lap", json!(0));
        check("lap", json!(MAX_WHOLE), "lap", json!(MAX_WHOLE));
        check_refused("lap", json!(MAX_WHOLE + 1), Reason::OutOfRange);
        check_refused("lap", json!(u64::MAX), Reason::OutOfRange);
        check_refused("gear", json!(-1e300), Reason::OutOfRange);
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
    fn a_known_field_of_the_wrong_type_is_refused_unless_the_frame_is_taken_as_it_is() {
        let mut frame = dashboard_frame();
        frame["tire_temps"] = json!({"fl": "warm"});
        assert_eq!(map(&frame, NOW).unwrap_err().reason, Reason::WrongType);
        let text = frame.to_string();
        assert_eq!(Frame::verbatim(text.as_bytes()).unwrap().json(NOW), text);
        for text in [&b"[1]"[..], b"7", b"\"{}\"", b"null"] {
            assert_eq!(Frame::verbatim(text).unwrap_err().reason, Reason::NotObject);
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
            assert_eq!(Frame::of(&frame).unwrap().own_timestamp(), None, "{key}");
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

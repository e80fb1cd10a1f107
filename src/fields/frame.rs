//! Maps a sample to a dashboard frame.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Refused;
use super::change::situation;
use super::json::{self, Json, Object};
use super::table::{Cell, FIELDS, REQUIRED};
use crate::entry::{CapturedAt, Situation};
use crate::planted::planted;

/// The initial buffer for a frame; a typical frame fits without reallocation.
const FRAME_BYTES: usize = 768;

/// The maximum length of a timestamp of ours as JSON.
const MOMENT_BYTES: usize = "\"-262143-01-01T00:00:00.000Z\"".len();

/// A checked telemetry object of the dashboard, complete except for its timestamp.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// JSON text without the value of the timestamp, which is inserted at `moment_at`.
    text: String,
    moment_at: usize,
    own: Option<OwnStamp>,
    situation: Situation,
}

impl Frame {
    /// Maps a sample in JSON text.
    ///
    /// # Errors
    /// Refused if the text exceeds [`MAX_SAMPLE_BYTES`], is not UTF-8, not JSON or has a number
    /// that is not finite; and for the reasons of [`Frame::of`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::config::MAX_SAMPLE_BYTES
    pub fn parse(text: &[u8]) -> Result<Self, Refused> {
        Self::checked(&json::read(text)?)
    }

    /// Maps a sample.
    ///
    /// # Errors
    /// Refused if the sample is not an object, is nested too deep, has too many keys or values, or
    /// has a known field of the wrong type or out of range; or if the text exceeds
    /// [`MAX_SAMPLE_BYTES`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::config::MAX_SAMPLE_BYTES
    pub fn of(sample: &Value) -> Result<Self, Refused> {
        Self::checked(&Json::from(sample))
    }

    pub(crate) fn checked(sample: &Json<'_>) -> Result<Self, Refused> {
        let object = json::object(sample)?;
        let own = own_stamp(object);
        let cells = if own.is_some() { pass_through(object)? } else { pick(object)? };
        let (text, moment_at) = write(&cells)?;
        let moment = own.as_ref().and_then(|own| own.text.as_ref()).map_or(0, String::len);
        json::bounded(text.len() + moment.max(MOMENT_BYTES))?;
        Ok(Self { text, moment_at, own, situation: situation(object) })
    }

    /// The sample's own capture time: its `timestamp`, if the sample has the dashboard's nine
    /// required fields; otherwise `None`.
    pub fn own_timestamp(&self) -> Option<CapturedAt> {
        self.own.as_ref().map(|own| own.moment)
    }

    /// The driving situation of the frame.
    pub fn situation(&self) -> Situation {
        self.situation
    }

    /// The object as JSON text, with `captured_at` as its timestamp.
    pub fn json(self, captured_at: CapturedAt) -> String {
        let Self { mut text, moment_at, own, .. } = self;
        match own {
            // Keep the sender's notation of the same moment.
            Some(OwnStamp { moment, text: Some(own) }) if moment == captured_at => {
                text.insert_str(moment_at, &own);
            }
            _ => text.insert_str(moment_at, &format!("\"{captured_at}\"")),
        }
        text
    }
}

/// Maps a sample to a frame as JSON text, with `captured_at` as its timestamp.
///
/// # Errors
/// Refused for the reasons of [`Frame::of`].
pub fn map(sample: &Value, captured_at: CapturedAt) -> Result<String, Refused> {
    Ok(Frame::of(sample)?.json(captured_at))
}

/// The fields of a frame in order, each with a checked value.
type Cells<'a> = Vec<(&'a str, Cell<'a>)>;

/// Maps a sample with a source's field names: takes the fields of the table and no others.
fn pick<'a>(sample: &'a Object<'a>) -> Result<Cells<'a>, Refused> {
    let mut cells = Vec::with_capacity(1 + FIELDS.len());
    cells.push(("timestamp", Cell::Moment));
    for field in &FIELDS {
        let keys = if planted("one_name_a_field") { &field.keys[..1] } else { field.keys };
        let found = keys.iter().find_map(|key| Some((*key, sample.present(key)?)));
        let cell = match found {
            Some((key, value)) => field.check(key, value)?,
            None => Some(field.absent()),
        };
        cells.extend(cell.map(|cell| (field.name, cell)));
    }
    Ok(cells)
}

/// Maps a sample with the dashboard's field names: takes all keys and checks the known ones.
fn pass_through<'a>(sample: &'a Object<'a>) -> Result<Cells<'a>, Refused> {
    // The last of two equal keys wins.
    let sample: BTreeMap<&str, &Json<'_>> = sample.members().collect();
    let mut cells = Vec::with_capacity(sample.len());
    for (key, value) in sample {
        let cell = match FIELDS.iter().find(|field| field.name == key) {
            _ if matches!(value, Json::Null) => None,
            _ if key == "timestamp" => Some(Cell::Moment),
            Some(field) => field.check(key, value)?,
            None => Some(Cell::Unread(value)),
        };
        cells.extend(cell.map(|cell| (key, cell)));
    }
    Ok(cells)
}

/// The text of a frame, and the offset at which the value of its timestamp is inserted.
fn write(cells: &Cells<'_>) -> Result<(String, usize), Refused> {
    let mut text = Vec::with_capacity(FRAME_BYTES);
    let mut moment_at = 0;
    for (key, cell) in cells {
        text.push(if text.is_empty() { b'{' } else { b',' });
        json::write(&mut text, key)?;
        text.push(b':');
        match cell {
            Cell::Moment => moment_at = text.len(),
            cell => json::write(&mut text, cell)?,
        }
    }
    text.push(b'}');
    Ok((json::utf8(text)?, moment_at))
}

/// The timestamp of a sample that is a dashboard frame already.
#[derive(Clone, Debug, PartialEq)]
struct OwnStamp {
    moment: CapturedAt,
    /// As JSON, if the notation is one that every date parser accepts.
    text: Option<String>,
}

fn own_stamp(sample: &Object<'_>) -> Option<OwnStamp> {
    let text = sample.present("timestamp")?.as_str()?;
    let moment = CapturedAt::parse(text)?;
    let complete = REQUIRED.iter().all(|key| sample.present(key).is_some());
    // The text has only digits and punctuation, so it needs no escaping.
    let own = || is_rfc3339(text).then(|| format!("\"{text}\""));
    complete.then(|| OwnStamp { moment, text: own() })
}

/// Whether a timestamp has the RFC 3339 notation that every date parser accepts.
///
/// [`CapturedAt::parse`] accepts more, such as a space instead of the `T`; those timestamps are
/// rewritten.
fn is_rfc3339(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches('0'),
        None => rest,
    };
    matches!(zone, "Z" | "+00:00" | "-00:00")
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::super::table::{MAX_WHOLE, Shape};
    use super::super::{Reason, Setup};
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
    fn a_field_that_is_absent_or_null_has_its_default() {
        let expected = json!({
            "timestamp": NOW_TEXT, "lap": 0, "position": 0, "lap_time": 0.0, "fuel": 0.0,
            "fuel_capacity": 90.0, "tire_pressures": {}, "tire_temps": {}, "tire_wear": {},
            "brake_temps": {}, "engine_water_temp": 0.0, "track_temp": 0.0, "ambient_temp": 0.0,
            "speed": 0.0, "gear": 0, "rpm": 0.0, "player_name": "", "car_name": "",
            "track_name": "", "session_type": "",
        });
        let keys = FIELDS.iter().flat_map(|field| field.keys);
        let nulls: Map<_, _> = keys.map(|key| (key.to_string(), Value::Null)).collect();
        assert_eq!(mapped(&json!({})), expected);
        assert_eq!(mapped(&Value::Object(nulls)), expected);
        assert_eq!(mapped(&json!({"throttle": 1.0, "yaw": null, "timestamp": "noon"})), expected);
    }

    #[test]
    fn each_field_is_found_under_each_of_its_names() {
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
    fn of_two_names_the_first_that_is_not_null_counts() {
        let both = json!({"fuel": null, "fuel_remaining": 9, "position": 1, "race_position": 2,
            "engine_temp": 90, "engine_water_temp": 80});
        let seen = mapped(&both);
        assert_eq!((&seen["fuel"], &seen["position"]), (&json!(9), &json!(1)));
        assert_eq!(seen["engine_water_temp"], 90);
    }

    #[test]
    fn each_field_refuses_what_is_not_of_its_type() {
        for field in &FIELDS {
            for value in [json!("1"), json!(1), json!(1.5), json!(true), json!([1]), json!({})] {
                let fits = match field.shape {
                    Shape::Whole => value.is_i64(),
                    Shape::Number(_) => value.is_number(),
                    Shape::Text => value.is_string(),
                    Shape::Wheels => value.is_object(),
                };
                for key in field.keys {
                    match fits {
                        true => check(key, value.clone(), field.name, value.clone()),
                        false => check_refused(key, value.clone(), Reason::WrongType),
                    }
                }
            }
        }
    }

    #[test]
    fn a_negative_number_is_refused_where_the_dashboard_has_a_minimum() {
        for key in ["lap", "position", "race_position", "fuel", "fuel_capacity", "fuel_at_start"] {
            check_refused(key, json!(-1), Reason::OutOfRange);
        }
        check_refused("fuel", json!(-1e-300), Reason::OutOfRange);
        check("lap_time", json!(-2.76), "lap_time", Value::Null);
        check("gear", json!(-1), "gear", json!(-1));
        check("ambient_temp", json!(-12.5), "ambient_temp", json!(-12.5));
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_point() {
        check("lap", json!(3.0), "lap", json!(3));
        check("gear", json!(-1.0), "gear", json!(-1));
        check("lap", json!(-0.0), "lap", json!(0));
        check("lap", json!(MAX_WHOLE), "lap", json!(MAX_WHOLE));
        check_refused("lap", json!(MAX_WHOLE + 1), Reason::OutOfRange);
        check_refused("lap", json!(u64::MAX), Reason::OutOfRange);
        check_refused("gear", json!(-1e300), Reason::OutOfRange);
    }

    #[test]
    fn a_wheel_that_is_null_or_unknown_is_left_out() {
        let wheels = json!({"fl": 20.5, "fr": null, "spare": 1, "rl": 3});
        check("tyre_pressure", wheels, "tire_pressures", json!({"fl": 20.5, "rl": 3}));
    }

    #[test]
    fn a_dashboard_frame_passes_through_as_it_is() {
        let frame = dashboard_frame();
        assert_eq!(Frame::of(&frame).unwrap().own_timestamp(), Some(NOW));
        assert_eq!(mapped(&frame), frame);
    }

    #[test]
    fn a_dashboard_frame_loses_only_what_the_dashboard_cannot_stand() {
        let mut frame = dashboard_frame();
        let expected = frame.clone();
        frame["rpm"] = Value::Null;
        frame["note"] = Value::Null;
        frame["tire_wear"]["spare"] = json!(1);
        frame["tire_wear"]["fr"] = Value::Null;
        assert_eq!(mapped(&frame), expected);
        frame["lap_time"] = json!(-2.76);
        assert_eq!(mapped(&frame)["lap_time"], Value::Null);
        frame["tire_temps"] = json!({"fl": "warm"});
        assert_eq!(map(&frame, NOW).unwrap_err().reason, Reason::WrongType);
    }

    #[test]
    fn a_dashboard_frame_gets_the_moment_it_was_given_if_that_is_another() {
        let mut frame = dashboard_frame();
        let later: Value =
            serde_json::from_str(&map(&frame, CapturedAt(NOW.0 + 1)).unwrap()).unwrap();
        assert_eq!(later["timestamp"], "2025-11-22T14:30:22.124Z");
        for (text, seen) in [
            ("2025-11-22T16:30:22.123+02:00", "2025-11-22T16:30:22.123+02:00"),
            ("2025-11-22 14:30:22.123Z", NOW_TEXT),
        ] {
            frame["timestamp"] = json!(text);
            assert_eq!(Frame::of(&frame).unwrap().own_timestamp(), Some(NOW));
            assert_eq!(mapped(&frame)["timestamp"], seen);
        }
    }

    #[test]
    fn of_two_equal_keys_the_later_counts_and_goes_out_once() {
        let json = |text: &str| Frame::parse(text.as_bytes()).unwrap().json(NOW);
        let seen = json(r#"{"lap": "one", "tyre_wear": {"fl": 1, "fl": 2}, "lap": 2}"#);
        assert!(seen.contains(r#""lap":2,"#) && seen.contains(r#""tire_wear":{"fl":2}"#), "{seen}");
        let twice = dashboard_frame().to_string().replacen('{', r#"{"lap":"one","flag":false,"#, 1);
        assert_eq!(json(&twice), mapped(&dashboard_frame()).to_string());
    }

    #[test]
    fn a_sample_that_lacks_a_required_name_is_no_dashboard_frame() {
        for key in REQUIRED.iter().chain(&["timestamp"]) {
            let mut frame = dashboard_frame();
            frame[key] = Value::Null;
            assert_eq!(Frame::of(&frame).unwrap().own_timestamp(), None, "{key}");
            assert_eq!(mapped(&frame)["flag"], Value::Null, "{key}");
        }
        for timestamp in [json!("22 Nov 2025"), json!("2025-11-22T14:30:22"), json!(1.5)] {
            let mut frame = dashboard_frame();
            frame["timestamp"] = timestamp;
            assert_eq!(Frame::of(&frame).unwrap().own_timestamp(), None);
        }
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        for text in ["51.248178375505404", "97.45365320034685", "-3.4e-08", "5e-324", "0.1"] {
            let sample = format!(r#"{{"speed": {text}}}"#);
            let frame = Frame::parse(sample.as_bytes()).unwrap().json(NOW);
            let frame: Value = serde_json::from_str(&frame).unwrap();
            let speed = frame["speed"].as_f64().unwrap();
            assert_eq!(speed.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn what_grows_too_large_when_it_is_written_is_refused() {
        let mut frame = dashboard_frame();
        frame["extra"] = json!(vec![1e15; 60_000]);
        assert_eq!(map(&frame, NOW).unwrap_err().reason, Reason::TooLarge);
        assert_eq!(Setup::of(&frame).unwrap_err().reason, Reason::TooLarge);
    }
}

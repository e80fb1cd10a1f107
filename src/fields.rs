//! Sample -> dashboard fields: one table, and the pure functions around it.
//!
//! What [`map`] lets out, every dashboard server takes, one that validates included, and the page
//! can paint: no null, no number that is not finite, integers where integers belong, nothing below
//! its minimum, no wheel but `fl`, `fr`, `rl`, `rr`. What it cannot repair without guessing it
//! refuses, with a message for whoever wrote the sample.
//!
//! Two kinds of sample come in. One that has the dashboard's required names already is somebody's
//! frame and passes through, extra keys included. From any other exactly the fields of the table
//! are taken. A null is the same as an absent key, everywhere.

mod change;
mod json;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Number, Value};

pub use self::change::{setup_fingerprint, situation};
pub(crate) use self::json::null_what_is_not_finite;
pub use self::json::{parse, parse_any};
use crate::entry::CapturedAt;
use crate::planted::planted;

/// An input that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What it is counted under.
    pub reason: Reason,
    /// Which field, what it held, what to send instead: one line, of bounded length.
    pub message: String,
}

/// Why an input was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    NotUtf8,
    NotJson,
    NotObject,
    NotFinite,
    TooDeep,
    TooLarge,
    WrongType,
    OutOfRange,
    /// It names a session that the agent did not give out.
    UnknownSession,
}

impl Reason {
    /// Every reason, for a metric that shows zeros too.
    pub const ALL: [Self; 9] = [
        Self::NotUtf8,
        Self::NotJson,
        Self::NotObject,
        Self::NotFinite,
        Self::TooDeep,
        Self::TooLarge,
        Self::WrongType,
        Self::OutOfRange,
        Self::UnknownSession,
    ];

    /// The reason as a metric's label: lower case, underscores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotObject => "not_object",
            Self::NotFinite => "not_finite",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::UnknownSession => "unknown_session",
        }
    }
}

/// The moment of capture that a sample brings along: the `timestamp` of one that has the
/// dashboard's nine required names; `None` for any other.
pub fn own_timestamp(sample: &Value) -> Option<CapturedAt> {
    Some(own_stamp(sample.as_object()?)?.moment)
}

/// The dashboard's telemetry object as JSON text, with `captured_at` as its timestamp.
///
/// # Errors
/// Refused if the sample is not an object, nested too deep, or holds a known field of the wrong
/// type or out of its range; or if the text exceeds [`MAX_SAMPLE_BYTES`].
///
/// [`MAX_SAMPLE_BYTES`]: crate::config::MAX_SAMPLE_BYTES
pub fn map(sample: &Value, captured_at: CapturedAt) -> Result<String, Refused> {
    let sample = json::object(sample)?;
    let timestamp = captured_at.to_string();
    let frame = match own_stamp(sample) {
        // The sender's own way of writing this moment is as good as ours.
        Some(own) if own.moment == captured_at && is_rfc3339(own.text) => {
            pass_through(sample, own.text)?
        }
        Some(_) => pass_through(sample, &timestamp)?,
        None => pick(sample, &timestamp)?,
    };
    json::text(&frame)
}

/// The car's setup as JSON text, passed through unread.
///
/// # Errors
/// Refused if it is not an object, nested too deep, or its text exceeds [`MAX_SAMPLE_BYTES`].
///
/// [`MAX_SAMPLE_BYTES`]: crate::config::MAX_SAMPLE_BYTES
pub fn map_setup(setup: &Value) -> Result<String, Refused> {
    json::text(json::object(setup)?)
}

/// A row of the table: one field of the dashboard.
struct Field {
    /// The dashboard's name.
    name: &'static str,
    /// What a source may call it: the first that is there counts.
    keys: &'static [&'static str],
    shape: Shape,
    negative: Negative,
    /// What to send, as a message says it.
    unit: &'static str,
}

/// What a field holds, and what stands in when it is absent.
enum Shape {
    /// An integer; absent: 0. A number such as 3.0 is one too.
    Whole,
    /// A number; absent: this one.
    Number(f64),
    /// A string; absent: empty.
    Text,
    /// Numbers by wheel; absent: no wheel.
    Wheels,
}

/// What becomes of a number below 0.
enum Negative {
    Kept,
    LeftOut,
    Refused,
}

const fn row(
    name: &'static str,
    keys: &'static [&'static str],
    shape: Shape,
    negative: Negative,
    unit: &'static str,
) -> Field {
    Field { name, keys, shape, negative, unit }
}

/// The 20 fields, less the timestamp, in the order in which they are sent.
#[rustfmt::skip]
const FIELDS: [Field; 19] = {
    use Negative::{Kept, LeftOut, Refused};
    use Shape::{Number, Text, Wheels, Whole};
    const CELSIUS: &str = "degrees Celsius";
    [
        row("lap", &["lap"], Whole, Refused, "the lap"),
        row("position", &["position", "race_position"], Whole, Refused, "the position"),
        // The game counts up to the first lap from below 0.
        row("lap_time", &["lap_time"], Number(0.0), LeftOut, "seconds"),
        row("fuel", &["fuel", "fuel_remaining"], Number(0.0), Refused, "litres"),
        row("fuel_capacity", &["fuel_capacity", "fuel_at_start"], Number(90.0), Refused, "litres"),
        row("tire_pressures", &["tire_pressures", "tyre_pressure"], Wheels, Kept, "PSI"),
        // The game says -273.15 for "not measured".
        row("tire_temps", &["tire_temps", "tyre_temp"], Wheels, Kept, CELSIUS),
        row("tire_wear", &["tire_wear", "tyre_wear"], Wheels, Kept, "percent"),
        row("brake_temps", &["brake_temps", "brake_temp"], Wheels, Kept, CELSIUS),
        row("engine_water_temp", &["engine_temp", "engine_water_temp"], Number(0.0), Kept, CELSIUS),
        row("track_temp", &["track_temp"], Number(0.0), Kept, CELSIUS),
        row("ambient_temp", &["ambient_temp"], Number(0.0), Kept, CELSIUS),
        row("speed", &["speed"], Number(0.0), Kept, "km/h"),
        row("gear", &["gear"], Whole, Kept, "the gear (-1 is reverse)"),
        row("rpm", &["rpm"], Number(0.0), Kept, "revolutions per minute"),
        row("player_name", &["player_name"], Text, Kept, "the driver's name"),
        row("car_name", &["car_name"], Text, Kept, "the car's name"),
        row("track_name", &["track_name"], Text, Kept, "the track's name"),
        row("session_type", &["session_type"], Text, Kept, "the kind of session"),
    ]
};

/// What makes a sample with a readable `timestamp` a dashboard frame already.
const REQUIRED: [&str; 8] = [
    "lap",
    "position",
    "fuel",
    "fuel_capacity",
    "player_name",
    "car_name",
    "track_name",
    "session_type",
];

/// The dashboard's fields less the timestamp, each wheel by itself: name and wheel.
pub fn columns() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    FIELDS.iter().flat_map(|field| {
        let wheels: &[_] = match field.shape {
            Shape::Wheels => &[Some("fl"), Some("fr"), Some("rl"), Some("rr")],
            Shape::Whole | Shape::Number(_) | Shape::Text => &[None],
        };
        wheels.iter().map(|wheel| (field.name, *wheel))
    })
}

/// The largest integer that a browser holds exactly, 2^53 - 1.
const MAX_WHOLE: i64 = 9_007_199_254_740_991;

/// A frame ready to be written: its keys in order, each with a checked value.
struct Frame<'a>(Vec<(&'a str, Cell<'a>)>);

/// A checked value, borrowed from the sample where it can be.
#[derive(Serialize)]
#[serde(untagged)]
enum Cell<'a> {
    Whole(i64),
    Number(&'a Number),
    Default(f64),
    Text(&'a str),
    Wheels(Wheels<'a>),
    /// An extra key of a dashboard frame.
    Unread(&'a Value),
}

#[derive(Default, Serialize)]
struct Wheels<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    fl: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fr: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rl: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rr: Option<&'a Number>,
}

impl Serialize for Frame<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (key, cell) in &self.0 {
            object.serialize_entry(key, cell)?;
        }
        object.end()
    }
}

/// The frame of a sample in a source's words: the fields of the table and no others.
fn pick<'a>(sample: &'a Map<String, Value>, timestamp: &'a str) -> Result<Frame<'a>, Refused> {
    let mut cells = Vec::with_capacity(1 + FIELDS.len());
    cells.push(("timestamp", Cell::Text(timestamp)));
    for field in &FIELDS {
        let keys = if planted("one_name_a_field") { &field.keys[..1] } else { field.keys };
        let found = keys.iter().find_map(|key| Some((*key, present(sample, key)?)));
        let cell = match found {
            Some((key, value)) => field.check(key, value)?,
            None => Some(field.absent()),
        };
        cells.extend(cell.map(|cell| (field.name, cell)));
    }
    Ok(Frame(cells))
}

/// The frame of a sample in the dashboard's words: all its keys, the known ones checked.
fn pass_through<'a>(
    sample: &'a Map<String, Value>,
    timestamp: &'a str,
) -> Result<Frame<'a>, Refused> {
    let mut cells = Vec::with_capacity(sample.len());
    for (key, value) in sample {
        let cell = match FIELDS.iter().find(|field| field.name == key) {
            _ if value.is_null() => None,
            _ if key == "timestamp" => Some(Cell::Text(timestamp)),
            Some(field) => field.check(key, value)?,
            None => Some(Cell::Unread(value)),
        };
        cells.extend(cell.map(|cell| (key.as_str(), cell)));
    }
    Ok(Frame(cells))
}

impl Field {
    fn absent(&self) -> Cell<'static> {
        match self.shape {
            Shape::Whole => Cell::Whole(0),
            Shape::Number(default) => Cell::Default(default),
            Shape::Text => Cell::Text(""),
            Shape::Wheels => Cell::Wheels(Wheels::default()),
        }
    }

    /// The value as the dashboard takes it, or `None` if the field is to be left out.
    ///
    /// `key` is what this sample calls the field; the messages name it.
    fn check<'a>(&self, key: &str, value: &'a Value) -> Result<Option<Cell<'a>>, Refused> {
        let (cell, is_negative) = match (&self.shape, value) {
            (Shape::Whole, Value::Number(number)) => {
                let whole = self.whole(key, number)?;
                (Cell::Whole(whole), whole < 0)
            }
            (Shape::Number(_), Value::Number(number)) => {
                (Cell::Number(number), number.as_f64().is_some_and(|number| number < 0.0))
            }
            (Shape::Text, Value::String(text)) => (Cell::Text(text), false),
            (Shape::Wheels, Value::Object(wheels)) => {
                (Cell::Wheels(self.wheels(key, wheels)?), false)
            }
            (Shape::Whole | Shape::Number(_) | Shape::Text | Shape::Wheels, _) => {
                return Err(self.wrong_type(key, value));
            }
        };
        match self.negative {
            Negative::LeftOut if is_negative => Ok(None),
            Negative::Refused if is_negative => Err(refused(
                Reason::OutOfRange,
                format!(
                    "{key}: {} is below 0; send {} from 0 up or leave the field out",
                    shorten(value),
                    self.unit
                ),
            )),
            Negative::Kept | Negative::LeftOut | Negative::Refused => Ok(Some(cell)),
        }
    }

    fn whole(&self, key: &str, number: &Number) -> Result<i64, Refused> {
        let float = number.as_f64().unwrap_or(f64::INFINITY);
        if float.fract() != 0.0 {
            return Err(self.wrong_type(key, number));
        }
        if float.abs() > MAX_WHOLE as f64 {
            return Err(refused(
                Reason::OutOfRange,
                format!(
                    "{key}: {} is beyond {MAX_WHOLE}; send {} as a smaller integer \
                     or leave the field out",
                    shorten(number),
                    self.unit
                ),
            ));
        }
        Ok(float as i64)
    }

    fn wheels<'a>(&self, key: &str, wheels: &'a Map<String, Value>) -> Result<Wheels<'a>, Refused> {
        let number = |wheel| match present(wheels, wheel) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(other) => Err(refused(
                Reason::WrongType,
                format!(
                    "{key}.{wheel}: {} is not a number; send {} as a JSON number \
                     or leave the wheel out",
                    shorten(other),
                    self.unit
                ),
            )),
        };
        Ok(Wheels { fl: number("fl")?, fr: number("fr")?, rl: number("rl")?, rr: number("rr")? })
    }

    fn wrong_type(&self, key: &str, value: &impl ToString) -> Refused {
        let (allowed, form) = match self.shape {
            Shape::Whole => ("a whole number", "as a JSON integer"),
            Shape::Number(_) => ("a number", "as a JSON number"),
            Shape::Text => ("a text", "as a JSON string"),
            Shape::Wheels => ("an object", r#"as numbers under "fl", "fr", "rl", "rr""#),
        };
        let (value, unit) = (shorten(value), self.unit);
        refused(
            Reason::WrongType,
            format!("{key}: {value} is not {allowed}; send {unit} {form} or leave the field out"),
        )
    }
}

/// The timestamp of a sample that is a dashboard frame already.
struct OwnStamp<'a> {
    text: &'a str,
    moment: CapturedAt,
}

fn own_stamp(sample: &Map<String, Value>) -> Option<OwnStamp<'_>> {
    let text = sample.get("timestamp")?.as_str()?;
    let moment = CapturedAt::parse(text)?;
    let complete = REQUIRED.iter().all(|key| present(sample, key).is_some());
    complete.then_some(OwnStamp { text, moment })
}

/// Whether a text that names a moment has the one form that every reader of dates knows.
///
/// [`CapturedAt::parse`] takes more, such as a space for the `T`; that is then written our way.
fn is_rfc3339(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches('0'),
        None => rest,
    };
    matches!(zone, "Z" | "+00:00" | "-00:00")
}

fn present<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn refused(reason: Reason, message: String) -> Refused {
    Refused { reason, message }
}

/// A value as a message may quote it: JSON, so that control characters are escaped, and at most
/// 40 characters of it.
pub(crate) fn shorten(value: &(impl ToString + ?Sized)) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some(_) => text.chars().take(39).chain(['…']).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: CapturedAt = CapturedAt(1_763_821_822_123);
    const NOW_TEXT: &str = "2025-11-22T14:30:22.123Z";

    fn mapped(sample: &Value) -> Value {
        serde_json::from_str(&map(sample, NOW).unwrap()).unwrap()
    }

    /// A sample of this one key, and what the dashboard sees of it: null if it is left out.
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

    /// A sample in the dashboard's words, as another program hands it in.
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
        assert_eq!(own_timestamp(&frame), Some(NOW));
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
            assert_eq!(own_timestamp(&frame), Some(NOW));
            assert_eq!(mapped(&frame)["timestamp"], seen);
        }
    }

    #[test]
    fn a_sample_that_lacks_a_required_name_is_no_dashboard_frame() {
        for key in REQUIRED.iter().chain(&["timestamp"]) {
            let mut frame = dashboard_frame();
            frame[key] = Value::Null;
            assert_eq!(own_timestamp(&frame), None, "{key}");
            assert_eq!(mapped(&frame)["flag"], Value::Null, "{key}");
        }
        for timestamp in [json!("22 Nov 2025"), json!("2025-11-22T14:30:22"), json!(1.5)] {
            let mut frame = dashboard_frame();
            frame["timestamp"] = timestamp;
            assert_eq!(own_timestamp(&frame), None);
        }
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        for text in ["51.248178375505404", "97.45365320034685", "-3.4e-08", "5e-324", "0.1"] {
            let sample = parse(format!(r#"{{"speed": {text}}}"#).as_bytes()).unwrap();
            let speed = mapped(&sample)["speed"].as_f64().unwrap();
            assert_eq!(speed.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn what_grows_too_large_when_it_is_written_is_refused() {
        let mut frame = dashboard_frame();
        frame["extra"] = json!(vec![1e15; 60_000]);
        assert_eq!(map(&frame, NOW).unwrap_err().reason, Reason::TooLarge);
        assert_eq!(map_setup(&frame).unwrap_err().reason, Reason::TooLarge);
    }

    #[test]
    fn a_setup_passes_unread() {
        let setup = json!({"carSetup": {"fuel": "full", "lap": null}});
        assert_eq!(serde_json::from_str::<Value>(&map_setup(&setup).unwrap()).unwrap(), setup);
        assert_eq!(map_setup(&json!([setup])).unwrap_err().reason, Reason::NotObject);
    }
}

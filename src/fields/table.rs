//! The dashboard's fields: accepted names, types and ranges, and the check of a value.

use serde::Serialize;
use serde_json::Number;

use super::json::{Json, Object, quoted};
use super::{Reason, Refused, refused, shorten};
use crate::config::nearest;

/// One field of the dashboard.
pub(super) struct Field {
    /// The dashboard's name.
    pub(super) name: &'static str,
    /// The names that a source may use; the first one present wins.
    pub(super) keys: &'static [&'static str],
    pub(super) shape: Shape,
    negative: Negative,
    /// What a mapped frame has if the sample has no value; `None` omits the field.
    pub(super) fill: Option<Cell<'static>>,
    /// What to send, as a phrase for messages.
    unit: &'static str,
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// An integer, also written as 3.0.
    Whole,
    /// An integer, or "R" for reverse, or "N" for neutral.
    Gear,
    Number,
    /// A string.
    Text,
    /// Numbers by wheel.
    Wheels,
}

/// How a number below 0 is handled.
enum Negative {
    Kept,
    /// Omitted without a report: the game sends it for "no value yet".
    Absent,
    /// Omitted and reported.
    OutOfRange,
}

const fn row(
    name: &'static str,
    keys: &'static [&'static str],
    shape: Shape,
    negative: Negative,
    fill: Option<Cell<'static>>,
    unit: &'static str,
) -> Field {
    Field { name, keys, shape, negative, fill, unit }
}

/// The 20 fields except the timestamp, in the order in which they are sent.
///
/// A server in schema mode refuses a frame that lacks one of [`REQUIRED`], so a mapped frame gets a
/// fill for them: the page shows a lap or position of 0 and an empty text as "-", and assumes a tank
/// of 90 litres itself if it gets no capacity. A field of wheels is filled with no wheels, because
/// the page keeps the previous values of a missing one. Every other field is omitted: its 0 would
/// look like a reading.
#[rustfmt::skip]
pub(super) const FIELDS: [Field; 19] = {
    use Negative::{Absent, Kept, OutOfRange};
    use Shape::{Gear, Number, Text, Wheels, Whole};
    const CELSIUS: &str = "degrees Celsius";
    const ZERO: Option<Cell<'static>> = Some(Cell::Whole(0));
    const EMPTY: Option<Cell<'static>> = Some(Cell::Text(""));
    const NO_FUEL: Option<Cell<'static>> = Some(Cell::Fill(0.0));
    const USUAL_TANK: Option<Cell<'static>> = Some(Cell::Fill(90.0));
    const NO_WHEELS: Option<Cell<'static>> =
        Some(Cell::Wheels(self::Wheels { fl: None, fr: None, rl: None, rr: None }));
    [
        row("lap", &["lap"], Whole, OutOfRange, ZERO, "the lap"),
        row("position", &["position", "race_position"], Whole, OutOfRange, ZERO, "the position"),
        // The game counts up from below 0 before the first lap.
        row("lap_time", &["lap_time"], Number, Absent, None, "seconds"),
        row("fuel", &["fuel", "fuel_remaining"], Number, OutOfRange, NO_FUEL, "litres"),
        row("fuel_capacity", &["fuel_capacity", "fuel_at_start"], Number, OutOfRange, USUAL_TANK, "litres"),
        row("tire_pressures", &["tire_pressures", "tyre_pressure"], Wheels, Kept, NO_WHEELS, "PSI"),
        // The game sends -273.15 for "not measured".
        row("tire_temps", &["tire_temps", "tyre_temp"], Wheels, Kept, NO_WHEELS, CELSIUS),
        row("tire_wear", &["tire_wear", "tyre_wear"], Wheels, Kept, NO_WHEELS, "percent"),
        row("brake_temps", &["brake_temps", "brake_temp"], Wheels, Kept, NO_WHEELS, CELSIUS),
        row("engine_water_temp", &["engine_temp", "engine_water_temp"], Number, Kept, None, CELSIUS),
        row("track_temp", &["track_temp"], Number, Kept, None, CELSIUS),
        row("ambient_temp", &["ambient_temp"], Number, Kept, None, CELSIUS),
        row("speed", &["speed"], Number, Kept, None, "km/h"),
        row("gear", &["gear"], Gear, Kept, None, "the gear (-1 is reverse)"),
        row("rpm", &["rpm"], Number, Kept, None, "revolutions per minute"),
        row("player_name", &["player_name"], Text, Kept, EMPTY, "the driver's name"),
        row("car_name", &["car_name"], Text, Kept, EMPTY, "the car's name"),
        row("track_name", &["track_name"], Text, Kept, EMPTY, "the track's name"),
        row("session_type", &["session_type"], Text, Kept, EMPTY, "the kind of session"),
    ]
};

/// The fields that identify a sample as a dashboard frame.
pub(super) const REQUIRED: [&str; 8] = [
    "lap",
    "position",
    "fuel",
    "fuel_capacity",
    "player_name",
    "car_name",
    "track_name",
    "session_type",
];

/// The dashboard's fields without the timestamp, with a separate column for each wheel: name and
/// wheel.
pub fn columns() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    FIELDS.iter().flat_map(|field| {
        let wheels: &[_] = match field.shape {
            Shape::Wheels => &[Some("fl"), Some("fr"), Some("rl"), Some("rr")],
            Shape::Whole | Shape::Gear | Shape::Number | Shape::Text => &[None],
        };
        wheels.iter().map(|wheel| (field.name, *wheel))
    })
}

/// Whether the values of a field are texts.
pub fn is_text(name: &str) -> bool {
    FIELDS.iter().any(|field| field.name == name && matches!(field.shape, Shape::Text))
}

/// The largest integer that JavaScript represents exactly, 2^53 - 1.
pub(super) const MAX_WHOLE: i64 = 9_007_199_254_740_991;

/// A checked value, borrowed from the sample where it can be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Cell<'a> {
    Whole(i64),
    Number(&'a Number),
    Fill(f64),
    Text(&'a str),
    Wheels(Wheels<'a>),
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Wheels<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    fl: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fr: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rl: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rr: Option<&'a Number>,
}

/// The outcome of checking a value of the right type.
pub(super) enum Checked<'a> {
    Value(Cell<'a>),
    /// The value means "no value".
    Absent,
    /// The value is out of range; the message says why and what to send.
    OutOfRange(String),
}

/// Whether a sample has a known field, even if its value is null.
pub(crate) fn has_known_field(sample: &Object<'_>) -> bool {
    FIELDS.iter().flat_map(|field| field.keys).any(|key| sample.get(key).is_some())
}

/// Explains that a sample has no value of a known field: names the fields that its keys may mean,
/// and the known fields.
pub(super) fn no_known_field(sample: &Object<'_>) -> Refused {
    let known = FIELDS.map(|field| field.name).join(", ");
    let hints = sample.members().take(MAX_EXAMINED_KEYS);
    let hints = hints.filter_map(|(key, _)| did_you_mean(key));
    let hints: Vec<_> = hints.take(MAX_HINTS).collect();
    let message = if has_known_field(sample) {
        "every known field is null; leave the sample out".to_owned()
    } else if sample.get("carSetup").is_some() {
        "carSetup: this is a setup; send it as {\"setup\": {\"carSetup\": …}}".to_owned()
    } else if sample.is_empty() {
        format!("an empty object; send at least one of {known}")
    } else if hints.is_empty() {
        let keys: Vec<_> = sample.members().take(MAX_HINTS).map(|(key, _)| shorten(key)).collect();
        let keys = shorten(&keys.join(", "));
        format!("{keys}: no field is known; send at least one of {known}")
    } else {
        format!("{}; no field is known: send at least one of {known}", hints.join("; "))
    };
    refused(Reason::NoKnownField, message)
}

/// How many of a sample's keys are compared with the known ones, for an error message. Each takes
/// about 10 microseconds.
const MAX_EXAMINED_KEYS: usize = 64;

/// How many of a sample's keys an error message names.
const MAX_HINTS: usize = 4;

/// `spede: did you mean "speed" (km/h)?`; `None` if the key resembles no known one.
fn did_you_mean(key: &str) -> Option<String> {
    let known = FIELDS.iter().flat_map(|field| field.keys.iter().map(move |key| (*key, field)));
    let near = nearest(key, known.clone().map(|(key, _)| key).chain(CONTAINERS))?;
    let unit = known.into_iter().find(|(key, _)| *key == near);
    let unit = unit.and_then(|(_, field)| field.unit_of_number());
    let unit = unit.map(|unit| format!(" ({unit})")).unwrap_or_default();
    Some(format!("{}: did you mean \"{near}\"{unit}?", shorten(key)))
}

/// The keys that hold the frame or the setup in an event of the dashboard, and in an export.
pub(crate) const CONTAINERS: [&str; 3] = ["telemetry", "frame", "setup"];

/// The number of a gear; `None` if the value is neither a number nor the name of a gear.
pub(super) fn gear_number(value: &Json<'_>) -> Option<f64> {
    match value {
        Json::Text(name) if name.eq_ignore_ascii_case("R") => Some(-1.0),
        Json::Text(name) if name.eq_ignore_ascii_case("N") => Some(0.0),
        _ => value.as_f64(),
    }
}

impl Field {
    /// The first of `keys` that has a value in the sample, and the value.
    pub(super) fn find<'a>(
        &self,
        sample: &'a Object<'a>,
        keys: &[&'static str],
    ) -> Option<(&'static str, &'a Json<'a>)> {
        keys.iter().find_map(|key| Some((*key, sample.present(key)?)))
    }

    /// The unit of a number; `None` for other fields.
    pub(super) fn unit_of_number(&self) -> Option<&'static str> {
        (self.shape == Shape::Number).then_some(self.unit)
    }

    /// Checks a value and converts it for the dashboard.
    ///
    /// `key` is the field's name in this sample, for messages.
    pub(super) fn check<'a>(&self, key: &str, value: &'a Json<'a>) -> Result<Checked<'a>, Refused> {
        let (cell, is_negative) = match (self.shape, value) {
            (Shape::Whole | Shape::Gear, Json::Number(number)) => {
                let whole = number.as_f64().unwrap_or(f64::INFINITY);
                if whole.fract() != 0.0 {
                    return Err(self.wrong_type(key, number));
                }
                if whole.abs() > MAX_WHOLE as f64 {
                    let why = format!("beyond {MAX_WHOLE}");
                    return Ok(self.out_of_range(key, value, &why, "as a smaller integer"));
                }
                (Cell::Whole(whole as i64), whole < 0.0)
            }
            (Shape::Gear, Json::Text(_)) => match gear_number(value) {
                Some(gear) => (Cell::Whole(gear as i64), false),
                None => return Err(self.wrong_type(key, value)),
            },
            (Shape::Number, Json::Number(number)) => {
                (Cell::Number(number), number.as_f64().is_some_and(|number| number < 0.0))
            }
            (Shape::Text, Json::Text(text)) => (Cell::Text(text), false),
            (Shape::Wheels, Json::Object(wheels)) => {
                (Cell::Wheels(self.wheels(key, wheels)?), false)
            }
            (Shape::Whole | Shape::Gear | Shape::Number | Shape::Text | Shape::Wheels, _) => {
                return Err(self.wrong_type(key, value));
            }
        };
        Ok(match self.negative {
            Negative::Absent if is_negative => Checked::Absent,
            Negative::OutOfRange if is_negative => {
                self.out_of_range(key, value, "below 0", "from 0 up")
            }
            Negative::Kept | Negative::Absent | Negative::OutOfRange => Checked::Value(cell),
        })
    }

    fn out_of_range(
        &self,
        key: &str,
        value: &Json<'_>,
        why: &str,
        allowed: &str,
    ) -> Checked<'static> {
        let (value, unit) = (quoted(value), self.unit);
        Checked::OutOfRange(format!(
            "{key}: {value} is {why} and was omitted; send {unit} {allowed} or leave the field out"
        ))
    }

    fn wheels<'a>(&self, key: &str, wheels: &'a Object<'a>) -> Result<Wheels<'a>, Refused> {
        Ok(Wheels {
            fl: self.wheel(key, wheels, "fl")?,
            fr: self.wheel(key, wheels, "fr")?,
            rl: self.wheel(key, wheels, "rl")?,
            rr: self.wheel(key, wheels, "rr")?,
        })
    }

    fn wheel<'a>(
        &self,
        key: &str,
        wheels: &'a Object<'a>,
        wheel: &str,
    ) -> Result<Option<&'a Number>, Refused> {
        match wheels.present(wheel) {
            None => Ok(None),
            Some(Json::Number(number)) => Ok(Some(number)),
            Some(other) => Err(refused(
                Reason::WrongType,
                format!(
                    "{key}.{wheel}: {} is not a number; send {} as a JSON number or leave the \
                     wheel out",
                    quoted(other),
                    self.unit
                ),
            )),
        }
    }

    fn wrong_type(&self, key: &str, value: &impl Serialize) -> Refused {
        let (allowed, form) = match self.shape {
            Shape::Whole => ("a whole number", "as a JSON integer"),
            Shape::Gear => ("a whole number, \"R\" or \"N\"", "as a JSON integer"),
            Shape::Number => ("a number", "as a JSON number"),
            Shape::Text => ("a text", "as a JSON string"),
            Shape::Wheels => ("an object", r#"as numbers under "fl", "fr", "rl", "rr""#),
        };
        let (value, unit) = (quoted(value), self.unit);
        refused(
            Reason::WrongType,
            format!("{key}: {value} is not {allowed}; send {unit} {form} or leave the field out"),
        )
    }
}

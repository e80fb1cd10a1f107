//! The dashboard's fields: accepted names, types and ranges, and the check of a value.

use serde::Serialize;
use serde_json::Number;

use super::json::{Json, Object, quoted};
use super::{Reason, Refused, refused};

/// One field of the dashboard.
pub(super) struct Field {
    /// The dashboard's name.
    pub(super) name: &'static str,
    /// The names that a source may use; the first one present wins.
    pub(super) keys: &'static [&'static str],
    pub(super) shape: Shape,
    negative: Negative,
    /// What to send, as a phrase for messages.
    unit: &'static str,
}

/// The type of a field and its default.
pub(super) enum Shape {
    /// An integer, also written as 3.0; default 0.
    Whole,
    /// A number with the given default.
    Number(f64),
    /// A string; default empty.
    Text,
    /// Numbers by wheel; default no wheel.
    Wheels,
}

/// How a number below 0 is handled.
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

/// The 20 fields except the timestamp, in the order in which they are sent.
#[rustfmt::skip]
pub(super) const FIELDS: [Field; 19] = {
    use Negative::{Kept, LeftOut, Refused};
    use Shape::{Number, Text, Wheels, Whole};
    const CELSIUS: &str = "degrees Celsius";
    [
        row("lap", &["lap"], Whole, Refused, "the lap"),
        row("position", &["position", "race_position"], Whole, Refused, "the position"),
        // The game counts up from below 0 before the first lap.
        row("lap_time", &["lap_time"], Number(0.0), LeftOut, "seconds"),
        row("fuel", &["fuel", "fuel_remaining"], Number(0.0), Refused, "litres"),
        row("fuel_capacity", &["fuel_capacity", "fuel_at_start"], Number(90.0), Refused, "litres"),
        row("tire_pressures", &["tire_pressures", "tyre_pressure"], Wheels, Kept, "PSI"),
        // The game sends -273.15 for "not measured".
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
            Shape::Whole | Shape::Number(_) | Shape::Text => &[None],
        };
        wheels.iter().map(|wheel| (field.name, *wheel))
    })
}

/// The largest integer that JavaScript represents exactly, 2^53 - 1.
pub(super) const MAX_WHOLE: i64 = 9_007_199_254_740_991;

/// A checked value, borrowed from the sample where it can be.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Cell<'a> {
    Whole(i64),
    Number(&'a Number),
    Default(f64),
    Text(&'a str),
    Wheels(Wheels<'a>),
}

#[derive(Default, Serialize)]
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

impl Field {
    pub(super) fn absent(&self) -> Cell<'static> {
        match self.shape {
            Shape::Whole => Cell::Whole(0),
            Shape::Number(default) => Cell::Default(default),
            Shape::Text => Cell::Text(""),
            Shape::Wheels => Cell::Wheels(Wheels::default()),
        }
    }

    /// Checks a value and converts it for the dashboard; `None` omits the field.
    ///
    /// `key` is the field's name in this sample, for messages.
    pub(super) fn check<'a>(
        &self,
        key: &str,
        value: &'a Json<'a>,
    ) -> Result<Option<Cell<'a>>, Refused> {
        let (cell, is_negative) = match (&self.shape, value) {
            (Shape::Whole, Json::Number(number)) => {
                let whole = self.whole(key, number)?;
                (Cell::Whole(whole), whole < 0)
            }
            (Shape::Number(_), Json::Number(number)) => {
                (Cell::Number(number), number.as_f64().is_some_and(|number| number < 0.0))
            }
            (Shape::Text, Json::Text(text)) => (Cell::Text(text), false),
            (Shape::Wheels, Json::Object(wheels)) => {
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
                    quoted(value),
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
                    quoted(number),
                    self.unit
                ),
            ));
        }
        Ok(float as i64)
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
            Shape::Number(_) => ("a number", "as a JSON number"),
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

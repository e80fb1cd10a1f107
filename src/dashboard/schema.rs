//! The schema check of the public dashboard server.
//!
//! That server has a mode in which it checks each event against a schema and silently discards
//! invalid events. [`refuses`] is the same check.

use serde_json::{Map, Value};

use FieldType::{Integer, Number, Text, Wheels};

/// The type of a field of a frame.
#[derive(Clone, Copy)]
enum FieldType {
    Text,
    Number,
    Integer,
    /// An object with a number for any of the four wheels.
    Wheels,
}

/// The 20 fields of a frame. Other keys are only checked for nulls.
const FIELDS: [(&str, FieldType); 20] = [
    ("timestamp", Text),
    ("lap", Integer),
    ("position", Integer),
    ("lap_time", Number),
    ("fuel", Number),
    ("fuel_capacity", Number),
    ("tire_pressures", Wheels),
    ("tire_temps", Wheels),
    ("tire_wear", Wheels),
    ("brake_temps", Wheels),
    ("engine_water_temp", Number),
    ("track_temp", Number),
    ("ambient_temp", Number),
    ("speed", Number),
    ("gear", Integer),
    ("rpm", Number),
    ("player_name", Text),
    ("car_name", Text),
    ("track_name", Text),
    ("session_type", Text),
];

const REQUIRED: [&str; 9] = [
    "timestamp",
    "lap",
    "position",
    "fuel",
    "fuel_capacity",
    "player_name",
    "car_name",
    "track_name",
    "session_type",
];

const NOT_NEGATIVE: [&str; 5] = ["lap", "position", "lap_time", "fuel", "fuel_capacity"];

const WHEELS: [&str; 4] = ["fl", "fr", "rl", "rr"];

/// Why a server in schema mode refuses an event with this envelope; `None` if it accepts it.
///
/// Checks the two events with data, `telemetry_update` and `setup_data`, and accepts all others.
/// Stricter than some servers in one point: `3.0` is not an integer.
pub(super) fn refuses(event: &str, envelope: &Value) -> Option<String> {
    match event {
        "telemetry_update" => check_telemetry_update(envelope).err(),
        "setup_data" => check_setup_data(envelope).err(),
        _ => None,
    }
}

fn check_telemetry_update(envelope: &Value) -> Result<(), String> {
    let envelope = object(envelope, "the envelope")?;
    only_keys(envelope, &["session_id", "telemetry"], "the envelope")?;
    text(required(envelope, "session_id")?, "session_id")?;
    let telemetry = object(required(envelope, "telemetry")?, "telemetry")?;

    for key in REQUIRED {
        required(telemetry, key)?;
    }
    for (key, value) in telemetry {
        no_null(key, value)?;
    }
    for (key, shape) in FIELDS {
        if let Some(value) = telemetry.get(key) {
            check_field(key, shape, value)?;
        }
    }
    Ok(())
}

fn check_setup_data(envelope: &Value) -> Result<(), String> {
    let envelope = object(envelope, "the envelope")?;
    only_keys(envelope, &["session_id", "timestamp", "setup"], "the envelope")?;
    text(required(envelope, "session_id")?, "session_id")?;
    text(required(envelope, "timestamp")?, "timestamp")?;
    // The game defines the contents of a setup.
    object(required(envelope, "setup")?, "setup").map(drop)
}

fn check_field(key: &str, shape: FieldType, value: &Value) -> Result<(), String> {
    match shape {
        Text => text(value, key)?,
        Number => number(value, key)?,
        Integer if value.is_i64() || value.is_u64() => {}
        Integer => return Err(format!("{key} is not an integer")),
        Wheels => {
            let wheels = object(value, key)?;
            only_keys(wheels, &WHEELS, key)?;
            for (wheel, value) in wheels {
                number(value, &format!("{key}.{wheel}"))?;
            }
        }
    }
    if NOT_NEGATIVE.contains(&key) && value.as_f64().is_some_and(|number| number < 0.0) {
        return Err(format!("{key} is below 0"));
    }
    Ok(())
}

fn object<'a>(value: &'a Value, name: &str) -> Result<&'a Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{name} is not an object"))
}

fn text(value: &Value, name: &str) -> Result<(), String> {
    if value.is_string() { Ok(()) } else { Err(format!("{name} is not a string")) }
}

fn number(value: &Value, name: &str) -> Result<(), String> {
    if value.is_number() { Ok(()) } else { Err(format!("{name} is not a number")) }
}

fn required<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a Value, String> {
    object.get(key).ok_or_else(|| format!("{key} is missing"))
}

fn only_keys(object: &Map<String, Value>, known: &[&str], name: &str) -> Result<(), String> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(format!("{name} has an unknown key {key:?}")),
        None => Ok(()),
    }
}

/// Recursion is bounded by the JSON parser, which accepts at most 128 levels.
fn no_null(name: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Null => Err(format!("{name} is null")),
        Value::Array(items) => items.iter().try_for_each(|item| no_null(name, item)),
        Value::Object(object) => object.values().try_for_each(|item| no_null(name, item)),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Applies `patch` to `value`: objects are merged, `"-"` removes the key.
    fn patched(mut value: Value, patch: &Value) -> Value {
        match (&mut value, patch) {
            (Value::Object(object), Value::Object(changes)) => {
                for (key, change) in changes {
                    if change == "-" {
                        object.remove(key);
                    } else {
                        let old = object.remove(key).unwrap_or(Value::Null);
                        object.insert(key.clone(), patched(old, change));
                    }
                }
                value
            }
            _ => patch.clone(),
        }
    }

    fn telemetry_update(patch: &Value) -> Value {
        let good = json!({
            "session_id": "a",
            "telemetry": {
                "timestamp": "2025-11-22T14:30:22.123Z", "lap": 3, "position": 1,
                "lap_time": 83.2, "fuel": 40.5, "fuel_capacity": 90.0,
                "tire_pressures": {"fl": 24.1, "fr": 24.0, "rl": 23.8, "rr": 23.9},
                "tire_temps": {"fl": -273.15}, "tire_wear": {}, "brake_temps": {},
                "engine_water_temp": 88.0, "track_temp": 31.0, "ambient_temp": -4,
                "speed": 211.5, "gear": -1, "rpm": 7012.5, "player_name": "",
                "car_name": "Oreca 07", "track_name": "Autódromo", "session_type": "Race",
            },
        });
        patched(good, patch)
    }

    fn setup_data(patch: &Value) -> Value {
        let good = json!({
            "session_id": "a", "timestamp": "2025-11-22T14:30:22.123Z",
            "setup": {"wing": null, "any": ["thing"]},
        });
        patched(good, patch)
    }

    fn telemetry(patch: Value) -> Value {
        json!({ "telemetry": patch })
    }

    #[test]
    fn schema_mode_refuses_invalid_telemetry() {
        let table = [
            (json!({}), None),
            (telemetry(json!({"lap_time": "-", "gear": "-", "tire_wear": "-"})), None),
            (telemetry(json!({"extra": {"passes": [1]}})), None),
            (json!({"timestamp": 1}), Some("the envelope has an unknown key \"timestamp\"")),
            (json!({"session_id": "-"}), Some("session_id is missing")),
            (json!({"session_id": null}), Some("session_id is not a string")),
            (json!({"telemetry": "-"}), Some("telemetry is missing")),
            (json!({"telemetry": []}), Some("telemetry is not an object")),
            (telemetry(json!({"speed": null})), Some("speed is null")),
            (telemetry(json!({"extra": [null]})), Some("extra is null")),
            (telemetry(json!({"tire_temps": {"fr": null}})), Some("tire_temps is null")),
            (telemetry(json!({"lap": 3.5})), Some("lap is not an integer")),
            (telemetry(json!({"position": 1.0})), Some("position is not an integer")),
            (telemetry(json!({"gear": "N"})), Some("gear is not an integer")),
            (telemetry(json!({"lap": -1})), Some("lap is below 0")),
            (telemetry(json!({"position": -1})), Some("position is below 0")),
            (telemetry(json!({"lap_time": -2.76})), Some("lap_time is below 0")),
            (telemetry(json!({"fuel": -0.1})), Some("fuel is below 0")),
            (telemetry(json!({"fuel_capacity": -1})), Some("fuel_capacity is below 0")),
            (telemetry(json!({"speed": "fast"})), Some("speed is not a number")),
            (telemetry(json!({"car_name": 7})), Some("car_name is not a string")),
            (telemetry(json!({"tire_wear": 0.5})), Some("tire_wear is not an object")),
            (telemetry(json!({"tire_wear": {"fl": "x"}})), Some("tire_wear.fl is not a number")),
            (
                telemetry(json!({"brake_temps": {"spare": 1.0}})),
                Some("brake_temps has an unknown key \"spare\""),
            ),
        ];
        for (patch, expected) in table {
            let refused = refuses("telemetry_update", &telemetry_update(&patch));
            assert_eq!(refused.as_deref(), expected, "{patch}");
        }
        for key in REQUIRED {
            let refused =
                refuses("telemetry_update", &telemetry_update(&telemetry(json!({key: "-"}))));
            assert_eq!(refused, Some(format!("{key} is missing")));
        }
    }

    #[test]
    fn schema_mode_refuses_invalid_setups() {
        let table = [
            (json!({}), None),
            (json!({"extra": 1}), Some("the envelope has an unknown key \"extra\"")),
            (json!({"session_id": 1}), Some("session_id is not a string")),
            (json!({"timestamp": "-"}), Some("timestamp is missing")),
            (json!({"timestamp": null}), Some("timestamp is not a string")),
            (json!({"setup": "-"}), Some("setup is missing")),
            (json!({"setup": null}), Some("setup is not an object")),
            (json!({"setup": [1]}), Some("setup is not an object")),
        ];
        for (patch, expected) in table {
            let refused = refuses("setup_data", &setup_data(&patch));
            assert_eq!(refused.as_deref(), expected, "{patch}");
        }
        assert_eq!(refuses("join_session", &json!({"any": null})), None);
    }
}

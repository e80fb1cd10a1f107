//! Untrusted input: which samples are refused with which message, and that accepted ones follow the
//! schema.
use pitwire::entry::CapturedAt;
use pitwire::fields::{
    Frame, MAX_OBJECT_KEYS, MAX_SAMPLE_BYTES, MAX_SAMPLE_DEPTH, Reason, Refused, Setup,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

#[cfg(unix)]
mod sources;

/// Samples of every known shape, from the game and from other programs.
const SAMPLES: &str = include_str!("../data/samples.ndjson");

/// Converts one input from its bytes to the frame's JSON text.
pub fn frame_of(input: &[u8]) -> Result<String, Refused> {
    let frame = Frame::parse(input)?;
    let moment = frame.own_timestamp().unwrap_or(CapturedAt(1_741_514_527_250));
    Ok(frame.json(moment))
}

/// Checks the frame of an input: a sample that has the dashboard's names arrives unchanged, except
/// for values that are out of range, and any other one follows the schema.
pub fn check_frame(input: &[u8], frame: &str) -> Result<(), String> {
    // Values that are not finite, and a byte order mark, are removed first.
    let Ok(mut sample) = serde_json::from_slice::<Map<String, Value>>(input) else { return Ok(()) };
    let names = [
        "lap",
        "position",
        "fuel",
        "fuel_capacity",
        "player_name",
        "car_name",
        "track_name",
        "session_type",
    ];
    if !names.iter().all(|name| sample.contains_key(*name)) {
        return schema_mode(frame);
    }
    let mut frame: Map<String, Value> = serde_json::from_str(frame).map_err(|e| e.to_string())?;
    if sample.get("timestamp").is_none_or(Value::is_null) {
        frame.remove("timestamp").ok_or("the timestamp is missing")?;
        frame.extend(sample.get_key_value("timestamp").map(|(key, at)| (key.clone(), at.clone())));
    }
    replace_out_of_range(&mut sample);
    if frame == sample { Ok(()) } else { Err(format!("{sample:?} became {frame:?}")) }
}

/// Replaces what no dashboard can show in a sample that has the dashboard's names.
fn replace_out_of_range(sample: &mut Map<String, Value>) {
    const MAX_WHOLE: f64 = 9_007_199_254_740_991.0;
    for (key, fill) in [
        ("lap", json!(0)),
        ("position", json!(0)),
        ("fuel", json!(0.0)),
        ("fuel_capacity", json!(90.0)),
    ] {
        let Some(number) = sample[key].as_f64() else { continue };
        if number < 0.0 || (fill.is_i64() && number > MAX_WHOLE) {
            sample.insert(key.into(), fill);
        }
    }
    match sample.get("gear").cloned() {
        Some(Value::String(name)) if name.eq_ignore_ascii_case("R") => {
            sample.insert("gear".into(), json!(-1));
        }
        Some(Value::String(name)) if name.eq_ignore_ascii_case("N") => {
            sample.insert("gear".into(), json!(0));
        }
        Some(gear) if gear.as_f64().is_some_and(|gear| gear.abs() > MAX_WHOLE) => {
            sample.remove("gear");
        }
        _ => {}
    }
}

/// An independent implementation of the dashboard's schema mode and of what its page needs; `Err`
/// names the first rule that a frame breaks.
pub fn schema_mode(text: &str) -> Result<(), String> {
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
    let frame: Map<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    for key in REQUIRED {
        frame.get(key).ok_or(format!("{key} is missing"))?;
    }
    for (key, value) in &frame {
        let fits = match key.as_str() {
            "timestamp" => value.as_str().is_some_and(is_a_date),
            "lap" | "position" => value.is_u64(),
            "gear" => value.is_i64(),
            "lap_time" | "fuel" | "fuel_capacity" => value.as_f64().is_some_and(|n| n >= 0.0),
            "speed" | "rpm" | "engine_water_temp" | "track_temp" | "ambient_temp" => {
                value.is_number()
            }
            "player_name" | "car_name" | "track_name" | "session_type" => value.is_string(),
            "tire_pressures" | "tire_temps" | "tire_wear" | "brake_temps" => {
                value.as_object().is_some_and(|wheels| {
                    wheels.iter().all(|(wheel, value)| {
                        ["fl", "fr", "rl", "rr"].contains(&wheel.as_str()) && value.is_number()
                    })
                })
            }
            _ => !value.is_null(),
        };
        if !fits {
            return Err(format!("{key} may not be {value}"));
        }
    }
    Ok(())
}

/// Accepts `2025-11-22T14:30:22`, an optional fraction, then `Z` or an offset.
fn is_a_date(text: &str) -> bool {
    let Some((head, tail)) = text.split_at_checked(19) else { return false };
    let digits_stand = head.bytes().zip("0000-00-00T00:00:00".bytes()).all(|(byte, pattern)| {
        if pattern == b'0' { byte.is_ascii_digit() } else { byte == pattern }
    });
    let zone = tail.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    digits_stand && (zone == "Z" || (zone.len() == 6 && zone.starts_with(['+', '-'])))
}

#[test]
fn every_known_sample_format_gives_a_schema_valid_frame() {
    for line in SAMPLES.lines() {
        let frame = frame_of(line.as_bytes()).unwrap();
        assert_eq!(check_frame(line.as_bytes(), &frame), Ok(()), "{line}");
        assert!(frame.contains("Zoë Lindqvist") && frame.contains("Autódromo da Serra Verde"));
    }
}

#[test]
fn a_frame_from_another_program_arrives_unchanged() {
    let sent = SAMPLES.lines().find(|line| line.contains("timestamp")).unwrap();
    let arrived: Value = serde_json::from_str(&frame_of(sent.as_bytes()).unwrap()).unwrap();
    assert_eq!(arrived, serde_json::from_str::<Value>(sent).unwrap());
}

#[test]
fn invalid_input_is_refused_with_a_reason_and_advice() {
    use Reason::{NoKnownField, NotJson, NotObject, NotUtf8, TooDeep, TooLarge, WrongType};
    let deep = "[".repeat(MAX_SAMPLE_DEPTH) + &"]".repeat(MAX_SAMPLE_DEPTH);
    let deep_sample = format!(r#"{{"a":{deep}}}"#);
    let deeper_than_the_parser = r#"{"a":"#.repeat(100_000);
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_SAMPLE_BYTES));
    let members = (0..=MAX_OBJECT_KEYS).map(|key| format!(r#""{key}":0"#));
    let keys = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
    let bytes_and_large = "\u{1}".repeat(MAX_SAMPLE_BYTES + 1);

    // One line per case, however long: a message that is split over lines cannot be searched for.
    #[rustfmt::skip]
    let wrong: &[(&[u8], Reason, &str)] = &[
        // Bytes
        (b"{\"player_name\":\"\xff\"}", NotUtf8, "not UTF-8 after 16 bytes; send JSON as UTF-8"),
        (b"{\"track_name\":\"Aut\xf3dromo\"}", NotUtf8, "not UTF-8 after 18 bytes; send JSON as UTF-8"),
        (b"\xff\xfe{\0}\0", NotUtf8, "not UTF-8 after 0 bytes; send JSON as UTF-8"),
        (large.as_bytes(), TooLarge, "900008 bytes; at most 900000 are taken, send fewer fields"),
        (bytes_and_large.as_bytes(), TooLarge, "900001 bytes; at most 900000 are taken, send fewer fields"),
        (keys.as_bytes(), TooLarge, "an object has more than 10000 keys; send at most 10000"),
        // Text
        (b"", NotJson, "not JSON: EOF while parsing a value at line 1 column 0; send one JSON object"),
        (b"lap=3 fuel=20", NotJson, "not JSON: expected value at line 1 column 1; send one JSON object"),
        (b"{'lap': 3}", NotJson, "not JSON: key must be a string at line 1 column 2; send one JSON object"),
        (b"{\"lap\": 3,}", NotJson, "not JSON: trailing comma at line 1 column 11; send one JSON object"),
        (b"{\"lap\": 3", NotJson, "not JSON: EOF while parsing an object at line 1 column 9; send one JSON object"),
        (b"{\"lap\": 3} {\"lap\": 4}", NotJson, "not JSON: trailing characters at line 1 column 12; send one JSON object"),
        (b"{\"lap\": 03}", NotJson, "not JSON: invalid number at line 1 column 10; send one JSON object"),
        (b"{\"player_name\": \"inf\tX\"}", NotJson, "not JSON: control character (\\u0000-\\u001F) found while parsing a string at line 1 column 21; send one JSON object"),
        (br#"{"player_name": "\ud800"}"#, NotJson, "not JSON: unexpected end of hex escape at line 1 column 24; send one JSON object"),
        // Structure
        (b"null", NotObject, "null is not an object; send one JSON object"),
        (b"true", NotObject, "a boolean is not an object; send one JSON object"),
        (b"3", NotObject, "a number is not an object; send one JSON object"),
        (b"\"lap\"", NotObject, "a text is not an object; send one JSON object"),
        (b"[{\"lap\": 3}]", NotObject, "an array is not an object; send one JSON object"),
        (deep_sample.as_bytes(), TooDeep, "nested deeper than 32 levels; send a flatter object"),
        (deeper_than_the_parser.as_bytes(), TooDeep, "nested deeper than 32 levels; send a flatter object"),
        // Names
        (br#"{"Gear": 3}"#, NoKnownField, r#"Gear: did you mean "gear"?; no field is known: send at least one of lap, position, lap_time, fuel, fuel_capacity, tire_pressures, tire_temps, tire_wear, brake_temps, engine_water_temp, track_temp, ambient_temp, speed, gear, rpm, player_name, car_name, track_name, session_type"#),
        // Types
        (br#"{"fuel": "full"}"#, WrongType, r#"fuel: "full" is not a number; send litres as a JSON number or leave the field out"#),
        (br#"{"fuel_remaining": []}"#, WrongType, "fuel_remaining: [] is not a number; send litres as a JSON number or leave the field out"),
        (br#"{"speed": "201,7"}"#, WrongType, r#"speed: "201,7" is not a number; send km/h as a JSON number or leave the field out"#),
        (br#"{"rpm": {"value": 7000, "unit": "1/min", "source": "ecu"}}"#, WrongType, r#"rpm: {"value":7000,"unit":"1/min","source":"… is not a number; send revolutions per minute as a JSON number or leave the field out"#),
        (br#"{"lap": 2.5}"#, WrongType, "lap: 2.5 is not a whole number; send the lap as a JSON integer or leave the field out"),
        (br#"{"lap": "3"}"#, WrongType, r#"lap: "3" is not a whole number; send the lap as a JSON integer or leave the field out"#),
        (br#"{"race_position": true}"#, WrongType, "race_position: true is not a whole number; send the position as a JSON integer or leave the field out"),
        (br#"{"gear": "first"}"#, WrongType, r#"gear: "first" is not a whole number, "R" or "N"; send the gear (-1 is reverse) as a JSON integer or leave the field out"#),
        (br#"{"player_name": 27}"#, WrongType, "player_name: 27 is not a text; send the driver's name as a JSON string or leave the field out"),
        (br#"{"session_type": ["Race"]}"#, WrongType, r#"session_type: ["Race"] is not a text; send the kind of session as a JSON string or leave the field out"#),
        (br#"{"tyre_temp": 85}"#, WrongType, r#"tyre_temp: 85 is not an object; send degrees Celsius as numbers under "fl", "fr", "rl", "rr" or leave the field out"#),
        (br#"{"brake_temp": [300, 301, 250, 251]}"#, WrongType, r#"brake_temp: [300,301,250,251] is not an object; send degrees Celsius as numbers under "fl", "fr", "rl", "rr" or leave the field out"#),
        (br#"{"tyre_pressure": {"fl": "25 PSI"}}"#, WrongType, r#"tyre_pressure.fl: "25 PSI" is not a number; send PSI as a JSON number or leave the wheel out"#),
        (br#"{"tire_wear": {"rr": {"inner": 3}}}"#, WrongType, r#"tire_wear.rr: {"inner":3} is not a number; send percent as a JSON number or leave the wheel out"#),
    ];
    let mut differing = Vec::new();
    for (input, reason, message) in wrong {
        let refused = frame_of(input).unwrap_err();
        if (refused.reason, refused.to_string()) != (*reason, message.to_string()) {
            differing.push(refused);
        }
    }
    assert!(differing.is_empty(), "{differing:#?}");
    // The first two depend on the sender; the tests in `stand_in` and `abuse::memory` cover them. A
    // value out of range is omitted; only the time of an imported line is refused for it.
    let others = [Reason::UnknownSession, Reason::TooManyPublishers, Reason::OutOfRange];
    for reason in Reason::ALL.into_iter().filter(|reason| !others.contains(reason)) {
        assert!(wrong.iter().any(|(_, told, _)| *told == reason), "no case for {reason:?}");
    }
}

/// Any JSON value except arrays and objects.
fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..9).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<char>().prop_map(|c| Value::from(c.to_string())),
        prop::sample::select(&[
            "2025-11-22T14:30:22.123Z",
            "2025-11-22 14:30:22Z",
            "20251122T143022Z"
        ])
        .prop_map(Value::from),
    ]
}

/// Any JSON value, in which the keys of a sample are frequent.
fn tree() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        4 => prop::sample::select(KEYS).prop_map(str::to_string),
        1 => any::<char>().prop_map(String::from),
    ];
    leaf().prop_recursive(2, 8, 4, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|members| members.into_iter().collect::<Value>()),
        ]
    })
}

const KEYS: &[&str] = &[
    "timestamp",
    "lap",
    "position",
    "race_position",
    "lap_time",
    "fuel",
    "fuel_capacity",
    "tire_wear",
    "tyre_temp",
    "engine_temp",
    "gear",
    "rpm",
    "player_name",
    "car_name",
    "track_name",
    "session_type",
    "fl",
    "rr",
    "extra",
];

/// A valid sample with one of its values replaced, often under another key.
fn mutated_sample() -> impl Strategy<Value = Value> {
    let samples: Vec<Map<String, Value>> =
        SAMPLES.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let key = prop::sample::select(KEYS);
    let value = prop_oneof![4 => leaf(), 1 => tree()];
    (prop::sample::select(samples), key.clone(), key, value).prop_map(
        |(mut sample, from, to, value)| {
            sample.remove(from);
            sample.insert(to.to_string(), value);
            Value::Object(sample)
        },
    )
}

/// The text of a valid sample with some bytes overwritten: often still JSON, seldom unchanged.
fn mutated_text() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<&str> = SAMPLES.lines().collect();
    let bytes = prop::sample::select(br#"{}[]":,.-+eEnNIi0123456789tfu\ "#.to_vec());
    let edit = (any::<prop::sample::Index>(), prop_oneof![4 => bytes, 1 => 0x20..0x7f_u8]);
    (prop::sample::select(lines), prop::collection::vec(edit, 1..4)).prop_map(|(line, edits)| {
        let mut text = line.as_bytes().to_vec();
        for (at, byte) in edits {
            let at = at.index(text.len());
            text[at] = byte;
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn a_sample_becomes_a_valid_frame_and_a_dashboard_frame_stays_as_it_is(
        input in prop_oneof![
            1 => prop::collection::vec(any::<u8>(), 0..64),
            2 => tree().prop_map(|tree| tree.to_string().into_bytes()),
            1 => mutated_sample().prop_map(|sample| sample.to_string().into_bytes()),
            2 => mutated_text(),
        ]
    ) {
        if let Ok(frame) = frame_of(&input) {
            prop_assert_eq!(check_frame(&input, &frame), Ok(()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn a_setup_round_trips_unchanged(setup in tree()) {
        match Setup::of(&setup) {
            Ok(checked) => {
                prop_assert_eq!(&Setup::parse(checked.json().as_bytes()).unwrap(), &checked);
                let arrived: Value = serde_json::from_str(checked.json()).unwrap();
                prop_assert_eq!(arrived, setup);
            }
            Err(refused) => {
                prop_assert_eq!(refused.reason, Reason::NotObject);
                prop_assert!(!setup.is_object());
            }
        }
    }
}

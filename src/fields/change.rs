//! Change detection: the driving situation of a sample, and fingerprints of setups.
//!
//! Fingerprints are stored across restarts, so their computation must never change.

use std::io;

use super::json::{Json, Object};
use super::table::gear_number;
use crate::entry::Situation;

/// The driving situation of a sample, under any of the accepted field names.
pub(super) fn situation(sample: &Object<'_>) -> Situation {
    let mut state = Fnv1a(FNV1A_BASIS);
    for keys in STATE {
        let value = keys.iter().find_map(|key| sample.present(key));
        // Writing to a hash cannot fail.
        let _ = serde_json::to_writer(&mut state, &value);
    }
    let lap = sample.present("lap").and_then(Json::as_f64).filter(|lap| *lap >= 0.0);
    let gear = sample.present("gear").and_then(gear_number).unwrap_or(0.0);
    let gear_box = (gear as i64).signum();
    Situation { lap: lap.map(|lap| lap as i64), gear_box, state: state.0 }
}

/// The fields of a state. The last two are not dashboard fields, but many sources have
/// them.
const STATE: &[&[&str]] = &[
    &["session_type"],
    &["track_name"],
    &["car_name"],
    &["player_name"],
    &["in_pits", "in_pit", "pit_state"],
    &["in_garage"],
];

/// A fingerprint that depends only on the car's settings: not on the order of keys, the agent's
/// version, or the weather in the same object.
///
/// The settings are `carSetup.garageValues` where it exists, else the whole object. The keys of
/// `setup` are sorted, so that its text is canonical.
pub(super) fn fingerprint(setup: &Json<'_>) -> u64 {
    let settings = setup.member("carSetup").and_then(|car_setup| car_setup.member("garageValues"));
    let mut hash = Fnv1a(FNV1A_BASIS);
    // Writing to a hash cannot fail.
    let _ = serde_json::to_writer(&mut hash, settings.unwrap_or(setup));
    hash.0
}

/// The fingerprint of a text of any length, such as a driver's name.
pub(crate) fn text_fingerprint(text: &str) -> u64 {
    let mut hash = Fnv1a(FNV1A_BASIS);
    // Writing to a hash cannot fail.
    let _ = io::Write::write_all(&mut hash, text.as_bytes());
    hash.0
}

/// 64-bit FNV-1a: stable across versions, not for secrets.
struct Fnv1a(u64);

const FNV1A_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

impl io::Write for Fnv1a {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Frame, Setup};
    use super::*;

    fn situation(sample: &Value) -> Situation {
        Frame::of(sample).unwrap().situation()
    }

    #[test]
    fn a_situation_depends_only_on_lap_direction_session_and_pits() {
        let drive =
            json!({"lap": 3, "gear": 4, "session_type": "Race", "in_pits": false, "rpm": 9});
        for (key, value, is_same) in [
            ("gear", json!(5), true),
            ("rpm", json!(1), true),
            ("in_pit", Value::Null, true),
            ("lap", json!(4), false),
            ("gear", json!(0), false),
            ("gear", json!(-1), false),
            ("gear", json!("R"), false),
            ("session_type", json!("Warmup"), false),
            ("in_pits", json!(true), false),
        ] {
            let mut other = drive.clone();
            other[key] = value;
            assert_eq!(situation(&other) == situation(&drive), is_same, "{key}");
        }
        for nothing in [json!({"rpm": 1}), json!({"rpm": 1, "lap": null, "gear": null})] {
            assert_eq!((situation(&nothing).lap, situation(&nothing).gear_box), (None, 0));
        }
        let out_of_range = situation(&json!({"lap": -1, "gear": "r"}));
        assert_eq!((out_of_range.lap, out_of_range.gear_box), (None, -1));
    }

    fn print(setup: &str) -> u64 {
        Setup::parse(setup.as_bytes()).unwrap().fingerprint()
    }

    #[test]
    fn a_setup_fingerprint_depends_only_on_its_settings() {
        let setup = r#"{"carSetup":{"garageValues":{"A":{"value":1,"max":2},"B":3}},"time":1}"#;
        let later = r#"{"time":2,"carSetup":{"garageValues":{"B":3,"A":{"max":2,"value":1}}}}"#;
        let other = r#"{"carSetup":{"garageValues":{"A":{"value":2,"max":2},"B":3}},"time":1}"#;
        assert_eq!(print(setup), print(later));
        assert_ne!(print(setup), print(other));
        assert_ne!(print(r#"{"wing":1}"#), print(r#"{"wing":2}"#));
        // Fingerprints are stored, so they must never change. These are FNV-1a's published values.
        assert_eq!(Fnv1a(FNV1A_BASIS).over("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(Fnv1a(FNV1A_BASIS).over("foobar"), 0x8594_4171_f739_67e8);
    }

    impl Fnv1a {
        fn over(mut self, text: &str) -> u64 {
            io::Write::write_all(&mut self, text.as_bytes()).unwrap();
            self.0
        }
    }
}

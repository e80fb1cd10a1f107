//! Identity of an entry by its content: the hash of its canonical JSON.
//!
//! A server parses the JSON and serializes it again, so the copy on the page differs from the entry
//! in white space, escapes, key order and number notation: Node prints `90.0` as `90`, Python
//! prints `90.0`. In the canonical form keys are sorted, the last of duplicate keys wins, and every
//! number is the double that Node parses it to.
//!
//! The hash is compared within one process only and is never stored.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use crate::entry::Kind;
use crate::sink::EntryId;

/// Identifies a frame by its `telemetry`.
pub(super) fn frame(telemetry: &Value) -> EntryId {
    let mut hash = hasher(Kind::Frame);
    canonical(telemetry, &mut hash);
    EntryId(hash.finish())
}

/// Identifies a setup by its `timestamp` and its `setup`.
pub(super) fn setup(timestamp: &Value, setup: &Value) -> EntryId {
    let mut hash = hasher(Kind::Setup);
    canonical(timestamp, &mut hash);
    canonical(setup, &mut hash);
    EntryId(hash.finish())
}

/// Identifies text that is not valid JSON. No server can show it.
pub(super) fn unreadable(json: &str) -> EntryId {
    let mut hash = DefaultHasher::new();
    json.hash(&mut hash);
    EntryId(hash.finish())
}

fn hasher(kind: Kind) -> DefaultHasher {
    let mut hash = DefaultHasher::new();
    kind.hash(&mut hash);
    hash
}

/// Hashes a value in canonical form. Each kind of value has a tag and each container its length, so
/// that no two values have the same form. The parser bounds the depth.
fn canonical(value: &Value, hash: &mut DefaultHasher) {
    match value {
        Value::Null => 0_u8.hash(hash),
        Value::Bool(value) => (1_u8, value).hash(hash),
        Value::Number(number) => {
            // Servers print -0 as 0.
            let double = number.as_f64().unwrap_or(f64::NAN) + 0.0;
            (2_u8, double.to_bits()).hash(hash);
        }
        Value::String(text) => (3_u8, text).hash(hash),
        Value::Array(items) => {
            (4_u8, items.len()).hash(hash);
            items.iter().for_each(|item| canonical(item, hash));
        }
        // serde_json sorts the keys because its feature `preserve_order` is off; a test checks
        // that.
        Value::Object(fields) => {
            (5_u8, fields.len()).hash(hash);
            for (key, value) in fields {
                key.hash(hash);
                canonical(value, hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> EntryId {
        frame(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn notation_does_not_change_the_identity() {
        for (ours, echoed) in [
            (r#"{"fuel":90.0}"#, r#"{"fuel":90}"#),
            (r#"{"fuel":9e1,"lap":1}"#, r#"{ "lap": 1, "fuel": 90 }"#),
            (r#"{"speed":-0.0}"#, r#"{"speed":0}"#),
            (r#"{"speed":1e21}"#, r#"{"speed":1000000000000000000000}"#),
            (r#"{"rpm":7123.4500000000007}"#, r#"{"rpm":7123.450000000001}"#),
            (r#"{"id":9007199254740993}"#, r#"{"id":9007199254740992}"#),
            (r#"{"track":"Jos\u00e9 \/ \u2603"}"#, r#"{"track":"José / ☃"}"#),
            (r#"{"lap":1,"lap":2}"#, r#"{"lap":2}"#),
        ] {
            assert_eq!(id(ours), id(echoed), "{ours} {echoed}");
        }
    }

    #[test]
    fn content_changes_the_identity() {
        let ours = r#"{"lap":1,"wheels":{"fl":1},"name":"1","on":true,"list":[1,2]}"#;
        for other in [
            r#"{"lap":2,"wheels":{"fl":1},"name":"1","on":true,"list":[1,2]}"#,
            r#"{"lap":1,"wheels":{"fr":1},"name":"1","on":true,"list":[1,2]}"#,
            r#"{"lap":1,"wheels":{"fl":1},"name":1,"on":true,"list":[1,2]}"#,
            r#"{"lap":1,"wheels":{"fl":1},"name":"1","on":1,"list":[1,2]}"#,
            r#"{"lap":1,"wheels":{"fl":1},"name":"1","on":true,"list":[1,[2]]}"#,
            r#"{"lap":1,"wheels":{},"fl":1,"name":"1","on":true,"list":[1,2]}"#,
            r#"{"wheels":{"fl":1},"name":"1","on":true,"list":[1,2]}"#,
        ] {
            assert_ne!(id(ours), id(other), "{other}");
        }
        let wing = serde_json::json!({"wing": 1});
        assert_ne!(setup(&"a".into(), &wing), frame(&wing));
        assert_ne!(setup(&"a".into(), &wing), setup(&"b".into(), &wing));
        assert_eq!(setup(&1.0.into(), &wing), setup(&1.into(), &wing));
    }

    #[test]
    fn doubles_of_17_digits_round_trip() {
        for double in [0.1 + 0.2, 1.0 / 3.0, 5e-324, f64::MAX, 123_456.789_012_345_67] {
            assert_eq!(id(&format!("{double:?}")), id(&format!("{double:.17e}")), "{double:?}");
        }
    }
}

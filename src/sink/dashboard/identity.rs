//! Identity of an entry by its content: the hash of its canonical JSON.
//!
//! A server parses the JSON and serializes it again, so the copy on the page differs from the entry
//! in white space, escapes, key order and number notation: Node prints `90.0` as `90`, Python
//! prints `90.0`. In the canonical form keys are sorted, the last of duplicate keys wins, and every
//! number is the double that Node parses it to.
//!
//! The hash is compared within one process only and is never stored. Its key is random, so that no
//! other program can make two entries collide.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::LazyLock;

use foldhash::quality::RandomState;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::entry::Kind;
use crate::sink::EntryId;

/// Identifies a frame by its `telemetry`; `None` if it is not JSON.
pub(super) fn frame(telemetry: &str) -> Option<EntryId> {
    Some(EntryId(hash_of(&(Kind::Frame, canonical(telemetry)?))))
}

/// Identifies a setup by its `timestamp` and its `setup`; `None` if one is not JSON.
pub(super) fn setup(timestamp: &str, setup: &str) -> Option<EntryId> {
    Some(EntryId(hash_of(&(Kind::Setup, canonical(timestamp)?, canonical(setup)?))))
}

/// Identifies text that is not valid JSON. No server can show it.
pub(super) fn unreadable(json: &str) -> EntryId {
    EntryId(hash_of(&json))
}

/// Hashes the canonical form of a text while it is parsed.
fn canonical(json: &str) -> Option<u64> {
    let mut parser = serde_json::Deserializer::from_str(json);
    let hash = Canonical.deserialize(&mut parser).ok()?;
    parser.end().ok().map(|()| hash)
}

fn hash_of(content: &impl Hash) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    KEY.hash_one(content)
}

/// Hashes a value in canonical form. Each kind of value has a tag and each container its length, so
/// that no two values have the same form. The parser bounds the depth.
#[derive(Clone, Copy)]
struct Canonical;

impl<'de> DeserializeSeed<'de> for Canonical {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<u64, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Canonical {
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(hash_of(&0_u8))
    }

    fn visit_bool<E>(self, value: bool) -> Result<u64, E> {
        Ok(hash_of(&(1_u8, value)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<u64, E> {
        Ok(hash_of_number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<u64, E> {
        Ok(hash_of_number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<u64, E> {
        Ok(hash_of_number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<u64, E> {
        Ok(hash_of(&(3_u8, text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<u64, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = array.next_element_seed(self)? {
            items.push(item);
        }
        Ok(hash_of(&(4_u8, items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<u64, A::Error> {
        let mut members = Vec::with_capacity(32);
        while let Some(key) = object.next_key_seed(self)? {
            members.push((key, object.next_value_seed(self)?));
        }
        // The sort is stable: after the reversal, dedup keeps the last of equal keys.
        members.reverse();
        members.sort_by_key(|(key, _)| *key);
        members.dedup_by_key(|(key, _)| *key);
        Ok(hash_of(&(5_u8, members)))
    }
}

fn hash_of_number(double: f64) -> u64 {
    // Servers print -0 as 0.
    hash_of(&(2_u8, (double + 0.0).to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> EntryId {
        frame(json).unwrap()
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
        let wing = r#"{"wing": 1}"#;
        assert_ne!(setup(r#""a""#, wing), frame(wing));
        assert_ne!(setup(r#""a""#, wing), setup(r#""b""#, wing));
        assert_eq!(setup("1.0", wing), setup("1", r#"{"wing":1.0}"#));
        assert_eq!((frame(r#"{"lap":1} 2"#), setup("1", "NaN")), (None, None));
    }

    #[test]
    fn doubles_of_17_digits_round_trip() {
        for double in [0.1 + 0.2, 1.0 / 3.0, 5e-324, f64::MAX, 123_456.789_012_345_67] {
            assert_eq!(id(&format!("{double:?}")), id(&format!("{double:.17e}")), "{double:?}");
        }
    }
}

//! Parsing and writing of untrusted JSON, bounded in size, depth and number of values, with
//! errors for the sender.
//!
//! Parsing takes time linear in the length of the text, and objects and arrays are bounded while
//! they are parsed: a hostile text costs no more than an honest one.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use super::verbatim::remove_non_finite;
use super::{Omissions, Reason, Refused, refused, shorten};
use crate::fields::{MAX_SAMPLE_BYTES, MAX_SAMPLE_DEPTH};

/// The maximum keys of an object. Fields are looked up by a linear search, and the largest object
/// of a game's setup has a few hundred keys.
pub const MAX_OBJECT_KEYS: usize = 10_000;

/// The maximum values (objects, arrays, numbers, texts, booleans and nulls) of a sample or setup. A
/// value takes about 100 bytes of memory during parsing, 10 MB in all. The largest setup of a game
/// has a few thousand values.
pub(crate) const MAX_SAMPLE_VALUES: usize = 100_000;

/// A JSON value that borrows its strings from the parsed text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Object<'a>),
}

/// The members of an object in the order of the text. The last of two equal keys wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Object<'a> {
    /// The value of the last member with this key.
    pub(crate) fn get(&self, key: &str) -> Option<&Json<'a>> {
        self.0.iter().rfind(|(held, _)| held == key).map(|(_, value)| value)
    }

    /// The value of the last member with this key, unless it is null.
    pub(super) fn present(&self, key: &str) -> Option<&Json<'a>> {
        self.get(key).filter(|value| !matches!(value, Json::Null))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members in the order of the text, equal keys included.
    pub(crate) fn members(&self) -> impl DoubleEndedIterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.members())
    }
}

impl<'a> Json<'a> {
    pub(crate) fn as_f64(&self) -> Option<f64> {
        if let Self::Number(number) = self { number.as_f64() } else { None }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn as_object(&self) -> Option<&Object<'a>> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    /// The value of the last member with this key, if this is an object.
    pub(crate) fn member(&self, key: &str) -> Option<&Self> {
        self.as_object()?.get(key)
    }

    /// Sorts all keys and keeps the last of equal ones, so that equal objects have equal texts.
    pub(super) fn normalize(&mut self) {
        match self {
            Self::Object(Object(members)) => {
                members.iter_mut().for_each(|(_, value)| value.normalize());
                // The sort is stable: after the reversal, dedup keeps the last of equal keys.
                members.reverse();
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                members.dedup_by(|(one, _), (other, _)| one == other);
            }
            Self::Array(values) => values.iter_mut().for_each(Self::normalize),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) => {}
        }
    }
}

impl<'a> From<&'a Value> for Json<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => Self::Text(Cow::Borrowed(text)),
            Value::Array(values) => Self::Array(values.iter().map(Self::from).collect()),
            Value::Object(members) => Self::Object(Object(
                members
                    .iter()
                    .map(|(key, value)| (Cow::Borrowed(key.as_str()), Self::from(value)))
                    .collect(),
            )),
        }
    }
}

/// Decodes a sample or a setup. A byte order mark at the start, and values that are not finite, are
/// left out.
///
/// # Errors
/// Refused if it exceeds [`MAX_SAMPLE_BYTES`] or is not UTF-8.
pub(crate) fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Refused> {
    bounded(bytes.len())?;
    let text = decoded(bytes)?;
    Ok(remove_non_finite(text).map_or(Cow::Borrowed(text), |(text, _)| Cow::Owned(text)))
}

/// Parses a sample or a setup, and checks it with its text and the values that were left out of it:
/// `omissions`, or the ones found here.
///
/// # Errors
/// Refused for the reasons of [`text`] and [`parse`], or by `check`.
pub(crate) fn parse_finite<T>(
    bytes: &[u8],
    omissions: Omissions,
    check: impl Fn(Json<'_>, &str, Omissions) -> Result<T, Refused>,
) -> Result<T, Refused> {
    bounded(bytes.len())?;
    let text = decoded(bytes)?;
    let refused = match parse(text) {
        Ok(sample) => return check(sample, text, omissions),
        Err(refused) => refused,
    };
    // A text with a value that is not finite is not JSON, so other texts need not be searched.
    let Some((text, omissions)) = remove_non_finite(text) else { return Err(refused) };
    check(parse(&text)?, &text, omissions)
}

/// Parses a sample or a setup. The caller checks its structure with [`object`].
///
/// # Errors
/// Refused if it is not JSON, is nested too deep for the parser, or has more than
/// [`MAX_SAMPLE_VALUES`] values or an object with more than [`MAX_OBJECT_KEYS`] keys.
pub(crate) fn parse(text: &str) -> Result<Json<'_>, Refused> {
    let limits =
        ParseLimits { values_left: Cell::new(MAX_SAMPLE_VALUES), exceeded: Cell::new(None) };
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = limits.deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    value.map_err(|error| match limits.exceeded.get() {
        Some(Exceeded::Keys) => too_many_keys(),
        Some(Exceeded::Values) => too_many_values(),
        None => explain(&error),
    })
}

/// The members of an object, whose values are not parsed yet. Of equal keys, the last one counts.
/// The caller bounds the length of the text.
///
/// # Errors
/// Refused if it is not UTF-8, not JSON or not an object.
pub(crate) fn members(text: &str) -> Result<BTreeMap<Cow<'_, str>, &RawValue>, Refused> {
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    if is_json && !text.trim_start().starts_with('{') {
        return Err(refused(Reason::NotObject, "not an object; send one JSON object".into()));
    }
    serde_json::from_str(text).map_err(|error| explain(&error))
}

/// The text without a byte order mark.
pub(crate) fn decoded(text: &[u8]) -> Result<&str, Refused> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let valid = error.valid_up_to();
        refused(Reason::NotUtf8, format!("not UTF-8 after {valid} bytes; send JSON as UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The remaining limits while a text is parsed.
struct ParseLimits {
    values_left: Cell<usize>,
    exceeded: Cell<Option<Exceeded>>,
}

#[derive(Clone, Copy)]
enum Exceeded {
    Keys,
    Values,
}

impl ParseLimits {
    fn stop<E: Error>(&self, exceeded: Exceeded) -> E {
        self.exceeded.set(Some(exceeded));
        E::custom("a limit is exceeded")
    }
}

impl<'de> DeserializeSeed<'de> for &ParseLimits {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Json<'de>, D::Error> {
        let Some(left) = self.values_left.get().checked_sub(1) else {
            return Err(self.stop(Exceeded::Values));
        };
        self.values_left.set(left);
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &ParseLimits {
    type Value = Json<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        // The parser has already refused numbers that are not finite.
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Json<'de>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = array.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(ObjectKey(key)) = object.next_key()? {
            if members.len() == MAX_OBJECT_KEYS {
                return Err(self.stop(Exceeded::Keys));
            }
            members.push((key, object.next_value_seed(self)?));
        }
        Ok(Json::Object(Object(members)))
    }
}

/// A key, borrowed unless it contains an escape.
#[derive(Deserialize)]
#[serde(transparent)]
struct ObjectKey<'a>(#[serde(borrow)] Cow<'a, str>);

/// Checks that a sample or setup is an object within all limits.
pub(super) fn object<'a, 'j>(value: &'j Json<'a>) -> Result<&'j Object<'a>, Refused> {
    let kind = match value {
        Json::Object(object) => {
            check_limits(value, MAX_SAMPLE_DEPTH, &mut 0)?;
            return Ok(object);
        }
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::Text(_) => "a text",
        Json::Array(_) => "an array",
    };
    Err(refused(Reason::NotObject, format!("{kind} is not an object; send one JSON object")))
}

/// Checks the limits of a value that may nest `levels` deep. Needed because values can come from a
/// program that embeds this library instead of from the parser.
fn check_limits(value: &Json<'_>, levels: usize, values: &mut usize) -> Result<(), Refused> {
    *values += 1;
    if *values > MAX_SAMPLE_VALUES {
        return Err(too_many_values());
    }
    let (Json::Object(_) | Json::Array(_)) = value else { return Ok(()) };
    let Some(levels) = levels.checked_sub(1) else { return Err(too_deep()) };
    match value {
        Json::Object(Object(members)) if members.len() > MAX_OBJECT_KEYS => Err(too_many_keys()),
        Json::Object(Object(members)) => {
            members.iter().try_for_each(|(_, inner)| check_limits(inner, levels, values))
        }
        Json::Array(array) => {
            array.iter().try_for_each(|inner| check_limits(inner, levels, values))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => Ok(()),
    }
}

/// The value as JSON, shortened for a message.
pub(crate) fn quoted(value: &impl Serialize) -> String {
    shorten(&serde_json::to_string(value).unwrap_or_default())
}

/// Appends a checked value as JSON text.
pub(super) fn write(text: &mut Vec<u8>, checked: &impl Serialize) -> Result<(), Refused> {
    serde_json::to_writer(text, checked).map_err(not_written)
}

/// Converts bytes from [`write`] to a string.
pub(super) fn utf8(text: Vec<u8>) -> Result<String, Refused> {
    String::from_utf8(text).map_err(|error| refused(Reason::NotUtf8, format!("not UTF-8: {error}")))
}

/// Impossible: all keys are strings, and writing to memory does not fail.
fn not_written(error: serde_json::Error) -> Refused {
    refused(Reason::NotJson, format!("not JSON: {error}"))
}

/// Checks the size limit, also for written text, which can be longer than the input: 1e15 is
/// written as 1000000000000000.0.
pub(super) fn bounded(bytes: usize) -> Result<(), Refused> {
    if bytes <= MAX_SAMPLE_BYTES {
        return Ok(());
    }
    Err(refused(
        Reason::TooLarge,
        format!("{bytes} bytes; at most {MAX_SAMPLE_BYTES} are taken, send fewer fields"),
    ))
}

/// Explains why a text is not JSON, more helpfully than the parser for known cases.
fn explain(error: &serde_json::Error) -> Refused {
    // The parser's own limit, far above ours, protects its stack.
    if error.to_string().starts_with("recursion limit exceeded") {
        return too_deep();
    }
    refused(Reason::NotJson, format!("not JSON: {error}; send one JSON object"))
}

fn too_many_keys() -> Refused {
    let limit = MAX_OBJECT_KEYS;
    let message = format!("an object has more than {limit} keys; send at most {limit}");
    refused(Reason::TooLarge, message)
}

fn too_many_values() -> Refused {
    let limit = MAX_SAMPLE_VALUES;
    let message = format!("more than {limit} values in one sample; send at most {limit}");
    refused(Reason::TooLarge, message)
}

fn too_deep() -> Refused {
    let limit = MAX_SAMPLE_DEPTH;
    refused(Reason::TooDeep, format!("nested deeper than {limit} levels; send a flatter object"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(text: &str) -> Result<(), Refused> {
        object(&parse(&super::text(text.as_bytes())?)?).map(drop)
    }

    #[test]
    fn an_object_with_too_many_keys_is_refused_at_any_depth() {
        for (keys, fits) in [(MAX_OBJECT_KEYS, true), (MAX_OBJECT_KEYS + 1, false)] {
            let members: Vec<_> = (0..keys).map(|key| format!(r#""k{key}":0"#)).collect();
            let object = format!("{{{}}}", members.join(","));
            let same_key = format!("{{{}}}", vec![r#""k":0"#; keys].join(","));
            for text in [&object, &same_key, &format!(r#"{{"a":[{{"b":{object}}}]}}"#)] {
                let checked = check(text);
                assert_eq!(checked.is_ok(), fits, "{keys} keys: {checked:?}");
                if let Err(refused) = checked {
                    assert_eq!(refused.reason, Reason::TooLarge);
                    assert_eq!(
                        refused.message,
                        "an object has more than 10000 keys; send at most 10000"
                    );
                }
            }
            let value: Value = serde_json::from_str(&object).unwrap();
            assert_eq!(super::object(&Json::from(&value)).is_ok(), fits);
        }
    }

    #[test]
    fn a_sample_with_too_many_values_is_refused() {
        // The object and the array count as values, too.
        for (numbers, fits) in [(MAX_SAMPLE_VALUES - 2, true), (MAX_SAMPLE_VALUES - 1, false)] {
            let text = json!({"a": vec![0; numbers]}).to_string();
            let checked = check(&text);
            assert_eq!(checked.is_ok(), fits, "{checked:?}");
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(object(&Json::from(&value)).is_ok(), fits);
        }
        let refused = parse(&json!({"a": vec![0; 400_000]}).to_string()).unwrap_err();
        assert_eq!(refused.reason, Reason::TooLarge);
        assert_eq!(refused.message, "more than 100000 values in one sample; send at most 100000");
    }

    #[test]
    fn a_normalized_value_serializes_like_serde_json() {
        for text in [
            r#"{"b":{"z":1.0,"a":[{"y":1e3,"x":null}]},"a":-0.0,"é":"\u0007","":18446744073709551615}"#,
            r#"{"a":1,"b":2,"a":{"c":3,"c":4}}"#,
            r#"[{"b":1,"a":2},"x",5e-324,51.248178375505404]"#,
        ] {
            let mut json = parse(text).unwrap();
            json.normalize();
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&json).unwrap(), value.to_string());
        }
    }

    fn nested(depth: usize) -> String {
        let brackets = depth - 1;
        format!(r#"{{"a":{}{}}}"#, "[".repeat(brackets), "]".repeat(brackets))
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused() {
        assert!(check(&nested(MAX_SAMPLE_DEPTH)).is_ok());
        for depth in [MAX_SAMPLE_DEPTH + 1, 127, 128, 129, 400_000] {
            let refused = check(&nested(depth)).unwrap_err();
            assert_eq!(refused.reason, Reason::TooDeep, "{depth}: {refused}");
        }
    }
}

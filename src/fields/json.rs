//! JSON values from untrusted bytes, and back: bounded in size and depth, refused in plain words.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Reason, Refused, refused, shorten};
use crate::config::{MAX_SAMPLE_BYTES, MAX_SAMPLE_DEPTH};

/// A value that lends its texts from what it was read from. Its objects hold equal keys more than
/// once, see [`present`].
pub(crate) type Json<'a> = serde_json_borrow::Value<'a>;
pub(super) type Object<'a> = serde_json_borrow::ObjectAsVec<'a>;

/// Reads a setup, a JSON object, from untrusted bytes.
///
/// # Errors
/// Refused if it is longer than [`MAX_SAMPLE_BYTES`], or whatever [`parse_any`] refuses, or not an
/// object, or nested deeper than [`MAX_SAMPLE_DEPTH`].
pub fn parse(text: &[u8]) -> Result<Value, Refused> {
    bounded(text.len())?;
    let value = parse_any(text)?;
    object(&Json::from(&value))?;
    Ok(value)
}

/// Likewise a sample, which is still to be checked.
pub(crate) fn read(text: &[u8]) -> Result<Json<'_>, Refused> {
    bounded(text.len())?;
    read_any(text)
}

/// Reads any JSON value, such as an array of samples, from untrusted bytes.
///
/// The caller bounds the size; [`Frame::of`](super::Frame::of) and [`map_setup`] check what is
/// inside. Of two equal keys in one object the later counts. A byte order mark at the start is
/// skipped.
///
/// # Errors
/// Refused if it is not UTF-8, not JSON, not finite, or far too deep to be read at all.
pub fn parse_any(text: &[u8]) -> Result<Value, Refused> {
    read_any(text)
}

fn read_any<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Refused> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let valid = error.valid_up_to();
        refused(Reason::NotUtf8, format!("not UTF-8 after {valid} bytes; send JSON as UTF-8"))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).map_err(|error| explain(text, &error))
}

/// The text with `null` in the place of each bare `NaN`, `Infinity` and `-Infinity`, as Python
/// writes what JSON cannot carry; `None` if there is none in it.
pub(crate) fn null_what_is_not_finite(text: &str) -> Option<String> {
    let mut mended = String::new();
    let mut rest = text;
    // Every second piece between quotes is a string; an escaped quote ends none.
    let mut in_string = false;
    let mut has_found = false;
    while !rest.is_empty() {
        if in_string {
            let end = end_of_string(rest);
            mended.push_str(&rest[..end]);
            rest = &rest[end..];
        } else {
            let end = rest.find('"').map_or(rest.len(), |quote| quote + 1);
            let outside = &rest[..end];
            let without = ["-Infinity", "Infinity", "NaN"]
                .iter()
                .fold(outside.to_owned(), |text, word| text.replace(word, "null"));
            has_found |= without != outside;
            mended.push_str(&without);
            rest = &rest[end..];
        }
        in_string = !in_string;
    }
    has_found.then_some(mended)
}

/// Where a string ends, behind its closing quote; `text` begins behind the opening one.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// The object that every sample and every setup has to be, no deeper than allowed.
pub(super) fn object<'a>(value: &'a Json<'a>) -> Result<&'a Object<'a>, Refused> {
    let kind = match value {
        Json::Object(object) if fits_into(MAX_SAMPLE_DEPTH, value) => return Ok(object),
        Json::Object(_) => return Err(too_deep()),
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::Str(_) => "a text",
        Json::Array(_) => "an array",
    };
    Err(refused(Reason::NotObject, format!("{kind} is not an object; send one JSON object")))
}

fn fits_into(levels: usize, value: &Json<'_>) -> bool {
    let fits = |inner: &Json<'_>| fits_into(levels.saturating_sub(1), inner);
    match value {
        Json::Object(object) => levels > 0 && object.values().all(fits),
        Json::Array(array) => levels > 0 && array.iter().all(fits),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Str(_) => true,
    }
}

/// What an object holds under a key, unless that is null. Of two equal keys the later counts.
pub(super) fn present<'a>(object: &'a Object<'a>, key: &str) -> Option<&'a Json<'a>> {
    let found = object.as_vec().iter().rfind(|(held, _)| **held == *key);
    found.map(|(_, value)| value).filter(|value| !value.is_null())
}

/// The car's setup as JSON text, passed through unread.
///
/// # Errors
/// Refused if it is not an object, nested too deep, or its text exceeds [`MAX_SAMPLE_BYTES`].
pub fn map_setup(setup: &Value) -> Result<String, Refused> {
    object(&Json::from(setup))?;
    let text = serde_json::to_string(setup).map_err(not_written)?;
    bounded(text.len())?;
    Ok(text)
}

/// A value as a message may quote it.
pub(super) fn quoted(value: &impl Serialize) -> String {
    shorten(&serde_json::to_string(value).unwrap_or_default())
}

/// Adds what was checked as text.
pub(super) fn write(text: &mut Vec<u8>, checked: &impl Serialize) -> Result<(), Refused> {
    serde_json::to_writer(text, checked).map_err(not_written)
}

/// Cannot happen: every key is a text, and memory never refuses a write.
fn not_written(error: serde_json::Error) -> Refused {
    refused(Reason::NotJson, format!("not JSON: {error}"))
}

/// A text can come out longer than it came in: 1e15 is written as 1000000000000000.0.
pub(super) fn bounded(bytes: usize) -> Result<(), Refused> {
    if bytes <= MAX_SAMPLE_BYTES {
        return Ok(());
    }
    Err(refused(
        Reason::TooLarge,
        format!("{bytes} bytes; at most {MAX_SAMPLE_BYTES} are taken, send fewer fields"),
    ))
}

/// Why a text is not JSON, in words that help more than the parser's where we know better.
fn explain(text: &str, error: &serde_json::Error) -> Refused {
    let token = token_at(text, error);
    // Rust reads "NaN", "Infinity", "-inf" and 1e999, each as the number that JSON cannot carry.
    if token.parse().is_ok_and(|number: f64| !number.is_finite()) {
        let token = shorten(token);
        return refused(
            Reason::NotFinite,
            format!("{token} is not a finite number; leave the value out"),
        );
    }
    // The parser's own limit, far above ours, which keeps it from running out of stack.
    if error.to_string().starts_with("recursion limit exceeded") {
        return too_deep();
    }
    refused(Reason::NotJson, format!("not JSON: {error}; send one JSON object"))
}

/// The word or number in a value's place that the parser stopped at; empty if there is none.
fn token_at<'a>(text: &'a str, error: &serde_json::Error) -> &'a str {
    let lines_before = error.line().saturating_sub(1);
    let line_start: usize = text.split_inclusive('\n').take(lines_before).map(str::len).sum();
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    // The parser stops at the token's first byte, inside it, or at its end; columns count from 1.
    let stop = line_start.saturating_add(error.column()).saturating_sub(1);
    let Some((head, _)) = text.split_at_checked(stop) else { return "" };
    let before = head.trim_end_matches(is_token);
    let token = &text[before.len()..];
    let token = &token[..token.find(|c| !is_token(c)).unwrap_or(token.len())];
    let is_value = matches!(before.trim_end().chars().next_back(), None | Some(':' | ',' | '['));
    if is_value { token } else { "" }
}

fn too_deep() -> Refused {
    let limit = MAX_SAMPLE_DEPTH;
    refused(Reason::TooDeep, format!("nested deeper than {limit} levels; send a flatter object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_becomes_null_and_texts_stay() {
        for (text, mended) in [
            (r#"{"a":NaN,"b":[-Infinity, Infinity]}"#, Some(r#"{"a":null,"b":[null, null]}"#)),
            (r#"{"NaN":"NaN\"NaN\\","b":NaN}"#, Some(r#"{"NaN":"NaN\"NaN\\","b":null}"#)),
            (r#"{"Zoë":"\\","é":NaN}"#, Some(r#"{"Zoë":"\\","é":null}"#)),
            (r#"{"a":"NaN"}"#, None),
            (r#"{"a":"NaN"#, None),
            ("", None),
        ] {
            assert_eq!(null_what_is_not_finite(text).as_deref(), mended, "{text}");
        }
    }

    #[test]
    fn nesting_is_allowed_to_the_limit_and_no_further() {
        let nested = |depth: usize| {
            let brackets = depth - 1;
            format!(r#"{{"a":{}{}}}"#, "[".repeat(brackets), "]".repeat(brackets))
        };
        assert!(parse(nested(MAX_SAMPLE_DEPTH).as_bytes()).is_ok());
        for depth in [MAX_SAMPLE_DEPTH + 1, 127, 128, 129, 400_000] {
            let refused = parse(nested(depth).as_bytes()).unwrap_err();
            assert_eq!(refused.reason, Reason::TooDeep, "{depth}: {refused}");
        }
    }
}

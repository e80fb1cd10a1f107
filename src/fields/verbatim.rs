//! Changes to JSON text that keep everything else byte for byte: the notation of numbers and
//! strings, the order of keys, equal keys.
//!
//! The text may be invalid; then the result is invalid too, and the parser reports it.

use std::mem;

use super::Omissions;

/// Removes each value that JSON cannot hold: the bare `NaN`, `Infinity` and `-Infinity` that Python
/// writes, the `nan`, `inf` and `-nan(ind)` of C, and numbers beyond the range of a double, which
/// would become `Infinity` on a server. `None` if the text has none of them.
///
/// In an object the member is removed; in an array the value becomes `null`, so that the others keep
/// their index.
pub(crate) fn without_non_finite(text: &str) -> Option<String> {
    remove_non_finite(text).map(|(kept, _)| kept)
}

/// Like [`without_non_finite`], and also reports the removed values.
pub(crate) fn remove_non_finite(text: &str) -> Option<(String, Omissions)> {
    if !Tokens(text).any(|token| token.is_non_finite()) {
        return None;
    }
    let mut kept = String::with_capacity(text.len());
    let mut omissions = Omissions::default();
    let mut key_at = 0;
    let mut skips_comma = false;
    for token in Tokens(text) {
        match token {
            Token::Word(value) if token.is_non_finite() && kept.trim_end().ends_with(':') => {
                let key = kept[key_at..].trim_end().trim_end_matches(':').trim_end();
                omissions.note_not_finite(key, value);
                kept.truncate(key_at);
                // The white space goes too: otherwise each removal would scan it again.
                let before = kept.trim_end();
                skips_comma = !before.ends_with(',');
                let before = before.strip_suffix(',').unwrap_or(before).len();
                kept.truncate(before);
            }
            Token::Word(value) if token.is_non_finite() => {
                omissions.note_not_finite("", value);
                kept.push_str("null");
            }
            Token::Text(text) => {
                key_at = kept.len();
                kept.push_str(text);
            }
            Token::Other(other) if mem::take(&mut skips_comma) => {
                kept.push_str(other.trim_start().strip_prefix(',').unwrap_or(other));
            }
            Token::Word(text) | Token::Other(text) => kept.push_str(text),
        }
    }
    Some((kept, omissions))
}

/// Removes the white space between tokens, so that the text is one line.
pub(super) fn compact(text: &str) -> String {
    let mut compact = String::with_capacity(text.len());
    for token in Tokens(text) {
        match token {
            Token::Text(text) | Token::Word(text) => compact.push_str(text),
            Token::Other(other) => compact.extend(other.split_ascii_whitespace()),
        }
    }
    compact
}

/// A piece of JSON text; all pieces together are the text.
#[derive(Clone, Copy)]
enum Token<'a> {
    /// A string with its quotes.
    Text(&'a str),
    /// A number, `true`, `false`, `null`, or a bare word that is not JSON.
    Word(&'a str),
    /// Brackets, commas, colons and white space.
    Other(&'a str),
}

impl Token<'_> {
    fn is_non_finite(self) -> bool {
        let Self::Word(word) = self else { return false };
        let unsigned = word.trim_start_matches(['-', '+']);
        match unsigned.bytes().next() {
            Some(b'n' | b'N' | b'i' | b'I') => is_non_finite_name(unsigned),
            // Only a number with an exponent or with hundreds of digits can be out of range.
            Some(b'0'..=b'9') if word.len() > 300 || word.contains(['e', 'E']) => {
                word.parse().is_ok_and(f64::is_infinite)
            }
            _ => false,
        }
    }
}

/// Whether a word is what Python, JavaScript or C writes for a number that is not finite.
fn is_non_finite_name(word: &str) -> bool {
    let word = NAN_PAYLOADS.iter().find_map(|payload| word.strip_suffix(payload)).unwrap_or(word);
    ["nan", "inf", "infinity"].iter().any(|name| word.eq_ignore_ascii_case(name))
}

/// What C adds to the name of a NaN on Windows.
const NAN_PAYLOADS: [&str; 2] = ["(ind)", "(snan)"];

/// Whether the character may be in a number or a word such as `true` or `NaN`.
fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let first = self.0.chars().next()?;
        let end = if first == '"' {
            1 + end_of_string(&self.0[1..])
        } else if is_token_char(first) {
            let end = self.0.find(|c| !is_token_char(c)).unwrap_or(self.0.len());
            let (word, rest) = self.0.split_at(end);
            let payload = NAN_PAYLOADS.iter().find(|payload| rest.starts_with(**payload));
            match payload {
                Some(payload) if word.to_ascii_lowercase().ends_with("nan") => end + payload.len(),
                _ => end,
            }
        } else {
            self.0.find(|c| c == '"' || is_token_char(c)).unwrap_or(self.0.len())
        };
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(match first {
            '"' => Token::Text(token),
            first if is_token_char(first) => Token::Word(token),
            _ => Token::Other(token),
        })
    }
}

/// The offset after the closing quote of a string; `text` begins after the opening quote.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_member_that_is_not_finite_is_removed_and_the_rest_stays_byte_for_byte() {
        for (text, expected) in [
            (r#"{"a":NaN}"#, "{}"),
            (r#"{"a":NaN,"b":1}"#, r#"{"b":1}"#),
            (r#"{"a":1.0,"b":NaN}"#, r#"{"a":1.0}"#),
            (r#"{"a":1e3,"b" : NaN , "c":[ 2 ]}"#, r#"{"a":1e3 , "c":[ 2 ]}"#),
            (r#"{"a":NaN,"b":-Infinity,"c":Infinity}"#, "{}"),
            (r#"{"a":{"b":NaN},"c":1}"#, r#"{"a":{},"c":1}"#),
            (r#"{"a":[1,NaN, Infinity]}"#, r#"{"a":[1,null, null]}"#),
            (r#"{"a":[{"b":NaN},2]}"#, r#"{"a":[{},2]}"#),
            (r#"{"NaN":"NaN\"NaN\\","b":NaN}"#, r#"{"NaN":"NaN\"NaN\\"}"#),
            (r#"{"Zoë":"\\","é":NaN}"#, r#"{"Zoë":"\\"}"#),
            (r#"{"a":1e999,"b":-1.5E+400,"c":1e-999}"#, r#"{"c":1e-999}"#),
            (
                r#"{"a":nan,"b":-nan(ind),"c":inf,"d":+Inf,"e":-infinity,"f":nan(snan),"g":1}"#,
                r#"{"g":1}"#,
            ),
            ("NaN", "null"),
        ] {
            assert_eq!(without_non_finite(text).as_deref(), Some(expected), "{text}");
        }
        for text in
            [r#"{"a":"NaN"}"#, r#"{"a":"NaN"#, r#"{"e":1e300}"#, "null", "nano", "(ind)", ""]
        {
            assert_eq!(without_non_finite(text), None, "{text}");
        }
    }

    #[test]
    fn removed_values_are_counted_and_the_first_is_reported() {
        let (_, omissions) = remove_non_finite(r#"{"a":1,"b" : NaN,"c":[inf]}"#).unwrap();
        assert_eq!(omissions.not_finite, 2);
        let expected = "b: NaN is not a finite number and was omitted; leave the value out";
        assert_eq!(omissions.first(), Some(expected));
        let (_, omissions) = remove_non_finite("[-inf]").unwrap();
        let expected = "-inf is not a finite number and was omitted; leave the value out";
        assert_eq!(omissions.first(), Some(expected));
    }

    #[test]
    fn compact_text_is_one_line_with_the_same_tokens() {
        let text = "{\r\n \"a b\\\" \": [1.50, -0.0,\t1E3],\n\"a b\\\" \":\"\\u00e9\" }\n";
        let expected = r#"{"a b\" ":[1.50,-0.0,1E3],"a b\" ":"\u00e9"}"#;
        assert_eq!(compact(text), expected);
        assert_eq!(compact(expected), expected);
    }

    /// Regression: the white space before a removed member was scanned for each further one, which
    /// took minutes.
    #[test]
    fn a_text_of_only_removed_members_takes_linear_time() {
        let start = std::time::Instant::now();
        let text = format!(r#"{{"a":NaN{}"#, r#","a":NaN"#.repeat(50_000));
        let text = text.replacen(',', &format!(",{}", " ".repeat(450_000)), 1);
        assert_eq!(without_non_finite(&text).as_deref(), Some("{"));
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn any_text_is_accepted(text in r#"[ \n{}\[\]",:\\NaInfity0-9e+.é-]{0,60}"#) {
            without_non_finite(&text);
            prop_assert!(compact(&text).len() <= text.len());
        }
    }
}

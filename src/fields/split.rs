//! Splits a body of several samples by brackets and quotes only, so that one invalid sample does not
//! affect the others. Takes time linear in the length of the text.

/// The texts of the elements of an array, which may be invalid; `None` if there are more than
/// `max_elements`. If the array is not closed, its rest is the last element. The text begins with
/// `[`.
pub(crate) fn elements(text: &[u8], max_elements: usize) -> Option<Vec<&[u8]>> {
    let mut elements = Vec::new();
    let mut rest = text.get(1..).unwrap_or_default();
    loop {
        let end = end_of_value(rest).unwrap_or(rest.len());
        let (element, after) = rest.split_at(end);
        let is_last = !after.starts_with(b",");
        // Anything after the array makes its last element invalid.
        let has_more = is_last && !matches!(after.trim_ascii(), b"]" | b"");
        let element = if has_more { rest } else { element };
        if !(is_last && elements.is_empty() && element.trim_ascii().is_empty()) {
            if elements.len() == max_elements {
                return None;
            }
            elements.push(element.trim_ascii());
        }
        if is_last {
            return Some(elements);
        }
        rest = &after[1..];
    }
}

/// Whether a text is one object, which may be invalid inside, with white space around it at most.
pub(crate) fn is_one_object(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let Some(inside) = text.strip_prefix(b"{") else { return false };
    let mut at = 0;
    while let Some(end) = end_of_value(&inside[at..]) {
        at += end;
        if inside[at] != b',' {
            return at + 1 == inside.len();
        }
        at += 1;
    }
    false
}

/// The offset of the comma or bracket after the value at the start of the text, which is an element
/// of an array or a member of an object. `None` if the text ends first.
fn end_of_value(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let (mut is_in_string, mut is_escaped) = (false, false);
    text.iter().position(|byte| {
        if is_in_string {
            is_in_string = is_escaped || *byte != b'"';
            is_escaped = !is_escaped && *byte == b'\\';
            return false;
        }
        match byte {
            b'"' => is_in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth == 0 => return true,
            b']' | b'}' => depth -= 1,
            b',' => return depth == 0,
            _ => {}
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_split_whatever_its_elements_are() {
        for (text, expected) in [
            ("[]", vec![]),
            ("[ ]", vec![]),
            ("[1, [2,3] ]", vec!["1", "[2,3]"]),
            (
                r#"[{"a":"],\"},{"}, "\\",{"b":[{}]}]"#,
                vec![r#"{"a":"],\"},{"}"#, r#""\\""#, r#"{"b":[{}]}"#],
            ),
            (r#"[{"a":NaN},{a:1},{"b":03,}]"#, vec![r#"{"a":NaN}"#, "{a:1}", r#"{"b":03,}"#]),
            ("[1,,2]", vec!["1", "", "2"]),
            ("[1,]", vec!["1", ""]),
            // An array that is not closed, or that something follows.
            ("[", vec![]),
            (r#"[{"a":1},{"b":2"#, vec![r#"{"a":1}"#, r#"{"b":2"#]),
            (r#"[{"a":1},"b, {}"#, vec![r#"{"a":1}"#, r#""b, {}"#]),
            ("[1,2] 3", vec!["1", "2] 3"]),
            ("[1}", vec!["1}"]),
        ] {
            let elements = elements(text.as_bytes(), 10).unwrap();
            let elements: Vec<_> =
                elements.into_iter().map(|text| str::from_utf8(text).unwrap()).collect();
            assert_eq!(elements, expected, "{text}");
        }
        assert_eq!(elements(b"[1,2,3]", 3).map(|elements| elements.len()), Some(3));
        assert_eq!(elements(b"[1,2,3,4]", 3), None);
        assert_eq!(elements(b"[\xff,{\xfe}]", 3).unwrap(), [&b"\xff"[..], b"{\xfe}"]);
    }

    #[test]
    fn one_object_is_recognized_by_its_brackets() {
        for text in ["{}", " {\n \"a\": [{}],\n}\n", r#"{"a":NaN,"b":"}"}"#, "{a b}"] {
            assert!(is_one_object(text.as_bytes()), "{text}");
        }
        for text in ["", "7", "{}{}", "{}\n{}", "{", r#"{"a":1"#, "[{}]", "{},{}"] {
            assert!(!is_one_object(text.as_bytes()), "{text}");
        }
    }
}

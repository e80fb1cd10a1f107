//! Frames as CSV for spreadsheets: RFC 4180, UTF-8, one column per reading.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::Value;

use crate::entry::Entry;
use crate::fields;
use crate::queue::MAX_FINDINGS;

/// Writes frames as CSV rows, and collects the fields that have no column.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Names of fields that the dashboard does not have; at most [`MAX_FINDINGS`].
    pub(super) left_out: BTreeSet<String>,
}

impl Table {
    /// Writes the header row.
    pub(super) fn begin(out: &mut impl Write) -> io::Result<Self> {
        let columns = fields::columns().map(|(name, wheel)| match wheel {
            Some(wheel) => format!("{name}_{wheel}"),
            None => name.to_owned(),
        });
        let names = ["seq", "stint", "captured_at"].map(str::to_owned).into_iter().chain(columns);
        write_row(out, names)?;
        Ok(Self::default())
    }

    /// Writes a frame as a row.
    pub(super) fn frame(&mut self, out: &mut impl Write, entry: &Entry) -> io::Result<()> {
        let frame: Value = serde_json::from_str(&entry.json).unwrap_or_default();
        self.note_others(&frame);
        let place = [entry.seq.to_string(), entry.stint.to_string(), entry.captured_at.to_string()];
        let cells = fields::columns().map(|(name, wheel)| {
            let value = wheel.map_or(&frame[name], |wheel| &frame[name][wheel]);
            match value {
                Value::Null => String::new(),
                Value::String(text) => harmless(text),
                value => value.to_string(),
            }
        });
        write_row(out, place.into_iter().chain(cells))
    }

    fn note_others(&mut self, frame: &Value) {
        let is_known =
            |key: &str| key == "timestamp" || fields::columns().any(|(name, _)| name == key);
        for key in frame.as_object().into_iter().flat_map(|frame| frame.keys()) {
            if !is_known(key) && self.left_out.len() < MAX_FINDINGS {
                self.left_out.insert(fields::shorten(&without_controls(key)));
            }
        }
    }
}

/// Makes a text safe for spreadsheets: prefixes what looks like a formula with `'`, and escapes
/// control characters.
fn harmless(text: &str) -> String {
    let text = without_controls(text);
    // A Japanese Excel treats the full-width forms like the ASCII ones.
    let is_formula = text.trim_start().starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    if is_formula { format!("'{text}") } else { text }
}

/// Escapes control characters, and invisible characters that change the direction of a text.
fn without_controls(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        let is_hidden = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{061c}');
        if is_hidden { visible.extend(c.escape_default()) } else { visible.push(c) }
    }
    visible
}

fn write_row(out: &mut impl Write, cells: impl Iterator<Item = String>) -> io::Result<()> {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        // Some spreadsheets split at semicolons.
        if cell.contains([',', ';', '"']) || cell.trim() != cell {
            write!(out, "\"{}\"", cell.replace('"', "\"\""))?;
        } else {
            out.write_all(cell.as_bytes())?;
        }
    }
    out.write_all(b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cells_cannot_be_formulas_or_hold_control_characters() {
        for (text, cell) in [
            ("Zoë Lindqvist", "Zoë Lindqvist"),
            ("=HYPERLINK(\"http://a\")", "'=HYPERLINK(\"http://a\")"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("  =1+1", "'  =1+1"),
            ("＝1+1", "'＝1+1"),
            ("\t=1+1", "\\t=1+1"),
            ("\u{feff}=1+1", "\\u{feff}=1+1"),
            ("a=b", "a=b"),
            ("a\r\n=b", "a\\r\\n=b"),
            ("\u{1b}[2Ja\u{202e}b", "\\u{1b}[2Ja\\u{202e}b"),
        ] {
            assert_eq!(harmless(text), cell, "{text:?}");
        }
    }

    #[test]
    fn cells_with_separators_or_quotes_are_quoted() {
        let mut row = Vec::new();
        let cells = ["a;=1", "b,c", "d\"e", " f", "-1.5", "g"];
        write_row(&mut row, cells.map(str::to_owned).into_iter()).unwrap();
        let expected = "\"a;=1\",\"b,c\",\"d\"\"e\",\" f\",-1.5,g\r\n";
        assert_eq!(String::from_utf8(row).unwrap(), expected);
    }
}

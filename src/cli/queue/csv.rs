//! Frames as CSV, to and from spreadsheets: RFC 4180, UTF-8, one column per reading.

use std::collections::BTreeSet;
use std::io::{self, Write};

use ::csv::{ReaderBuilder, StringRecord};
use serde_json::{Number, Value};

use crate::entry::Entry;
use crate::fields;
use crate::queue::MAX_FINDINGS;
use crate::remote_text::cells::{harmless, is_formula, without_controls, write_row};

/// The columns of an entry that precede those of its frame.
const PLACE: [&str; 3] = ["seq", "stint", CAPTURED_AT];
const CAPTURED_AT: &str = "captured_at";

/// A column of the files that people download from `pitwire serve`; an import ignores it.
const RECEIVED_AT: &str = "received_at";

/// The name of a field's column.
fn column(name: &str, wheel: Option<&str>) -> String {
    wheel.map_or_else(|| name.to_owned(), |wheel| format!("{name}_{wheel}"))
}

/// Writes frames as CSV rows, and collects the fields that have no column.
#[derive(Debug, Default)]
pub(super) struct CsvTable {
    /// Names of fields that the dashboard does not have; at most [`MAX_FINDINGS`].
    pub(super) left_out: BTreeSet<String>,
}

impl CsvTable {
    /// Writes the header row.
    pub(super) fn begin(out: &mut impl Write) -> io::Result<Self> {
        let columns = fields::columns().map(|(name, wheel)| column(name, wheel));
        let names = PLACE.map(str::to_owned).into_iter().chain(columns);
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

/// The columns of an exported CSV file, to read it back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Columns {
    names: Vec<String>,
}

impl Columns {
    /// Whether a line is the header of an export.
    pub(super) fn are_in(line: &[u8]) -> bool {
        cells(line).is_ok_and(|cells| cells.iter().any(|name| name == CAPTURED_AT))
    }

    /// Parses the header.
    ///
    /// # Errors
    /// If it has a column that an export does not have, or a column twice.
    pub(super) fn parse(header: &[u8]) -> Result<Self, String> {
        let names: Vec<String> = cells(header)?.iter().map(str::to_owned).collect();
        for (index, name) in names.iter().enumerate() {
            let is_known = PLACE.contains(&name.as_str())
                || name == RECEIVED_AT
                || fields::columns().any(|(field, wheel)| column(field, wheel) == *name);
            let shown = fields::shorten(&Value::from(name.as_str()));
            if !is_known {
                return Err(format!("{shown} is not a column of an export; remove the column"));
            }
            if names[..index].contains(name) {
                return Err(format!("{shown} is the name of two columns; remove one of them"));
            }
        }
        Ok(Self { names })
    }

    /// Converts a row to a line of a JSON Lines export, whose frame gets its timestamp from
    /// `captured_at`. An empty cell is an empty text or an absent number.
    ///
    /// # Errors
    /// If the row has another number of cells than the header, or no number where one belongs.
    pub(super) fn entry_line(&self, row: &[u8]) -> Result<Vec<u8>, String> {
        let cells = cells(row)?;
        if cells.len() != self.names.len() {
            let (given, expected) = (cells.len(), self.names.len());
            return Err(format!("{given} cells; the first line has {expected}"));
        }
        let cell = |name: &str| {
            let index = self.names.iter().position(|known| known == name)?;
            cells.get(index)
        };
        let columns: Vec<_> = fields::columns().collect();
        let mut members = Vec::with_capacity(columns.len());
        for field in columns.chunk_by(|(one, _), (next, _)| one == next) {
            let mut wheels = Vec::new();
            for &(name, wheel) in field {
                let column = column(name, wheel);
                let Some(cell) = cell(&column) else { continue };
                let value = if fields::is_text(name) {
                    Some(Value::from(original(cell)).to_string())
                } else {
                    number(&column, cell)?
                };
                let member = value.map(|value| format!(r#""{}":{value}"#, wheel.unwrap_or(name)));
                if wheel.is_some() { wheels.extend(member) } else { members.extend(member) }
            }
            if let [(name, Some(_)), ..] = field {
                members.push(format!(r#""{name}":{{{}}}"#, wheels.join(",")));
            }
        }
        let captured_at = Value::from(cell(CAPTURED_AT));
        let frame = members.join(",");
        Ok(format!(r#"{{"captured_at":{captured_at},"frame":{{{frame}}}}}"#).into_bytes())
    }
}

/// The cells of a line. In an export, no cell has a line break.
fn cells(line: &[u8]) -> Result<StringRecord, String> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let mut reader = ReaderBuilder::new().has_headers(false).from_reader(line);
    let mut cells = StringRecord::new();
    reader.read_record(&mut cells).map_err(|_| "not UTF-8; save the file as UTF-8")?;
    Ok(cells)
}

/// Checks that a cell is a number and returns its text; `None` for an empty cell.
fn number(column: &str, cell: &str) -> Result<Option<String>, String> {
    if cell.is_empty() {
        return Ok(None);
    }
    match serde_json::from_str::<Number>(cell) {
        Ok(_) => Ok(Some(cell.to_owned())),
        Err(_) => {
            let shown = fields::shorten(&Value::from(cell));
            Err(format!("{column}: {shown} is not a number; write it like 201.7 or leave it empty"))
        }
    }
}

/// The text that [`harmless`] turned into this cell. An unknown escape is kept.
fn original(cell: &str) -> String {
    let mut rest = cell.strip_prefix('\'').filter(|rest| is_formula(rest)).unwrap_or(cell);
    let mut text = String::with_capacity(rest.len());
    while let Some((before, escape)) = rest.split_once('\\') {
        text.push_str(before);
        let (c, length) = unescaped(escape).unwrap_or(('\\', 0));
        text.push(c);
        rest = &escape[length..];
    }
    text + rest
}

/// The character of an escape, without its backslash, and the length of the escape.
fn unescaped(escape: &str) -> Option<(char, usize)> {
    match escape.chars().next()? {
        't' => Some(('\t', 1)),
        'r' => Some(('\r', 1)),
        'n' => Some(('\n', 1)),
        '\\' => Some(('\\', 1)),
        'u' => {
            let (digits, _) = escape.strip_prefix("u{")?.split_once('}')?;
            let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
            Some((c, digits.len() + "u{}".len()))
        }
        _ => None,
    }
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
            ("a\\nb", "a\\\\nb"),
            ("'=1", "''=1"),
            ("'a", "'a"),
            ("\u{1b}[2Ja\u{202e}b", "\\u{1b}[2Ja\\u{202e}b"),
        ] {
            assert_eq!(harmless(text), cell, "{text:?}");
            assert_eq!(original(cell), text, "{cell:?}");
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

    #[test]
    fn an_unknown_escape_is_kept() {
        for cell in ["a\\q", "\\", "\\u{}", "\\u{d800}", "\\u{zz}", "\\u12", "'a", "'"] {
            assert_eq!(original(cell), cell);
        }
    }

    #[test]
    fn a_row_becomes_an_entry() {
        let header = "\u{feff}speed,seq,captured_at,player_name,lap,tire_wear_rr,tire_wear_fl\r\n";
        assert!(Columns::are_in(header.as_bytes()));
        let columns = Columns::parse(header.as_bytes()).unwrap();
        let line =
            |row: &str| String::from_utf8(columns.entry_line(row.as_bytes()).unwrap()).unwrap();
        assert_eq!(
            line("201.70,7,2025-11-22T14:30:22.123Z,\"Zo\"\"ë, 2nd\\n\",3,2,1.5"),
            r#"{"captured_at":"2025-11-22T14:30:22.123Z","frame":{"lap":3,"tire_pressures":{},"tire_temps":{},"tire_wear":{"fl":1.5,"rr":2},"brake_temps":{},"speed":201.70,"player_name":"Zo\"ë, 2nd\n"}}"#
        );
        assert_eq!(
            line(",,,,,,"),
            r#"{"captured_at":"","frame":{"tire_pressures":{},"tire_temps":{},"tire_wear":{},"brake_temps":{},"player_name":""}}"#
        );
    }

    #[test]
    fn an_invalid_header_or_row_is_refused_with_its_reason() {
        for header in ["lap,speed", "", "{\"captured_at\":\"a\",\"frame\":{}}"] {
            assert!(!Columns::are_in(header.as_bytes()), "{header}");
        }
        for (header, expected) in [
            (
                "captured_at,throttle",
                "\"throttle\" is not a column of an export; remove the column",
            ),
            ("captured_at,lap,lap", "\"lap\" is the name of two columns; remove one of them"),
        ] {
            assert_eq!(Columns::parse(header.as_bytes()), Err(expected.into()));
        }
        let columns = Columns::parse(b"captured_at,speed,player_name").unwrap();
        for (row, expected) in [
            (&b"a,1"[..], "2 cells; the first line has 3"),
            (b"a,\"1,b", "2 cells; the first line has 3"),
            (b"a,1,b,", "4 cells; the first line has 3"),
            (b"a,1,\xff", "not UTF-8; save the file as UTF-8"),
            (
                b"a,\"201,7\",b",
                "speed: \"201,7\" is not a number; write it like 201.7 or leave it empty",
            ),
        ] {
            assert_eq!(columns.entry_line(row), Err(expected.into()));
        }
    }
}

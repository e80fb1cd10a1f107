//! Cells of CSV files that are safe to open in a spreadsheet: RFC 4180, UTF-8.

use std::io::{self, Write};

/// Makes a text safe for spreadsheets: prefixes what looks like a formula with `'`, and escapes
/// control characters. `cli::queue::csv` reverses it.
pub(crate) fn harmless(text: &str) -> String {
    let text = without_controls(text);
    if is_formula(&text) { format!("'{text}") } else { text }
}

/// Whether a spreadsheet may treat a text as a formula, or the import would mistake it for one.
pub(crate) fn is_formula(text: &str) -> bool {
    let text = text.trim_start_matches('\'').trim_start();
    // A Japanese Excel treats the full-width forms like the ASCII ones.
    text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠'])
}

/// Escapes control characters, invisible characters that change the direction of a text, and
/// backslashes, which start an escape.
pub(crate) fn without_controls(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        let is_escaped = c.is_control()
            || c == '\\'
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{061c}');
        if is_escaped { visible.extend(c.escape_default()) } else { visible.push(c) }
    }
    visible
}

/// Writes a row with the end of its line.
pub(crate) fn write_row(
    out: &mut impl Write,
    cells: impl Iterator<Item = String>,
) -> io::Result<()> {
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

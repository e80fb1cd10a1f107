//! Frames as a table that a spreadsheet opens: RFC 4180, UTF-8, one column a reading.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::Value;

use crate::config::MAX_FINDINGS;
use crate::fields;
use crate::tools::Item;

/// Writes frames, and remembers what found no column.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Names of fields that are none of the dashboard's; at most [`MAX_FINDINGS`].
    pub(super) left_out: BTreeSet<String>,
}

impl Table {
    /// The first row: what the columns are called.
    pub(super) fn begin(out: &mut impl Write) -> io::Result<Self> {
        let columns = fields::columns().map(|(name, wheel)| match wheel {
            Some(wheel) => format!("{name}_{wheel}"),
            None => name.to_owned(),
        });
        let names = ["seq", "stint", "captured_at"].map(str::to_owned).into_iter().chain(columns);
        write_row(out, names)?;
        Ok(Self::default())
    }

    /// A frame.
    pub(super) fn frame(&mut self, out: &mut impl Write, item: &Item) -> io::Result<()> {
        let json = item.json.as_ref().map_or("null", |json| json.get());
        let frame: Value = serde_json::from_str(json).unwrap_or_default();
        self.note_others(&frame);
        let place = [item.seq.to_string(), item.stint.to_string(), item.captured_at.to_string()];
        let cells = fields::columns().map(|(name, wheel)| {
            let value = wheel.map_or(&frame[name], |wheel| &frame[name][wheel]);
            match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                value => value.to_string(),
            }
        });
        write_row(out, place.into_iter().chain(cells))
    }

    fn note_others(&mut self, frame: &Value) {
        let is_known =
            |key: &str| key == "timestamp" || fields::columns().any(|(name, _)| name == key);
        for key in frame.as_object().into_iter().flat_map(|frame| frame.keys()) {
            if !is_known(key) && self.left_out.len() < MAX_FINDINGS && !self.left_out.contains(key)
            {
                self.left_out.insert(key.clone());
            }
        }
    }
}

fn write_row(out: &mut impl Write, cells: impl Iterator<Item = String>) -> io::Result<()> {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        match cell.contains([',', '"', '\r', '\n']) || cell.trim() != cell {
            true => write!(out, "\"{}\"", cell.replace('"', "\"\""))?,
            false => out.write_all(cell.as_bytes())?,
        }
    }
    out.write_all(b"\r\n")
}

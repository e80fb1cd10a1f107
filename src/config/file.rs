//! Configuration files: TOML, and the `config.json` of the original client.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::destination;
use super::load::Loading;
use super::problem::one_line;
use super::raw_value::RawValue;
use super::{Origin, Warning, keys, spelling};

/// The maximum size of a configuration file; a larger one is an error.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What to write instead of a single backslash between double quotes, as in a path of Windows. A
/// phrase that follows "write".
pub(super) const BACKSLASHES: &str = r#"each \ twice between double quotes ("C:\\pit"), or the text between single quotes ('C:\pit')"#;

/// The original client's keys and the corresponding pitwire keys. `poll_interval` and
/// `target_process` controlled when that client looked for the game; pitwire validates and ignores
/// them, because agent and game start in any order.
const CLIENT_KEYS: [(&str, Option<&str>); 5] = [
    ("server_url", Some("server.url")),
    ("session_id", Some("server.session_id")),
    ("update_rate_hz", Some("update_rate_hz")),
    ("poll_interval", None),
    ("target_process", None),
];

impl Loading {
    /// Reads a configuration file; a name that ends in `.json` means the original client's format.
    pub(super) fn file(&mut self, path: &Path) {
        let whole = Origin::File { path: path.into(), line: None };
        let text = match read(path) {
            Ok(text) => text,
            Err(message) => return self.problem(whole, None, message),
        };
        // Some editors on Windows write a byte order mark.
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
        let file = LineOffsets::new(path, text);
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            self.json(&file, text);
        } else {
            self.toml(&file, text);
        }
    }

    fn toml(&mut self, file: &LineOffsets<'_>, text: &str) {
        match DeTable::parse(text) {
            Ok(root) => self.toml_table(file, "", root.get_ref()),
            Err(error) => {
                let start = error.span().map(|span| span.start);
                let mut message = format!("is not TOML: {}", one_line(error.message()));
                if start.is_some_and(|start| file.has_backslash(start)) {
                    message.push_str(&format!("; write {BACKSLASHES}"));
                }
                self.problem(file.origin(start), None, message);
            }
        }
    }

    fn toml_table(&mut self, file: &LineOffsets<'_>, above: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let dot = if above.is_empty() { "" } else { "." };
            let name = format!("{above}{dot}{}", key.get_ref());
            let origin = file.origin(Some(key.span().start));
            match (destination::find(&name), value.get_ref()) {
                (Some(place), value) => self.set(&place, &name, &toml_value(value), origin),
                (None, DeValue::Table(below)) if keys::is_table(&name) => {
                    self.toml_table(file, &name, below);
                }
                (None, value) if keys::is_table(&name) => {
                    let given = toml_value(value);
                    let message = format!("{given} is not a table; write [{name}] above its keys");
                    self.problem(origin, Some(&name), message);
                }
                (None, _) => self.unknown(&name, spelling::nearest_key(&name).as_deref(), origin),
            }
        }
    }

    fn json(&mut self, file: &LineOffsets<'_>, text: &str) {
        let fields: serde_json::Map<String, serde_json::Value> = match serde_json::from_str(text) {
            Ok(fields) => fields,
            Err(error) => {
                let origin = Origin::File { path: file.path.into(), line: Some(error.line()) };
                let message = format!("is not a JSON object: {}", one_line(&error.to_string()));
                return self.problem(origin, None, message);
            }
        };
        for (name, value) in &fields {
            let origin = file.origin(json_key(text, name));
            let given = json_value(value);
            let known = CLIENT_KEYS.iter().find(|(known, _)| known == name);
            match known.map(|(_, key)| key.and_then(destination::find)) {
                Some(Some(place)) => self.set(&place, name, &given, origin),
                Some(None) => self.without_effect(name, &given, origin),
                None => {
                    let near = spelling::nearest(name, CLIENT_KEYS.iter().map(|(known, _)| *known));
                    self.unknown(name, near, origin);
                }
            }
        }
    }

    fn without_effect(&mut self, name: &str, given: &RawValue<'_>, origin: Origin) {
        let (fits, otherwise) = match name {
            "poll_interval" => (given.number().is_ok_and(|s| s > 0.0), "is not a time in seconds"),
            _ => (given.text().is_ok(), "is not text"),
        };
        if fits {
            let message = "has no effect: the agent and the game start in any order".into();
            self.warnings.push(Warning { origin, key: Some(name.into()), message });
        } else {
            let message = format!("{given} {otherwise}; remove it, as it has no effect");
            self.problem(origin, Some(name), message);
        }
    }
}

/// Reads a file; the error is a message for the operator.
fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file =
        File::open(path).and_then(|file| file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes));
    match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("does not exist; pass the path of a file with --config".into())
        }
        Err(error) => Err(format!(
            "cannot be read: {error}; let your user read it, or pass another file with --config"
        )),
        Ok(length) if length as u64 > MAX_CONFIG_BYTES => Err(format!(
            "has more than {MAX_CONFIG_BYTES} bytes; pass the configuration file with --config"
        )),
        Ok(_) => {
            String::from_utf8(bytes).map_err(|_| "is not text in UTF-8; save it in UTF-8".into())
        }
    }
}

/// A file and the offsets of its lines.
struct LineOffsets<'a> {
    path: &'a Path,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> LineOffsets<'a> {
    fn new(path: &'a Path, text: &'a str) -> Self {
        let starts = text.match_indices('\n').map(|(end, _)| end + 1).collect();
        Self { path, text, starts }
    }

    /// Whether the line that contains the byte at `offset` has a backslash after a double quote.
    fn has_backslash(&self, offset: usize) -> bool {
        let next = self.starts.partition_point(|start| *start <= offset);
        let start = next.checked_sub(1).map_or(0, |index| self.starts[index]);
        let end = self.starts.get(next).copied().unwrap_or(self.text.len());
        let line = &self.text[start..end];
        line.split_once('"').is_some_and(|(_, quoted)| quoted.contains('\\'))
    }

    /// The line that contains the byte at `offset`.
    fn origin(&self, offset: Option<usize>) -> Origin {
        let line = offset.map(|offset| self.starts.partition_point(|start| *start <= offset) + 1);
        Origin::File { path: self.path.into(), line }
    }
}

fn toml_value<'a>(value: &'a DeValue<'_>) -> RawValue<'a> {
    match value {
        DeValue::String(text) => RawValue::Text(text),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => RawValue::Number(number.to_string().into()),
            Err(_) => RawValue::Number(number.as_str().into()),
        },
        DeValue::Float(number) => RawValue::Number(number.as_str().into()),
        DeValue::Boolean(value) => RawValue::Switch(*value),
        DeValue::Datetime(_) => RawValue::Other("a date"),
        DeValue::Array(_) => RawValue::Other("a list"),
        DeValue::Table(_) => RawValue::Other("a table"),
    }
}

fn json_value(value: &serde_json::Value) -> RawValue<'_> {
    match value {
        serde_json::Value::String(text) => RawValue::Text(text),
        serde_json::Value::Number(number) => RawValue::Number(number.to_string().into()),
        serde_json::Value::Bool(value) => RawValue::Switch(*value),
        serde_json::Value::Null => RawValue::Other("null"),
        serde_json::Value::Array(_) => RawValue::Other("a list"),
        serde_json::Value::Object(_) => RawValue::Other("an object"),
    }
}

/// The offset of the last occurrence of a key in JSON text: of two equal keys, the last one wins.
fn json_key(text: &str, key: &str) -> Option<usize> {
    let quoted = serde_json::Value::from(key).to_string();
    text.rmatch_indices(&quoted)
        .map(|(at, _)| at)
        .find(|at| text[at + quoted.len()..].trim_start().starts_with(':'))
}

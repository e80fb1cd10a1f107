//! Writes a configuration as a TOML file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::keys::{KeyTable, tables};
use super::{Config, Origin};

/// The configuration as a TOML file, with the meaning of each key in a comment above it.
pub fn to_toml(config: &Config) -> String {
    let mut out = String::new();
    for mut table in tables(config) {
        write_header(&mut out, &table);
        for key in table.keys {
            let (allowed, value) =
                (key.allowed(&mut table.config), key.show_toml(&mut table.config));
            let (meaning, name) = (key.meaning, key.last_name());
            let _ = writeln!(out, "# {meaning}\n# Write {allowed}.\n{name} = {value}");
        }
    }
    out
}

/// The configuration as a TOML file, with the origin of each key in a comment and secrets hidden.
pub(super) fn to_toml_with_origins(config: &Config, origins: &BTreeMap<String, Origin>) -> String {
    let mut out = String::new();
    for mut table in tables(config) {
        write_header(&mut out, &table);
        for key in table.keys {
            let value = match key.show_toml(&mut table.config) {
                value if key.is_secret(&mut table.config) && value != "\"\"" => "\"***\"".into(),
                value => value,
            };
            let name = key.last_name();
            let path = match &*table.name {
                "" => name.to_owned(),
                table => format!("{table}.{name}"),
            };
            let origin = origins.get(&path).unwrap_or(&Origin::Default);
            let _ = writeln!(out, "{name} = {value} # {origin}");
        }
    }
    out
}

/// Writes the header of a table; the keys above the first table have none.
fn write_header(out: &mut String, table: &KeyTable) {
    if !table.name.is_empty() {
        let _ = writeln!(out, "\n[{}]", table.name);
    }
}

//! The files that `pitwire setup` writes.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use toml_edit::{DocumentMut, Item, TableLike, Value};

use crate::cli::private_file;
use crate::config::Config;

/// The first line of a new configuration file.
const HEADER: &str = "# Written by pitwire setup. All settings: pitwire config --example\n";

/// The text of a configuration file with the settings that the command asks for. In an existing file,
/// `text`, only those are set that differ from its configuration, `old`.
pub(super) fn edited(
    text: Option<&str>,
    old: &Config,
    new: &Config,
) -> Result<String, toml_edit::TomlError> {
    let mut document: DocumentMut = text.unwrap_or_default().parse()?;
    if text.is_none() || new.update_rate_hz != old.update_rate_hz {
        set(document.as_table_mut(), "update_rate_hz", new.update_rate_hz.into());
    }
    let has_new_server = text.is_none() || new.server != old.server;
    if has_new_server && document.get("server").is_none() {
        document.insert("server", toml_edit::table());
    }
    if let Some(server) = document.get_mut("server").and_then(Item::as_table_like_mut) {
        if text.is_none() || new.server.url != old.server.url {
            set(server, "url", new.server.url.as_str().into());
        }
        if let Some(file) = &new.server.token_file
            && new.server.token_file != old.server.token_file
        {
            set(server, "token_file", file.to_string().into());
            server.remove("token");
        }
    }
    let header = if text.is_none() { HEADER } else { "" };
    Ok(format!("{header}{document}"))
}

/// Sets a key, and keeps the comments above it and behind its value.
fn set(table: &mut dyn TableLike, key: &str, mut value: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(before) => {
            *value.decor_mut() = before.decor().clone();
            *before = value;
        }
        None => {
            table.insert(key, Item::Value(value));
        }
    }
}

/// Replaces a file by one that only its owner may read. A crash leaves the old one or the new one.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    // A link keeps its place: only its target is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    path.parent().map_or(Ok(()), private_file::create_folder)?;
    let new = path.with_added_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private_file::options().write(true).create_new(true).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_file_keeps_its_comments_order_and_other_settings() {
        let before = "# mine\nupdate_rate_hz = 2 # slow\n\n[queue] # disk\nmax_age = \"7d\"\n\n\
                      [server]\nurl = \"http://old:1\" # pit wall\ntoken = \"x\"\n";
        let old = Config::default();
        let mut new = old.clone();
        new.update_rate_hz = 5.0;
        new.server.url = "http://pit:5000".parse().unwrap();
        let after = "# mine\nupdate_rate_hz = 5.0 # slow\n\n[queue] # disk\nmax_age = \"7d\"\n\n\
                     [server]\nurl = \"http://pit:5000\" # pit wall\ntoken = \"x\"\n";
        assert_eq!(edited(Some(before), &old, &new).unwrap(), after);
        let inline = "server = { url = \"http://old:1\", ca_file = \"/a\" }\n";
        let after = edited(Some(inline), &old, &new).unwrap();
        assert!(after.contains("{ url = \"http://pit:5000\", ca_file = \"/a\" }"), "{after}");
        let fresh = edited(None, &old, &new).unwrap();
        let settings = "update_rate_hz = 5.0\n\n[server]\nurl = \"http://pit:5000\"\n";
        assert_eq!(fresh, format!("{HEADER}{settings}"));
    }

    #[cfg(unix)]
    #[test]
    fn a_written_file_is_readable_only_by_its_owner_and_keeps_a_link() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_private(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

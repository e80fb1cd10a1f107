//! The `FORMAT` file: the version of the format of a folder.

use std::io;
use std::path::Path;

use crate::queue::storage::disk;

const VERSION: u32 = 1;

/// Fails if another format version created the folder; rewrites a missing or damaged `FORMAT` file.
pub(super) fn check_format(folder: &Path) -> io::Result<()> {
    if has_format(folder)? {
        return Ok(());
    }
    disk::replace(&folder.join("FORMAT"), format_text(VERSION).as_bytes())
}

/// Whether the `FORMAT` file names this format version; an error if it names another.
pub(in crate::queue) fn has_format(folder: &Path) -> io::Result<bool> {
    let read = match disk::read(&folder.join("FORMAT")) {
        Err(error) if disk::is_circumstance(&error) => return Err(error),
        read => read.unwrap_or_default(),
    };
    let found = String::from_utf8_lossy(&read.bytes);
    let version = found.strip_prefix("pitwire queue ").and_then(|rest| rest.split_once(' '));
    let version = version.and_then(|(version, _)| version.parse().ok());
    match version {
        Some(VERSION) => Ok(true),
        Some(version) if found == format_text(version) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has format {version}, this program supports format {VERSION}"),
        )),
        _ => Ok(false),
    }
}

fn format_text(version: u32) -> String {
    let sum = crc32fast::hash(&version.to_le_bytes());
    format!("pitwire queue {version} {sum:08x}\n")
}

//! Entries that a server refuses, kept for people: JSON Lines in `quarantine/refused.ndjson`.
//!
//! Bounded by two files: a full one becomes `refused.old.ndjson` and replaces the one before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::config::MAX_QUARANTINE_FILE_BYTES;

/// Appends a line to the quarantine of the queue in `folder`; durable when this returns.
pub(super) fn append(folder: &Path, line: &str) -> io::Result<()> {
    let folder = folder.join("quarantine");
    fs::create_dir_all(&folder)?;
    let path = folder.join("refused.ndjson");
    let size = fs::metadata(&path).map_or(0, |file| file.len());
    if size + line.len() as u64 > MAX_QUARANTINE_FILE_BYTES {
        fs::rename(&path, folder.join("refused.old.ndjson"))?;
    }
    let mut file = File::options().create(true).append(true).open(&path)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_data()
}

//! Side logs: JSON Lines for operators, in two files of bounded size. A full file is renamed to
//! `….old.ndjson` and replaces the previous one.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{SideLog, disk};

impl SideLog {
    fn path(self, folder: &Path, old: bool) -> PathBuf {
        let old = if old { ".old" } else { "" };
        folder.join(self.folder()).join(format!("{}{old}.ndjson", self.name()))
    }

    /// The path to which a file is archived.
    fn aside(self, folder: &Path, old: bool) -> PathBuf {
        let old = if old { ".old" } else { "" };
        folder.join(self.folder()).join(format!("{}-archived{old}.ndjson", self.name()))
    }

    fn folder(self) -> &'static str {
        match self {
            Self::DeadLetters => "quarantine",
            Self::Dispositions => "dispositions",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::DeadLetters => "dead-letters",
            Self::Dispositions => "dispositions",
        }
    }
}

/// Appends a line to a file of at most `most` bytes. Durable when this returns.
pub(super) fn append(folder: &Path, lines: SideLog, line: &str, most: u64) -> io::Result<()> {
    let path = lines.path(folder, false);
    path.parent().map_or(Ok(()), disk::create_folder)?;
    let size = fs::metadata(&path).map_or(0, |file| file.len());
    if size > 0 && size + line.len() as u64 > most {
        fs::rename(&path, lines.path(folder, true))?;
    }
    let mut file = disk::options().create(true).append(true).open(&path)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_data()
}

/// Archives both files in place of the previous archive, and returns their contents. Durable when
/// this returns.
pub(super) fn take(folder: &Path, lines: SideLog) -> io::Result<String> {
    let text = read(folder, lines)?;
    if text.is_empty() {
        return Ok(text);
    }
    for old in [true, false] {
        let (path, aside) = (lines.path(folder, old), lines.aside(folder, old));
        if path.exists() {
            disk::rename(&path, &aside)?;
        } else {
            disk::remove_file(&aside)?;
        }
    }
    disk::sync_folder(&folder.join(lines.folder()))?;
    Ok(text)
}

/// Reads the current lines, oldest first. Invalid UTF-8 is replaced.
pub(super) fn read(folder: &Path, lines: SideLog) -> io::Result<String> {
    let mut text = String::new();
    for old in [true, false] {
        match fs::read(lines.path(folder, old)) {
            Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}

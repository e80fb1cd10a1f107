//! Autostart on Windows: an entry under the Run key of the user's part of the registry.

use std::io;
use std::path::PathBuf;

use windows_registry::CURRENT_USER;

use super::{Registered, Start, text};
use crate::config;

const RUN: &str = r"Software\Microsoft\Windows\CurrentVersion\Run";
const NAME: &str = "pitwire";
/// pitwire without a console window.
const WINDOWLESS: &str = "pitwirew.exe";

pub(super) fn enable(mut start: Start) -> io::Result<()> {
    let windowless = start.program.with_file_name(WINDOWLESS);
    if windowless.is_file() {
        start.program = windowless;
        // Without a console the log would be lost.
        let log = config::log_file()
            .map_err(|error| io::Error::new(io::ErrorKind::NotFound, error.to_string()))?;
        let log = format!("log.file={}", text(&log)?);
        start.arguments.extend(["--set".to_owned(), log]);
    }
    CURRENT_USER.create(RUN)?.set_string(NAME, command(&start)?)?;
    Ok(())
}

pub(super) fn disable() -> io::Result<()> {
    match registered()? {
        Some(_) => Ok(CURRENT_USER.create(RUN)?.remove_value(NAME)?),
        None => Ok(()),
    }
}

/// Finds the entry that starts the agent, if there is one.
pub(super) fn registered() -> io::Result<Option<Registered>> {
    let entry = CURRENT_USER.open(RUN).and_then(|run| run.get_string(NAME)).ok();
    Ok(entry.map(|entry| {
        let program = entry.split('"').find(|word| !word.trim().is_empty()).map(PathBuf::from);
        Registered { entry, program }
    }))
}

/// Joins the program and its arguments to a command line, each word quoted. Paths on Windows cannot
/// contain quotes.
fn command(start: &Start) -> io::Result<String> {
    let program = text(&start.program)?;
    let words = std::iter::once(&program).chain(&start.arguments);
    Ok(words.map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" "))
}

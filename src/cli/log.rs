//! The log: on standard error, so that standard output is free for links and receipts, or in a file
//! that is rotated at a size limit, with one old file.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::cli::terminal::OutputStream;
use crate::cli::{eprint_line, private_file, terminal};
use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::platform::clock;
use crate::remote_text::escape;

/// The size at which a log file is rotated; it replaces the previous rotated file.
pub(crate) const LOG_FILE_BYTES: u64 = 4 << 20;

/// Changes the level of the running log.
static SET_LEVEL: OnceLock<Box<dyn Fn(LogLevel) + Send + Sync>> = OnceLock::new();

/// Starts the log. Later calls in a process have no effect.
pub(super) fn start(log: &LogConfig) {
    let file = log.file.as_deref().and_then(|path| match LogFile::open(path) {
        Ok(file) => Some(file),
        Err(error) => {
            eprint_line(format_args!("pitwire: log.file {}: {error}", path.display()));
            None
        }
    });
    let in_color = file.is_none() && terminal::has_colors();
    let is_read_live =
        file.is_none() && log.format == LogFormat::Text && io::stderr().is_terminal();
    let timer = if is_read_live { LogTime::OfDay } else { LogTime::Full };
    let writer = match file {
        Some(file) => BoxMakeWriter::new(Mutex::new(OneLine(file))),
        None => BoxMakeWriter::new(move || OneLine(ToTerminal { folds: is_read_live })),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(log.level))
        .with_ansi(in_color)
        .with_target(false)
        .with_timer(timer)
        // It would print internal errors on stderr, and panic if that is closed.
        .log_internal_errors(false)
        .with_writer(writer);
    let (started, set_level): (_, Box<dyn Fn(LogLevel) + Send + Sync>) = match log.format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Box::new(move |level| drop(handle.reload(filter(level)))))
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Box::new(move |level| drop(handle.reload(filter(level)))))
        }
    };
    if started.is_ok() {
        let _ = SET_LEVEL.set(set_level);
    }
}

/// Changes the level: lines of this level and more important ones are logged.
pub(super) fn set_level(level: LogLevel) {
    if let Some(set_level) = SET_LEVEL.get() {
        set_level(level);
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    // The libraries log much at the finer levels, including session ids.
    let libraries = "rust_socketio=off,rust_engineio=off,tungstenite=off,sled=off,engineioxide=off,async_nats=off";
    EnvFilter::new(format!("{},{libraries}", level.as_str()))
}

/// Writer that escapes line breaks and control characters, so that an entry is always one line and
/// cannot control the terminal. Each write is one line.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(one_line(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Escapes a line, except for its line break and its colour codes.
fn one_line(line: &str) -> String {
    let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
    let mut pieces = line.split("\u{1b}[");
    let mut shown = escape(pieces.next().unwrap_or_default()).into_owned();
    for piece in pieces {
        let text = piece.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        let start = if text.starts_with('m') { "\u{1b}[" } else { "\\u001b[" };
        shown.push_str(start);
        shown.push_str(&escape(piece));
    }
    shown + end
}

/// The time at the start of a log line, in UTC.
#[derive(Clone, Copy)]
enum LogTime {
    /// For a file or another program: date and time, such as `2026-05-31T14:03:07.421Z`.
    Full,
    /// For a person who watches the terminal: `14:03:07Z`.
    OfDay,
}

impl FormatTime for LogTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let now = clock::now().to_string();
        match (self, now.split_once('T').and_then(|(_, time)| time.split_once('.'))) {
            (Self::OfDay, Some((time, _))) => write!(w, "{time}Z"),
            _ => w.write_str(&now),
        }
    }
}

/// Writes to standard error, above the status line if there is one.
struct ToTerminal {
    /// Whether long lines are broken between words.
    folds: bool,
}

/// Each call is one line.
impl Write for ToTerminal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.folds {
            let text = String::from_utf8_lossy(line);
            let text = terminal::folded(OutputStream::Err, &text, terminal::HANGING_INDENT);
            terminal::log(text.as_bytes());
        } else {
            terminal::log(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log file that is renamed to `*.old` when it is full.
struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    most: u64,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            private_file::create_folder(folder)?;
        }
        let file = private_file::options().create(true).append(true).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.into(), file, len, most: LOG_FILE_BYTES })
    }

    /// Rotates the file. If it cannot be renamed, it is emptied.
    fn turn(&mut self) {
        let old = self.path.with_added_extension("old");
        if fs::rename(&self.path, old).is_ok()
            && let Ok(next) = Self::open(&self.path)
        {
            *self = Self { most: self.most, ..next };
        } else if self.file.set_len(0).is_ok() {
            // Another process may have the old file open. Losing lines is better than growing
            // without limit.
            self.len = 0;
        }
    }
}

/// Each call is one line.
impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.len > 0 && self.len + line.len() as u64 > self.most {
            self.turn();
        }
        self.file.write_all(line)?;
        self.len += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_a_log_line_are_escaped() {
        for (line, shown) in [
            ("\u{1b}[2mtime\u{1b}[0m \u{1b}[1;31mERROR\u{1b}[0m é\n", None),
            ("a\nb\n", Some("a\\nb\n")),
            ("\u{1b}[2J\u{1b}]0;x\u{7}", Some("\\u001b[2J\\u001b]0;x\\u0007")),
            ("\u{9b}2J \u{202e}x", Some("\\u009b2J \\u202ex")),
        ] {
            assert_eq!(one_line(line), shown.unwrap_or(line));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_new_log_file_is_readable_only_by_its_owner() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new folder").join("pitwire.log");
        LogFile::open(&path).unwrap();
        let modes = [path.as_path(), path.parent().unwrap()]
            .map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
        assert_eq!(modes, [0o600, 0o700]);
    }

    #[test]
    fn log_rotation_keeps_only_the_newest_lines_in_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new folder").join("pitwire.log");
        for from in [0, 50] {
            let mut log = LogFile { most: 100, ..LogFile::open(&path).unwrap() };
            (from..from + 50).for_each(|number| {
                log.write_all(format!("line {number:03}\n").as_bytes()).unwrap()
            });
        }
        let [new, old] = [path.clone(), path.with_added_extension("old")]
            .map(|path| fs::read_to_string(path).unwrap());
        assert!(new.len() <= 100 && old.len() <= 100, "{} {}", new.len(), old.len());
        let lines: Vec<_> = old.lines().chain(new.lines()).map(str::to_owned).collect();
        let newest: Vec<_> =
            (100 - lines.len()..100).map(|number| format!("line {number:03}")).collect();
        assert!(lines.len() > 11, "{lines:?}");
        assert_eq!(lines, newest);
    }
}

//! The status line at the bottom of a terminal, with all other output above it.
//!
//! All output to stdout and stderr passes through this module, since both may be the same terminal.
//! While there is a status line, only a dedicated thread writes: the user can stop a terminal, with
//! Ctrl-S or a click into a Windows console, and then writes to it block. The agent must not block.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use console::Term;

use crate::status::{Badge, Severity};

/// Maximum number of texts that wait for a stopped terminal; further log lines are discarded.
const TERMINAL_TEXTS: usize = 256;

/// Channel to the writer thread, while there is a status line.
static WRITER: Mutex<Option<SyncSender<Piece>>> = Mutex::new(None);
/// Number of log lines dropped because the terminal was stopped.
static DISCARDED_LINES: AtomicU64 = AtomicU64::new(0);

/// Columns kept free to the right of the status line, for the ^C that a terminal echoes: if it
/// wrapped to the next row, the status line could not be removed.
const MARGIN: usize = 3;

/// Between two parts of the status line.
const PART_SEPARATOR: &str = " | ";

/// Terminals with fewer columns wrap the text themselves: folding would leave too little of a line.
const MIN_FOLD_COLUMNS: usize = 30;

/// Indentation of the continuation lines of a log line or a finding of the doctor: the width of the
/// time or the severity before the text.
pub(super) const HANGING_INDENT: usize = 9;

/// An output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutputStream {
    Out,
    Err,
}

/// A message to the writer thread.
enum Piece {
    /// The status line has changed.
    Line,
    /// Complete lines to print above the status line.
    Text(OutputStream, Vec<u8>),
}

/// Whether output was lost because stdout failed.
static OUTPUT_LOST: AtomicBool = AtomicBool::new(false);

/// Whether output was lost because stdout failed, for example on a full disk. A closed pipe is not
/// a failure: a reader such as `head` has read enough.
pub(super) fn is_output_lost() -> bool {
    OUTPUT_LOST.load(Ordering::Relaxed)
}

/// Writes complete lines. An error of stdout is reported once, and remembered for
/// [`is_output_lost`].
pub(super) fn write(stream: OutputStream, text: Vec<u8>) {
    // Release the lock before sending: `send` may block.
    let writer = writer().clone();
    let unsent = match writer {
        Some(writer) => writer.send(Piece::Text(stream, text)).err().map(|error| error.0),
        None => Some(Piece::Text(stream, text)),
    };
    if let Some(Piece::Text(stream, text)) = unsent {
        write_at_once(stream, &text);
    }
}

/// Writes a log line to stderr. If the writer thread's buffer is full, the line is dropped and
/// counted.
pub(super) fn log(text: &[u8]) {
    let writer = writer().clone();
    match writer.map(|writer| writer.try_send(Piece::Text(OutputStream::Err, text.to_vec()))) {
        Some(Ok(())) => {}
        Some(Err(TrySendError::Full(_))) => {
            DISCARDED_LINES.fetch_add(1, Ordering::Relaxed);
        }
        Some(Err(TrySendError::Disconnected(_))) | None => write_at_once(OutputStream::Err, text),
    }
}

/// Folds a text between words to fit the terminal; unchanged if the stream is not a terminal.
pub(super) fn folded(stream: OutputStream, text: &str, indent: usize) -> Cow<'_, str> {
    let term = match stream {
        OutputStream::Out => Term::stdout(),
        OutputStream::Err => Term::stderr(),
    };
    match term.size_checked().filter(|_| term.is_term() && !console::is_dumb()) {
        Some((_, columns)) if usize::from(columns) >= MIN_FOLD_COLUMNS => {
            fold(text, columns.into(), indent).into()
        }
        _ => text.into(),
    }
}

/// Breaks lines between words. A word that is longer than a line, such as an address, stays on the
/// current line: the terminal breaks it either way.
fn fold(text: &str, columns: usize, indent: usize) -> String {
    let mut folded = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut column = 0;
        for (number, word) in line.split(' ').enumerate() {
            let width = console::measure_text_width(word.trim_end_matches('\n'));
            let is_full = column + 1 + width > columns;
            if number > 0 && is_full && column > indent && indent + width <= columns {
                folded.push('\n');
                folded.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else if number > 0 {
                folded.push(' ');
                column += 1;
            }
            folded.push_str(word);
            column =
                if column + width > columns { (column + width) % columns } else { column + width };
        }
    }
    folded
}

/// The status line without its last parts, as far as they do not fit the terminal: a number that is cut
/// off would look like another one. A first part that is too long is cut off.
fn fitted(line: &str, columns: usize) -> Cow<'_, str> {
    let mut parts = line;
    while console::measure_text_width(parts) > columns {
        match parts.rsplit_once(PART_SEPARATOR) {
            Some((front, _)) => parts = front,
            None => return console::truncate_str(parts, columns, ""),
        }
    }
    parts.into()
}

/// Whether standard error shows colours: it must be a terminal that is not dumb, and `NO_COLOR`
/// must not be set. On Windows this call also enables colours in the console.
pub(super) fn has_colors() -> bool {
    Term::stderr().features().colors_supported()
}

/// The text of a status badge in the colour of its severity.
pub(super) fn colored(badge: &Badge) -> String {
    let text = console::style(&badge.text).force_styling(has_colors());
    match badge.severity {
        Severity::Good => text.green(),
        Severity::Waiting => text.yellow(),
        Severity::Bad => text.red(),
    }
    .to_string()
}

/// The status line at the bottom of the terminal; removed on drop.
#[derive(Debug)]
pub(super) struct StatusLine {
    text: Arc<Mutex<String>>,
    /// Disconnects when the writer thread has removed the line.
    removed: Mutex<Receiver<Infallible>>,
    patience: Duration,
}

impl StatusLine {
    /// Creates an empty line; `None` if standard error is not a terminal that can overwrite a line.
    /// On drop, waits at most `patience` for a stopped terminal.
    pub(super) fn begin(patience: Duration) -> Option<Self> {
        let term = Term::buffered_stderr();
        if !term.is_term() || console::is_dumb() {
            return None;
        }
        let (sender, pieces) = sync_channel(TERMINAL_TEXTS);
        let (remove, removed) = sync_channel(0);
        let line = Self { text: Arc::default(), removed: Mutex::new(removed), patience };
        let text = Arc::clone(&line.text);
        thread::Builder::new()
            .name("terminal".into())
            .spawn(move || {
                // The terminal may have been closed.
                let _ = Bottom { term, text }.write(&pieces);
                drop::<SyncSender<Infallible>>(remove);
            })
            .ok()?;
        *writer() = Some(sender);
        Some(line)
    }

    /// Replaces the text of the line.
    pub(super) fn show(&self, text: String) {
        let mut shown = lock(&self.text);
        if *shown != text {
            *shown = text;
            // If the channel is full, the pending messages redraw the line too.
            let _ = writer().as_ref().map(|writer| writer.try_send(Piece::Line));
        }
    }
}

/// Removes the line and waits until everything written before is on the terminal.
impl Drop for StatusLine {
    fn drop(&mut self) {
        writer().take();
        let _ = lock(&self.removed).recv_timeout(self.patience);
    }
}

/// The writer thread's view of the terminal.
struct Bottom {
    term: Term,
    text: Arc<Mutex<String>>,
}

impl Bottom {
    fn write(mut self, pieces: &Receiver<Piece>) -> io::Result<()> {
        for piece in pieces {
            if is_in_background() {
                // The bottom line belongs to the shell.
                if let Piece::Text(stream, text) = piece {
                    write_at_once(stream, &text);
                }
                continue;
            }
            self.term.clear_line()?;
            let discarded = DISCARDED_LINES.swap(0, Ordering::Relaxed);
            if discarded > 0 {
                let text = "log lines dropped: the terminal was stopped";
                writeln!(self.term, "pitwire: {discarded} {text}")?;
            }
            match piece {
                Piece::Line => {}
                Piece::Text(OutputStream::Err, text) => self.term.write_all(&text)?,
                Piece::Text(OutputStream::Out, text) => {
                    self.term.flush()?;
                    write_at_once(OutputStream::Out, &text);
                }
            }
            let text = lock(&self.text).clone();
            let columns = usize::from(self.term.size().1).saturating_sub(MARGIN);
            self.term.write_str(&fitted(&text, columns))?;
            self.term.flush()?;
        }
        if !is_in_background() {
            self.term.clear_line()?;
        }
        self.term.flush()
    }
}

/// Whether another program controls the terminal, such as the shell after `pitwire run &`.
#[cfg(target_os = "linux")]
fn is_in_background() -> bool {
    let foreground = rustix::termios::tcgetpgrp(io::stderr());
    foreground.is_ok_and(|group| group != rustix::process::getpgrp())
}

#[cfg(not(target_os = "linux"))]
fn is_in_background() -> bool {
    false
}

fn write_at_once(stream: OutputStream, text: &[u8]) {
    match stream {
        OutputStream::Out => {
            let mut out = io::stdout().lock();
            note_output(out.write_all(text).and_then(|()| out.flush()));
        }
        // A failure of stderr cannot be reported anywhere.
        OutputStream::Err => drop(io::stderr().write_all(text)),
    }
}

/// Reports the first error of stdout on stderr.
pub(super) fn note_output(written: io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() != io::ErrorKind::BrokenPipe && !OUTPUT_LOST.swap(true, Ordering::Relaxed) {
        let text = format!("pitwire: cannot write standard output: {error}; output is lost\n");
        write_at_once(OutputStream::Err, text.as_bytes());
    }
}

fn writer() -> MutexGuard<'static, Option<SyncSender<Piece>>> {
    lock(&WRITER)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_folded_between_words_unless_a_word_is_longer_than_a_line() {
        for (text, expected) in [
            ("a fit\n", "a fit\n"),
            ("one two three four\nfive\n", "one two\n  three\n  four\nfive\n"),
            // The terminal breaks the address; its last row has room for the next word.
            ("see http://localhost:5000 now\n", "see http://localhost:5000 now\n"),
            ("see http://localhost:50000000 now\n", "see http://localhost:50000000\n  now\n"),
            ("\u{1b}[2mone\u{1b}[0m two x\n", "\u{1b}[2mone\u{1b}[0m two\n  x\n"),
            ("  -> do that\n", "  -> do\n  that\n"),
            ("", ""),
        ] {
            assert_eq!(fold(text, 8, 2), expected, "{text:?}");
        }
    }

    #[test]
    fn the_status_line_loses_whole_parts_in_a_narrow_terminal() {
        let line = "Live | queued 0 | in 2.3/s | out 2.3/s";
        for (columns, expected) in
            [(38, line), (37, "Live | queued 0 | in 2.3/s"), (10, "Live"), (3, "Liv")]
        {
            assert_eq!(fitted(line, columns), expected);
        }
    }
}

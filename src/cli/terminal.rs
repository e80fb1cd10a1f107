//! The line at the bottom of a terminal, with everything else above it.
//!
//! What goes to either stream goes through here, since both may be the same terminal. While there is
//! a line, a thread writes and nobody else: a terminal can be stopped, by Ctrl-S or a click into a
//! Windows console, and then whoever writes to it waits. The agent must not.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use console::Term;

use crate::config::{LINE_INTERVAL, RATE_WINDOW, TERMINAL_TEXTS};
use crate::status::{Mood, Pill};

/// The thread that writes, while there is a line.
static WRITER: Mutex<Option<SyncSender<Piece>>> = Mutex::new(None);
/// Lines of the log that found no room while the terminal was stopped.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Columns that stay free to the right of the line, for the ^C that a terminal shows: in the next row
/// it would keep the line from being removed.
const MARGIN: usize = 3;

/// Where text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// What the thread is told.
enum Piece {
    /// The line has changed.
    Line,
    /// Whole lines, to stand above it.
    Text(Stream, Vec<u8>),
}

/// Writes whole lines. That nobody reads them is no reason to end.
pub(super) fn write(stream: Stream, text: Vec<u8>) {
    // Not sent under the lock: it may wait.
    let writer = writer().clone();
    let unsent = match writer {
        Some(writer) => writer.send(Piece::Text(stream, text)).err().map(|error| error.0),
        None => Some(Piece::Text(stream, text)),
    };
    if let Some(Piece::Text(stream, text)) = unsent {
        write_at_once(stream, &text);
    }
}

/// The same for a line of the log, which is left out when too much waits for the terminal already.
pub(super) fn log(text: &[u8]) {
    let writer = writer().clone();
    match writer.map(|writer| writer.try_send(Piece::Text(Stream::Err, text.to_vec()))) {
        Some(Ok(())) => {}
        Some(Err(TrySendError::Full(_))) => {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        }
        Some(Err(TrySendError::Disconnected(_))) | None => write_at_once(Stream::Err, text),
    }
}

/// Whether standard error shows colours: a terminal does, unless `NO_COLOR` is set or it is a dumb
/// one. On Windows this makes the console understand them.
pub(super) fn has_colors() -> bool {
    Term::stderr().features().colors_supported()
}

/// The words in the colour of their mood.
pub(super) fn colored(pill: &Pill) -> String {
    let text = console::style(&pill.text).force_styling(has_colors());
    match pill.mood {
        Mood::Good => text.green(),
        Mood::Waiting => text.yellow(),
        Mood::Bad => text.red(),
    }
    .to_string()
}

/// A line at the bottom of the terminal, for as long as this lives.
#[derive(Debug)]
pub(super) struct Line {
    text: Arc<Mutex<String>>,
    /// Disconnected once the line is removed.
    removed: Receiver<Infallible>,
    patience: Duration,
}

impl Line {
    /// An empty one; `None` where standard error is no terminal that can write a line anew. At its
    /// end a stopped terminal is waited for so long.
    pub(super) fn begin(patience: Duration) -> Option<Self> {
        let term = Term::buffered_stderr();
        if !term.is_term() || console::is_dumb() {
            return None;
        }
        let (sender, pieces) = sync_channel(TERMINAL_TEXTS);
        let (remove, removed) = sync_channel(0);
        let line = Self { text: Arc::default(), removed, patience };
        let text = Arc::clone(&line.text);
        let work = move || {
            // Whoever reads it may be gone.
            let _ = Bottom { term, text }.write(&pieces);
            drop::<SyncSender<Infallible>>(remove);
        };
        thread::Builder::new().name("terminal".into()).spawn(work).ok()?;
        *writer() = Some(sender);
        Some(line)
    }

    /// From now on it says this.
    pub(super) fn show(&self, text: String) {
        let mut shown = lock(&self.text);
        if *shown != text {
            *shown = text;
            // Where there is no room for this one, there are others that show the line too.
            let _ = writer().as_ref().map(|writer| writer.try_send(Piece::Line));
        }
    }
}

/// Removes the line, and returns when all that was written before stands there.
impl Drop for Line {
    fn drop(&mut self) {
        writer().take();
        let _ = self.removed.recv_timeout(self.patience);
    }
}

/// The bottom of the terminal, as the thread has it.
struct Bottom {
    term: Term,
    text: Arc<Mutex<String>>,
}

impl Bottom {
    fn write(mut self, pieces: &Receiver<Piece>) -> io::Result<()> {
        for piece in pieces {
            if is_in_background() {
                // The bottom line is the shell's.
                if let Piece::Text(stream, text) = piece {
                    write_at_once(stream, &text);
                }
                continue;
            }
            self.term.clear_line()?;
            let left_out = LEFT_OUT.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                let text = "lines of the log are left out: the terminal was stopped";
                writeln!(self.term, "pitwire: {left_out} {text}")?;
            }
            match piece {
                Piece::Line => {}
                Piece::Text(Stream::Err, text) => self.term.write_all(&text)?,
                Piece::Text(Stream::Out, text) => {
                    self.term.flush()?;
                    write_at_once(Stream::Out, &text);
                }
            }
            let text = lock(&self.text).clone();
            let width = usize::from(self.term.size().1).saturating_sub(MARGIN);
            self.term.write_str(&console::truncate_str(&text, width, ""))?;
            self.term.flush()?;
        }
        if !is_in_background() {
            self.term.clear_line()?;
        }
        self.term.flush()
    }
}

/// Whether another program has the terminal: the shell, say, after `pitwire run &`.
#[cfg(target_os = "linux")]
fn is_in_background() -> bool {
    let foreground = rustix::termios::tcgetpgrp(io::stderr());
    foreground.is_ok_and(|group| group != rustix::process::getpgrp())
}

#[cfg(not(target_os = "linux"))]
fn is_in_background() -> bool {
    false
}

fn write_at_once(stream: Stream, text: &[u8]) {
    let _ = match stream {
        Stream::Out => io::stdout().write_all(text),
        Stream::Err => io::stderr().write_all(text),
    };
}

fn writer() -> MutexGuard<'static, Option<SyncSender<Piece>>> {
    lock(&WRITER)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far a work is that has an end, on a line in the terminal.
#[derive(Debug)]
pub(super) struct Progress {
    line: Option<Line>,
    what: String,
    of: u64,
    rate: Rate,
    looked: Option<Instant>,
}

impl Progress {
    /// Of so many entries or bytes nothing is done yet.
    pub(super) fn begin(what: impl Into<String>, of: u64) -> Self {
        // What a tool has found is not left out: it waits for a stopped terminal, as any tool does.
        let line = Line::begin(Duration::MAX);
        let mut progress =
            Self { line, what: what.into(), of, rate: Rate::default(), looked: None };
        progress.at(0);
        progress
    }

    /// One that nobody sees.
    pub(super) fn hidden() -> Self {
        Self { line: None, what: String::new(), of: 0, rate: Rate::default(), looked: None }
    }

    /// So many are done.
    pub(super) fn at(&mut self, done: u64) {
        let Some(line) = &self.line else { return };
        let now = Instant::now();
        let is_soon = self.looked.is_some_and(|looked| now - looked < LINE_INTERVAL);
        if is_soon && done < self.of {
            return;
        }
        self.looked = Some(now);
        let rate = self.rate.look(now, done as f64);
        line.show(format!("{}: {}", self.what, how_far(done as f64, self.of as f64, rate)));
    }
}

/// "40 %, 14 s left", at so much a second.
pub(super) fn how_far(done: f64, of: f64, rate: Option<f64>) -> String {
    if done >= of {
        return "100 %".into();
    }
    let percent = (100.0 * done / of).floor();
    match rate.filter(|rate| *rate > 0.0) {
        Some(rate) => format!("{percent} %, {} left", span((of - done) / rate)),
        None => format!("{percent} %"),
    }
}

/// So many seconds, as people say it.
fn span(seconds: f64) -> String {
    // An estimate that nobody lives to see.
    let seconds = seconds.ceil().min(360_000_000.0) as u64;
    match seconds.div_ceil(60) {
        0..=1 => format!("{seconds} s"),
        minutes @ 2..60 => format!("{minutes} min"),
        minutes => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// How fast a number grows, by looks at it over the last [`RATE_WINDOW`].
#[derive(Debug, Default)]
pub(super) struct Rate(VecDeque<(Instant, f64)>);

impl Rate {
    /// One more look: so much it grows a second, `None` after the first.
    pub(super) fn look(&mut self, now: Instant, number: f64) -> Option<f64> {
        self.0.push_back((now, number));
        while self.0.get(1).is_some_and(|(at, _)| now - *at >= RATE_WINDOW) {
            self.0.pop_front();
        }
        let (at, first) = *self.0.front()?;
        let seconds = (now - at).as_secs_f64();
        (seconds > 0.0).then(|| (number - first).max(0.0) / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_how_far_it_is_and_how_long_it_takes() {
        for (done, of, rate, said) in [
            (0.0, 200.0, None, "0 %"),
            (50.0, 200.0, Some(0.0), "25 %"),
            (50.0, 200.0, Some(10.0), "25 %, 15 s left"),
            (199.9, 200.0, Some(10.0), "99 %, 1 s left"),
            (0.0, 600.0, Some(10.0), "0 %, 60 s left"),
            (0.0, 601.0, Some(10.0), "0 %, 2 min left"),
            (0.0, 71_990.0, Some(10.0), "0 %, 2 h 0 min left"),
            (0.0, 1e300, Some(1e-9), "0 %, 100000 h 0 min left"),
            (200.0, 200.0, Some(10.0), "100 %"),
            (300.0, 200.0, None, "100 %"),
            (0.0, 0.0, None, "100 %"),
        ] {
            assert_eq!(how_far(done, of, rate), said);
        }
    }

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        let start = Instant::now();
        let mut look = |second: u64, number: u64| {
            rate.look(start + Duration::from_secs(second), number as f64)
        };
        assert_eq!(look(0, 1000), None);
        assert_eq!(look(1, 1002), Some(2.0));
        assert_eq!(look(2, 1000), Some(0.0), "less is no rate");
        for second in 3..=30 {
            look(second, 1000 + 5 * second);
        }
        assert_eq!(look(31, 1150), Some(4.5));
        // A work whose steps take longer than that has a rate all the same.
        assert_eq!(look(61, 1450), Some(10.0));
        assert!(rate.0.len() < 13, "{rate:?}");
    }
}

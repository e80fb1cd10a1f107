//! Runs a program in its own pseudo-terminal and reads the screen as a user sees it.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::agent::{PATIENCE, eventually, within};

/// Enough rows that nothing scrolls off.
const ROWS: NonZero<u16> = NonZero::new(500).unwrap();

/// A program and its terminal. Dropping it kills the program.
pub struct Screen {
    child: Child,
    keyboard: File,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
}

/// The raw output, and the screen that it produces.
struct Seen {
    bytes: Vec<u8>,
    parser: vt100::Parser,
}

impl Screen {
    /// Starts the command with all its streams on a terminal of this width, except the streams
    /// that `redirect` sends elsewhere.
    pub fn start(command: &Command, columns: u16, redirect: impl FnOnce(&mut Command)) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        // Close-on-exec, so that the programs of other tests do not keep it open.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        let size = Winsize { ws_row: ROWS.get(), ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).unwrap();
        // In a new session with this controlling terminal: otherwise Ctrl-C would not end it.
        let mut whole = Command::new("setsid");
        whole.arg("--ctty").arg(command.get_program()).args(command.get_args());
        take_environment(&mut whole, command);
        let stream = |theirs: &OwnedFd| Stdio::from(theirs.try_clone().unwrap());
        whole.stdin(stream(&theirs)).stdout(stream(&theirs)).stderr(stream(&theirs));
        redirect(&mut whole);
        let child = whole.spawn().unwrap();
        let keyboard = File::from(ours);
        let parser = vt100::Parser::new(ROWS, NonZero::new(columns).unwrap(), 0);
        let seen = Arc::new(Mutex::new(Seen { bytes: Vec::new(), parser }));
        let (mut output, look) = (keyboard.try_clone().unwrap(), Arc::clone(&seen));
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The read fails once no program has the terminal open.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let mut seen = look.lock().unwrap();
                seen.bytes.extend_from_slice(&buffer[..count]);
                seen.parser.process(&buffer[..count]);
            }
        });
        Self { child, keyboard, seen, reader: Some(reader) }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Types these keys.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// The raw output, escape sequences included.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap().bytes).into_owned()
    }

    /// The rows down to the cursor's, without trailing empty rows.
    pub fn rows(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let screen = seen.parser.screen();
        let down_to = usize::from(screen.cursor_position().0) + 1;
        let mut rows: Vec<_> = screen.rows(0, screen.size().1.into()).take(down_to).collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }

    /// The row with the cursor.
    pub fn bottom(&self) -> String {
        let seen = self.seen.lock().unwrap();
        let screen = seen.parser.screen();
        let (row, _) = screen.cursor_position();
        screen.contents_between(row, 0, row, screen.size().1.into())
    }

    /// Row and column of the cursor, from 0.
    pub fn cursor(&self) -> (u16, u16) {
        self.seen.lock().unwrap().parser.screen().cursor_position()
    }

    /// Waits until the row with the cursor satisfies `fits`, and returns it.
    pub async fn shows(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let bottom = async || Some(self.bottom()).filter(|bottom| fits(bottom));
        match within(PATIENCE, bottom).await {
            Some(bottom) => bottom,
            None => panic!("{what}: not within {PATIENCE:?}"),
        }
    }

    /// Waits until some row satisfies `fits`, and returns it.
    pub async fn has(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let row = async || self.rows().into_iter().find(|row| fits(row));
        eventually(what, row).await
    }

    /// The exit code, or `None` if the program does not exit within `limit`. All its output has
    /// been read by then.
    pub async fn exit_code(&mut self, limit: Duration) -> Option<i32> {
        let status = within(limit, async || self.child.try_wait().unwrap()).await?;
        self.reader.take().into_iter().for_each(|reader| reader.join().unwrap());
        status.code()
    }
}

/// Copies the environment settings of one command to another.
pub fn take_environment(command: &mut Command, other: &Command) {
    for (name, value) in other.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let rows = self.rows();
            eprintln!("on the screen:\n{}", rows[rows.len().saturating_sub(30)..].join("\n"));
        }
    }
}

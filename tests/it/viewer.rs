//! A viewer of the pages that bypasses the faults injected into the agent's network: the program
//! `tests/peers/viewer.py`, which shares no code with the agent.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::peers;

/// A shown frame: the index of the page in the order of opening, and the lap.
pub type Shown = (usize, u64);

/// A running viewer. Dropping it kills the process.
#[derive(Debug)]
pub struct Viewer {
    child: Child,
    pages: ChildStdin,
    /// The sessions of the opened pages, and the frames that they showed.
    seen: Arc<Mutex<(Vec<String>, Vec<Shown>)>>,
}

impl Viewer {
    /// Starts a viewer of the server at `url`, with no page open.
    pub fn start(url: &str) -> Self {
        let mut child = peers::python("viewer.py")
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the viewer starts");
        let seen = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let notes = Arc::clone(&seen);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| note(&notes, &line)));
        let pages = child.stdin.take().unwrap();
        Self { child, pages, seen }
    }

    /// Opens the page behind a link unless it is already open.
    pub fn open(&mut self, link: &str) {
        let session = link.rsplit('/').next().unwrap();
        let mut seen = self.seen.lock().unwrap();
        if !seen.0.iter().any(|known| known == session) {
            seen.0.push(session.into());
            writeln!(self.pages, "{session}").expect("the viewer listens");
        }
    }

    /// Everything shown so far, in order.
    pub fn seen(&self) -> Vec<Shown> {
        self.seen.lock().unwrap().1.clone()
    }

    /// The number of opened pages.
    pub fn pages(&self) -> usize {
        self.seen.lock().unwrap().0.len()
    }
}

fn note(seen: &Mutex<(Vec<String>, Vec<Shown>)>, line: &str) {
    let (session, lap) = line.split_once(' ').expect("SESSION LAP");
    let mut seen = seen.lock().unwrap();
    let page = seen.0.iter().position(|known| known == session).expect("an open page");
    seen.1.push((page, lap.parse().expect("a lap")));
}

impl Drop for Viewer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

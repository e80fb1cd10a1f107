//! How fast frames are ingested and stored, durable within 200 ms, beside other queues on the same
//! disk: over HTTP, as lines on a pipe, and as lines for the others.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::agent::{self, Agent};
use crate::clients::python;
use crate::lap;
use crate::queue::{place, runtime};
use crate::syslog::{self, Syslog};
use crate::table::Report;

const FRAMES: usize = 60_000;
/// Frames in one HTTP request.
const BATCH: usize = 1_000;
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// An address where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";
const SETTINGS: [&str; 3] =
    ["queue.durability=200ms", "source.stdin.receipts=false", "log.level=info"];

pub(crate) fn measure(report: &mut Report) {
    let lines = lap::lines(FRAMES);
    let runtime = runtime();
    for clients in [1, 2] {
        let name = format!("ingest over HTTP, batches of {BATCH}, clients: {clients}");
        report.row(&name, "frames/s", || runtime.block_on(over_http(&lines, clients)));
    }
    report.row("ingest as lines on stdin", "frames/s", || runtime.block_on(on_stdin(&lines)));
    report.row("ingest by SQLite (WAL, full sync, a transaction every 200 ms)", "frames/s", || {
        by_sqlite(&lines)
    });
    report.row("ingest by a plain file, fdatasync every 200 ms", "frames/s", || by_file(&lines));
    for daemon in syslog::ALL {
        let name = format!("ingest by {}, disk queue", daemon.name());
        match syslog::home() {
            None => report.absent(&name, "benches/setup.sh installs it"),
            Some(home) => report.row(&name, "frames/s", || by_syslog(daemon, &home, &lines)),
        }
    }
    report.absent("ingest by Fluent Bit", "Debian has no package of it");
}

async fn over_http(lines: &[String], clients: usize) -> f64 {
    let place = place();
    let agent = Agent::start(place.path(), NOWHERE, &SETTINGS);
    let bodies: Vec<String> = lines.chunks(BATCH).map(<[String]>::concat).collect();
    let url = agent.address("telemetry").await + "/v1/telemetry";
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let started = Instant::now();
    join_all((0..clients).map(|client| {
        let (http, url, bodies) = (&http, &url, &bodies);
        async move {
            for body in bodies.iter().skip(client).step_by(clients) {
                let request = http.post(url).body(body.clone());
                assert_eq!(request.send().await.unwrap().status(), 200);
            }
        }
    }))
    .await;
    let rate = lines.len() as f64 / started.elapsed().as_secs_f64();
    assert_eq!(agent.metric("pitwire_queue_entries").await, lines.len() as f64);
    rate
}

async fn on_stdin(lines: &[String]) -> f64 {
    let place = place();
    let agent = Agent::start(place.path(), NOWHERE, &SETTINGS);
    agent.address("metrics").await;
    let text = [lines.concat().trim_end().to_owned()];
    let started = Instant::now();
    agent.feed(&text);
    while agent.metric("pitwire_queue_entries").await < lines.len() as f64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lines.len() as f64 / started.elapsed().as_secs_f64()
}

fn by_sqlite(lines: &[String]) -> f64 {
    let place = place();
    let mut child = python("sqlite_queue.py")
        .arg(place.path().join("queue.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // It prints a line when it is ready, and another when everything is stored.
    stdout.read_exact(&mut [0]).unwrap();
    let started = Instant::now();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.concat().as_bytes()).unwrap();
    drop(stdin);
    stdout.read_exact(&mut [0]).unwrap();
    let rate = lines.len() as f64 / started.elapsed().as_secs_f64();
    assert!(child.wait().unwrap().success());
    rate
}

/// The limit of the disk and a single thread: raw bytes.
fn by_file(lines: &[String]) -> f64 {
    let place = place();
    let mut file = File::create(place.path().join("frames")).unwrap();
    let started = Instant::now();
    let mut flushed = started;
    for line in lines {
        file.write_all(line.as_bytes()).unwrap();
        if flushed.elapsed() >= FLUSH_INTERVAL {
            file.sync_data().unwrap();
            flushed = Instant::now();
        }
    }
    file.sync_data().unwrap();
    lines.len() as f64 / started.elapsed().as_secs_f64()
}

/// Waits until its disk queue is as large as the input, because the daemon does not report what it
/// has stored.
fn by_syslog(daemon: Syslog, home: &Path, lines: &[String]) -> f64 {
    let place = place();
    let running = syslog::start(daemon, home, place.path(), 9);
    let messages = syslog::messages(lines);
    let started = Instant::now();
    let mut socket = running.connect();
    let feeder = {
        let messages = messages.clone();
        thread::spawn(move || {
            socket.write_all(&messages).and_then(|()| socket.flush()).map(|()| socket)
        })
    };
    let wanted = lines.iter().map(|line| line.len() as u64).sum::<u64>();
    while syslog::queued_bytes(place.path()) < wanted {
        assert!(started.elapsed() < agent::PATIENCE, "{daemon:?} does not store all");
        thread::sleep(Duration::from_millis(5));
    }
    let rate = lines.len() as f64 / started.elapsed().as_secs_f64();
    drop(feeder.join().unwrap().unwrap());
    rate
}

/// A child process that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes of the files below a directory that may be changing.
pub(crate) fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

//! A race without an outage: latency of each frame at the server, and the publisher's CPU and
//! memory, at several rates.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::agent::pitwire;
use crate::bare;
use crate::clients::{node, python};
use crate::ingest::Ended;
use crate::lap;
use crate::peers::{Kind, Peer};
use crate::process::{Look, Took};
use crate::queue::place;
use crate::syslog::{self, Syslog};
use crate::table::Report;

/// Warm-up before measuring: sessions are bound and memory pages are loaded.
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(10);

const LATENCY: [(&str, &str); 3] =
    [("latency, median", "ms"), ("latency, 99 %", "ms"), ("latency, worst", "ms")];
const COST: [(&str, &str); 4] = [
    ("CPU", "s a minute"),
    ("memory", "MB"),
    ("wake-ups", "a second"),
    ("written to the disk", "bytes a frame"),
];

pub(crate) fn measure(report: &mut Report) {
    let figures = [&LATENCY[..], &COST].concat();
    for (hz, durability) in
        [(2, "entry"), (2, "200ms"), (60, "entry"), (60, "200ms"), (200, "200ms")]
    {
        let name = format!("live at {hz} Hz by pitwire, durability {durability}");
        report.rows(&name, &figures, || {
            let queue = place();
            live(hz, |server| agent(server, queue.path(), durability))
        });
    }
    report.rows("live at 60 Hz by Node's socket.io-client", &figures, || {
        live(60, |server| started(node("live.js").arg(server)))
    });
    report.rows("live at 60 Hz by rust_socketio alone", &figures, || {
        live(60, |server| started(&mut bare::command(server)))
    });
    report.rows("live at 60 Hz by python-socketio", &figures, || {
        live(60, |server| started(python("live.py").arg(server)))
    });
    for daemon in syslog::ALL {
        let name = format!("live at 60 Hz by {}, disk queue, to a TCP sink", daemon.name());
        match syslog::home() {
            None => report.absent(&name, "benches/setup.sh installs it"),
            Some(home) => report.rows(&name, &COST, || relayed(daemon, &home)),
        }
    }
}

/// `pitwire run`, ready for lines.
fn agent(server: &str, queue: &Path, durability: &str) -> Ended {
    let durability = format!("queue.durability={durability}");
    let mut command = pitwire(&["run", "--server", server]);
    command.arg("--queue").arg(queue);
    for setting in [
        "update_rate_hz=0",
        "source.lmu.enabled=false",
        "source.http.listen=127.0.0.1:0",
        "metrics.listen=127.0.0.1:0",
        &durability,
    ] {
        command.args(["--set", setting]);
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Ended(child.unwrap())
}

/// A client that prints a line when it is ready.
fn started(command: &mut Command) -> Ended {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    Ended(child)
}

/// Feeds a publisher and measures it: latencies in ms, then its cost.
fn live(hz: u32, start: impl FnOnce(&str) -> Ended) -> Vec<f64> {
    let folder = place();
    let record = folder.path().join("record");
    let server = Peer::start(Kind::Asgi, &["--record", record.to_str().unwrap()]);
    let mut publisher = start(&server.url());
    let (sent, took, memory) = feed(&mut publisher.0, hz);
    // Wait for frames in flight.
    thread::sleep(Duration::from_secs(1));
    let warm_up = (WARM_UP.as_secs() * u64::from(hz)) as usize;
    let mut late = latencies(&record, &sent[warm_up..]);
    assert_eq!(late.len(), sent.len() - warm_up, "frames are missing");
    late.sort_by(f64::total_cmp);
    let at = |share: f64| late[(late.len() as f64 * share) as usize];
    let frames = f64::from(hz) * MEASURED.as_secs_f64();
    let mut figures = vec![at(0.5), at(0.99), late[late.len() - 1]];
    figures.extend(cost(took, memory, frames));
    figures
}

fn cost(took: Took, memory: u64, frames: f64) -> [f64; 4] {
    let Took { cpu_seconds_a_minute, wake_ups_a_second, written_bytes } = took;
    [cpu_seconds_a_minute, memory as f64 / 1e6, wake_ups_a_second, written_bytes as f64 / frames]
}

/// Feeds lines numbered from 0 in their field `lap`, and returns when each was sent.
fn feed(child: &mut Child, hz: u32) -> (Vec<f64>, Took, u64) {
    let mut stdin = child.stdin.take().unwrap();
    let mut samples = lap::samples(600);
    let mut moments = Vec::new();
    let mut before = None;
    let start = Instant::now();
    for number in 0..((WARM_UP + MEASURED).as_secs() * u64::from(hz)) as u32 {
        let (_, sample) = &mut samples[number as usize % 600];
        sample["lap"] = number.into();
        let line = sample.to_string() + "\n";
        let due = start + Duration::from_secs(1) / hz * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if start.elapsed() >= WARM_UP {
            before.get_or_insert_with(|| Look::at(child.id()));
        }
        moments.push(now_ms());
        stdin.write_all(line.as_bytes()).unwrap();
    }
    let after = Look::at(child.id());
    let took = after.since(&before.unwrap());
    child.stdin = Some(stdin);
    (moments, took, after.rss_bytes)
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0
}

/// Latencies of the most recent frames, from sent to received.
fn latencies(record: &Path, sent: &[f64]) -> Vec<f64> {
    let text = fs::read_to_string(record).unwrap();
    let all = text.lines().count();
    let skipped = all - sent.len();
    let late = text.lines().skip(skipped).zip(sent).enumerate().map(|(index, (line, sent))| {
        let frame: Value = serde_json::from_str(line).unwrap();
        let number = frame["telemetry"]["lap"].as_u64().unwrap() as usize;
        assert_eq!(number, skipped + index, "in order, each once");
        frame["received_ms"].as_f64().unwrap() - sent
    });
    late.collect()
}

/// A logger between a source and a sink that accepts everything.
fn relayed(daemon: Syslog, home: &Path) -> Vec<f64> {
    let place = place();
    let sink = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = sink.local_addr().unwrap().port();
    thread::spawn(move || {
        for socket in sink.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut &socket, &mut std::io::sink()));
        }
    });
    let running = syslog::start(daemon, home, place.path(), port);
    let mut socket = running.connect();
    let lines = lap::lines(600);
    let hz = 60;
    let mut before = None;
    let start = Instant::now();
    for number in 0..((WARM_UP + MEASURED).as_secs() * u64::from(hz)) as u32 {
        let due = start + Duration::from_secs(1) / hz * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if start.elapsed() >= WARM_UP {
            before.get_or_insert_with(|| Look::at(running.child.0.id()));
        }
        let message = syslog::messages(&lines[number as usize % 600..][..1]);
        socket.write_all(&message).unwrap();
    }
    let after = Look::at(running.child.0.id());
    let frames = f64::from(hz) * MEASURED.as_secs_f64();
    cost(after.since(&before.unwrap()), after.rss_bytes, frames).to_vec()
}

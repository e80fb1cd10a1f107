//! `cargo bench --bench replay`: how fast a queue is replayed to a real python-socketio server,
//! beside the clients that people use today, in the same run.
//!
//! Prints frames a second: median, least and most of three runs each. Needs what `tests/setup.sh`
//! installs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench program")]

// Shared with the tests, of which not all is needed here.
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared")]
#[path = "../tests/it/contract.rs"]
mod contract;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared")]
#[path = "../tests/it/peers.rs"]
mod peers;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared")]
#[path = "../tests/it/proxy.rs"]
mod proxy;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use peers::{Kind, Peer};
use pitwire::DashboardPublisher;
use pitwire::config::{Config, Durability, ProofChoice};
use pitwire::entry::CapturedAt;
use pitwire::fields;
use pitwire::source::Sample;
use pitwire::source::simulator::Car;
use proxy::{Network, Proxy};

const FRAMES: usize = 10_000;
const RUNS: usize = 3;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("frames.ndjson");
    fs::write(&recording, frames().join("\n")).unwrap();
    println!("replay of {FRAMES} frames to python-socketio (ASGI), {RUNS} runs each");
    println!("{:<44} {:>9} {:>9} {:>9}", "frames/s", "median", "least", "most");
    let ack = |delivery: &mut pitwire::config::DeliveryConfig| delivery.proof = ProofChoice::Ack;
    let echo = |delivery: &mut pitwire::config::DeliveryConfig| delivery.proof = ProofChoice::Echo;
    let far = Network::Up { latency: Duration::from_millis(25) };
    row("python-socketio client, one ack at a time", |server| {
        foreign(python(), "client.py", &server.url(), &recording)
    });
    row("Node socket.io-client, retries", |server| {
        foreign(Command::new("node"), "client.js", &server.url(), &recording)
    });
    row("pitwire, ack barrier", |server| replay(&server.url(), &recording, ack));
    row("pitwire, echo", |server| replay(&server.url(), &recording, echo));
    for (name, proof) in [("ack barrier", ProofChoice::Ack), ("echo", ProofChoice::Echo)] {
        row(&format!("pitwire, {name}, 50 ms of round trip"), |server| {
            let proxy = Proxy::start(server.port());
            proxy.set(far);
            replay(&proxy.url(), &recording, |delivery| delivery.proof = proof)
        });
    }
}

/// A car that drives, never the same frame twice.
fn frames() -> Vec<String> {
    let mut car = Car::new(1);
    (0..FRAMES as i64)
        .map(|n| {
            car.step(Duration::from_millis(500));
            fields::map(&car.sample(), CapturedAt(1_763_821_822_000 + n * 500)).unwrap()
        })
        .collect()
}

/// `cargo bench --bench replay -- WORD` runs the rows that have the word in their name.
fn row(name: &str, mut run: impl FnMut(&Peer) -> f64) {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    if words.next().is_some_and(|word| !name.contains(&word)) {
        return;
    }
    let mut rates: Vec<f64> = (0..RUNS).map(|_| run(&Peer::start(Kind::Asgi, &[]))).collect();
    rates.sort_by(f64::total_cmp);
    println!("{name:<44} {:>9.0} {:>9.0} {:>9.0}", rates[RUNS / 2], rates[0], rates[RUNS - 1]);
}

fn python() -> Command {
    Command::new(peers::home().join("venv/bin/python"))
}

fn foreign(mut command: Command, script: &str, url: &str, recording: &Path) -> f64 {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
    command.env("NODE_PATH", peers::home().join("node_modules"));
    let output = command.arg(script).arg(url).arg(recording).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Fills a queue, then measures from the connection to the empty queue.
fn replay(
    url: &str,
    recording: &Path,
    adjust: impl FnOnce(&mut pitwire::config::DeliveryConfig),
) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.server.url = url.parse().unwrap();
    config.queue.path = folder.path().to_owned();
    config.queue.durability = Durability::Within(Duration::from_millis(200));
    adjust(&mut config.delivery);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let publisher = DashboardPublisher::open(config).unwrap();
        let intake = publisher.intake("file", 0.0);
        for lines in fs::read_to_string(recording).unwrap().lines().collect::<Vec<_>>().chunks(500)
        {
            let samples = lines.iter().map(|line| Sample::parse(line.as_bytes())).collect();
            intake.take(samples).await.unwrap();
        }
        assert_eq!(publisher.queue_status().entries, FRAMES as u64);
        publisher.connect().await.unwrap();
        let start = Instant::now();
        while publisher.queue_status().entries > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let rate = FRAMES as f64 / start.elapsed().as_secs_f64();
        publisher.close().await;
        rate
    })
}

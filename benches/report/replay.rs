//! How fast a queue is replayed to a real python-socketio server, beside the clients in common use,
//! and the CPU that it costs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use pitwire::DashboardPublisher;
use pitwire::config::{Config, Durability, ProofChoice};
use pitwire::source::Sample;
use tokio_tungstenite::tungstenite::Message;

use crate::clients::{node, python};
use crate::lap;
use crate::peers::{Kind, Peer};
use crate::process::cpu_seconds;
use crate::proxy::{Network, Proxy};
use crate::queue::{place, runtime};
use crate::table::Report;

const FRAMES: usize = 10_000;
const FIGURES: [(&str, &str); 2] = [("rate", "frames/s"), ("CPU a frame", "us")];
const FAR: Network = Network::Up { latency: Duration::from_millis(25) };

pub(crate) fn measure(report: &mut Report) {
    let folder = place();
    let recording = folder.path().join("frames.ndjson");
    let frames = lap::frames(FRAMES);
    fs::write(&recording, frames.join("\n")).unwrap();
    report.rows("replay by python-socketio, one ack at a time", &FIGURES, || {
        foreign(python("client.py"), &recording)
    });
    report.rows("replay by Node's socket.io-client with retries", &FIGURES, || {
        foreign(node("client.js"), &recording)
    });
    for (name, proof) in [("ack barrier", ProofChoice::Ack), ("echo", ProofChoice::Echo)] {
        report.rows(&format!("replay by pitwire, {name}"), &FIGURES, || {
            let server = Peer::start(Kind::Asgi, &[]);
            replay(&server.url(), &frames, proof)
        });
    }
    for (name, joins) in [
        ("bare client that sends all at once, one ack at the end", false),
        ("bare client that sends all at once, each comes back (echo)", true),
    ] {
        report.row(name, "frames/s", || {
            let server = Peer::start(Kind::Asgi, &[]);
            runtime().block_on(bare(server.port(), &frames, joins))
        });
    }
    for (name, proof) in [("ack barrier", ProofChoice::Ack), ("echo", ProofChoice::Echo)] {
        report.rows(&format!("replay by pitwire, {name}, 50 ms of round trip"), &FIGURES, || {
            let server = Peer::start(Kind::Asgi, &[]);
            let proxy = Proxy::start(server.port());
            proxy.set(FAR);
            replay(&proxy.url(), &frames, proof)
        });
    }
}

/// A client that prints its frames per second and its CPU time per frame in microseconds.
fn foreign(mut command: Command, recording: &Path) -> Vec<f64> {
    let server = Peer::start(Kind::Asgi, &[]);
    let output = command.arg(server.url()).arg(recording).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let figures: Vec<f64> = text.split_whitespace().flat_map(str::parse).collect();
    assert_eq!(figures.len(), FIGURES.len(), "{}", String::from_utf8_lossy(&output.stderr));
    figures
}

/// Fills a queue, then measures the time from the connection to the empty queue.
fn replay(url: &str, frames: &[String], proof: ProofChoice) -> Vec<f64> {
    let folder = place();
    let mut config = Config::default();
    config.server.url = url.parse().unwrap();
    config.queue.path = folder.path().to_owned();
    config.queue.durability = Durability::Within(Duration::from_millis(200));
    config.delivery.proof = proof;
    runtime().block_on(async {
        let publisher = DashboardPublisher::open(config).unwrap();
        let intake = publisher.intake("file", 0.0);
        for frames in frames.chunks(500) {
            let samples = frames.iter().map(|frame| Sample::parse(frame.as_bytes())).collect();
            intake.take(samples).await.unwrap();
        }
        assert_eq!(publisher.queue_status().entries, FRAMES as u64);
        publisher.connect().await.unwrap();
        let (start, cpu) = (Instant::now(), cpu_seconds(std::process::id()));
        while publisher.queue_status().entries > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        let cpu = cpu_seconds(std::process::id()) - cpu;
        publisher.close().await;
        vec![FRAMES as f64 / seconds, cpu * 1e6 / FRAMES as f64]
    })
}

/// The most that this server can take: a client that sends everything at once, without waiting.
async fn bare(port: u16, frames: &[String], joins: bool) -> f64 {
    let url = format!("ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket");
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(url, socket).await.unwrap();
    let (mut send, mut receive) = socket.split();
    let mut next = async || match receive.next().await.unwrap().unwrap() {
        Message::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    };
    next().await;
    send.send("40".into()).await.unwrap();
    next().await;
    send.send(r#"42["request_session_id",{}]"#.into()).await.unwrap();
    let assigned = next().await;
    let session = assigned.split('"').nth(5).unwrap();
    if joins {
        let join = format!(r#"42["join_session",{{"session_id":"{session}"}}]"#);
        send.send(join.into()).await.unwrap();
    }
    let start = Instant::now();
    let sending = async {
        for (number, frame) in frames.iter().enumerate() {
            // Packet 42 with the id 1: the server acknowledges it by 43.
            let ack = if number + 1 == frames.len() { "1" } else { "" };
            let event = format!(
                r#"42{ack}["telemetry_update",{{"session_id":"{session}","telemetry":{frame}}}]"#
            );
            send.feed(event.into()).await.unwrap();
        }
        send.flush().await.unwrap();
    };
    let receiving = async {
        let mut echoes = 0;
        loop {
            match &next().await[..2] {
                "42" => echoes += 1,
                "43" => break,
                _ => {}
            }
        }
        assert_eq!(echoes, if joins { frames.len() } else { 0 });
    };
    tokio::join!(sending, receiving);
    frames.len() as f64 / start.elapsed().as_secs_f64()
}

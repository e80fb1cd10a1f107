//! The agent and a real NATS server: as a sink, and as a hub's source.
//!
//! - [`sink`]: whatever is killed or cut, the stream holds each entry once and in order.
//! - [`access`]: authentication, and the messages about a misbehaving server.
//! - [`cluster`]: a cluster of three servers.
//! - [`show`]: a whole league at once.
//! - [`source`]: a hub between agents and a dashboard.
//! - [`clocks`]: agents whose clocks differ and are set.
//! - [`hubs`]: several hubs that share the agents.

mod access;
#[cfg(target_os = "linux")]
mod clocks;
mod cluster;
mod hubs;
mod show;
mod sink;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use serde_json::Value;
use tempfile::TempDir;

use crate::peers;

/// How long a server may take to start.
const START_UP: Duration = Duration::from_secs(20);

/// A running `nats-server` with JetStream on file storage. Dropping it kills it.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    port: u16,
    folder: TempDir,
    scheme: &'static str,
}

impl NatsServer {
    pub fn start() -> Self {
        Self::configured("nats", "")
    }

    /// Starts a server with extra configuration, reached by this URL scheme.
    pub fn configured(scheme: &'static str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let config = format!("jetstream {{ store_dir: {store:?} }}\n{more}\n");
        Self::start_in(folder, scheme, &config)
    }

    /// Starts a server without JetStream: it forwards messages but stores none.
    pub fn without_jetstream() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "nats", "")
    }

    fn start_in(folder: TempDir, scheme: &'static str, config: &str) -> Self {
        std::fs::write(folder.path().join("server.conf"), config).unwrap();
        let (child, port) = spawn(&folder, -1, &[]);
        Self { child, port, folder, scheme }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The URL of the server as seen through a proxy on this port.
    pub fn url_at(&self, port: u16) -> String {
        format!("{}://127.0.0.1:{port}", self.scheme)
    }

    /// Ends the server at once: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server was killed");
        self.child.wait().expect("the server ended");
    }

    /// Kills the server, if it runs, and starts it again on the same port and the same files.
    pub fn restart(&mut self) {
        self.kill();
        (self.child, self.port) = spawn(&self.folder, i32::from(self.port), &[]);
    }

    /// JetStream of this server, for a client without credentials.
    pub async fn jetstream(&self) -> jetstream::Context {
        let client = async_nats::connect(self.url()).await.expect("the server accepts us");
        jetstream::new(client)
    }

    /// The entries in an agent's stream, oldest first.
    pub async fn kept(&self, agent: &str) -> Vec<Kept> {
        kept(&self.jetstream().await, agent).await
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // The test may have killed it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir, port: i32, settings: &[(&str, String)]) -> (Child, u16) {
    let mut child = Command::new(peers::home().join("bin/nats-server"))
        .arg("--config")
        .arg(folder.path().join("server.conf"))
        .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nats-server starts");
    let log = BufReader::new(child.stderr.take().unwrap());
    let (send, receive) = mpsc::channel();
    let collector = thread::spawn(move || {
        let (mut port, mut said) = (None, Vec::new());
        // Keep reading, or the server blocks once the pipe is full.
        for line in log.lines().map_while(Result::ok) {
            if let Some((_, address)) = line.split_once("Listening for client connections on ") {
                port = address.rsplit_once(':').and_then(|(_, port)| port.trim().parse().ok());
            }
            if line.contains("Server is ready") {
                let _ = send.send(port);
            }
            if port.is_none() {
                said.push(line);
            }
        }
        said
    });
    let Ok(Some(port)) = receive.recv_timeout(START_UP) else {
        let _ = child.kill();
        panic!("nats-server is not ready:\n{}", collector.join().unwrap().join("\n"));
    };
    (child, port)
}

/// An entry as stored in a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub stint: String,
    /// `telemetry` or `setup`.
    pub kind: String,
    pub seq: u64,
    pub captured_at: String,
    pub json: Value,
}

async fn kept(jetstream: &jetstream::Context, agent: &str) -> Vec<Kept> {
    let Ok(stream) = jetstream.get_stream(format!("PITWIRE_{agent}")).await else {
        return Vec::new();
    };
    let state = stream.cached_info().state.clone();
    let mut kept = Vec::new();
    if state.messages == 0 {
        return kept;
    }
    for position in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(position).await.expect("the stream has it");
        kept.push(entry(agent, &message));
    }
    kept
}

fn entry(agent: &str, message: &StreamMessage) -> Kept {
    let parts: Vec<&str> = message.subject.split('.').collect();
    let ["pitwire", of, stint, kind] = parts[..] else { panic!("{}", message.subject) };
    assert_eq!(of, agent);
    let header = |name: &str| message.headers.get(name).expect("a header").as_str().to_owned();
    let seq = header("Pitwire-Seq");
    assert_eq!(header("Nats-Msg-Id"), format!("{agent}.{stint}.{seq}"));
    Kept {
        stint: stint.into(),
        kind: kind.into(),
        seq: seq.parse().unwrap(),
        captured_at: header("Pitwire-Captured-At"),
        json: serde_json::from_slice(&message.payload).expect("JSON"),
    }
}

/// Checks that a stream holds each entry that was reported stored exactly once, in order within its
/// stint. Returns the names of the stints. `stored` maps each position to the number in its frame.
pub fn check(kept: &[Kept], stored: &BTreeMap<u64, u64>) -> BTreeSet<String> {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in kept {
        let before = newest.insert(&entry.stint, entry.seq);
        assert!(before < Some(entry.seq), "{} after {before:?} in {}", entry.seq, entry.stint);
    }
    let numbers: BTreeMap<u64, u64> =
        kept.iter().filter_map(|entry| Some((entry.seq, entry.json["lap"].as_u64()?))).collect();
    let frames = kept.iter().filter(|entry| entry.kind == "telemetry").count();
    assert_eq!(frames, numbers.len(), "two stints share a position");
    let lost: Vec<_> = stored.iter().filter(|(seq, _)| !numbers.contains_key(seq)).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), stored.len());
    let other: Vec<_> = stored.iter().filter(|(seq, number)| numbers[seq] != **number).collect();
    assert!(other.is_empty(), "entries differ from the stored ones: {other:?}");
    newest.into_keys().map(str::to_owned).collect()
}

//! Real dashboard servers, started by a test and killed when it ends.
//!
//! ```ignore
//! let peer = Peer::start(Kind::Flask, &["--schema"]);
//! // … let the agent publish to peer.url() …
//! assert_eq!(peer.all_frames().await.len(), 50);
//! ```
//! The servers are in `tests/peers/`; `tests/setup.sh` installs their dependencies. `pitwire serve`
//! is started in the same way, so that it can be tested too.

use std::collections::VecDeque;
use std::env;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// Time limit for a server to accept connections; several start at once on two shared cores.
const START_UP: Duration = Duration::from_secs(20);
/// Time limit for a server to answer an HTTP request.
const ANSWER: Duration = Duration::from_secs(10);
/// Number of log lines of a server that a failure prints.
const LOG_LINES: usize = 100;

/// The kinds of servers that a team may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Flask-SocketIO like the public server, on eventlet or with `--async-mode threading`.
    Flask,
    /// python-socketio under uvicorn.
    Asgi,
    /// socket.io 4 on Node.
    Node,
    /// `pitwire serve`, whose sessions never outlive it.
    Embedded,
    /// Flask-SocketIO 4 of 2021, which speaks Socket.IO 2: not compatible.
    OldFlask,
}

impl Kind {
    /// The compatible third-party servers.
    pub const ALL: [Self; 3] = [Self::Flask, Self::Asgi, Self::Node];
}

/// A running dashboard server. Dropping it kills it.
#[derive(Debug)]
pub struct Peer {
    kind: Kind,
    args: Vec<String>,
    port: u16,
    child: Child,
    log: Log,
}

impl Peer {
    /// Starts a server on a free port; returns once it accepts connections.
    pub fn start(kind: Kind, args: &[&str]) -> Self {
        Self::start_on(kind, 0, args)
    }

    /// Starts a server on this port; returns once it accepts connections.
    pub fn start_on(kind: Kind, port: u16, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let (child, port, log) = spawn(kind, port, &args);
        Self { kind, args, port, child, log }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills the server, which cuts its connections.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server was killed");
        self.child.wait().expect("the server ended");
    }

    /// Kills the server, if it is running, and starts it again on the same port.
    pub fn restart(&mut self) {
        self.kill();
        (self.child, self.port, self.log) = spawn(self.kind, self.port, &self.args);
    }

    /// Suspends the server's process: its sockets stay open, but it neither reads nor answers.
    #[cfg(unix)]
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    #[cfg(unix)]
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    #[cfg(unix)]
    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// The ids of the sessions, in order of creation.
    pub async fn sessions(&self) -> Vec<String> {
        sessions(&self.url()).await
    }

    /// The telemetry of every frame of a session, in the order of arrival.
    pub async fn frames(&self, session_id: &str) -> Vec<Value> {
        frames(&self.url(), session_id).await
    }

    /// The frames of all sessions, grouped by session.
    pub async fn all_frames(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for session_id in self.sessions().await {
            all.extend(self.frames(&session_id).await);
        }
        all
    }

    /// Every `{"timestamp", "setup"}` of a session, in the order of arrival.
    pub async fn setups(&self, session_id: &str) -> Vec<Value> {
        setups(&self.url(), session_id).await
    }

    /// Makes the server forget all sessions, as a restart does; only `Embedded` supports this.
    pub async fn forget(&self) {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().unwrap();
        let request = client.delete(format!("{}/api/sessions", self.url()));
        request.send().await.and_then(|answer| answer.error_for_status()).expect("it forgets");
    }

    /// Every event that `--schema` refused, as `{"event", "reason"}`.
    pub async fn refused(&self) -> Vec<Value> {
        list(&self.url(), "/api/refused").await
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have been killed by the test already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{:?} {:?} on port {} said:\n{}", self.kind, self.args, self.port, self.log);
        }
    }
}

/// Sends a signal such as `-STOP` to a process.
pub fn signal(process: u32, name: &str) {
    let kill = Command::new("kill").args([name, &process.to_string()]).status();
    assert!(kill.expect("kill runs").success(), "kill {name}");
}

/// The ids of a dashboard server's sessions.
pub async fn sessions(url: &str) -> Vec<String> {
    let ids = list(url, "/api/sessions").await;
    ids.iter().map(|session| session["session_id"].as_str().unwrap().to_owned()).collect()
}

/// The telemetry of every frame of a session, in the order of arrival; empty if it is unknown.
pub async fn frames(url: &str, session_id: &str) -> Vec<Value> {
    let mut frames = list(url, &format!("/api/sessions/{session_id}/frames")).await;
    frames.iter_mut().map(|frame| frame["telemetry"].take()).collect()
}

/// Every `{"timestamp", "setup"}` of a session, in the order of arrival; empty if it is unknown.
pub async fn setups(url: &str, session_id: &str) -> Vec<Value> {
    list(url, &format!("/api/sessions/{session_id}/setups")).await
}

/// The JSON array that the server returns for `path`; empty for a 404.
async fn list(url: &str, path: &str) -> Vec<Value> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().unwrap();
    let response = client.get(format!("{url}{path}")).send().await.expect("the server answers");
    if response.status() == reqwest::StatusCode::NOT_FOUND {
        return Vec::new();
    }
    let response = response.error_for_status().expect("the server knows the path");
    let array = response.json::<Vec<Value>>().await.expect("an array");
    array.into_iter().map(plain).collect()
}

/// Converts whole numbers in JSON to integers.
///
/// A JavaScript server writes 90.0 as 90. Convert expected values before comparing them with a
/// server's response; the harness has already converted the responses.
pub fn plain(value: Value) -> Value {
    /// Above this not every integer is a float.
    const EXACT: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
    match value {
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(pairs) => pairs.into_iter().map(|(key, item)| (key, plain(item))).collect(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < EXACT => (float as i64).into(),
            _ => Value::Number(number),
        },
        other => other,
    }
}

/// Starts the process and waits for the line that contains its port.
fn spawn(kind: Kind, port: u16, args: &[String]) -> (Child, u16, Log) {
    let mut child = command(kind, port)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{kind:?} does not start: {error}"));
    let log = Log::default();
    let collector = log.collect(BufReader::new(child.stderr.take().unwrap()));
    let stdout = BufReader::new(child.stdout.take().unwrap());
    match announced_port(stdout) {
        Some(port) => (child, port, log),
        None => {
            let _ = child.kill();
            let status = child.wait();
            let _ = collector.join();
            panic!("{kind:?} {args:?} accepts no connections ({status:?}); its log:\n{log}");
        }
    }
}

/// A command that runs a Python script of `tests/peers/`.
pub fn python(script: &str) -> Command {
    let python = if cfg!(windows) { "venv/Scripts/python.exe" } else { "venv/bin/python" };
    let mut command = Command::new(home().join(python));
    // -B: write no compiled files into the clone.
    command.args(["-B", "-W", "ignore"]).arg(scripts().join(script));
    command
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

fn command(kind: Kind, port: u16) -> Command {
    let mut command = match kind {
        Kind::Flask => python("flask_server.py"),
        Kind::OldFlask => {
            let mut command = python("flask_server.py");
            command.env("PYTHONPATH", home().join("old"));
            command
        }
        Kind::Asgi => python("asgi_server.py"),
        Kind::Node => {
            let mut command = Command::new("node");
            command.arg(scripts().join("node_server.js"));
            command.env("NODE_PATH", home().join("node_modules"));
            command
        }
        Kind::Embedded => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pitwire"));
            command.args(["serve", "--listen", &format!("127.0.0.1:{port}")]);
            // Ignore the configuration of a developer's own server.
            command.env("XDG_CONFIG_HOME", "/nowhere");
            for (name, _) in env::vars_os() {
                if name.to_string_lossy().starts_with("PITWIRE_") {
                    command.env_remove(name);
                }
            }
            #[cfg(target_os = "linux")]
            crate::default_ports::guard(&mut command);
            return command;
        }
    };
    command.args(["--port", &port.to_string()]);
    command
}

/// The folder that `tests/setup.sh` installed: `PITWIRE_PEERS` if set, else the newest in the
/// cache.
pub fn home() -> PathBuf {
    if let Some(home) = env::var_os("PITWIRE_PEERS") {
        return home.into();
    }
    newest_in(&cache()).expect("no test servers are installed: run tests/run.sh once")
}

fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(env::home_dir()?.join(".cache")));
    base.expect("a home directory").join("pitwire")
}

fn newest_in(cache: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path());
    let peers = entries.filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("peers-"))
    });
    // `ready` is written last; without it the installation is incomplete.
    let ready = peers.filter_map(|path| {
        let modified = fs::metadata(path.join("ready")).ok()?.modified().ok()?;
        Some((modified, path))
    });
    ready.max().map(|(_, path)| path)
}

fn announced_port(mut stdout: impl BufRead + Send + 'static) -> Option<u16> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = stdout.read_line(&mut line);
        let _ = send.send(line.trim_end().rsplit_once(':').and_then(|(_, port)| port.parse().ok()));
        // Keep reading; otherwise the server blocks when the pipe is full.
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
    });
    receive.recv_timeout(START_UP).ok()?
}

/// The last lines of a server's standard error.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    fn collect(&self, stderr: impl BufRead + Send + 'static) -> thread::JoinHandle<()> {
        let log = self.clone();
        thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let mut lines = log.0.lock().unwrap();
                if lines.len() == LOG_LINES {
                    lines.pop_front();
                }
                lines.push_back(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.lock().unwrap().iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

mod tests {
    use serde_json::json;

    use super::{Kind, Peer};
    use crate::contract::{self, Client};

    #[tokio::test]
    async fn a_restarted_server_has_forgotten_its_sessions() {
        for kind in Kind::ALL {
            let mut peer = Peer::start(kind, &[]);
            let session_id = publish(&peer, 3).await;
            let before = peer.port();
            peer.restart();
            assert_eq!(peer.port(), before, "{kind:?}");
            assert!(peer.sessions().await.is_empty(), "{kind:?}");
            assert!(peer.frames(&session_id).await.is_empty(), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_persisting_server_keeps_its_sessions_when_killed() {
        for kind in Kind::ALL {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("sessions");
            let mut peer = Peer::start(kind, &["--persist", file.to_str().unwrap()]);
            let session_id = publish(&peer, 3).await;
            let (frames, setups) = (peer.frames(&session_id).await, peer.setups(&session_id).await);
            assert_eq!((frames.len(), setups.len()), (3, 1), "{kind:?}");

            // Simulate a kill in the middle of a write.
            peer.kill();
            let mut torn = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
            std::io::Write::write_all(&mut torn, br#"{"session_id": "#).unwrap();
            peer.restart();

            assert_eq!(peer.sessions().await, [session_id.as_str()], "{kind:?}");
            assert_eq!(peer.frames(&session_id).await, frames, "{kind:?}");
            assert_eq!(peer.setups(&session_id).await, setups, "{kind:?}");
            publish(&peer, 2).await;
            peer.restart();
            assert_eq!(peer.all_frames().await.len(), 5, "{kind:?}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_paused_server_answers_once_it_is_resumed() {
        use std::time::Duration;

        for kind in Kind::ALL {
            let peer = Peer::start(kind, &[]);
            let session_id = publish(&peer, 1).await;
            let mut client = Client::connect(&peer.url()).await;
            peer.pause();
            let frame = contract::frame(&session_id);
            let asked = client.ask("telemetry_update", frame);
            tokio::pin!(asked);
            let early = tokio::time::timeout(Duration::from_millis(300), &mut asked).await;
            assert!(early.is_err(), "{kind:?} answered while it was paused");
            peer.resume();
            asked.await;
            assert_eq!(peer.frames(&session_id).await.len(), 2, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn the_no_echo_option_excludes_only_the_sender() {
        for kind in Kind::ALL {
            let peer = Peer::start(kind, &["--no-echo"]);
            let session_id = publish(&peer, 1).await;
            let mut publisher = Client::connect(&peer.url()).await;
            let mut viewer = Client::connect(&peer.url()).await;
            publisher.ask("join_session", json!({"session_id": session_id})).await;
            viewer.ask("join_session", json!({"session_id": session_id})).await;
            let echo = publisher.ask("telemetry_update", contract::frame(&session_id)).await;
            assert!(echo.is_empty(), "{kind:?}");
            assert_eq!(viewer.next_event().await.0, "telemetry_update", "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_never_acks_still_keeps_the_frame() {
        for kind in Kind::ALL {
            let peer = Peer::start(kind, &["--never-ack"]);
            let mut client = Client::connect(&peer.url()).await;
            assert!(!client.is_acked("request_session_id", json!({})).await, "{kind:?}");
            let session_id = peer.sessions().await.remove(0);
            let mut client = Client::connect(&peer.url()).await;
            let acked = client.is_acked("telemetry_update", contract::frame(&session_id)).await;
            assert!(!acked, "{kind:?}");
            assert_eq!(peer.frames(&session_id).await.len(), 1, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn an_ack_is_delayed_as_configured() {
        for kind in Kind::ALL {
            let peer = Peer::start(kind, &["--ack-delay", "300"]);
            let mut client = Client::connect(&peer.url()).await;
            let asked = std::time::Instant::now();
            client.ask("request_session_id", json!({})).await;
            assert!(asked.elapsed().as_millis() >= 299, "{kind:?}: {:?}", asked.elapsed());
        }
    }

    /// Publishes a setup and `frames` frames to a new session.
    async fn publish(peer: &Peer, frames: usize) -> String {
        let mut client = Client::connect(&peer.url()).await;
        let session_id = client.new_session().await;
        client.ask("setup_data", contract::setup(&session_id)).await;
        for _ in 0..frames {
            client.ask("telemetry_update", contract::frame(&session_id)).await;
        }
        session_id
    }
}

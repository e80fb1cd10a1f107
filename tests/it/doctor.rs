//! `pitwire doctor` on deliberately broken setups: each reports exactly its problem and the advice
//! for it.
//!
//! - [`server`]: unreachable, wrong, locked and silent servers, and servers whose clock is off.
//! - [`queue`]: unusable folders and disks, damage, agents that own the queue.
//! - [`environment`]: configuration, game, addresses, start at log-on.
//! - [`bundle`]: the zip file, and the secrets that it must not contain.

mod bundle;
mod environment;
mod queue;
mod server;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::agent::pitwire;
use crate::peers::{Kind, Peer};

/// A finding worse than a note: severity, subject, finding, advice. A finding that ends with `…` is
/// matched as a prefix.
type Bad<'a> = (&'a str, &'a str, &'a str, &'a str);

/// A PC without a game or an agent; tests add problems to it.
struct Pc {
    /// Outside the folder of temporary files, where a queue would be reported.
    place: TempDir,
    settings: Vec<String>,
    /// Command line that wraps the doctor's; empty for none.
    wrapper: Vec<String>,
}

impl Pc {
    fn new() -> Self {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let pc = Self { place, settings: Vec::new(), wrapper: Vec::new() };
        std::fs::create_dir(pc.path("shm")).unwrap();
        let settings = [
            format!("queue.path={}", pc.path("queue").display()),
            format!("source.lmu.folder={}", pc.path("shm").display()),
            "queue.max_bytes=16MiB".into(),
            "source.lmu.enabled=true".into(),
            "source.lmu.rest=".into(),
            "source.http.listen=127.0.0.1:0".into(),
            "metrics.listen=127.0.0.1:0".into(),
            // A closed port.
            "server.url=http://127.0.0.1:9".into(),
            "delivery.open_timeout=5s".into(),
            "delivery.proof_timeout=2s".into(),
        ];
        Self { settings: settings.into(), ..pc }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Adds settings, which override earlier ones.
    fn set<T: Into<String>>(mut self, settings: impl IntoIterator<Item = T>) -> Self {
        self.settings.extend(settings.into_iter().map(Into::into));
        self
    }

    fn server(self, url: &str) -> Self {
        self.set([format!("server.url={url}")])
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut typed = vec!["doctor"];
        typed.extend(args);
        for setting in &self.settings {
            typed.extend(["--set", setting]);
        }
        let doctor = pitwire(&typed);
        let mut command = match self.wrapper.split_first() {
            None => doctor,
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest).arg(doctor.get_program()).args(doctor.get_args());
                for (name, value) in doctor.get_envs() {
                    match value {
                        Some(value) => command.env(name, value),
                        None => command.env_remove(name),
                    };
                }
                command
            }
        };
        command.env("XDG_CONFIG_HOME", self.path("settings")).stdin(Stdio::null());
        command
    }

    /// Runs the doctor and returns its findings.
    fn look(&self) -> Vec<Value> {
        let output = self.command(&["--json"]).output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        let (out, err) = (out.unwrap(), err.unwrap());
        let findings: Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}"));
        let findings = findings["findings"].as_array().unwrap().clone();
        let is_bad =
            findings.iter().any(|f| f["severity"] == "warning" || f["severity"] == "fault");
        assert_eq!(output.status.code(), Some(i32::from(is_bad)), "{out} {err}");
        assert_eq!(err, "", "stderr stays empty");
        for finding in &findings {
            assert_eq!(finding["severity"] == "ok", finding["advice"].is_null(), "{finding}");
        }
        findings
    }

    /// Runs the doctor and checks that the findings worse than a note are exactly these.
    #[track_caller]
    fn finds(&self, expected: &[Bad<'_>]) -> Vec<Value> {
        let findings = self.look();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bad: Vec<_> = findings
            .iter()
            .filter(|finding| finding["severity"] == "warning" || finding["severity"] == "fault")
            .collect();
        assert_eq!(bad.len(), expected.len(), "{findings:#?}");
        for (finding, (severity, subject, what, advice)) in bad.into_iter().zip(expected) {
            let found = text(&finding["summary"]);
            let is_it = match what.strip_suffix('…') {
                Some(beginning) => found.starts_with(beginning),
                None => found == *what,
            };
            assert!(is_it, "{what}: {finding:#}");
            assert_eq!(text(&finding["severity"]), *severity, "{finding:#}");
            assert_eq!(text(&finding["subject"]), *subject, "{finding:#}");
            assert_eq!(text(&finding["advice"]), *advice, "{finding:#}");
        }
        findings
    }
}

/// Whether there is a finding with this severity whose text begins with `what`.
fn has(findings: &[Value], severity: &str, what: &str) -> bool {
    let is_it = |finding: &Value| {
        finding["severity"] == severity && finding["summary"].as_str().unwrap().starts_with(what)
    };
    findings.iter().any(is_it)
}

/// A port without a listener.
fn closed_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Starts a server that answers a request by its first line. A request without an answer is
/// forwarded to the port `upstream`, or left hanging without one. Returns the server's address.
fn answering(
    answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    upstream: Option<u16>,
) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = std::sync::Arc::new(answer);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let answer = std::sync::Arc::clone(&answer);
            thread::spawn(move || attend(client, &*answer, upstream));
        }
    });
    format!("http://{address}")
}

fn attend(mut client: TcpStream, answer: &dyn Fn(&str) -> Option<String>, upstream: Option<u16>) {
    let mut head = [0; 4096];
    let read = client.read(&mut head).unwrap_or(0);
    let line = String::from_utf8_lossy(&head[..read]);
    let line = line.lines().next().unwrap_or_default();
    match (answer(line), upstream) {
        (Some(bytes), _) => {
            let _ = client.write_all(bytes.as_bytes());
            let _ = client.shutdown(std::net::Shutdown::Write);
            let _ = client.read(&mut head);
        }
        (None, Some(port)) => {
            let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            server.write_all(&head[..read]).unwrap();
            let (mut from_client, mut to_client) = (client.try_clone().unwrap(), client);
            let mut to_server = server.try_clone().unwrap();
            thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            let _ = std::io::copy(&mut server, &mut to_client);
            let _ = to_client.shutdown(std::net::Shutdown::Both);
        }
        (None, None) => thread::sleep(Duration::from_secs(30)),
    }
}

/// An HTTP response with this status line, headers and body.
fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_healthy_pc_gives_no_warnings_or_faults() {
    let server = Peer::start(Kind::Asgi, &[]);
    let pc = Pc::new().server(&server.url());
    let findings = pc.finds(&[]);
    for what in [
        "no mistakes found",
        "no queue in ",
        "it speaks Socket.IO and accepts the connection",
        "its clock agrees with this PC's",
        "it assigns a session",
        "it acknowledges a frame in a test session",
        "it sends a frame to all viewers",
        "metrics.listen takes a free port",
    ] {
        assert!(has(&findings, "ok", what), "{what}: {findings:#?}");
    }
    assert!(has(&findings, "note", "it does not run, or does not share its memory"));
    assert!(has(&findings, "note", "the agent does not start at log-on"));
    assert!(!pc.path("queue").exists(), "the doctor must not create a queue");

    let text = String::from_utf8(pc.command(&[]).output().unwrap().stdout).unwrap();
    assert!(text.ends_with("\nall is well\n"), "{text}");
    let is_line = |line: &str| {
        ["ok       ", "note     ", "         -> ", "all is well"]
            .iter()
            .any(|x| line.starts_with(x))
    };
    assert!(text.lines().all(is_line), "{text}");
}

/// Viewers of the team's own page do not see the test frame.
#[tokio::test]
async fn the_doctor_sends_one_frame_in_a_separate_session() {
    let server = Peer::start(Kind::Asgi, &[]);
    let pc = Pc::new().server(&server.url()).set(["server.session_id=our-own-race"]);
    pc.finds(&[]);
    let sessions = server.sessions().await;
    assert_eq!(sessions.len(), 1);
    assert_ne!(sessions[0], "our-own-race");
    let frames = server.frames(&sessions[0]).await;
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0]["player_name"], "pitwire doctor");
}

#[test]
fn a_doctor_that_cannot_run_exits_with_2_and_advice() {
    let pc = Pc::new();
    let there = pc.path("there.zip");
    std::fs::write(&there, "mine").unwrap();
    let nowhere = pc.path("nowhere").join("b.zip");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for (args, expected) in [
        (["--bundle", &text(&there)], "the file exists already; choose another name"),
        (["--bundle", &text(&nowhere)], "choose a file that your user may write"),
        (["--set", "server.url"], "write it as KEY=VALUE"),
    ] {
        let output = pc.command(&args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(std::fs::read_to_string(there).unwrap(), "mine");
}

//! Servers that put our token, session ids, terminal escapes and forged log lines into every text
//! they can send. The agent's log and pages must mask the secrets and escape the rest.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::agent::{Agent, eventually, pitwire};
use crate::hostile::Pit;
use crate::screen::Screen;

/// Contains characters that percent-encoding and JSON escape.
const TOKEN: &str = "hunter2/se\"cret";
const TOKEN_PERCENT: &str = "hunter2%2Fse%22cret";
/// Base64 of `ana:` followed by the token.
const TOKEN_BASE64: &str = "YW5hOmh1bnRlcjIvc2UiY3JldA==";
const SESSION: &str = "5f0b7a5e-8b5e-4f7e-9d0e-0f4c6c1d2e3f";
/// Longest log line in bytes: an escaped remote text and the agent's own words.
const MAX_LINE_BYTES: usize = 1000;
/// How long a client may be silent before the server disconnects it.
const SERVER_PATIENCE: Duration = Duration::from_secs(20);

/// Field of the protocol in which a server can send arbitrary text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    StatusLine,
    Header,
    Body,
    Location,
    EngineHandshake,
    ConnectError,
    ErrorEventThenClose,
    CloseReason,
    MalformedPacket,
    SessionId,
    Ack,
}

const PLACES: [Place; 11] = [
    Place::StatusLine,
    Place::Header,
    Place::Body,
    Place::Location,
    Place::EngineHandshake,
    Place::ConnectError,
    Place::ErrorEventThenClose,
    Place::CloseReason,
    Place::MalformedPacket,
    Place::SessionId,
    Place::Ack,
];

/// A text with the token in three encodings, a session id, a terminal escape, a forged line, hidden
/// characters, and far too many bytes.
fn evil() -> String {
    format!(
        "\u{1b}]0;owned\u{7}\u{1b}[2J {TOKEN} {TOKEN_PERCENT} {TOKEN_BASE64} {SESSION} \
         \u{202e}desrever\u{2066}\u{200b}\r\nFORGED INFO all is well {}",
        "x".repeat(5000)
    )
}

/// The hostile text without the bytes that an HTTP header line cannot carry.
fn evil_header() -> String {
    format!("{TOKEN} {TOKEN_PERCENT} {TOKEN_BASE64} {SESSION} {}", "x".repeat(5000))
}

/// A server that sends the hostile text in one place. Dropping it closes its connections.
struct Server {
    url: String,
    clients: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start(place: Place) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let clients = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&clients);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(timeout(SERVER_PATIENCE, speak(client, place)));
            }
        });
        Self { url, clients, _task: task }
    }
}

async fn speak(mut client: TcpStream, place: Place) {
    let evil_header = evil_header();
    let head = match place {
        Place::StatusLine => format!("HTTP/1.1 401 {evil_header}\r\nContent-Length: 0\r\n\r\n"),
        Place::Header => {
            format!(
                "HTTP/1.1 403 No\r\nWWW-Authenticate: {evil_header}\r\nContent-Length: 0\r\n\r\n"
            )
        }
        Place::Body => {
            let body = evil();
            format!("HTTP/1.1 403 No\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        Place::Location => {
            let to = format!("http://evil/?{TOKEN_PERCENT}&{SESSION}&{}", "x".repeat(5000));
            format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        }
        _ => return speak_on_websocket(client, place).await,
    };
    let _ = client.read(&mut [0; 4096]).await;
    let _ = client.write_all(head.as_bytes()).await;
    let _ = client.shutdown().await;
}

async fn speak_on_websocket(client: TcpStream, place: Place) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(client).await else { return };
    let handshake = match place {
        Place::EngineHandshake => json!({"sid": evil(), "upgrades": evil()}),
        _ => json!({"sid": "a", "upgrades": [], "pingInterval": 25000, "pingTimeout": 20000,
                    "maxPayload": 1_000_000}),
    };
    let _ = socket.send(Message::text(format!("0{handshake}"))).await;
    while let Some(Ok(message)) = socket.next().await {
        let Ok(text) = message.into_text() else { continue };
        let words = if text.starts_with("40") {
            on_connect(place)
        } else if text.contains("request_session_id") {
            let id = if place == Place::SessionId { evil() } else { SESSION.to_owned() };
            vec![event("session_id_assigned", json!({"session_id": id}))]
        } else {
            on_ack(&text, place)
        };
        for words in words {
            let _ = socket.send(words).await;
        }
        if text.starts_with("40") && ends_after_connect(place) {
            return end(socket, place).await;
        }
    }
}

fn ends_after_connect(place: Place) -> bool {
    [Place::ErrorEventThenClose, Place::CloseReason, Place::MalformedPacket].contains(&place)
}

fn on_connect(place: Place) -> Vec<Message> {
    let accepted = Message::text(r#"40{"sid":"a"}"#);
    match place {
        Place::ConnectError => vec![Message::text(format!("44{}", json!({"message": evil()})))],
        Place::ErrorEventThenClose => vec![accepted, event("error", evil().into())],
        Place::MalformedPacket => vec![accepted, Message::text(format!("42{}", evil()))],
        _ => vec![accepted],
    }
}

fn on_ack(text: &str, place: Place) -> Vec<Message> {
    let number: String =
        text.trim_start_matches("42").chars().take_while(char::is_ascii_digit).collect();
    if number.is_empty() {
        return Vec::new();
    }
    let is_join = text.contains("join_session");
    let answer = match place {
        Place::Ack if !is_join => json!([{"error": evil()}]),
        _ => json!([]),
    };
    vec![Message::text(format!("43{number}{answer}"))]
}

fn event(name: &str, payload: Value) -> Message {
    Message::text(format!("42{}", json!([name, payload])))
}

async fn end(mut socket: WebSocketStream<TcpStream>, place: Place) {
    if place == Place::CloseReason {
        // A close frame carries at most 123 bytes.
        let reason = format!("\u{1b}[2J {TOKEN} {SESSION}\r\nFORGED");
        let frame = CloseFrame { code: 4000.into(), reason: reason.into() };
        let _ = socket.close(Some(frame)).await;
    }
}

/// Fails if `text` contains a secret, an escape sequence, a hidden character or a forged line.
fn is_harmless(place: Place, what: &str, text: &str) {
    let shown: String = text.chars().take(2000).collect();
    for forbidden in ["hunter2", "h1bnRlcjI", SESSION, "\u{1b}", "\u{202e}", "\u{200b}"] {
        assert!(!text.contains(forbidden), "{place:?}: {forbidden:?} in {what}: {shown:?}");
    }
    for line in text.lines() {
        assert!(!line.starts_with("FORGED"), "{place:?}: a forged line in {what}: {shown:?}");
    }
}

fn settings() -> [(&'static str, &'static str); 3] {
    [("server.token", TOKEN), ("delivery.proof_timeout", "2s"), ("delivery.backoff_min", "50ms")]
}

#[tokio::test]
async fn server_text_in_errors_has_no_secrets_or_escapes() {
    let places = PLACES.map(|place| async move {
        if place == Place::Ack {
            // A refusal in an ack does not end the connection; it only appears in the log, which
            // another test checks.
            return;
        }
        let server = Server::start(place).await;
        let pit = Pit::new(&server.url, &settings());
        pit.store(1..=1, "Ana").await;
        let error = pit.complaint().await;
        assert!(server.clients.load(Ordering::Relaxed) > 0, "{place:?}");
        assert!(error.chars().count() < MAX_LINE_BYTES, "{place:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{place:?}: {error:?}");
        is_harmless(place, "last_error", &error);
    });
    join_all(places).await;
}

/// Acts as a NATS server that answers a login with this error.
async fn refuse_on_nats(mut client: TcpStream, error: &str) {
    let info = json!({"server_id": "a", "version": "2.10.0", "proto": 1, "max_payload": 1_048_576,
                      "headers": true});
    let _ = client.write_all(format!("INFO {info}\r\n").as_bytes()).await;
    let _ = client.read(&mut [0; 4096]).await;
    let _ = client.write_all(format!("-ERR '{error}'\r\n").as_bytes()).await;
    sleep(Duration::from_millis(200)).await;
}

#[tokio::test]
async fn nats_server_text_in_errors_has_no_secrets_or_escapes() {
    for kind in ["Authorization Violation", "Whatever"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        let error = format!("{kind} \u{1b}[2J {TOKEN} {SESSION} \u{202e}x");
        server.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                refuse_on_nats(client, &error).await;
            }
        });
        let pit = Pit::new(&url, &settings());
        let error = pit.complaint().await;
        is_harmless(Place::ConnectError, "last_error", &error);
        assert!(error.contains("[secret]"), "{error}");
    }
}

async fn agent_beside(place: Place, queue: &Path) {
    let server = Server::start(place).await;
    let token = format!("server.token={TOKEN}");
    let agent = Agent::start(queue, &server.url, &[&token, "delivery.proof=ack"]);
    agent.feed(&[json!({"lap": 1, "player_name": "Ana\u{202e}\u{9b}2J"}).to_string()]);
    // Wait until the error has reached the log.
    let logged = async || {
        let log = agent.process.stderr();
        log.iter().any(|line| line.contains("[secret]")).then_some(())
    };
    eventually(&format!("{place:?}: the error is logged"), logged).await;
    for path in ["/readyz", "/status", "/metrics"] {
        let (_, text) = agent.page(path).await;
        // `/status` is served to this PC only, and legitimately contains the session's page link.
        let text = match path {
            "/status" => without_page(&text),
            _ => text,
        };
        is_harmless(place, path, &text);
    }
    for line in agent.process.stderr() {
        assert!(line.len() < MAX_LINE_BYTES, "{place:?}: {line}");
        is_harmless(place, "the log", &line);
    }
}

/// The status without the session's page link.
fn without_page(status: &str) -> String {
    let mut status: Value = serde_json::from_str(status).unwrap();
    status["destinations"][0]["page"] = Value::Null;
    status.to_string()
}

#[tokio::test]
async fn server_text_in_log_and_pages_has_no_secrets_or_escapes() {
    let folder = tempfile::tempdir().unwrap();
    let places = [Place::ErrorEventThenClose, Place::ConnectError, Place::Ack];
    join_all(places.map(|place| {
        let queue = folder.path().join(format!("{place:?}"));
        async move { agent_beside(place, &queue).await }
    }))
    .await;
}

#[tokio::test]
async fn server_text_on_the_terminal_has_no_secrets_or_escapes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Place::ErrorEventThenClose).await;
    let mut command = pitwire(&["run", "--server", &server.url, "--queue"]);
    command.arg(folder.path().join("queue"));
    let token = format!("server.token={TOKEN}");
    for setting in [
        "source.lmu.enabled=false",
        "source.http.enabled=false",
        "source.stdin.enabled=false",
        "source.simulator.enabled=true",
        "metrics.listen=127.0.0.1:0",
        &token,
    ] {
        command.args(["--set", setting]);
    }
    let screen = Screen::start(&command, 200, |_| {});
    let logged = async || screen.written().contains("[secret]").then_some(());
    eventually("the error is shown on the terminal", logged).await;
    sleep(Duration::from_millis(200)).await;
    let written = screen.written();
    for forbidden in ["\u{1b}]0;", "hunter2", "h1bnRlcjI", SESSION, "\u{202e}", "\nFORGED"] {
        assert!(!written.contains(forbidden), "{forbidden:?}: {written:?}");
    }
}

#[tokio::test]
async fn server_text_in_doctor_findings_has_no_secrets_or_escapes() {
    let places = [Place::StatusLine, Place::ConnectError, Place::ErrorEventThenClose, Place::Ack];
    join_all(places.map(|place| async move {
        let server = Server::start(place).await;
        let folder = tempfile::tempdir().unwrap();
        let token = format!("server.token={TOKEN}");
        let mut command = pitwire(&["doctor", "--server", &server.url, "--queue"]);
        command.arg(folder.path().join("queue"));
        for setting in [
            &*token,
            "delivery.proof_timeout=2s",
            "delivery.open_timeout=3s",
            "metrics.listen=127.0.0.1:0",
            "source.http.listen=127.0.0.1:0",
        ] {
            command.args(["--set", setting]);
        }
        let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8(ran.stdout).unwrap();
        assert!(text.contains("fault"), "{place:?}: {text}");
        is_harmless(place, "the doctor's findings", &text);
    }))
    .await;
}

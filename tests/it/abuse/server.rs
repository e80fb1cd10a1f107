//! Servers that send too much, messages that are too large, or text that is not UTF-8.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use super::raw::{self, PING, TEXT, server_frame};
use super::{MAX_AGENT_RSS_KIB, beside_live_source};
use crate::agent::{Agent, PATIENCE, eventually};

const CONTINUATION: u8 = 0;

/// Most bytes sent on one connection, so that a failing test does not harm the machine.
const FLOOD_BYTES: usize = 256 << 20;

/// A server that accepts each connection, sends the same bytes repeatedly, and reads nothing.
struct Hostile {
    address: SocketAddr,
    /// Number of accepted connections.
    accepted: Arc<AtomicUsize>,
    /// Number of connections that the agent closed.
    closed: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Hostile {
    async fn start(attack: Vec<u8>) -> Self {
        Self::serve(move |client| {
            let attack = attack.clone();
            async move {
                let Some(mut client) = accept(client).await else { return };
                raw::flood(&mut client, &attack, FLOOD_BYTES, PATIENCE).await;
            }
        })
        .await
    }

    async fn serve<F: Future<Output = ()> + Send + 'static>(
        talk: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (accepted.clone(), closed.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                counts.0.fetch_add(1, Ordering::Relaxed);
                let (talk, closed) = (talk(client), counts.1.clone());
                clients.spawn(async move {
                    talk.await;
                    closed.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, accepted, closed, _tasks: tasks }
    }

    /// Runs an agent against this server until the agent has closed two connections.
    async fn makes_an_agent_disconnect(&self) -> (TempDir, Agent) {
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(folder.path(), &format!("http://{}", self.address), &[]);
        let left = async || (self.closed.load(Ordering::Relaxed) >= 2).then_some(());
        let attack = eventually("the agent closes the connection", left);
        let ((), observed) = beside_live_source(&agent, attack).await;
        assert!(observed.peak_rss_kib <= MAX_AGENT_RSS_KIB, "{observed:?}");
        (folder, agent)
    }

    /// Runs an agent against this server for five seconds.
    async fn is_tolerated_by_an_agent(&self) {
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(folder.path(), &format!("http://{}", self.address), &[]);
        let connected = async || (self.accepted.load(Ordering::Relaxed) >= 1).then_some(());
        let attack = async {
            eventually("the agent connects", connected).await;
            sleep(Duration::from_secs(5)).await;
        };
        let ((), observed) = beside_live_source(&agent, attack).await;
        assert!(observed.peak_rss_kib <= MAX_AGENT_RSS_KIB, "{observed:?}");
    }
}

/// Completes the server's side of a Socket.IO handshake.
async fn accept(client: TcpStream) -> Option<TcpStream> {
    let mut socket = tokio_tungstenite::accept_async(client).await.ok()?;
    let open = r#"0{"sid":"a","upgrades":[],"pingInterval":25000,"pingTimeout":20000}"#;
    socket.send(Message::text(open)).await.ok()?;
    while let Some(Ok(message)) = socket.next().await {
        if message.to_text().is_ok_and(|text| text.starts_with("40")) {
            socket.send(Message::text(r#"40{"sid":"a"}"#)).await.ok()?;
            return Some(socket.into_inner());
        }
    }
    None
}

#[tokio::test]
async fn a_flood_of_pings_closes_the_connection() {
    let server = Hostile::start(server_frame(PING, true, &[b'x'; 125]).repeat(2000)).await;
    let (_folder, agent) = server.makes_an_agent_disconnect().await;
    agent.process.says("more than 100 pings in a second").await;
}

#[tokio::test]
async fn a_flood_of_engine_io_pings_closes_the_connection() {
    let server = Hostile::start(server_frame(TEXT, true, b"2").repeat(30_000)).await;
    server.makes_an_agent_disconnect().await;
}

#[tokio::test]
async fn a_flood_of_unsolicited_events_closes_the_connection() {
    let event = server_frame(TEXT, true, br#"42["noise",{"a":1}]"#);
    let server = Hostile::start(event.repeat(10_000)).await;
    let (_folder, agent) = server.makes_an_agent_disconnect().await;
    agent.process.says("it sends events faster than they are read").await;
}

#[tokio::test]
async fn a_flood_of_reported_errors_closes_the_connection() {
    let event = server_frame(TEXT, true, br#"42["error","no"]"#);
    let server = Hostile::start(event.repeat(10_000)).await;
    server.makes_an_agent_disconnect().await;
}

#[tokio::test]
async fn an_event_of_60_mb_in_fragments_closes_the_connection() {
    let megabyte = vec![b' '; 1 << 20];
    let mut attack = server_frame(TEXT, false, br#"42["noise","#);
    for _ in 0..60 {
        attack.extend(server_frame(CONTINUATION, false, &megabyte));
    }
    let server = Hostile::start(attack).await;
    let (_folder, agent) = server.makes_an_agent_disconnect().await;
    agent.process.says("too long").await;
}

#[tokio::test]
async fn an_event_with_many_objects_is_not_parsed() {
    let objects = vec![r#"{"":0}"#; 500_000].join(",");
    let event = format!(r#"42["noise",[{objects}]]"#);
    let server = Hostile::start(server_frame(TEXT, true, event.as_bytes())).await;
    server.is_tolerated_by_an_agent().await;
}

#[tokio::test]
async fn an_event_with_many_attachments_allocates_nothing_for_them() {
    let mut attack = server_frame(TEXT, true, br#"45255-["noise",{"_placeholder":true,"num":0}]"#);
    let attachment = format!("42{}[]", " ".repeat(3_000_000));
    for _ in 0..60 {
        attack.extend(server_frame(TEXT, true, attachment.as_bytes()));
    }
    let server = Hostile::start(attack).await;
    server.is_tolerated_by_an_agent().await;
}

#[tokio::test]
async fn an_endless_response_head_closes_the_connection() {
    let server = Hostile::serve(|mut client| async move {
        let mut request = [0; 1024];
        let _ = client.read(&mut request).await;
        let _ = client.write_all(b"HTTP/1.1 101 Switching Protocols\r\n").await;
        let header = format!("X-Noise: {}\r\n", "x".repeat(8000));
        raw::flood(&mut client, header.as_bytes(), FLOOD_BYTES, PATIENCE).await;
    });
    server.await.makes_an_agent_disconnect().await;
}

/// A server that offers only long-polling and answers each poll with `answer`, again and again.
async fn polling(answer: Vec<u8>) -> Hostile {
    Hostile::serve(move |mut client| {
        let answer = answer.clone();
        async move {
            let mut request = Vec::new();
            let mut polls = 0;
            loop {
                request.clear();
                while !request.ends_with(b"\r\n\r\n") {
                    match client.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8_lossy(&request).to_lowercase();
                let body = if head.contains("upgrade: websocket") {
                    let refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
                    let _ = client.write_all(refusal).await;
                    return;
                } else if head.starts_with("post") {
                    let length =
                        head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let mut body = vec![0; length.unwrap().parse().unwrap()];
                    let _ = client.read_exact(&mut body).await;
                    "ok"
                } else if !head.contains("sid=") {
                    r#"0{"sid":"a","upgrades":[],"pingInterval":25000,"pingTimeout":20000}"#
                } else if polls == 0 {
                    polls += 1;
                    r#"40{"sid":"a"}"#
                } else {
                    raw::flood(&mut client, &answer, FLOOD_BYTES, PATIENCE).await;
                    return;
                };
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let _ = client.write_all(head.as_bytes()).await;
                let _ = client.write_all(body.as_bytes()).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_endless_answer_to_a_poll_ends_the_link() {
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let server = polling([head, &chunk.repeat(64)].concat().into_bytes()).await;
    let (_folder, agent) = server.makes_an_agent_disconnect().await;
    agent.process.says("a response that is too long").await;
}

#[tokio::test]
async fn a_poll_with_many_packets_takes_little_memory() {
    for packet in ["6", "40", r#"42["noise",{}]"#, "4", "2"] {
        let body = vec![packet; (7 << 20) / (packet.len() + 1)].join("\u{1e}");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let server = polling([head, body].concat().into_bytes()).await;
        server.is_tolerated_by_an_agent().await;
    }
}

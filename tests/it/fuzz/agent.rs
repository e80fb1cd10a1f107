//! Fuzzes a running agent with HTTP requests, and with packets of a publisher that uses the agent
//! as its dashboard server.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::{LIMIT, cases, corpus, peak_mib};
use crate::agent::Agent;
use crate::contract::{self, Client};

/// An address without a listener.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";
/// Upper bound of the agent's memory, in MiB, for any input.
const MOST_MIB: u64 = 150;

#[tokio::test]
async fn an_agent_answers_or_closes_on_any_request() {
    let queue = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(queue.path(), CLOSED_ADDRESS, &["queue.durability=os"]);
    for what in ["telemetry", "metrics"] {
        let address = agent.address(what).await.replace("http://", "");
        for (case, request) in cases(300, &corpus("http")) {
            let mut client = TcpStream::connect(&address).await.unwrap();
            let _ = client.write_all(&request).await;
            // Close the write side, so that the agent does not wait for the rest of the request.
            let _ = client.shutdown().await;
            let answer = timeout(LIMIT, client.read_to_end(&mut Vec::new())).await;
            assert!(answer.is_ok(), "{what}, case {case}: {}", request.escape_ascii());
        }
    }
    assert_eq!(agent.post("/v1/telemetry", "{\"lap\": 7}").await.status(), 200);
    is_well(&mut agent).await;
}

#[tokio::test]
async fn arbitrary_packets_close_only_the_connection_of_their_publisher() {
    let queue = tempfile::tempdir().unwrap();
    let settings = [
        "source.socketio.enabled=true",
        "source.socketio.listen=127.0.0.1:0",
        "queue.durability=os",
    ];
    let mut agent = Agent::start(queue.path(), CLOSED_ADDRESS, &settings);
    let url = agent.address("publishers").await;
    let mut refused = 0;
    let mut link = None;
    for (case, packet) in cases(600, &corpus("client")) {
        if link.is_none() {
            link = Some(enter(&url).await);
        }
        let Some(socket) = &mut link else { continue };
        let message = match String::from_utf8(packet) {
            Ok(text) => Message::text(text),
            Err(bytes) => Message::binary(bytes.into_bytes()),
        };
        let sent = timeout(LIMIT, socket.send(message)).await;
        let sent = sent.unwrap_or_else(|_| panic!("case {case}: the agent does not read"));
        // The agent may or may not answer the packet.
        let heard = timeout(Duration::from_millis(2), socket.next()).await;
        let ended = matches!(heard, Ok(None | Some(Err(_)) | Some(Ok(Message::Close(_)))));
        if sent.is_err() || ended {
            refused += 1;
            link = None;
        }
    }
    drop(link);
    assert!(refused > 5, "only {refused} connections were closed");
    let mut publisher = Client::connect(&url).await;
    let session = publisher.new_session().await;
    let before = agent.metric("pitwire_entries_appended_total").await;
    publisher.ask("telemetry_update", contract::frame(&session)).await;
    let after = agent.metric("pitwire_entries_appended_total").await;
    assert_eq!(after, before + 1.0, "a good frame is stored");
    is_well(&mut agent).await;
}

/// Connects as a publisher and completes the handshake.
async fn enter(url: &str) -> tokio_tungstenite::WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(url.replace("http://", "")).await.unwrap();
    let path = format!("{}/socket.io/?EIO=4&transport=websocket", url.replace("http", "ws"));
    let (mut socket, _) = timeout(LIMIT, client_async(path, stream)).await.unwrap().unwrap();
    socket.send(Message::text("40")).await.unwrap();
    // The Engine.IO and Socket.IO greetings.
    for _ in 0..2 {
        timeout(LIMIT, socket.next()).await.expect("the agent accepts the publisher");
    }
    socket.send(Message::text(format!("42{}", json!(["request_session_id", {}])))).await.unwrap();
    socket
}

/// Checks that the agent answers, never panicked, and stayed within its memory bound.
async fn is_well(agent: &mut Agent) {
    assert_eq!(agent.metric("pitwire_ledger_imbalance_entries").await, 0.0);
    let log = agent.process.stderr().join("\n");
    assert!(!log.contains("panicked"), "{log}");
    let peak = peak_mib(agent.process.id());
    assert!(peak < MOST_MIB, "{peak} MiB");
    agent.stop().await;
}

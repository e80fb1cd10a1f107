//! Clients that try to exhaust the memory of the agent or the embedded server.

use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use pitwire::dashboard::{Behaviour, Server};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::raw::{self, Flood, PING, TEXT, client_frame, client_head};
use super::{MAX_AGENT_RSS_KIB, PeakUsage, beside_live_source};
use crate::agent::{Agent, PATIENCE, Process, eventually, pitwire};
use crate::contract::{self, Client};

/// More than any process under test may hold, but not enough to harm the machine if it does.
const FLOOD_BYTES: usize = 256 << 20;

/// An agent with the Socket.IO source enabled, and the server it delivers to.
struct StandIn {
    folder: TempDir,
    _server: Server,
    agent: Agent,
    url: String,
}

impl StandIn {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start("127.0.0.1:0".parse().unwrap(), Behaviour::default()).unwrap();
        let settings = ["source.socketio.enabled=true", "source.socketio.listen=127.0.0.1:0"];
        let agent = Agent::start(folder.path(), &server.url(), &settings);
        let url = agent.address("publishers").await;
        Self { folder, _server: server, agent, url }
    }

    /// Runs an attack beside a live source and checks that the agent's memory stays bounded.
    async fn withstands<T>(&self, attack: impl Future<Output = T>) -> T {
        let (result, observed) = beside_live_source(&self.agent, attack).await;
        assert!(observed.peak_rss_kib <= MAX_AGENT_RSS_KIB, "{observed:?}");
        result
    }
}

#[tokio::test]
async fn a_client_that_pings_without_reading_pongs_is_disconnected() {
    let stand_in = StandIn::start().await;
    let pings = client_frame(PING, &[b'x'; 125]).repeat(2000);
    let end = stand_in.withstands(async {
        let mut socket = raw::enter(&stand_in.url).await;
        raw::flood(&mut socket, &pings, FLOOD_BYTES, PATIENCE).await
    });
    assert_eq!(end.await, Flood::Cut);
}

#[tokio::test]
async fn a_flood_of_events_without_arguments_is_slowed_down() {
    let stand_in = StandIn::start().await;
    let events = client_frame(TEXT, b"42").repeat(30_000);
    let ends = stand_in.withstands(join_all((0..4).map(|_| async {
        let mut socket = raw::enter(&stand_in.url).await;
        // Shorter than the heartbeat, because the client answers no ping.
        raw::flood(&mut socket, &events, FLOOD_BYTES / 4, Duration::from_secs(8)).await
    })));
    let ends = ends.await;
    assert!(!ends.contains(&Flood::Cut), "{ends:?}");
    let refused = r#"pitwire_source_rejected_total{source="socketio",reason="not_json"}"#;
    assert!(stand_in.agent.metric(refused).await > 0.0);
}

/// The client sends packets that need an answer and never reads the answers.
#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_disconnected() {
    let stand_in = StandIn::start().await;
    let elsewhere = format!("40/{},", "x".repeat(100_000));
    let packets = client_frame(TEXT, elsewhere.as_bytes());
    let end = stand_in.withstands(async {
        let mut socket = raw::enter(&stand_in.url).await;
        raw::flood(&mut socket, &packets, FLOOD_BYTES, PATIENCE).await
    });
    assert_eq!(end.await, Flood::Cut);
}

#[tokio::test]
async fn half_sent_messages_do_not_block_a_connected_publisher() {
    let stand_in = StandIn::start().await;
    let mut publisher = Client::connect(&stand_in.url).await;
    let id = publisher.new_session().await;
    let half_a_message = vec![b' '; 990_000];
    stand_in
        .withstands(async {
            let sockets = join_all((0..40).map(|number| {
                let half_a_message = &half_a_message;
                let url = &stand_in.url;
                async move {
                    let mut socket = raw::connect(url).await.ok()?;
                    // Every second client completes the handshake, unless the server is at its
                    // limit.
                    if number % 2 == 0 {
                        let _ = socket.write_all(&client_frame(TEXT, b"40")).await;
                    }
                    let _ = socket.write_all(&client_head(TEXT, 1_000_000)).await;
                    let writing = socket.write_all(half_a_message);
                    let _ = timeout(Duration::from_secs(5), writing).await;
                    Some(socket)
                }
            }));
            let sockets = sockets.await;
            publisher.ask("telemetry_update", contract::frame(&id)).await;
            drop(sockets);
        })
        .await;
}

#[tokio::test]
async fn idle_polling_sessions_do_not_block_a_new_publisher() {
    let stand_in = StandIn::start().await;
    let polling = format!("{}/socket.io/?EIO=4&transport=polling", stand_in.url);
    stand_in
        .withstands(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            for _ in 0..1000 {
                client.get(&polling).send().await.unwrap().bytes().await.unwrap();
            }
            Client::connect(&stand_in.url).await.new_session().await
        })
        .await;
}

#[tokio::test]
async fn long_driver_names_do_not_grow_memory_or_the_streams_file() {
    let stand_in = StandIn::start().await;
    stand_in
        .withstands(async {
            let mut publisher = Client::connect(&stand_in.url).await;
            for driver in 0..8 {
                let id = publisher.new_session().await;
                let mut frame = contract::frame(&id);
                frame["telemetry"]["player_name"] = json!(driver.to_string().repeat(400_000));
                publisher.tell("telemetry_update", frame).await;
                publisher.ask("join_session", json!({"session_id": "none"})).await;
            }
        })
        .await;
    let file = stand_in.folder.path().join("streams.json");
    let bytes = std::fs::metadata(file).unwrap().len();
    assert!(bytes < 16 << 10, "{bytes}");
}

#[tokio::test]
async fn a_connected_publisher_keeps_its_id_when_others_request_ids() {
    let stand_in = StandIn::start().await;
    let mut publisher = Client::connect(&stand_in.url).await;
    let id = publisher.new_session().await;
    let mut newcomer = Client::connect(&stand_in.url).await;
    for _ in 0..300 {
        newcomer.new_session().await;
    }
    let echoes = async {
        publisher.ask("join_session", json!({"session_id": id})).await;
        publisher.ask("telemetry_update", contract::frame(&id)).await
    };
    assert_eq!(echoes.await.len(), 1, "the frame is stored and sent back");
}

/// A `pitwire serve` process on a free port.
struct Serve {
    process: Process,
    url: String,
}

impl Serve {
    async fn start() -> Self {
        let mut command = pitwire(&["serve", "--listen", "127.0.0.1:0"]);
        let process = Process::start(command.stdin(Stdio::null()));
        let said = async || {
            let lines = process.stdout();
            Some(lines.first()?.strip_prefix("dashboard server on ")?.to_owned())
        };
        let url = eventually("the server listens", said).await;
        Self { process, url }
    }

    /// Creates a session with `count` setups of `bytes` each and returns its id.
    async fn with_setups(&self, count: usize, bytes: usize) -> String {
        let mut publisher = Client::connect(&self.url).await;
        let id = publisher.new_session().await;
        for number in 0..count {
            let setup = json!({"number": number, "notes": "x".repeat(bytes)});
            let payload = json!({"session_id": id, "setup": setup});
            publisher.ask("setup_data", payload).await;
        }
        id
    }
}

#[tokio::test]
async fn a_viewer_that_never_reads_is_disconnected_without_affecting_others() {
    let serve = Serve::start().await;
    let mut publisher = Client::connect(&serve.url).await;
    let id = publisher.new_session().await;
    let mut viewer = raw::enter(&serve.url).await;
    let join = format!(r#"42["join_session",{{"session_id":"{id}"}}]"#);
    viewer.write_all(&client_frame(TEXT, join.as_bytes())).await.unwrap();
    let mut other = Client::connect(&serve.url).await;
    other.ask("join_session", json!({"session_id": id})).await;
    // More than fits into the viewer's send buffer and the network's buffers.
    const SETUPS: usize = 160;
    let setup = json!({"notes": "x".repeat(300_000)});
    for _ in 0..SETUPS {
        publisher.ask("setup_data", json!({"session_id": id, "setup": setup})).await;
        assert_eq!(other.next_event().await.0, "setup_update");
    }
    // The server closed the connection: only bytes that were already in flight arrive.
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, viewer.read_to_end(&mut rest)).await.expect("an end");
    assert!(rest.len() < SETUPS * 300_000, "{}", rest.len());
}

#[tokio::test]
async fn a_large_setup_history_is_streamed_in_bounded_memory() {
    let serve = Serve::start().await;
    let id = serve.with_setups(60, 800_000).await;
    let url = format!("{}/api/sessions/{id}/setups", serve.url);
    let history: Vec<serde_json::Value> = reqwest::get(&url).await.unwrap().json().await.unwrap();
    let numbers: Vec<_> = history.iter().map(|setup| setup["setup"]["number"].as_u64()).collect();
    assert!(numbers.iter().copied().eq((0..60).map(Some)), "{numbers:?}");
    let newest: Vec<serde_json::Value> =
        reqwest::get(url.clone() + "?newest=2").await.unwrap().json().await.unwrap();
    assert_eq!(newest[..], history[58..]);

    // The session holds 48 MB. A server that buffers a copy for each stalled reader would exceed
    // the limit below.
    let peak = PeakUsage::of(serve.process.id());
    let address = serve.url.strip_prefix("http://").unwrap();
    let request = format!("GET /api/sessions/{id}/setups HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let readers = join_all((0..8).map(|_| async {
        let mut reader = tokio::net::TcpStream::connect(address).await.unwrap();
        reader.write_all(request.as_bytes()).await.unwrap();
        reader
    }));
    let readers = readers.await;
    sleep(Duration::from_secs(2)).await;
    drop(readers);
    let (peak_rss_kib, _) = peak.end();
    assert!(peak_rss_kib < 160 << 10, "{peak_rss_kib} KiB");
}

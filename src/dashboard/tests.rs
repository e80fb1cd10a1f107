//! Tests of the server through real connections.

use std::net::Ipv4Addr;
use std::time::Instant;

use rust_socketio::asynchronous::ClientBuilder;
use rust_socketio::{Event, Payload, TransportType};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;

/// Longer than any step takes, so that a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before concluding that an event does not arrive.
const A_WHILE: Duration = Duration::from_millis(150);

const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn every(n: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(n)
}

fn server(behaviour: Behaviour) -> Server {
    Server::start(LOCALHOST, behaviour).unwrap()
}

/// A client that records what it receives, in order: events by name, acks as `ack`.
struct Client {
    client: rust_socketio::asynchronous::Client,
    note: UnboundedSender<(String, Value)>,
    heard: UnboundedReceiver<(String, Value)>,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        let (note, heard) = unbounded_channel();
        let events = note.clone();
        let client = ClientBuilder::new(server.url())
            .transport_type(TransportType::Websocket)
            .reconnect(false)
            .on_any(move |event, payload, _| {
                events.send((String::from(event), argument(payload))).ok();
                Box::pin(async {})
            })
            .on(Event::Connect, {
                let note = note.clone();
                move |_, _| {
                    note.send(("connected".to_owned(), Value::Null)).ok();
                    Box::pin(async {})
                }
            })
            .connect()
            .await
            .unwrap();
        let mut client = Self { client, note, heard };
        client.hears("connected").await;
        client
    }

    async fn with_session(server: &Server) -> (Self, String) {
        let mut client = Self::connect(server).await;
        client.ask("request_session_id", json!({})).await;
        let assigned = client.hears("session_id_assigned").await;
        client.hears("ack").await;
        (client, assigned["session_id"].as_str().unwrap().to_owned())
    }

    async fn joined(server: &Server) -> (Self, String) {
        let (mut client, id) = Self::with_session(server).await;
        client.ask("join_session", json!({"session_id": id})).await;
        client.hears("ack").await;
        (client, id)
    }

    async fn tell(&self, event: &str, payload: Value) {
        self.client.emit(event, payload).await.unwrap();
    }

    /// Sends an event that requests an ack. One at a time: the client library confuses concurrent
    /// ones.
    async fn ask(&self, event: &str, payload: Value) {
        let note = self.note.clone();
        self.client
            .emit_with_ack(event, payload, PATIENCE, move |payload, _| {
                note.send(("ack".to_owned(), argument(payload))).ok();
                Box::pin(async {})
            })
            .await
            .unwrap();
    }

    /// Waits for the next event, which must be `name`; returns its data.
    async fn hears(&mut self, name: &str) -> Value {
        let heard = time::timeout(PATIENCE, self.heard.recv()).await;
        let (heard, payload) = heard.unwrap_or_else(|_| panic!("waited for {name}")).unwrap();
        assert_eq!(heard, name, "with {payload}");
        payload
    }

    async fn hears_nothing(&mut self) {
        if let Ok(heard) = time::timeout(A_WHILE, self.heard.recv()).await {
            panic!("heard {heard:?}");
        }
    }

    /// Waits until sending fails: the client library does not always report the end of a
    /// connection.
    async fn is_cut_off(&self) {
        let closed = async {
            while self.client.emit("unheard_of", json!({})).await.is_ok() {
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        time::timeout(PATIENCE, closed).await.expect("the connection still stands");
    }
}

/// The first argument of an event, or all arguments of an ack, which has none.
fn argument(payload: Payload) -> Value {
    match payload {
        Payload::Text(mut arguments) if arguments.len() == 1 => arguments.remove(0),
        Payload::Text(arguments) => Value::Array(arguments),
        _ => Value::Null,
    }
}

fn frame(id: &str, lap: u64) -> Value {
    json!({"session_id": id, "telemetry": {"lap": lap}})
}

fn laps(server: &Server, id: &str) -> Vec<u64> {
    server.frames(id).iter().map(|frame| frame["lap"].as_u64().unwrap()).collect()
}

async fn get(server: &Server, path: &str) -> (u16, String) {
    let response = reqwest::get(format!("{}{path}", server.url())).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn effects_of_an_event_are_sent_before_its_ack() {
    let server = server(Behaviour::default());
    let mut agent = Client::connect(&server).await;

    agent.ask("request_session_id", json!({})).await;
    let assigned = agent.hears("session_id_assigned").await;
    assert_eq!(agent.hears("ack").await, json!([]));
    let id = assigned["session_id"].as_str().unwrap();
    assert_eq!(id, uuid::Uuid::parse_str(id).unwrap().hyphenated().to_string());

    agent.ask("join_session", json!({"session_id": id})).await;
    assert_eq!(agent.hears("ack").await, json!([]), "nothing stored yet");

    let setup = json!({"session_id": id, "timestamp": "t", "setup": {"wing": 3}});
    agent.ask("setup_data", setup.clone()).await;
    assert_eq!(agent.hears("setup_update").await, setup);
    assert_eq!(agent.hears("ack").await, json!([]));

    // Only the contents of `telemetry` reach the viewers.
    let telemetry = json!({"lap": 1, "track_name": "Autódromo José Carlos Pace", "more": [1.5]});
    let sent = json!({"session_id": id, "telemetry": telemetry, "secret": 1});
    agent.ask("telemetry_update", sent).await;
    let update = agent.hears("telemetry_update").await;
    assert_eq!(update, json!({"session_id": id, "telemetry": telemetry}));
    assert_eq!(agent.hears("ack").await, json!([]));
    assert_eq!(server.frames(id), [telemetry]);
    assert_eq!(server.setups(id), [json!({"wing": 3})]);
}

#[tokio::test]
async fn a_late_joiner_gets_the_stored_setup_then_the_latest_frame() {
    let server = server(Behaviour::default());
    let (mut agent, id) = Client::with_session(&server).await;
    agent.tell("telemetry_update", frame(&id, 1)).await;
    agent.tell("setup_data", json!({"session_id": id, "setup": {}})).await;
    agent.ask("telemetry_update", frame(&id, 2)).await;
    agent.hears("ack").await;

    let mut viewer = Client::connect(&server).await;
    viewer.ask("join_session", json!({"session_id": id})).await;
    assert_eq!(viewer.hears("setup_update").await, json!({"session_id": id, "setup": {}}));
    assert_eq!(viewer.hears("telemetry_update").await, frame(&id, 2));
    viewer.hears("ack").await;
    agent.tell("telemetry_update", frame(&id, 3)).await;
    assert_eq!(viewer.hears("telemetry_update").await, frame(&id, 3));
}

#[tokio::test]
async fn events_for_an_unknown_session_are_acknowledged_and_discarded() {
    let server = server(Behaviour::default());
    let mut agent = Client::connect(&server).await;
    let id = "1b671a64-40d5-491e-99b0-da01ff1f3341";
    agent.ask("join_session", json!({"session_id": id})).await;
    agent.hears("ack").await;
    for (event, payload) in [
        ("telemetry_update", frame(id, 1)),
        ("setup_data", json!({"session_id": id, "timestamp": "t", "setup": {}})),
        ("telemetry_update", json!({"session_id": 7, "telemetry": {}})),
        ("telemetry_update", json!({})),
    ] {
        agent.ask(event, payload).await;
        assert_eq!(agent.hears("ack").await, json!([]));
    }
    assert_eq!(server.sessions(), []);
}

#[tokio::test]
async fn non_object_payloads_and_unknown_events_are_not_acknowledged() {
    for (event, payload) in [("telemetry_update", json!(5)), ("unheard_of", json!({}))] {
        let server = server(Behaviour::default());
        let mut agent = Client::connect(&server).await;
        agent.ask(event, payload).await;
        agent.hears_nothing().await;
    }
}

#[tokio::test]
async fn the_history_holds_every_frame_in_order_of_arrival() {
    let server = server(Behaviour::default());
    let (mut agent, id) = Client::joined(&server).await;
    let padding = "x".repeat(700);
    for lap in 1..=3_000_u64 {
        let telemetry = json!({"lap": lap, "padding": padding});
        agent.tell("telemetry_update", json!({"session_id": id, "telemetry": telemetry})).await;
    }
    for lap in 1..=3_000 {
        assert_eq!(agent.hears("telemetry_update").await["telemetry"]["lap"], lap);
    }
    assert_eq!(laps(&server, &id), (1..=3_000).collect::<Vec<_>>());

    let (_, sessions) = get(&server, "/api/sessions").await;
    let sessions: Value = serde_json::from_str(&sessions).unwrap();
    let summary = json!({"session_id": id, "frames": 3000, "setups": 0, "frames_dropped": 0});
    assert_eq!(sessions, json!([summary]));
    let (_, history) = get(&server, &format!("/api/sessions/{id}/frames")).await;
    let history: Vec<Value> = serde_json::from_str(&history).unwrap();
    let laps: Vec<_> = history.iter().map(|item| item["telemetry"]["lap"].as_u64()).collect();
    assert_eq!(laps, (1..=3_000).map(Some).collect::<Vec<_>>());

    for (most, expected) in
        [(3, vec![1_000, 2_000, 3_000]), (1_999, (2..=3_000).step_by(2).collect())]
    {
        let (_, reduced) = get(&server, &format!("/api/sessions/{id}/frames?thin_to={most}")).await;
        let reduced: Vec<Value> = serde_json::from_str(&reduced).unwrap();
        let laps = reduced.iter().map(|item| item["telemetry"]["lap"].as_u64().unwrap());
        assert_eq!(laps.collect::<Vec<_>>(), expected);
    }
    assert_eq!(get(&server, &format!("/api/sessions/{id}/frames?thin_to=0")).await.0, 400);
}

#[tokio::test]
async fn an_oversized_message_closes_the_connection() {
    let server = server(Behaviour::default());
    let (mut agent, id) = Client::with_session(&server).await;
    let [fits, oversized] = [900_000, 1_000_000]
        .map(|size| json!({"session_id": id, "setup": {"text": "x".repeat(size)}}));
    agent.ask("setup_data", fits).await;
    agent.hears("ack").await;
    // The server may close the connection before everything is written.
    agent.client.emit("setup_data", oversized).await.ok();
    agent.is_cut_off().await;
    assert_eq!(server.setups(&id).len(), 1);
}

#[tokio::test]
async fn a_silent_server_neither_stores_nor_answers() {
    let server = server(Behaviour::default());
    let (mut agent, id) = Client::joined(&server).await;
    server.behave(Behaviour { silent: true, ..Behaviour::default() });
    agent.ask("telemetry_update", frame(&id, 1)).await;
    agent.hears_nothing().await;
    assert!(laps(&server, &id).is_empty());
}

#[tokio::test]
async fn a_delay_applies_to_both_the_echo_and_the_ack() {
    let server = server(Behaviour::default());
    let (mut agent, id) = Client::joined(&server).await;
    server.behave(Behaviour { delay: A_WHILE, ..Behaviour::default() });
    let begun = Instant::now();
    agent.tell("telemetry_update", frame(&id, 1)).await;
    agent.ask("telemetry_update", frame(&id, 2)).await;
    agent.hears("telemetry_update").await;
    assert!(begun.elapsed() >= A_WHILE);
    agent.hears("telemetry_update").await;
    agent.hears("ack").await;
    assert!(begun.elapsed() >= 2 * A_WHILE);
}

#[tokio::test]
async fn a_delayed_ack_arrives_after_the_echo() {
    let server = server(Behaviour::default());
    let (mut agent, id) = Client::joined(&server).await;
    server.behave(Behaviour { acks: Acks::After(2 * A_WHILE), ..Behaviour::default() });
    agent.ask("telemetry_update", frame(&id, 1)).await;
    agent.hears("telemetry_update").await;
    agent.hears_nothing().await;
    agent.hears("ack").await;
}

#[tokio::test]
async fn a_server_that_never_acks_still_stores_and_echoes() {
    let server = server(Behaviour::default());
    let (mut agent, id) = Client::joined(&server).await;
    server.behave(Behaviour { acks: Acks::Never, ..Behaviour::default() });
    agent.ask("telemetry_update", frame(&id, 1)).await;
    agent.hears("telemetry_update").await;
    agent.hears_nothing().await;
    assert_eq!(laps(&server, &id), [1]);
}

#[tokio::test]
async fn no_echo_withholds_a_frame_only_from_its_sender() {
    let server = server(Behaviour { no_echo: true, ..Behaviour::default() });
    let (mut agent, id) = Client::joined(&server).await;
    let mut viewer = Client::connect(&server).await;
    viewer.ask("join_session", json!({"session_id": id})).await;
    viewer.hears("ack").await;
    agent.ask("telemetry_update", frame(&id, 1)).await;
    agent.hears("ack").await;
    viewer.hears("telemetry_update").await;
}

#[tokio::test]
async fn every_nth_frame_is_acknowledged_but_not_stored() {
    let server = server(Behaviour { refuse_every: every(3), ..Behaviour::default() });
    let (mut agent, id) = Client::with_session(&server).await;
    for lap in 1..=7 {
        agent.ask("telemetry_update", frame(&id, lap)).await;
        agent.hears("ack").await;
    }
    assert_eq!(laps(&server, &id), [1, 2, 4, 5, 7]);
}

#[tokio::test]
async fn schema_mode_acknowledges_invalid_frames_without_storing_them() {
    let server = server(Behaviour { schema: true, ..Behaviour::default() });
    let (mut agent, id) = Client::with_session(&server).await;
    let good = json!({
        "timestamp": "2025-11-22T14:30:22.123Z", "lap": 1, "position": 1, "fuel": 9.5,
        "fuel_capacity": 90, "player_name": "", "car_name": "", "track_name": "",
        "session_type": "",
    });
    for telemetry in [good.clone(), json!({"lap": 2})] {
        agent.ask("telemetry_update", json!({"session_id": id, "telemetry": telemetry})).await;
        agent.hears("ack").await;
    }
    assert_eq!(server.frames(&id), [good]);
}

#[tokio::test]
async fn the_connection_is_closed_at_every_nth_frame() {
    let server = server(Behaviour { close_every: every(3), ..Behaviour::default() });
    let (agent, id) = Client::with_session(&server).await;
    for lap in 1..=4 {
        agent.client.emit("telemetry_update", frame(&id, lap)).await.ok();
    }
    agent.is_cut_off().await;
    assert_eq!(laps(&server, &id), [1, 2]);

    let mut next = Client::connect(&server).await;
    next.ask("telemetry_update", frame(&id, 3)).await;
    next.hears("ack").await;
    assert_eq!(laps(&server, &id), [1, 2, 3], "the session outlives the connection");
}

#[tokio::test]
async fn sessions_are_forgotten_periodically() {
    let server = server(Behaviour::default());
    for _ in 0..2 {
        let (mut agent, id) = Client::with_session(&server).await;
        server.behave(Behaviour { forget_every: Some(A_WHILE), ..Behaviour::default() });
        let forgotten = async {
            while !server.sessions().is_empty() {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(PATIENCE, forgotten).await.unwrap();
        agent.ask("telemetry_update", frame(&id, 1)).await;
        agent.hears("ack").await;
        assert!(server.frames(&id).is_empty());
    }
}

#[tokio::test]
async fn stopping_or_dropping_the_server_disconnects_clients_and_frees_its_port() {
    let ends: [fn(Server); 2] = [Server::stop, drop];
    let mut addr = LOCALHOST;
    for end in ends {
        let server = Server::start(addr, Behaviour::default()).unwrap();
        addr = server.addr();
        let agent = Client::connect(&server).await;
        end(server);
        agent.is_cut_off().await;
    }
    Server::start(addr, Behaviour::default()).unwrap();
}

#[tokio::test]
async fn cutting_connections_keeps_the_sessions() {
    let server = server(Behaviour::default());
    let (agent, id) = Client::with_session(&server).await;
    server.cut_connections();
    agent.is_cut_off().await;
    let mut next = Client::connect(&server).await;
    next.ask("telemetry_update", frame(&id, 1)).await;
    next.hears("ack").await;
    assert_eq!(laps(&server, &id), [1]);
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let first = server(Behaviour::default());
    let error = Server::start(first.addr(), Behaviour::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn the_api_lists_setups_and_deletes_sessions() {
    let server = server(Behaviour::default());
    let (mut agent, id) = Client::with_session(&server).await;
    agent.ask("setup_data", json!({"session_id": id, "timestamp": "t", "setup": {"a": 1}})).await;
    agent.hears("ack").await;

    agent.ask("setup_data", json!({"session_id": id, "timestamp": "u", "setup": {"a": 2}})).await;
    agent.hears("ack").await;
    let second = r#"{"timestamp":"u","setup":{"a":2}}"#;
    let both = format!(r#"[{{"timestamp":"t","setup":{{"a":1}}}},{second}]"#);
    for (asked, expected) in [("", &both), ("?newest=1", &format!("[{second}]"))] {
        let setups = get(&server, &format!("/api/sessions/{id}/setups{asked}")).await;
        assert_eq!(setups, (200, expected.clone()));
    }
    let frames = get(&server, &format!("/api/sessions/{id}/frames")).await;
    assert_eq!(frames, (200, "[]".to_owned()));
    let (_, overview) = get(&server, "/api/overview").await;
    assert!(overview.contains(&id), "{overview}");

    let api = format!("{}/api/sessions", server.url());
    let forgotten = reqwest::Client::new().delete(api).send().await.unwrap();
    assert_eq!(forgotten.text().await.unwrap(), r#"{"forgotten":1}"#);
    for path in [&format!("/api/sessions/{id}/frames"), "/api/sessions/x/setups", "/favicon.ico"] {
        let (status, body) = get(&server, path).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, body["error"].is_string()), (404, true), "{path}");
    }
    assert_eq!(get(&server, "/healthz").await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn the_dashboard_page_loads_no_external_resources() {
    let server = server(Behaviour::default());
    let (status, page) = get(&server, "/dashboard/anything").await;
    assert_eq!(status, 200);
    for elsewhere in ["http://", "https://", "src=", "@import", "innerHTML", "insertAdjacent"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
}

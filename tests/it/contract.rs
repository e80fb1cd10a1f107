//! The protocol contract of every dashboard server, checked with a raw client.
//!
//! The checks take a URL, so that any server that implements these events can be tested. They use
//! the events only, except for `GET /api/sessions`, which shows the frames that the server kept.

use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use rust_socketio::asynchronous::{Client as Socket, ClientBuilder};
use rust_socketio::{Event, Payload, TransportType};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time;

use crate::peers::{self, Kind, Peer};

#[tokio::test]
async fn flask_on_eventlet_keeps_the_contract() {
    let peer = Peer::start(Kind::Flask, &[]);
    keeps_the_contract(&peer.url()).await;
    keeps_the_order(&peer.url()).await;
}

#[tokio::test]
async fn flask_on_threads_keeps_the_contract() {
    let peer = Peer::start(Kind::Flask, &["--async-mode", "threading"]);
    keeps_the_contract(&peer.url()).await;
}

#[tokio::test]
async fn asgi_keeps_the_contract() {
    let peer = Peer::start(Kind::Asgi, &[]);
    keeps_the_contract(&peer.url()).await;
    keeps_the_order(&peer.url()).await;
}

#[tokio::test]
async fn node_keeps_the_contract() {
    let peer = Peer::start(Kind::Node, &[]);
    keeps_the_contract(&peer.url()).await;
    keeps_the_order(&peer.url()).await;
}

#[tokio::test]
async fn schema_mode_of_every_server_enforces_the_schema() {
    for kind in Kind::ALL {
        let peer = Peer::start(kind, &["--schema"]);
        refuses_by_the_schema(&peer.url()).await;

        // Each row was refused for its intended reason, not for another flaw.
        let refused = peer.refused().await;
        let refused = refused.iter().map(|row| row["reason"].as_str().unwrap());
        let expected = refusals("").into_iter().map(|(reason, _, _)| reason);
        assert!(refused.eq(expected), "{kind:?}: {:#?}", peer.refused().await);
    }
}

/// Checks the behavior of a server with one event at a time.
pub async fn keeps_the_contract(url: &str) {
    let ids = assigns_an_id_before_the_ack(url).await;
    let known = peers::sessions(url).await;
    assert!(ids.iter().all(|id| known.contains(id)), "{ids:?} in {known:?}");
    takes_an_id_from_any_connection(url).await;
    echoes_to_the_room_before_the_ack(url).await;
    rebuilds_the_envelope(url).await;
    let session_id = shows_a_joiner_the_last_setup_then_the_last_frame(url).await;
    assert_eq!(peers::frames(url, &session_id).await.len(), 2);
    acks_and_drops_events_of_unknown_sessions(url).await;
    does_not_ack_unsupported_events(url).await;
}

/// Checks that a server keeps the order of frames that are in flight on one connection.
pub async fn keeps_the_order(url: &str) {
    let mut client = Client::connect(url).await;
    let session_id = client.new_session().await;
    let numbered = |lap: u32| edited(frame(&session_id), "/telemetry", "lap", Some(json!(lap)));
    for lap in 0..300 {
        client.tell("telemetry_update", numbered(lap)).await;
    }
    client.ask("telemetry_update", numbered(300)).await;
    let laps = peers::frames(url, &session_id).await;
    let laps = laps.iter().map(|frame| frame["lap"].as_u64().unwrap());
    assert!(laps.clone().eq(0..=300), "{:?}", laps.collect::<Vec<_>>());
}

/// Checks that a server in schema mode acks every event, but neither keeps nor shows a refused one.
pub async fn refuses_by_the_schema(url: &str) {
    let mut client = Client::connect(url).await;
    let session_id = client.new_session().await;
    client.ask("join_session", json!({"session_id": session_id})).await;

    for (reason, event, payload) in refusals(&session_id) {
        let echo = client.ask(event, payload).await;
        assert!(echo.is_empty(), "{reason}: accepted");
    }
    assert!(peers::frames(url, &session_id).await.is_empty());

    let accepted = acceptable(&session_id);
    for payload in &accepted {
        let echo = client.ask("telemetry_update", payload.clone()).await;
        assert_eq!(echo, [heard("telemetry_update", payload)]);
    }
    assert_eq!(client.ask("setup_data", setup(&session_id)).await.len(), 1);
    assert_eq!(peers::frames(url, &session_id).await.len(), accepted.len());
}

/// Checks that a requested id arrives before the ack; returns the assigned ids.
pub async fn assigns_an_id_before_the_ack(url: &str) -> Vec<String> {
    let mut client = Client::connect(url).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let events = client.ask("request_session_id", json!({})).await;
        let [(name, payload)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(name, "session_id_assigned");
        let id = payload["session_id"].as_str().expect("an id");
        assert_eq!(*payload, json!({"session_id": id}));
        assert_eq!(uuid::Uuid::parse_str(id).expect("a UUID").get_version_num(), 4);
        assert_eq!(id, id.to_lowercase());
        ids.push(id.to_owned());
    }
    assert_ne!(ids[0], ids[1]);
    ids
}

async fn takes_an_id_from_any_connection(url: &str) {
    let session_id = Client::connect(url).await.new_session().await;
    let mut client = Client::connect(url).await;
    let echo = client.ask("telemetry_update", frame(&session_id)).await;
    assert!(echo.is_empty(), "an echo before joining");
    let kept = peers::frames(url, &session_id).await;
    assert_eq!(kept, [peers::plain(frame(&session_id)["telemetry"].clone())]);
}

pub async fn echoes_to_the_room_before_the_ack(url: &str) {
    let mut publisher = Client::connect(url).await;
    let mut viewer = Client::connect(url).await;
    let session_id = publisher.new_session().await;
    for client in [&mut publisher, &mut viewer] {
        let stored = client.ask("join_session", json!({"session_id": session_id})).await;
        assert!(stored.is_empty(), "nothing is stored yet");
    }
    let setup = setup(&session_id);
    let frame = frame(&session_id);
    let echo = publisher.ask("setup_data", setup.clone()).await;
    assert_eq!(echo, [heard("setup_update", &setup)]);
    let echo = publisher.ask("telemetry_update", frame.clone()).await;
    assert_eq!(echo, [heard("telemetry_update", &frame)]);
    assert_eq!(viewer.next_event().await, heard("setup_update", &setup));
    assert_eq!(viewer.next_event().await, heard("telemetry_update", &frame));
}

pub async fn rebuilds_the_envelope(url: &str) {
    let mut client = Client::connect(url).await;
    let session_id = client.new_session().await;
    client.ask("join_session", json!({"session_id": session_id})).await;
    let within = edited(frame(&session_id), "/telemetry", "seq", Some(json!(7)));
    let sent = edited(within.clone(), "", "seq", Some(json!(7)));
    let echo = client.ask("telemetry_update", sent).await;
    assert_eq!(echo, [heard("telemetry_update", &within)]);
}

/// Checks the replay for a joining viewer; returns the id of the session, which has two frames.
pub async fn shows_a_joiner_the_last_setup_then_the_last_frame(url: &str) -> String {
    let mut client = Client::connect(url).await;
    let session_id = client.new_session().await;
    let newer = frame(&session_id);
    let older = json!("2025-11-22T14:00:00.000Z");
    let older = edited(newer.clone(), "/telemetry", "timestamp", Some(older));
    client.ask("telemetry_update", newer).await;
    client.ask("setup_data", setup(&session_id)).await;
    // The last one received counts, whatever its timestamp.
    client.ask("telemetry_update", older.clone()).await;

    let mut viewer = Client::connect(url).await;
    let stored = viewer.ask("join_session", json!({"session_id": session_id})).await;
    let setup = setup(&session_id);
    assert_eq!(stored, [heard("setup_update", &setup), heard("telemetry_update", &older)]);
    session_id
}

pub async fn acks_and_drops_events_of_unknown_sessions(url: &str) {
    let mut client = Client::connect(url).await;
    let unknown = uuid::Uuid::new_v4().to_string();
    let events = [
        ("join_session", json!({"session_id": unknown})),
        ("setup_data", setup(&unknown)),
        ("telemetry_update", frame(&unknown)),
        ("join_session", json!({"session_id": unknown})),
    ];
    for (event, payload) in events {
        let echo = client.ask(event, payload).await;
        assert!(echo.is_empty(), "{event}: {echo:?}");
    }
    assert!(!peers::sessions(url).await.contains(&unknown));
}

pub async fn does_not_ack_unsupported_events(url: &str) {
    for (event, payload) in [("telemetry_update", json!("text")), ("no_such_event", json!({}))] {
        let mut client = Client::connect(url).await;
        assert!(!client.is_acked(event, payload).await, "{event}");
    }
}

/// A frame as the agent sends it, with properties of real data: many digits, cold tyres, non-ASCII
/// names.
pub fn frame(session_id: &str) -> Value {
    json!({
        "session_id": session_id,
        "telemetry": {
            "timestamp": "2025-11-22T14:30:22.123Z",
            "lap": 12,
            "position": 3,
            "lap_time": 93.481_719_970_703_12,
            "fuel": 41.25,
            "fuel_capacity": 90.0,
            "tire_pressures": {"fl": 26.1, "fr": 26.2, "rl": 25.9, "rr": 25.8},
            "tire_temps": {"fl": 88.4, "fr": 89.0, "rl": -273.15, "rr": 86.7},
            "tire_wear": {"fl": 3.5, "fr": 3.75, "rl": 3.0, "rr": 3.25},
            "brake_temps": {"fl": 412.0, "fr": 415.5, "rl": 388.0, "rr": 390.25},
            "engine_water_temp": 92.5,
            "track_temp": 31.0,
            "ambient_temp": 24.0,
            "speed": 251.75,
            "gear": -1,
            "rpm": 8150.5,
            "player_name": "A. Driver",
            "car_name": "Porsche 963",
            "track_name": "Autódromo José Carlos Pace",
            "session_type": "Race"
        }
    })
}

pub fn setup(session_id: &str) -> Value {
    json!({
        "session_id": session_id,
        "timestamp": "2025-11-22T14:29:58.007Z",
        "setup": {"carSetup": {"VM_REAR_WING": {"value": 7, "text": "7.5 °"}, "note": null}}
    })
}

/// Payloads that the schema refuses: the reason, the event, and a payload with this one flaw.
fn refusals(session_id: &str) -> Vec<(String, &'static str, Value)> {
    let frames = [
        ("extra key in the envelope: seq", "", "seq", Some(json!(1))),
        ("telemetry is not an object", "", "telemetry", Some(json!([]))),
        ("null: speed", "/telemetry", "speed", Some(Value::Null)),
        ("missing: timestamp", "/telemetry", "timestamp", None),
        ("missing: lap", "/telemetry", "lap", None),
        ("missing: position", "/telemetry", "position", None),
        ("missing: fuel", "/telemetry", "fuel", None),
        ("missing: fuel_capacity", "/telemetry", "fuel_capacity", None),
        ("missing: player_name", "/telemetry", "player_name", None),
        ("missing: car_name", "/telemetry", "car_name", None),
        ("missing: track_name", "/telemetry", "track_name", None),
        ("missing: session_type", "/telemetry", "session_type", None),
        ("not an integer: lap", "/telemetry", "lap", Some(json!(12.5))),
        ("not an integer: position", "/telemetry", "position", Some(json!("3"))),
        ("not an integer: gear", "/telemetry", "gear", Some(json!(1.5))),
        ("negative or not a number: lap", "/telemetry", "lap", Some(json!(-1))),
        ("negative or not a number: position", "/telemetry", "position", Some(json!(-1))),
        ("negative or not a number: lap_time", "/telemetry", "lap_time", Some(json!(-2.76))),
        ("negative or not a number: fuel", "/telemetry", "fuel", Some(json!(-0.5))),
        ("negative or not a number: fuel_capacity", "/telemetry", "fuel_capacity", Some(json!(-1))),
        ("unknown wheel: tire_wear.xx", "/telemetry/tire_wear", "xx", Some(json!(1.0))),
        ("null or not a number: brake_temps.rr", "/telemetry/brake_temps", "rr", Some(Value::Null)),
        ("not an object: tire_temps", "/telemetry", "tire_temps", Some(json!(88.4))),
    ];
    let setups = [
        ("extra key in the envelope: seq", "seq", Some(json!(1))),
        ("missing or null: timestamp", "timestamp", None),
        ("missing or null: setup", "setup", Some(Value::Null)),
        ("setup is not an object", "setup", Some(json!("soft"))),
    ];
    let frames = frames.into_iter().map(|(reason, parent, key, value)| {
        let payload = edited(frame(session_id), parent, key, value);
        (reason.to_owned(), "telemetry_update", payload)
    });
    let setups = setups.into_iter().map(|(reason, key, value)| {
        (reason.to_owned(), "setup_data", edited(setup(session_id), "", key, value))
    });
    frames.chain(setups).collect()
}

/// Frames that the schema just accepts.
fn acceptable(session_id: &str) -> Vec<Value> {
    let edits = [
        ("/telemetry", "lap_time", None),
        ("/telemetry", "tire_wear", Some(json!({}))),
        ("/telemetry/tire_temps", "rl", None),
        ("/telemetry", "fuel", Some(json!(0.0))),
        ("/telemetry", "player_name", Some(json!(""))),
        ("/telemetry", "seq", Some(json!(1))),
    ];
    let edit = |(parent, key, value)| edited(frame(session_id), parent, key, value);
    edits.into_iter().map(edit).chain([frame(session_id)]).collect()
}

/// Sets a key in the object at `parent`, a JSON pointer, or removes it if `value` is `None`.
pub fn edited(mut payload: Value, parent: &str, key: &str, value: Option<Value>) -> Value {
    let object = payload.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    match value {
        Some(value) => object.insert(key.to_owned(), value),
        None => object.remove(key),
    };
    payload
}

/// An event as [`Client`] returns it.
fn heard(name: &str, payload: &Value) -> (String, Value) {
    (name.to_owned(), peers::plain(payload.clone()))
}

/// Longest time until a server answers an event.
const ANSWER: Duration = Duration::from_secs(10);

/// A Socket.IO client that receives events and acks in the order in which the server sent them.
///
/// The connection runs on a dedicated thread and runtime: dropping the runtime is the only reliable
/// way to close it.
#[derive(Debug)]
pub struct Client {
    emit: mpsc::Sender<Emit>,
    heard: mpsc::Receiver<Heard>,
}

#[derive(Debug)]
struct Emit {
    event: &'static str,
    payload: Value,
    acked: bool,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Connected,
    Event(String, Value),
    Ack(Value),
    Lost(String),
}

impl Client {
    /// Connects over WebSocket; returns once the server has accepted the namespace.
    pub async fn connect(url: &str) -> Self {
        // More than a test has in flight: a full channel would block the reader.
        let (emit, emits) = mpsc::channel(1024);
        let (hear, heard) = mpsc::channel(1024);
        let url = url.to_owned();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(talk(&url, emits, hear));
        });
        let mut client = Self { emit, heard };
        // Some servers close the connection on an event that precedes this.
        assert_eq!(client.hear().await, Heard::Connected);
        client
    }

    /// Emits an event and waits for its ack, which is always empty; returns the events that
    /// preceded it.
    pub async fn ask(&mut self, event: &'static str, payload: Value) -> Vec<(String, Value)> {
        self.emit.send(Emit { event, payload, acked: true }).await.expect("connected");
        let mut events = Vec::new();
        loop {
            match self.hear().await {
                Heard::Event(name, payload) => events.push((name, payload)),
                Heard::Ack(payload) => {
                    assert_eq!(payload, json!([]), "the ack of {event}");
                    return events;
                }
                other => panic!("{event}: {other:?}"),
            }
        }
    }

    /// Emits an event without requesting an ack.
    pub async fn tell(&self, event: &'static str, payload: Value) {
        self.emit.send(Emit { event, payload, acked: false }).await.expect("connected");
    }

    pub async fn next_event(&mut self) -> (String, Value) {
        match self.hear().await {
            Heard::Event(name, payload) => (name, payload),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the next event without a timeout; `None` when the connection has ended.
    pub async fn later_event(&mut self) -> Option<(String, Value)> {
        match self.heard.recv().await {
            Some(Heard::Event(name, payload)) => Some((name, payload)),
            _ => None,
        }
    }

    /// Requests a new session and returns its id.
    pub async fn new_session(&mut self) -> String {
        let events = self.ask("request_session_id", json!({})).await;
        events[0].1["session_id"].as_str().expect("an id").to_owned()
    }

    /// Whether the server acks the event before it answers a later one.
    pub async fn is_acked(&mut self, event: &'static str, payload: Value) -> bool {
        // Skip the answer to this event itself when waiting for the answer to the later one.
        let own = usize::from(event == "request_session_id");
        self.emit.send(Emit { event, payload, acked: true }).await.expect("connected");
        self.tell("request_session_id", json!({})).await;
        let (mut assigned, mut is_acked) = (0, false);
        // Also after an acknowledgement: the next call must not take this answer for its own.
        while assigned <= own {
            match self.hear().await {
                Heard::Event(name, _) => assigned += usize::from(name == "session_id_assigned"),
                Heard::Ack(_) => is_acked = true,
                other => panic!("{event}: {other:?}"),
            }
        }
        is_acked
    }

    async fn hear(&mut self) -> Heard {
        let heard = time::timeout(ANSWER, self.heard.recv()).await;
        heard.expect("the server answers").expect("the connection is open")
    }
}

/// Runs the connection until the [`Client`] is dropped; callbacks only forward what they receive.
async fn talk(url: &str, mut emits: mpsc::Receiver<Emit>, hear: mpsc::Sender<Heard>) {
    let passed_on = |heard: fn(Payload) -> Heard| {
        let hear = hear.clone();
        move |payload: Payload, _: Socket| {
            let hear = hear.clone();
            // Fails once the test is over and the receiver is gone.
            async move { drop(hear.send(heard(payload)).await) }.boxed()
        }
    };
    let events = hear.clone();
    let socket = ClientBuilder::new(url)
        .transport_type(TransportType::Websocket)
        .reconnect(false)
        .on(Event::Connect, passed_on(|_| Heard::Connected))
        .on(Event::Error, passed_on(|payload| Heard::Lost(format!("{payload:?}"))))
        .on(Event::Close, passed_on(|payload| Heard::Lost(format!("{payload:?}"))))
        .on_any(move |event, payload, _| {
            let events = events.clone();
            let heard = Heard::Event(String::from(event), value(payload));
            async move { drop(events.send(heard).await) }.boxed()
        })
        .connect()
        .await
        .expect("the server accepts the connection");
    while let Some(Emit { event, payload, acked }) = emits.recv().await {
        let emitted = if acked {
            let ack = passed_on(|payload| Heard::Ack(value(payload)));
            socket.emit_with_ack(event, payload, ANSWER, ack).await
        } else {
            socket.emit(event, payload).await
        };
        emitted.expect("the connection is open");
    }
}

/// The single JSON value of an event or an ack, with its numbers made plain.
fn value(payload: Payload) -> Value {
    match payload {
        Payload::Text(mut values) if values.len() == 1 => peers::plain(values.remove(0)),
        other => panic!("one JSON value, not {other:?}"),
    }
}

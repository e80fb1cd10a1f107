//! A scripted version of the game's REST API: normal replies, failures, and a check of the
//! requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pitwire::DashboardPublisher;
use pitwire::config::{Config, GameApi};
use pitwire::dashboard::{Behaviour, Server};
use pitwire::source::lmu::game::Presence;
use pitwire::source::lmu::reader::Way;
use pitwire::source::lmu::setup::{self, RequestPace};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::agent::eventually;

const SESSIONS: &str = "/rest/sessions";
const OVERVIEW: &str = "/rest/garage/UIScreen/CarSetupOverview";
const OLDER: &str = "/rest/garage/setup";

/// Fast, so that a test sees many requests.
const PACE: RequestPace =
    RequestPace { interval: Duration::from_millis(40), max_interval: Duration::from_millis(100) };

/// The API's reply to one path.
#[derive(Clone, Debug)]
enum Reply {
    Json(String),
    /// A chunked reply without a length.
    Chunked(String),
    Status(u16),
    /// These bytes, then the end of the connection.
    Raw(String),
    /// No reply, for as long as the connection lasts.
    Hang,
}

use Reply::{Chunked, Hang, Json, Raw, Status};

#[tokio::test]
async fn a_setup_is_published_only_when_its_settings_change() {
    let pit = Pit::new(Presence::Waiting).await;
    let api = Api::start(&pit).await;
    api.answers(OVERVIEW, Chunked(overview(7, 20.0)));
    pit.has_setups(&[7]).await;
    api.is_asked(5).await;
    // The weather is not part of the settings.
    api.answers(OVERVIEW, Json(overview(7, 25.0)));
    api.is_asked(5).await;
    api.answers(OVERVIEW, Json(overview(8, 25.0)));
    pit.has_setups(&[7, 8]).await;
    api.is_asked(5).await;
    pit.has_setups(&[7, 8]).await;
}

#[tokio::test]
async fn an_api_that_starts_late_is_found() {
    let pit = Pit::new(Presence::Waiting).await;
    sleep(Duration::from_millis(500)).await;
    let api = Api::start(&pit).await;
    api.answers(OVERVIEW, Json(overview(7, 20.0)));
    pit.has_setups(&[7]).await;
}

#[tokio::test]
async fn a_hanging_api_is_retried_without_concurrent_requests() {
    let pit = Pit::new(Presence::Waiting).await;
    let api = Api::start(&pit).await;
    api.answers(SESSIONS, Hang);
    api.is_asked(2).await;
    api.answers(SESSIONS, Json("{}".into()));
    api.answers(OVERVIEW, Hang);
    api.is_asked(3).await;
    api.answers(OVERVIEW, Json(overview(7, 20.0)));
    pit.has_setups(&[7]).await;
}

#[tokio::test]
async fn the_list_of_saved_setups_is_not_published_as_a_setup() {
    let pit = Pit::new(Presence::Waiting).await;
    let api = Api::start(&pit).await;
    api.answers(OVERVIEW, Status(404));
    api.answers(OLDER, Json(json!([{"name": "Spa\\", "sameVehicleClass": true}]).to_string()));
    api.is_asked(8).await;
    pit.has_setups(&[]).await;
    // In older versions this path returns the setup while the car is in the garage.
    api.answers(OLDER, Json(overview(7, 20.0)));
    pit.has_setups(&[7]).await;
}

#[tokio::test]
async fn the_last_setup_stays_in_force_on_the_track() {
    let pit = Pit::new(Presence::Waiting).await;
    let api = Api::start(&pit).await;
    api.answers(OVERVIEW, Json(overview(7, 20.0)));
    pit.has_setups(&[7]).await;
    let settings = json!({"carSetup": {"garageValues": {}}}).to_string();
    for nothing in ["", "null", "[]", "{}", "\"driving\"", "0", &settings] {
        api.answers(OVERVIEW, Json(nothing.into()));
        api.is_asked(2).await;
    }
    for nothing in [204, 404] {
        api.answers(OVERVIEW, Status(nothing));
        api.is_asked(3).await;
    }
    pit.presence(Presence::Driven(Way::Native));
    api.is_asked(3).await;
    pit.has_setups(&[7]).await;
}

#[tokio::test]
async fn a_new_stint_gets_the_current_setup() {
    let pit = Pit::with_stints_of(Duration::from_millis(300), Presence::Waiting).await;
    let api = Api::start(&pit).await;
    api.answers(OVERVIEW, Json(overview(7, 20.0)));
    pit.has_setups(&[7]).await;
    // An idle car in the garage starts no new stint, however long it waits.
    sleep(Duration::from_millis(700)).await;
    pit.has_setups(&[7]).await;
    api.answers(OVERVIEW, Json(String::new()));
    api.is_asked(2).await;
    pit.presence(Presence::Driven(Way::Native));
    pit.has_setups(&[7, 7]).await;
}

#[tokio::test]
async fn a_misbehaving_api_is_polled_again() {
    let pit = Pit::new(Presence::Waiting).await;
    let api = Api::start(&pit).await;
    let raw = |text: &str| Raw(text.into());
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n\"{}", "x".repeat(2_000_000));
    for (wing, wrong) in (10..).zip([
        Status(500),
        Status(503),
        Json("{\"carSetup\": ".into()),
        Json("<html>".into()),
        Json("{\"carSetup\": {\"garageValues\": {\"wing\": NaN}}}".into()),
        raw(""),
        raw("SSH-2.0-OpenSSH_9.2\r\n"),
        raw("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{\"carSetup\""),
        raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        raw("HTTP/1.1 302 Found\r\nLocation: /rest/garage/getVehicleCondition\r\nContent-Length: 0\r\n\r\n"),
        raw(&endless),
        raw(&format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1_000_000))),
    ]) {
        api.answers(OVERVIEW, wrong.clone());
        api.is_asked(4).await;
        api.answers(SESSIONS, wrong);
        api.is_asked(2).await;
        api.answers(SESSIONS, Json("{}".into()));
        api.answers(OVERVIEW, Json(overview(wing, 20.0)));
        pit.has_setups(&(10..=wing).collect::<Vec<_>>()).await;
    }
}

#[tokio::test]
async fn the_api_is_not_polled_while_the_game_does_not_run() {
    let pit = Pit::new(Presence::Away).await;
    let api = Api::start(&pit).await;
    api.answers(OVERVIEW, Json(overview(7, 20.0)));
    sleep(Duration::from_millis(500)).await;
    assert_eq!(api.requests(), 0);
    pit.presence(Presence::Waiting);
    pit.has_setups(&[7]).await;

    pit.presence(Presence::Away);
    sleep(Duration::from_millis(200)).await;
    let asked = api.requests();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(api.requests(), asked);
    pit.presence(Presence::Driven(Way::Native));
    api.is_asked(3).await;
    pit.has_setups(&[7]).await;
}

#[tokio::test]
async fn an_api_on_the_ipv6_loopback_address_is_found() {
    let pit = Pit::new(Presence::Waiting).await;
    let address = SocketAddr::new("::1".parse().unwrap(), pit.port);
    let Ok(listener) = TcpListener::bind(address).await else {
        eprintln!("this machine has no IPv6");
        return;
    };
    let api = Api::serve(listener);
    api.answers(OVERVIEW, Json(overview(7, 20.0)));
    pit.has_setups(&[7]).await;
}

/// A setup in the game's format, with this wing.
fn overview(wing: u64, air_temp: f64) -> String {
    let setting = |value: u64| {
        json!({
            "available": true, "diffComparisonValue": 0, "isFreeSetting": true, "minValue": 0,
            "lastSavedStringValue": "N/A", "maxValue": 45, "numChangesValue": 0,
            "stringValue": "138 kPa", "value": value,
        })
    };
    let mut settings: serde_json::Map<_, _> =
        (0..170).map(|number| (format!("VM_SETTING_{number}"), setting(number))).collect();
    settings.insert("VM_REAR_WING".into(), setting(wing));
    settings.insert("symmetric".into(), true.into());
    json!({
        "carSetup": {"garageValues": settings},
        "currentWeather": {"ambientTempKelvin": air_temp + 273.15},
        "teamInfo": {"teamName": "Ã‰quipe"},
    })
    .to_string()
}

/// A dashboard server, a queue in front of it, and the task that follows the game's setup.
struct Pit {
    server: Server,
    presence: watch::Sender<Presence>,
    /// The port on which the API is expected.
    port: u16,
    _publisher: Arc<DashboardPublisher>,
    _follower: JoinSet<()>,
    _queue: TempDir,
}

impl Pit {
    async fn new(presence: Presence) -> Self {
        Self::with_stints_of(Duration::from_secs(1800), presence).await
    }

    async fn with_stints_of(silence: Duration, presence: Presence) -> Self {
        let queue = tempfile::tempdir().unwrap();
        let server = Server::start(([127, 0, 0, 1], 0).into(), Behaviour::default()).unwrap();
        let mut config = Config::default();
        config.server.url = server.url().parse().unwrap();
        config.queue.path = queue.path().into();
        config.stint.resume_after = silence;
        let publisher = Arc::new(DashboardPublisher::open(config).unwrap());
        publisher.start();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        let (presence, seen) = watch::channel(presence);
        let mut follower = JoinSet::new();
        let intake = publisher.intake("lmu", 0.0);
        follower.spawn(async move {
            setup::follow(&intake, GameApi::Localhost { port }, PACE, seen).await;
        });
        Self { server, presence, port, _publisher: publisher, _follower: follower, _queue: queue }
    }

    fn presence(&self, presence: Presence) {
        self.presence.send_replace(presence);
    }

    /// Waits until the dashboard has received setups with these wings, in this order.
    async fn has_setups(&self, wings: &[u64]) {
        let mut had = Vec::new();
        let look = async || {
            let sessions = self.server.sessions();
            let setups = sessions.iter().flat_map(|s| self.server.setups(&s.session_id));
            had = setups.map(|setup| wing(&setup)).collect();
            (had == wings).then_some(())
        };
        let came = crate::agent::within(Duration::from_secs(20), look).await;
        assert!(came.is_some(), "{had:?} for {wings:?}");
    }
}

fn wing(setup: &Value) -> u64 {
    setup["carSetup"]["garageValues"]["VM_REAR_WING"]["value"].as_u64().unwrap()
}

/// The API, which records its requests. On drop it checks that they were all allowed and never
/// concurrent.
pub struct Api {
    script: Arc<Mutex<Script>>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Script {
    replies: Vec<(&'static str, Reply)>,
    /// The first line of each request.
    requests: Vec<String>,
    /// Requests in progress, and the highest number so far.
    open: usize,
    most_open: usize,
}

impl Api {
    async fn start(pit: &Pit) -> Self {
        Self::serve(TcpListener::bind(("127.0.0.1", pit.port)).await.unwrap())
    }

    pub fn serve(listener: TcpListener) -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let mut server = JoinSet::new();
        let shared = Arc::clone(&script);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(answer(stream, Arc::clone(&shared)));
            }
        });
        let api = Self { script, _server: server };
        api.answers(SESSIONS, Json("{}".into()));
        api
    }

    /// Makes the API return a setup from now on.
    pub fn has_setup(&self) {
        self.answers(OVERVIEW, Json(overview(7, 20.0)));
    }

    /// The number of requests so far.
    pub fn requests(&self) -> usize {
        self.script().requests.len()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Sets the reply to a path from now on.
    fn answers(&self, path: &'static str, reply: Reply) {
        let mut script = self.script();
        script.replies.retain(|(known, _)| *known != path);
        script.replies.push((path, reply));
    }

    /// Waits for `times` more requests.
    async fn is_asked(&self, times: usize) {
        let before = self.script().requests.len();
        let look = async || (self.script().requests.len() >= before + times).then_some(());
        eventually("requests", look).await;
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let script = self.script();
        let allowed = [SESSIONS, OVERVIEW, OLDER].map(|path| format!("GET {path} HTTP/1.1"));
        let asked_other = script.requests.iter().find(|line| !allowed.contains(line));
        assert_eq!(asked_other, None);
        assert_eq!(script.most_open, 1);
    }
}

/// Serves one connection.
async fn answer(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap().to_owned();
    let reply = {
        let mut script = script.lock().unwrap();
        script.open += 1;
        script.most_open = script.most_open.max(script.open);
        let found = script.replies.iter().find(|(path, _)| line.contains(&format!(" {path} ")));
        let reply = found.map_or(Status(404), |(_, reply)| reply.clone());
        script.requests.push(line);
        reply
    };
    let bytes = match &reply {
        Json(text) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()),
        Chunked(text) => chunked(text),
        Status(code) => format!("HTTP/1.1 {code} So\r\nContent-Length: 0\r\n\r\n"),
        Raw(text) => text.clone(),
        Hang => String::new(),
    };
    // The client may have disconnected.
    let _ = stream.write_all(bytes.as_bytes()).await;
    if !matches!(reply, Hang) {
        let _ = stream.shutdown().await;
    }
    // The request is in progress until the client closes the connection.
    let _ = stream.read(&mut [0; 64]).await;
    script.lock().unwrap().open -= 1;
}

fn chunked(text: &str) -> String {
    let mut out = String::from("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in text.as_bytes().chunks(1000) {
        let piece = String::from_utf8_lossy(piece);
        out += &format!("{:x}\r\n{piece}\r\n", piece.len());
    }
    out + "0\r\n\r\n"
}

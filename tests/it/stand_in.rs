//! The agent as a stand-in for a dashboard server, for unmodified publishers.
//!
//! With `LONG=1` the dashboard server is down for a minute at 2 frames per second, and the agent is
//! killed ten times.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pitwire::config::{Durability, StintConfig, WhenFull};
use pitwire::net::loopback_guard::Access;
use pitwire::platform::clock::Clock;
use pitwire::queue::{Limit, Limits, STORAGE_RETRY_INTERVAL};
use pitwire::source::Intake;
use pitwire::source::socketio::Publishers;
use reqwest::header::{LOCATION, ORIGIN};
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::agent::{Agent, Process, eventually};
use crate::contract::{self, Client, edited};
use crate::disk::Disk;
use crate::long::{is_long, size};
use crate::peers::{self, Kind, Peer, plain};
use crate::single;

/// The entries that may arrive twice when the agent is killed: the batch in flight.
const BATCH: usize = 256;

/// Starts an agent that accepts publishers on this port; 0 selects a free one.
fn stand_in(queue: &Path, server: &str, port: u16) -> Agent {
    let listen = format!("source.socketio.listen=127.0.0.1:{port}");
    Agent::start(queue, server, &["source.socketio.enabled=true", &listen])
}

/// The URL for publishers.
async fn url_of(agent: &Agent) -> String {
    agent.address("publishers").await
}

fn port_of(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

/// The program `tests/peers/publisher.py`. Dropping it kills it.
struct Publisher(Process);

impl Publisher {
    fn start(url: &str, options: &[&str]) -> Self {
        let mut command = peers::python("publisher.py");
        Self(Process::start(command.arg(url).args(options).stdin(Stdio::null())))
    }

    /// The dashboard links that it has printed.
    fn dashboards(&self) -> Vec<String> {
        self.said("dashboard")
    }

    async fn dashboard(&self) -> String {
        eventually("a session is assigned", async || self.dashboards().pop()).await
    }

    fn sent(&self) -> Vec<u64> {
        self.said("sent").iter().map(|number| number.parse().unwrap()).collect()
    }

    /// The acknowledged frames, in the order of the acknowledgements.
    fn acked(&self) -> Vec<u64> {
        self.said("acked").iter().map(|number| number.parse().unwrap()).collect()
    }

    async fn has_acked(&self, count: usize) {
        let enough = async || (self.acked().len() >= count).then_some(());
        eventually(&format!("{count} acknowledged"), enough).await;
    }

    fn said(&self, what: &str) -> Vec<String> {
        let lines = self.0.stdout();
        let words = lines.iter().filter_map(|line| line.split_once(' '));
        words.filter(|(word, _)| *word == what).map(|(_, rest)| rest.to_owned()).collect()
    }
}

/// Requests a page without following redirects. Returns status, redirect target and text.
async fn page(url: &str) -> (u16, Option<String>, String) {
    let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    let response = client.get(url).send().await.expect("the agent answers");
    let target = response.headers().get(LOCATION).map(|to| to.to_str().unwrap().to_owned());
    (response.status().as_u16(), target, response.text().await.unwrap())
}

async fn leads_to(url: &str) -> Option<String> {
    page(url).await.1
}

/// The numbers of all frames on a server, by session.
async fn numbers(server: &Peer) -> Vec<u64> {
    server.all_frames().await.iter().map(|frame| frame["lap"].as_u64().unwrap()).collect()
}

async fn drained(agent: &Agent) {
    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
}

#[tokio::test]
async fn an_unmodified_publisher_loses_nothing_while_the_server_is_down() {
    let (rate, down) = if is_long() { ("2", 60) } else { ("20", 4) };
    let count = 20 + rate.parse::<usize>().unwrap() * down as usize;
    let mut server = Peer::start(Kind::Flask, &[]);
    server.kill();
    let folder = tempfile::tempdir().unwrap();
    let agent = stand_in(folder.path(), &server.url(), 0);
    let url = url_of(&agent).await;
    let publisher = Publisher::start(&url, &["--rate", rate, "--count", &count.to_string()]);

    // The dashboard link is available at once, although the server does not know the session yet.
    let dashboard = publisher.dashboard().await;
    assert!(dashboard.starts_with(&format!("{url}/dashboard/")), "{dashboard}");
    publisher.has_acked(1).await;
    let (status, target, text) = page(&dashboard).await;
    assert_eq!((status, target), (200, None));
    assert!(text.contains("every 2 s") && text.contains("stored on this PC"), "{text}");

    sleep(Duration::from_secs(down)).await;
    server.restart();
    publisher.has_acked(count).await;
    drained(&agent).await;

    let frames = server.all_frames().await;
    assert!(frames.iter().map(|frame| frame["lap"].as_u64().unwrap()).eq(1..=count as u64));
    let sessions = server.sessions().await;
    let link = format!("{}/dashboard/{}", server.url(), sessions[0]);
    assert_eq!((sessions.len(), leads_to(&dashboard).await), (1, Some(link)));

    // Frames are unmodified: text with markup, unknown keys and the capture time.
    assert_eq!(frames[0]["player_name"], "Zoë <b>&amp;</b>");
    assert_eq!(frames[0]["extra"], json!({"of": ["the", "publisher"]}));
    let moments: Vec<_> = frames.iter().map(|frame| frame["timestamp"].as_str().unwrap()).collect();
    assert!(moments.is_sorted_by(|a, b| a < b), "{moments:?}");
    let setups = server.setups(&sessions[0]).await;
    assert_eq!(setups.len(), 1, "{setups:?}");
    assert_eq!(setups[0]["setup"], json!({"wing": 7, "note": null}));
    // The publisher stamps its setup itself.
    assert!(setups[0]["timestamp"].is_string(), "{setups:?}");
}

#[tokio::test]
async fn a_restarted_publisher_continues_on_the_same_page() {
    for transports in [&["websocket"][..], &["polling", "websocket"]] {
        let server = Peer::start(Kind::Flask, &[]);
        let folder = tempfile::tempdir().unwrap();
        let agent = stand_in(folder.path(), &server.url(), 0);
        let url = url_of(&agent).await;
        let start = |first: &str| {
            let options = ["--rate", "20", "--first", first, "--transports"];
            Publisher::start(&url, &[&options, transports].concat())
        };
        let mut first = start("1");
        first.has_acked(20).await;
        first.0.kill();
        let mut second = start("1001");
        second.has_acked(20).await;
        second.0.kill();
        drained(&agent).await;

        let acked = [first.acked(), second.acked()].concat();
        let came = numbers(&server).await;
        assert!(came.is_sorted_by(|a, b| a < b), "{came:?}");
        assert!(acked.iter().all(|number| came.contains(number)), "{acked:?} in {came:?}");
        let sessions = server.sessions().await;
        let link = format!("{}/dashboard/{}", server.url(), sessions[0]);
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        for dashboard in [first.dashboard().await, second.dashboard().await] {
            assert_eq!(leads_to(&dashboard).await.as_ref(), Some(&link), "{transports:?}");
        }
    }
}

#[tokio::test]
async fn acknowledged_frames_survive_a_killed_agent() {
    survives_a_killed_agent(&[]).await;
}

#[tokio::test]
async fn a_publisher_keeps_its_id_when_the_agent_is_killed() {
    let dashboards = survives_a_killed_agent(&["--keep-id"]).await;
    assert_eq!(dashboards.len(), 1, "it was never told another");
}

/// Returns the dashboard links that the publisher received.
async fn survives_a_killed_agent(options: &[&str]) -> Vec<String> {
    let server = Peer::start(Kind::Flask, &[]);
    let folder = tempfile::tempdir().unwrap();
    let mut agent = stand_in(folder.path(), &server.url(), 0);
    let url = url_of(&agent).await;
    let publisher = Publisher::start(&url, &[&["--rate", "50"], options].concat());
    publisher.has_acked(50).await;
    let kills = size(2, 10);
    for _ in 0..kills {
        let before = publisher.acked().len();
        agent.process.kill();
        agent = stand_in(folder.path(), &server.url(), port_of(&url));
        publisher.has_acked(before + 50).await;
    }
    let dashboards = publisher.dashboards();
    let (acked, sent) = (publisher.acked(), publisher.sent());
    drop(publisher);
    drained(&agent).await;

    let came = numbers(&server).await;
    let mut seen = BTreeSet::new();
    let first_seen: Vec<_> = came.iter().filter(|number| seen.insert(**number)).collect();
    let lost: Vec<_> = acked.iter().filter(|number| !came.contains(number)).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acked.len());
    assert!(first_seen.is_sorted(), "{came:?}");
    // The batch in flight when the agent was killed is sent again.
    let twice = came.len() - first_seen.len();
    assert!(twice <= kills * BATCH, "{twice} arrived twice");
    assert!(seen.last() <= Some(&(sent.last().unwrap() + 1)), "never sent: {:?}", seen.last());
    let sessions = server.sessions().await;
    let link = format!("{}/dashboard/{}", server.url(), sessions[0]);
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    for dashboard in &dashboards {
        assert_eq!(leads_to(dashboard).await.as_ref(), Some(&link));
    }
    dashboards
}

/// Two cars on one PC: the server is down for a while, and the agent is killed meanwhile.
#[tokio::test]
async fn concurrent_publishers_get_separate_pages() {
    assert_eq!(pages_of_two(&["--keep-id"]).await, 2);
    // They reconnect without their ids and with the same setup, so they cannot be told apart.
    assert!(pages_of_two(&[]).await >= 2);
}

/// Returns the number of pages at the end.
async fn pages_of_two(options: &[&str]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let persisted = folder.path().join("sessions").display().to_string();
    let mut server = Peer::start(Kind::Flask, &["--persist", &persisted]);
    let queue = folder.path().join("queue");
    let mut agent = stand_in(&queue, &server.url(), 0);
    let url = url_of(&agent).await;
    let start =
        |first| Publisher::start(&url, &[&["--rate", "20", "--first", first], options].concat());
    let publishers = [start("1"), start("1000001")];
    let both_have_acked = async |more: usize| {
        for publisher in &publishers {
            publisher.has_acked(publisher.acked().len() + more).await;
        }
    };
    both_have_acked(10).await;
    server.kill();
    both_have_acked(20).await;
    agent.process.kill();
    agent = stand_in(&queue, &server.url(), port_of(&url));
    both_have_acked(20).await;
    server.restart();
    both_have_acked(20).await;
    let told = publishers.each_ref().map(|publisher| (publisher.dashboards(), publisher.acked()));
    drop(publishers);
    drained(&agent).await;

    let is_of_second = |lap: &u64| *lap > 1_000_000;
    let mut came = [BTreeSet::new(), BTreeSet::new()];
    let pages = server.sessions().await;
    for page in &pages {
        let frames = server.frames(page).await;
        let laps: Vec<u64> = frames.iter().map(|frame| frame["lap"].as_u64().unwrap()).collect();
        let Some(whose) = laps.first().map(is_of_second) else { continue };
        assert!(laps.iter().all(|lap| is_of_second(lap) == whose), "two cars on a page: {laps:?}");
        assert!(laps.is_sorted(), "{laps:?}");
        for dashboard in &told[usize::from(!whose)].0 {
            let link = leads_to(dashboard).await;
            assert!(!link.unwrap().ends_with(page.as_str()), "it leads to the other's page");
        }
        came[usize::from(whose)].extend(laps);
    }
    for (came, (_, acked)) in came.iter().zip(told) {
        let lost: Vec<_> = acked.iter().filter(|lap| !came.contains(lap)).collect();
        assert!(lost.is_empty(), "{lost:?} of {acked:?}");
    }
    pages.len()
}

/// Python writes a bare NaN, and a Python server accepts it. Regression: a Socket.IO library in the
/// agent once ended the connection because of it.
#[tokio::test]
async fn a_non_finite_value_loses_neither_the_frame_nor_the_connection() {
    let server = Peer::start(Kind::Flask, &[]);
    let folder = tempfile::tempdir().unwrap();
    let agent = stand_in(folder.path(), &server.url(), 0);
    let url = url_of(&agent).await;
    let publisher = Publisher::start(&url, &["--rate", "20", "--count", "10", "--nan"]);
    publisher.has_acked(10).await;
    drained(&agent).await;
    let frames = server.all_frames().await;
    let speeds: Vec<_> = frames.iter().map(|frame| frame["speed"].as_f64()).collect();
    let expected: Vec<_> = (1..=10).map(|n| (n % 3 != 0).then_some(251.75)).collect();
    assert_eq!(speeds, expected);
    assert_eq!(publisher.dashboards().len(), 1, "connected once");
}

/// Frames with unusual timestamps (without a zone, as numbers, equal, going backwards) and values,
/// sent while the server is down and while it is up. Only values that no dashboard can show change.
#[tokio::test]
async fn a_publishers_frames_and_setup_arrive_unchanged_and_in_order() {
    let mut server = Peer::start(Kind::Flask, &[]);
    server.kill();
    let folder = tempfile::tempdir().unwrap();
    let agent = stand_in(folder.path(), &server.url(), 0);
    let url = url_of(&agent).await;
    let publisher = Publisher::start(&url, &["--odd", "--rate", "50", "--count", "220"]);
    publisher.has_acked(110).await;
    server.restart();
    publisher.has_acked(220).await;
    drained(&agent).await;

    let parse = |json: &String| plain(serde_json::from_str(json).unwrap());
    let sent: Vec<Value> = publisher.said("frame").iter().map(parse).collect();
    let mut arrived = server.all_frames().await;
    assert_eq!((sent.len(), arrived.len()), (220, 220));
    for (sent, arrived) in sent.iter().zip(&mut arrived) {
        if sent.get("timestamp").is_none() {
            let added = arrived.as_object_mut().unwrap().remove("timestamp").unwrap();
            assert!(added.as_str().unwrap().ends_with('Z'), "{added}");
        }
        let mut sent = sent.clone();
        if sent["gear"] == "R" {
            sent["gear"] = json!(-1);
            // It was below 0, and a server in schema mode requires it.
            sent["fuel"] = json!(0);
        }
        assert_eq!(*arrived, sent);
    }
    let session = &server.sessions().await[0];
    let setups: Vec<Value> = publisher.said("setup").iter().map(parse).collect();
    assert_eq!(server.setups(session).await, setups);
}

/// Regression: a publisher that sent more than 12 MiB at once, as after an outage, was disconnected,
/// and lost what it had not sent.
#[tokio::test]
async fn a_publisher_that_sends_a_large_backlog_is_slowed_down_and_not_disconnected() {
    let folder = tempfile::tempdir().unwrap();
    // No server listens there.
    let agent = stand_in(folder.path(), "http://127.0.0.1:9", 0);
    let url = url_of(&agent).await;
    // Over polling, python-engineio's client sends a backlog in one POST, which no server takes.
    let options =
        ["--rate", "1e6", "--count", "800", "--pad", "20000", "--transports", "websocket"];
    let publisher = Publisher::start(&url, &options);
    publisher.has_acked(800).await;
    // The client handles each acknowledgement in a thread, so it prints them in any order.
    assert!(BTreeSet::from_iter(publisher.acked()).into_iter().eq(1..=800));
    assert_eq!(publisher.dashboards().len(), 1, "connected once");
    let entries = agent.metric("pitwire_queue_entries").await;
    assert_eq!(entries, 801.0, "the frames and the setup");
}

/// The number of samples that the agent refused under this reason.
async fn refused(agent: &Agent, reason: &str) -> f64 {
    let metric = format!(r#"pitwire_source_rejected_total{{source="socketio",reason="{reason}"}}"#);
    agent.metric(&metric).await
}

#[tokio::test]
async fn what_cannot_be_stored_is_counted_and_acknowledged_only_where_a_server_discards_it() {
    let server = Peer::start(Kind::Embedded, &[]);
    let folder = tempfile::tempdir().unwrap();
    let agent = stand_in(folder.path(), &server.url(), 0);
    let url = url_of(&agent).await;
    let mut client = Client::connect(&url).await;
    let session_id = client.new_session().await;
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    let frame = |telemetry: Value| json!({"session_id": session_id, "telemetry": telemetry});
    for (event, payload, reason, is_acked) in [
        ("telemetry_update", json!("text"), "wrong_type", false),
        ("setup_data", json!([1]), "wrong_type", false),
        ("telemetry_update", frame(json!({"a": deep})), "too_deep", false),
        ("telemetry_update", frame(json!({"Lap": 1})), "no_known_field", false),
        ("telemetry_update", frame(json!([1])), "not_object", true),
        ("telemetry_update", json!({"session_id": session_id}), "wrong_type", true),
        ("telemetry_update", json!({"telemetry": {"lap": 1}}), "wrong_type", true),
        ("setup_data", json!({"session_id": session_id, "setup": 7}), "not_object", true),
    ] {
        let before = refused(&agent, reason).await;
        let case = format!("{event} {payload}");
        if is_acked {
            assert_eq!(client.ask(event, payload).await, [], "{case}");
        } else {
            // A client that waits for an acknowledgement cannot be used again.
            let mut client = Client::connect(&url).await;
            assert!(!client.is_acked(event, payload).await, "{case}");
        }
        assert_eq!(refused(&agent, reason).await, before + 1.0, "{case}");
    }

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let polling = format!("{url}/socket.io/?EIO=4&transport=polling");
    let open = http.get(&polling).send().await.unwrap().text().await.unwrap();
    let open: Value = serde_json::from_str(&open[1..]).unwrap();
    let polling = format!("{polling}&sid={}", open["sid"].as_str().unwrap());
    for packet in ["40", r#"42["telemetry_update",{"a":}]"#, r#"451-["setup_data",{"a":1}]"#] {
        http.post(&polling).body(packet).send().await.unwrap().error_for_status().unwrap();
    }
    let counted = async || (refused(&agent, "not_json").await == 2.0).then_some(());
    eventually("both are counted", counted).await;
    assert_eq!(agent.metric("pitwire_queue_entries").await, 0.0);
}

#[tokio::test]
async fn the_stand_in_keeps_the_contract_of_a_dashboard_server() {
    let server = Peer::start(Kind::Embedded, &[]);
    let agent = async || {
        let folder = tempfile::tempdir().unwrap();
        let agent = stand_in(folder.path(), &server.url(), 0);
        let url = url_of(&agent).await;
        (folder, agent, url)
    };
    // Each group of checks has its own agent: it accepts a publisher once the previous one has
    // left.
    let (_folder, _agent, url) = agent().await;
    contract::assigns_an_id_before_the_ack(&url).await;
    contract::does_not_ack_unsupported_events(&url).await;
    contract::echoes_to_the_room_before_the_ack(&url).await;
    let (_folder, _agent, url) = agent().await;
    contract::rebuilds_the_envelope(&url).await;
    let (_folder, _agent, url) = agent().await;
    contract::shows_a_joiner_the_last_setup_then_the_last_frame(&url).await;
    let (_folder, agent, url) = agent().await;
    let mut client = Client::connect(&url).await;
    let unknown = uuid::Uuid::new_v4().to_string();
    // Unlike a server, the agent does not acknowledge it: the publisher would treat it as stored.
    assert!(!client.is_acked("setup_data", contract::setup(&unknown)).await);
    let mut client = Client::connect(&url).await;
    assert!(!client.is_acked("telemetry_update", contract::frame(&unknown)).await);
    let unknown = r#"pitwire_source_rejected_total{source="socketio",reason="unknown_session"}"#;
    assert_eq!(agent.metric(unknown).await, 2.0);
    agent.process.says("uses a session_id that this agent did not assign").await;
}

#[tokio::test]
async fn a_burst_arrives_complete_and_in_order() {
    let server = Peer::start(Kind::Embedded, &[]);
    let folder = tempfile::tempdir().unwrap();
    let agent = stand_in(folder.path(), &server.url(), 0);
    let mut client = Client::connect(&url_of(&agent).await).await;
    let session_id = client.new_session().await;
    let numbered =
        |lap: u32| edited(contract::frame(&session_id), "/telemetry", "lap", Some(json!(lap)));
    let setup = contract::setup(&session_id);
    client.tell("setup_data", setup.clone()).await;
    for lap in 0..100 {
        client.tell("telemetry_update", numbered(lap)).await;
    }
    client.ask("telemetry_update", numbered(100)).await;
    drained(&agent).await;
    let setups = server.setups(&server.sessions().await[0]).await;
    assert_eq!(setups, [plain(edited(setup, "", "session_id", None))]);
    let frames = server.all_frames().await;
    assert!(frames.iter().map(|frame| frame["lap"].as_u64().unwrap()).eq(0..=100));
    assert_eq!(frames[100], plain(numbered(100)["telemetry"].clone()));
}

#[tokio::test]
async fn a_long_pause_moves_a_session_id_to_a_new_page() {
    let server = Peer::start(Kind::Embedded, &[]);
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        "source.socketio.enabled=true",
        "source.socketio.listen=127.0.0.1:0",
        "stint.resume_after=2s",
    ];
    let agent = Agent::start(folder.path(), &server.url(), &settings);
    let url = url_of(&agent).await;
    let mut client = Client::connect(&url).await;
    let session_id = client.new_session().await;
    let mut links = Vec::new();
    for pause in [Duration::ZERO, Duration::from_millis(2500)] {
        sleep(pause).await;
        client.ask("telemetry_update", contract::frame(&session_id)).await;
        drained(&agent).await;
        links.extend(leads_to(&format!("{url}/dashboard/{session_id}")).await);
    }
    let sessions = server.sessions().await;
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    let page = |id: &String| format!("{}/dashboard/{id}", server.url());
    assert_eq!(links, sessions.iter().map(page).collect::<Vec<_>>());
}

#[tokio::test]
async fn frames_not_on_disk_are_neither_acknowledged_nor_lost() {
    let limits = Limits {
        max_entries: 100,
        max_bytes: 16 << 20,
        max_age: Duration::from_hours(1),
        when_full: WhenFull::DropOldest,
        durability: Durability::Entry,
        resume_after: Duration::from_mins(30),
    };
    let disk = Disk::default();
    let ((writer, mut reader), worker) =
        single::with_store(disk.clone(), limits, Clock::system()).unwrap();
    tokio::spawn(worker);
    let folder = tempfile::tempdir().unwrap();
    let intake = Intake::new(writer.clone(), "socketio", 0.0);
    let publishers = Arc::new(Publishers::new(
        intake,
        folder.path(),
        &StintConfig { resume_after: Duration::from_secs(1800) },
    ));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(publishers.serve(listener, Access::ThisPc));

    let mut client = Client::connect(&url).await;
    let session_id = client.new_session().await;
    let numbered =
        |lap: u32| edited(contract::frame(&session_id), "/telemetry", "lap", Some(json!(lap)));
    client.ask("telemetry_update", numbered(1)).await;
    disk.fail_flushes(true);
    assert!(!client.is_acked("telemetry_update", numbered(2)).await);
    client.tell("telemetry_update", numbered(3)).await;
    disk.fail_flushes(false);
    sleep(STORAGE_RETRY_INTERVAL + Duration::from_millis(500)).await;
    client.ask("telemetry_update", numbered(4)).await;

    let limit = Limit { entries: 100, bytes: usize::MAX };
    let batch = reader.next_batch(limit).await.unwrap();
    let lap = |json: &str| serde_json::from_str::<Value>(json).unwrap()["lap"].as_u64().unwrap();
    let laps: Vec<_> = batch.entries().iter().map(|entry| lap(&entry.json)).collect();
    assert_eq!(laps, [1, 2, 3, 4]);
}

#[tokio::test]
async fn hostile_browser_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let agent = stand_in(folder.path(), "http://127.0.0.1:9", 0);
    let url = url_of(&agent).await;
    for path in
        ["/dashboard/%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/dashboard/..%2f..", "/x%3Cb%3E", "/"]
    {
        let (status, target, text) = page(&format!("{url}{path}")).await;
        assert_eq!((status, target), (404, None), "{path}");
        assert!(!text.contains("alert") && !text.contains("<b>") && !text.contains(".."), "{text}");
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (origin, status) in [("https://evil.example", 403), (url.as_str(), 200)] {
        let handshake = format!("{url}/socket.io/?EIO=4&transport=polling");
        let response = client.get(handshake).header(ORIGIN, origin).send().await.unwrap();
        assert_eq!(response.status(), status, "{origin}");
    }
}

//! Delivery confirmation on real servers, and the stability of the dashboard page.
//!
//! `LONG=1` runs the long versions: 20,000 frames over 20 restarts, a stall of 70 s.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use pitwire::DashboardPublisher;
use pitwire::config::{Config, Durability, ProofChoice};
use pitwire::source::Sample;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, eventually, within};
use crate::contract::Client;
use crate::long::is_long;
use crate::peers::{Kind, Peer, frames, sessions};
use crate::process::numbered_samples;
use crate::proxy::{Network, Proxy};

const CONNECTED: &str = "pitwire_connected";
const QUEUED: &str = "pitwire_queue_entries";
const DELIVERED: &str = r#"pitwire_ledger_entries{state="delivered"}"#;
const INVERSIONS: &str = "pitwire_order_inversions_total";

/// A publisher with its queue in `folder` and short pauses between its attempts.
fn publisher(url: &str, folder: &Path, adjust: impl FnOnce(&mut Config)) -> DashboardPublisher {
    let mut config = Config::default();
    config.server.url = url.parse().unwrap();
    config.queue.path = folder.join("queue");
    config.queue.durability = Durability::Within(Duration::from_millis(200));
    config.delivery.backoff_max = Duration::from_secs(1);
    adjust(&mut config);
    DashboardPublisher::open(config).unwrap()
}

/// Stores frames that are numbered by their lap.
async fn store(publisher: &DashboardPublisher, laps: std::ops::RangeInclusive<u64>) {
    let intake = publisher.intake("file", 0.0);
    let samples: Vec<_> =
        laps.map(|lap| Sample::telemetry(&json!({"lap": lap, "speed": 200.5}))).collect();
    for samples in samples.chunks(500) {
        intake.take(samples.to_vec()).await.unwrap();
    }
}

async fn drained(publisher: &DashboardPublisher) {
    let limit = Duration::from_secs(if is_long() { 400 } else { 90 });
    let empty = within(limit, async || (publisher.queue_status().entries == 0).then_some(()));
    assert!(empty.await.is_some(), "{:?}", publisher.session_status());
}

/// The session and lap of each entry that a server stored, across restarts and in order.
fn record(file: &Path) -> Vec<(String, u64)> {
    let text = std::fs::read_to_string(file).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| {
        let session = row["session_id"].as_str().unwrap().to_owned();
        (session, row["telemetry"]["lap"].as_u64().unwrap())
    })
    .collect()
}

/// Replays to a Flask server that is killed and restarted meanwhile. Returns the number of frames
/// and the frames that the server stored.
async fn replay_over_restarts(adjust: impl FnOnce(&mut Config)) -> (u64, Vec<(String, u64)>) {
    let (frames, restarts) = if is_long() { (20_000, 20) } else { (8_000, 4) };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record");
    let mut server = Peer::start(Kind::Flask, &["--record", file.to_str().unwrap()]);
    let publisher = publisher(&server.url(), folder.path(), adjust);
    store(&publisher, 1..=frames).await;
    publisher.start();
    for restart in 1..=restarts {
        let left = frames - frames * restart / (restarts + 1);
        let limit = Duration::from_secs(60);
        let reached =
            within(limit, async || (publisher.queue_status().entries <= left).then_some(()));
        reached.await.expect("delivery continues after a restart");
        server.restart();
    }
    drained(&publisher).await;
    assert_eq!(publisher.queue_status().server().imbalance, 0);
    publisher.close().await;
    (frames, record(&file))
}

/// The network is too slow for a whole batch within the timeout: 20 frames/s in each direction.
#[tokio::test]
async fn a_slow_network_keeps_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let server = Peer::start(Kind::Asgi, &[]);
    let proxy = Proxy::start(server.port());
    proxy.set(Network::Slow { bytes_per_second: 10_000 });
    let publisher = publisher(&proxy.url(), folder.path(), |_| {});
    store(&publisher, 1..=300).await;
    publisher.start();
    drained(&publisher).await;
    let status = publisher.session_status();
    assert_eq!((status.connects, status.failures), (1, 0), "{status:?}");
    publisher.close().await;
}

#[tokio::test]
async fn every_frame_is_kept_in_order_although_the_server_forgets_sessions() {
    let (frames, record) = replay_over_restarts(|_| {}).await;
    let kept: BTreeSet<u64> = record.iter().map(|(_, lap)| *lap).collect();
    let lost = (1..=frames).filter(|lap| !kept.contains(lap)).count();
    let sessions: BTreeSet<&String> = record.iter().map(|(session, _)| session).collect();
    println!("{frames} frames, {} sessions, lost {lost}", sessions.len());
    assert_eq!(lost, 0);
    assert!(sessions.len() > 3, "the server really forgot: {}", sessions.len());
    for session in sessions {
        let laps: Vec<_> = record.iter().filter(|(id, _)| id == session).map(|(_, n)| n).collect();
        assert!(laps.is_sorted_by(|a, b| a < b), "{session} has each frame once, in order");
    }
}

/// Regression: a pending acknowledgement of a lost connection once counted as received.
#[tokio::test]
async fn verified_acknowledgements_lose_no_frames() {
    let (frames, record) =
        replay_over_restarts(|config| config.delivery.proof = ProofChoice::Ack).await;
    let kept: BTreeSet<u64> = record.iter().map(|(_, lap)| *lap).collect();
    let lost = (1..=frames).filter(|lap| !kept.contains(lap)).count();
    assert_eq!(lost, 0);
}

#[tokio::test]
async fn unverified_acknowledgements_lose_frames() {
    let (frames, record) = replay_over_restarts(|config| {
        config.delivery.proof = ProofChoice::Ack;
        config.delivery.verify_interval = Duration::ZERO;
    })
    .await;
    let kept: BTreeSet<u64> = record.iter().map(|(_, lap)| *lap).collect();
    println!("{frames} frames, acknowledgement trusted: lost {}", frames - kept.len() as u64);
    assert!((kept.len() as u64) < frames, "the faults have an effect");
}

#[tokio::test]
async fn one_page_survives_a_cut_a_stall_and_a_crash_without_duplicates() {
    let (cut, stall) = if is_long() { (12, 70) } else { (4, 9) };
    let server = Peer::start(Kind::Asgi, &[]);
    let proxy = Proxy::start(server.port());
    let folder = tempfile::tempdir().unwrap();
    // The default value.
    let settings = ["delivery.proof_timeout=5s"];
    let mut agent = Agent::start(folder.path(), &proxy.url(), &settings);
    let link = agent.link(1).await;
    let viewer = Viewer::of(&server, &link).await;

    let mut laps = 0;
    drive(&agent, &mut laps, 1).await;
    proxy.set(Network::Down);
    drive(&agent, &mut laps, cut).await;
    proxy.set(Network::UP);
    viewer.sees(laps).await;

    proxy.set(Network::Stalled);
    hand_in(&agent, &mut laps, 1).await;
    let stored = Instant::now();
    agent.metric_becomes(CONNECTED, |connected| connected == 0.0).await;
    let noticed = stored.elapsed();
    println!("the stalled link ended after {noticed:?}");
    // On a busy machine it takes longer. The heartbeat alone would take up to 45 s.
    let by_the_proof_timeout = Duration::from_secs(4)..Duration::from_secs(20);
    assert!(by_the_proof_timeout.contains(&noticed), "{noticed:?}");
    drive(&agent, &mut laps, stall - 6).await;
    proxy.set(Network::UP);
    viewer.sees(laps).await;

    // Kill the agent in the middle of a replay.
    proxy.set(Network::Down);
    hand_in(&agent, &mut laps, 5000).await;
    let before = agent.metric(DELIVERED).await;
    proxy.set(Network::UP);
    agent.metric_becomes(DELIVERED, |delivered| delivered >= before + 300.0).await;
    let queued = agent.metric(QUEUED).await;
    agent.process.kill();
    let shown = viewer.seen().len() as u64;
    assert!(queued > 0.0 && shown < laps, "{queued} were queued, {shown} of {laps} shown");
    let mut links = agent.links();
    let agent = Agent::start(folder.path(), &proxy.url(), &settings);
    agent.link(1).await;
    drive(&agent, &mut laps, 1).await;
    viewer.sees(laps).await;
    links.extend(agent.links());

    assert!(links.iter().all(|other| *other == link), "{links:?}");
    viewer.saw_each_once(laps);
}

/// Appends 20 frames per second for this number of seconds.
async fn drive(agent: &Agent, laps: &mut u64, seconds: u64) {
    for _ in 0..seconds * 20 {
        hand_in(agent, laps, 1).await;
        sleep(Duration::from_millis(50)).await;
    }
}

/// Appends the next frames at once.
async fn hand_in(agent: &Agent, laps: &mut u64, count: u64) {
    let frames: Vec<_> =
        (*laps + 1..=*laps + count).map(|lap| json!({"lap": lap, "speed": 200.5})).collect();
    *laps += count;
    assert_eq!(agent.post("/v1/telemetry", json!(frames).to_string()).await.status(), 200);
}

/// A paused server, once resumed, first reads what arrived on links that the agent has closed.
#[tokio::test]
async fn a_paused_and_resumed_server_shows_nothing_twice() {
    let rounds = Kind::ALL.map(|kind| async move {
        let server = Peer::start(kind, &[]);
        let queue = tempfile::tempdir().unwrap();
        let settings = ["queue.durability=200ms", "delivery.proof_timeout=500ms"];
        let agent = Agent::start(queue.path(), &server.url(), &settings);
        let link = agent.link(1).await;
        let viewer = Viewer::of(&server, &link).await;
        let samples = numbered_samples(1, 2440);
        for stop in 0..4 {
            let (before, during) = samples[stop * 610..][..610].split_at(10);
            agent.feed(before);
            viewer.sees(stop as u64 * 610 + 10).await;
            server.pause();
            agent.feed(during);
            agent.metric_becomes(CONNECTED, |connected| connected == 0.0).await;
            // Meanwhile a new link waits to be accepted.
            sleep(Duration::from_millis(700)).await;
            server.resume();
            viewer.sees(stop as u64 * 610 + 610).await;
        }
        agent.metric_becomes(QUEUED, |entries| entries == 0.0).await;
        assert_eq!(agent.links(), [link], "{kind:?}");
        viewer.saw_each_once(2440);
    });
    join_all(rounds).await;
}

/// A viewer of a page, on a separate connection.
struct Viewer(Arc<Mutex<Vec<u64>>>);

impl Viewer {
    /// Opens the page behind a link on this server.
    async fn of(server: &Peer, link: &str) -> Self {
        let (_, session) = link.rsplit_once('/').unwrap();
        let mut client = Client::connect(&server.url()).await;
        client.ask("join_session", json!({"session_id": session})).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let laps = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Some((name, payload)) = client.later_event().await {
                if name == "telemetry_update" {
                    laps.lock().unwrap().push(payload["telemetry"]["lap"].as_u64().unwrap());
                }
            }
        });
        Self(seen)
    }

    /// The laps in the order in which the page showed them.
    fn seen(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until the page has shown this lap.
    async fn sees(&self, lap: u64) {
        let shown = async || self.0.lock().unwrap().contains(&lap).then_some(());
        eventually(&format!("lap {lap} is on the page"), shown).await;
    }

    /// Checks that the page showed the laps from 1 to this one, each once and in order.
    fn saw_each_once(&self, laps: u64) {
        let seen = self.seen();
        let wrong = seen.iter().zip(1..).find(|(lap, expected)| *lap != expected);
        assert_eq!((seen.len() as u64, wrong), (laps, None), "seen, the first that is wrong");
    }
}

#[tokio::test]
async fn a_threaded_server_that_reorders_gets_one_frame_at_a_time() {
    const BATCH: u64 = 30;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record");
    let args = ["--async-mode", "threading", "--swap", "10", "--record", file.to_str().unwrap()];
    let server = Peer::start(Kind::Flask, &args);
    let settings = ["queue.durability=200ms", &format!("delivery.batch_max_entries={BATCH}")];
    let agent = Agent::start(&folder.path().join("queue"), &server.url(), &settings);
    let viewer = Viewer::of(&server, &agent.link(1).await).await;
    assert_eq!(agent.metric(INVERSIONS).await, 0.0);
    agent.feed(&numbered_samples(1, 300));
    viewer.sees(300).await;
    agent.metric_becomes(QUEUED, |entries| entries == 0.0).await;

    let kept: Vec<u64> = record(&file).into_iter().map(|(_, lap)| lap).collect();
    for (who, laps) in [("the server", kept), ("the viewer", viewer.seen())] {
        let swapped: Vec<u64> =
            laps.windows(2).filter(|pair| pair[1] < pair[0]).map(|pair| pair[0]).collect();
        let first = swapped.first().expect("the server really swaps");
        let late = swapped.iter().find(|lap| **lap > first + BATCH);
        assert_eq!(late, None, "{who}: only in the batch in flight: {swapped:?}");
        assert_eq!(laps.len(), 300, "{who}");
        assert_eq!(laps.into_iter().collect::<BTreeSet<_>>().len(), 300, "{who}");
    }
    let noticed = agent.metric(INVERSIONS).await;
    assert!((1.0..BATCH as f64).contains(&noticed), "{noticed}");
}

#[tokio::test]
async fn a_backlog_is_sent_below_the_configured_rate() {
    let server = Peer::start(Kind::Embedded, &[]);
    let folder = tempfile::tempdir().unwrap();
    let publisher =
        publisher(&server.url(), folder.path(), |config| config.delivery.max_rate = 200.0);
    store(&publisher, 1..=600).await;
    let start = Instant::now();
    publisher.start();
    drained(&publisher).await;
    let rate = 600.0 / start.elapsed().as_secs_f64();
    assert!(rate <= 210.0, "{rate}");
    publisher.close().await;
}

/// An acknowledgement of each entry would wait for the delayed ACK of its echo: at most 43
/// entries/s. `LONG=1` replays 7,000 frames and checks the rate.
#[tokio::test]
async fn a_threaded_server_that_swapped_once_gets_all_frames_in_order() {
    const BATCH: u64 = 30;
    let frames: u32 = if is_long() { 7_000 } else { 1_000 };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record");
    let args = ["--async-mode", "threading", "--swap", "10", "--swaps", "1"];
    let args = [&args[..], &["--keep", "1", "--record", file.to_str().unwrap()]].concat();
    let mut server = Peer::start(Kind::Flask, &args);
    server.kill();
    let publisher = publisher(&server.url(), folder.path(), |config| {
        config.delivery.batch_max_entries = BATCH;
    });
    store(&publisher, 1..=u64::from(frames)).await;
    server.restart();
    let began = Instant::now();
    publisher.start();
    drained(&publisher).await;
    let took = began.elapsed();
    publisher.close().await;
    let rate = f64::from(frames) / took.as_secs_f64();
    println!("{frames} frames with one swap in {took:?}: {rate:.0}/s");
    let laps: Vec<u64> = record(&file).into_iter().map(|(_, lap)| lap).collect();
    assert_eq!(laps.len(), frames as usize);
    // The server's threads may swap other frames of the same batch, too.
    let swapped: Vec<u64> =
        laps.windows(2).filter(|pair| pair[1] < pair[0]).map(|pair| pair[0]).collect();
    let first = swapped.first().expect("the server really swaps");
    assert!(swapped.iter().all(|lap| *lap <= first + BATCH), "{swapped:?}");
    // A loaded machine is slower than the delayed ACKs were.
    assert!(!is_long() || rate > 100.0, "{rate}");
}

/// Prints the time from the return of the network to the first delivered frame. `LONG=1` makes 50
/// trials.
#[tokio::test]
async fn an_outage_of_twelve_seconds_is_over_soon_after_the_networks_return() {
    const OUTAGE: Duration = Duration::from_secs(12);
    let (agents, rounds) = if is_long() { (10, 5) } else { (4, 1) };
    let server = Peer::start(Kind::Asgi, &[]);
    let trials = (0..agents).map(async |_| {
        let proxy = Proxy::start(server.port());
        let folder = tempfile::tempdir().unwrap();
        // The default values.
        let settings = ["delivery.backoff_min=500ms", "delivery.backoff_max=5s"];
        let agent = Agent::start(folder.path(), &proxy.url(), &settings);
        let mut laps = 0;
        hand_in(&agent, &mut laps, 1).await;
        let mut waits = Vec::new();
        for _ in 0..rounds {
            agent.metric_becomes(DELIVERED, |delivered| delivered == laps as f64).await;
            proxy.set(Network::Down);
            hand_in(&agent, &mut laps, 1).await;
            sleep(OUTAGE).await;
            proxy.set(Network::UP);
            let returned = Instant::now();
            agent.metric_becomes(DELIVERED, |delivered| delivered == laps as f64).await;
            waits.push(returned.elapsed());
        }
        waits
    });
    let mut waits: Vec<Duration> = join_all(trials).await.into_iter().flatten().collect();
    waits.sort();
    let (median, p95) = (waits[waits.len() / 2], waits[waits.len() * 95 / 100]);
    println!("{} trials: median {median:?}, 95 % {p95:?}, {waits:?}", waits.len());
    // 5 s, and some for a loaded machine.
    assert!(waits[waits.len() - 1] < Duration::from_secs(9), "{waits:?}");
}

/// Passes connections on to each of the ports in turn. Returns the address.
fn round_robin(ports: [u16; 2]) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let clients = listener.incoming().map_while(Result::ok);
        for (client, port) in clients.zip(ports.into_iter().cycle()) {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    address
}

#[tokio::test]
async fn with_proof_ack_workers_behind_a_round_robin_keep_one_page() {
    let workers = [(); 2].map(|()| Peer::start(Kind::Asgi, &[]));
    let folder = tempfile::tempdir().unwrap();
    let url = round_robin([workers[0].port(), workers[1].port()]);
    let publisher = publisher(&url, folder.path(), |config| {
        config.delivery.proof = ProofChoice::Ack;
        config.delivery.verify_interval = Duration::from_millis(200);
    });
    publisher.start();
    // Several verifications, and time between them.
    for lap in 1..=20 {
        store(&publisher, lap..=lap).await;
        sleep(Duration::from_millis(200)).await;
    }
    drained(&publisher).await;
    let mut pages = Vec::new();
    for worker in &workers {
        for session in sessions(&worker.url()).await {
            let laps = frames(&worker.url(), &session).await;
            pages.push(laps.iter().map(|frame| frame["lap"].as_u64().unwrap()).collect::<Vec<_>>());
        }
    }
    assert_eq!(pages, [(1..=20).collect::<Vec<_>>()]);
}

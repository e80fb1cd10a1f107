//! The embeddable publisher over real connections: to the embedded server if a test inspects the
//! server, otherwise to the servers that teams run.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use futures_util::FutureExt;
use pitwire::DashboardPublisher;
use pitwire::config::Config;
use pitwire::dashboard::{Behaviour, Server};
use pitwire::queue::{OpenError, QueueError};
use pitwire::source::{Sample, Taken};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::contract::Client;
use crate::peers::{Kind, Peer};

/// Time limit for steps that are not timed; two shared cores run many tests at once.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn connecting_makes_the_publisher_ready_with_session_and_page() {
    let server = server();
    let pit = Pit::new();
    let publisher = pit.publisher(&server.url());
    assert!(!publisher.is_connected() && !publisher.is_ready());
    assert_eq!((publisher.session_id(), publisher.dashboard_url()), (None, None));

    publisher.connect().await.unwrap();
    assert!(publisher.is_connected());
    until("it is ready", || publisher.is_ready()).await;
    let session = server.sessions().remove(0).session_id;
    assert_eq!(publisher.session_id().as_ref(), Some(&session));
    let page = format!("{}/dashboard/{session}", server.url());
    assert_eq!(publisher.dashboard_url(), Some(page));

    publisher.disconnect().await;
    assert!(!publisher.is_connected() && !publisher.is_ready());
}

#[tokio::test]
async fn a_failed_connect_is_retried_until_the_server_is_up() {
    let address = free_address();
    let pit = Pit::new();
    let publisher = pit.publisher(&format!("http://{address}"));
    let error = publisher.connect().await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("nothing listens at http://{address}: connection refused")),
        "{error}"
    );
    assert!(!publisher.is_connected());

    let server = Server::start(address, Behaviour::default()).unwrap();
    until("it is ready", || publisher.is_ready()).await;
    assert_eq!(server.sessions().len(), 1);
}

#[tokio::test]
async fn a_fixed_session_id_is_used_as_given() {
    let server = server();
    let session = Client::connect(&server.url()).await.new_session().await;
    let pit = Pit::new();
    let mut config = pit.config(&server.url());
    config.server.session_id = session.parse().unwrap();
    let publisher = DashboardPublisher::open(config).unwrap();
    assert_eq!(publisher.session_id().as_ref(), Some(&session));

    publisher.connect().await.unwrap();
    publish(&publisher, 1..=3).await;
    drained(&publisher).await;
    assert_eq!(publisher.session_id().as_ref(), Some(&session));
    assert_eq!(laps(&server.frames(&session)), [1, 2, 3]);
    assert_eq!(server.sessions().len(), 1);
}

#[test]
fn an_invalid_url_or_session_id_is_refused_with_advice() {
    let refused = |url, id| DashboardPublisher::new(url, id).unwrap_err().to_string();
    assert_eq!(
        refused("localhost:5000", "auto"),
        "server_url: \"localhost:5000\" does not begin with a scheme such as http://; write one such \
         as http://localhost:5000"
    );
    assert_eq!(
        refused("http://localhost:5000", "race 1"),
        "session_id: \"race 1\" is not a session id; write auto, or 1 to 128 of A-Z a-z 0-9 _ -"
    );
}

#[test]
fn an_invalid_url_is_quoted_without_its_credentials() {
    for url in ["http://ana:hunter2@pit:5000", "http://pit:5000/?token=hunter2"] {
        let error = DashboardPublisher::new(url, "auto").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("server_url: \"") && text.contains("pit:5000"), "{text}");
        assert!(!text.contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn the_error_of_a_destination_names_its_own_keys() {
    let pit = Pit::new();
    let mut config = pit.config(&format!("http://{}", free_address()));
    let mut club = config.server.clone();
    club.url = format!("http://{}", free_address()).parse().unwrap();
    config.destinations.insert("club".into(), club);
    let publisher = DashboardPublisher::open(config).unwrap();
    publisher.start();
    for (destination, key) in
        publisher.watch_destinations().into_iter().zip(["server.url", "destination.club.url"])
    {
        let mut session = destination.session;
        let failed = session.wait_for(|session| session.last_error.is_some());
        let error = timeout(PATIENCE, failed).await.unwrap().unwrap().last_error.clone().unwrap();
        assert!(error.ends_with(&format!(" that {key} has its port")), "{error}");
    }
}

#[tokio::test]
async fn a_setup_is_sent_only_when_it_changed() {
    let server = server();
    let pit = Pit::new();
    let publisher = pit.publisher(&server.url());
    publisher.connect().await.unwrap();
    let mut taken = Vec::new();
    for wing in [7, 7, 8, 8, 7] {
        publish(&publisher, 1..=1).await;
        taken.push(publisher.publish_setup(json!({"VM_REAR_WING": wing})).await.unwrap());
    }
    let unchanged: Vec<_> = taken.iter().map(|taken| *taken == Taken::Unchanged).collect();
    assert_eq!(unchanged, [false, true, false, true, false]);

    drained(&publisher).await;
    let setups = server.setups(&publisher.session_id().unwrap());
    let wings: Vec<_> = setups.iter().map(|setup| setup["VM_REAR_WING"].clone()).collect();
    assert_eq!(wings, [7, 8, 7]);
}

#[tokio::test]
async fn telemetry_at_10_hz_is_rate_limited_to_2_hz() {
    let server = server();
    let pit = Pit::new();
    let config = Config { update_rate_hz: 2.0, ..pit.config(&server.url()) };
    let publisher = DashboardPublisher::open(config).unwrap();
    publisher.connect().await.unwrap();
    let mut tick = interval(Duration::from_millis(100));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(25) {
        tick.tick().await;
        let taken = publisher.publish_telemetry(json!({"lap": 1})).await.unwrap();
        assert!(matches!(taken, Taken::Stored(_) | Taken::RateLimited), "{taken:?}");
    }
    drained(&publisher).await;
    let frames = server.frames(&publisher.session_id().unwrap());
    // The first ones may have been a block.
    assert!((49..=54).contains(&frames.len()), "{} frames", frames.len());
}

#[tokio::test]
async fn a_broken_connection_loses_no_frame() {
    let server = server();
    let pit = Pit::new();
    let publisher = pit.publisher(&server.url());
    publisher.connect().await.unwrap();
    until("it is ready", || publisher.is_ready()).await;
    let session = publisher.session_id().unwrap();
    for round in 0..5 {
        publish(&publisher, round * 20 + 1..=round * 20 + 20).await;
        server.cut_connections();
    }
    drained(&publisher).await;
    assert_eq!(publisher.session_id(), Some(session.clone()));
    assert!(laps(&server.frames(&session)).into_iter().eq(1..=100), "all once and in order");
    assert!(publisher.session_status().connects > 1);
}

#[tokio::test]
async fn a_session_after_a_forgotten_one_starts_with_the_setup() {
    // Slow enough for the test to observe every state of a session.
    let behaviour = Behaviour { delay: Duration::from_millis(20), ..Behaviour::default() };
    let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), behaviour).unwrap();
    let pit = Pit::new();
    let publisher = pit.publisher(&server.url());
    publisher.connect().await.unwrap();
    publisher.publish_setup(json!({"VM_REAR_WING": 7})).await.unwrap();
    publish(&publisher, 1..=3).await;
    drained(&publisher).await;
    let forgotten = publisher.session_id();

    server.forget_sessions();
    publish(&publisher, 4..=6).await;
    until("the frames are there", || {
        let sessions = server.sessions();
        let without_setup = sessions.iter().find(|held| held.frames > 0 && held.setups == 0);
        assert_eq!(without_setup, None);
        sessions.first().is_some_and(|held| held.frames == 3)
    })
    .await;
    let session = publisher.session_id();
    assert!(session.is_some() && session != forgotten, "{session:?} after {forgotten:?}");
    let session = session.unwrap();
    assert_eq!(laps(&server.frames(&session)), [4, 5, 6]);
    assert_eq!(server.setups(&session), [json!({"VM_REAR_WING": 7})]);
}

#[tokio::test]
async fn flask_receives_everything_published() {
    check_delivery_to(Kind::Flask).await;
}

#[tokio::test]
async fn asgi_receives_everything_published() {
    check_delivery_to(Kind::Asgi).await;
}

#[tokio::test]
async fn node_receives_everything_published() {
    check_delivery_to(Kind::Node).await;
}

/// A race with a server of this kind: down at first, disconnected for a while, restarted at the
/// end.
async fn check_delivery_to(kind: Kind) {
    let address = free_address();
    let pit = Pit::new();
    let publisher = pit.publisher(&format!("http://{address}"));
    publisher.connect().await.unwrap_err();
    publisher.publish_setup(json!({"VM_REAR_WING": 7})).await.unwrap();
    publish(&publisher, 1..=20).await;

    let mut peer = Peer::start_on(kind, address.port(), &[]);
    drained(&publisher).await;
    assert!(publisher.is_ready());
    let session = publisher.session_id().unwrap();
    assert_eq!(peer.sessions().await, [session.as_str()]);
    assert!(laps(&peer.frames(&session).await).into_iter().eq(1..=20));
    assert_eq!(peer.setups(&session).await.len(), 1);

    publisher.disconnect().await;
    publish(&publisher, 21..=25).await;
    assert!(!publisher.is_connected());
    publisher.connect().await.unwrap();
    drained(&publisher).await;
    assert_eq!(publisher.session_id().as_ref(), Some(&session));
    assert!(laps(&peer.frames(&session).await).into_iter().eq(1..=25));

    peer.restart();
    publish(&publisher, 26..=30).await;
    drained(&publisher).await;
    let renewed = publisher.session_id().unwrap();
    assert_eq!(peer.sessions().await, [renewed.as_str()]);
    assert!(laps(&peer.frames(&renewed).await).into_iter().eq(26..=30));
    assert_eq!(peer.setups(&renewed).await.len(), 1);
}

#[tokio::test]
async fn an_abandoned_or_concurrent_disconnect_does_no_harm() {
    let server = server();
    let pit = Pit::new();
    let publisher = pit.publisher(&server.url());
    for _ in 0..10 {
        publisher.connect().await.unwrap();
        // Started and dropped.
        assert_eq!(publisher.disconnect().now_or_never(), None);
    }
    for _ in 0..10 {
        // It succeeds or reports the disconnect; either way it returns.
        let both = async { tokio::join!(publisher.connect(), publisher.disconnect()) };
        let _ = timeout(PATIENCE, both).await.expect("neither waits forever");
    }
    publisher.connect().await.unwrap();
    publish(&publisher, 1..=1).await;
    drained(&publisher).await;
}

#[tokio::test]
async fn a_server_configured_while_disconnected_is_used_by_the_next_connect() {
    let (first, second) = (server(), server());
    let pit = Pit::new();
    let publisher = pit.publisher(&first.url());
    publisher.connect().await.unwrap();
    publisher.disconnect().await;
    publisher.take_over(pit.config(&second.url())).await.unwrap();
    assert!(!publisher.is_connected(), "a new configuration does not connect");
    publish(&publisher, 1..=1).await;
    publisher.connect().await.unwrap();
    drained(&publisher).await;
    assert_eq!(second.sessions().remove(0).frames, 1);
    assert_eq!(first.sessions().iter().map(|session| session.frames).sum::<usize>(), 0);
}

/// The session is lost with the runtime that ran it; the entries stay queued for the next publisher.
#[test]
fn a_publisher_whose_runtime_ended_is_disconnected_and_says_so() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = server();
    let pit = Pit::new();
    let publisher = pit.publisher(&server.url());
    runtime().block_on(publisher.connect()).unwrap();
    assert!(!publisher.is_connected());
    let connected = runtime().block_on(async { timeout(PATIENCE, publisher.connect()).await });
    let error = connected.expect("connect returns").unwrap_err();
    assert!(error.to_string().contains("the delivery failed"), "{error}");
}

#[tokio::test]
async fn a_second_publisher_on_a_queue_is_refused_and_told_the_owner() {
    let pit = Pit::new();
    let first = pit.publisher("http://localhost:5000");
    match DashboardPublisher::open(pit.config("http://localhost:5000")) {
        Err(OpenError::InUse { owner, .. }) => assert_eq!(owner, std::process::id().to_string()),
        other => panic!("{other:?}"),
    }
    publish(&first, 1..=1).await;
}

#[tokio::test]
async fn a_queue_can_be_opened_again_as_soon_as_it_is_closed() {
    let server = server();
    let pit = Pit::new();
    for lap in 1..=50 {
        let publisher = pit.publisher(&server.url());
        assert_eq!(publisher.queue_status().entries, lap - 1);
        publish(&publisher, lap..=lap).await;
        publisher.close().await;
    }
    let publisher = pit.publisher(&server.url());
    publisher.connect().await.unwrap();
    drained(&publisher).await;
    let session = server.sessions().remove(0).session_id;
    assert!(laps(&server.frames(&session)).into_iter().eq(1..=50));
}

#[tokio::test]
async fn an_open_intake_does_not_keep_the_queue_open() {
    let pit = Pit::new();
    let publisher = pit.publisher("http://localhost:5000");
    let intake = publisher.intake("test", 0.0);
    let started = Instant::now();
    publisher.close().await;
    assert!(started.elapsed() < Duration::from_secs(4), "it waited for the intake");
    let refused = intake.take(vec![Sample::telemetry(&sample(1))]).await;
    assert!(matches!(refused, Err(QueueError::Closed)), "{refused:?}");
    pit.publisher("http://localhost:5000");
}

/// Resources of a process as counted by the kernel. Uses a separate process, because other tests
/// run concurrently in this one.
#[cfg(target_os = "linux")]
mod leftovers {
    use std::process::Command;

    use super::*;

    /// Cycles for one-time allocations, such as an allocator's arenas.
    const WARM_UP: u64 = 100;
    const CYCLES: u64 = 1_000;
    const SERVER: &str = "PITWIRE_TEST_LEFTOVERS_SERVER";
    const MOST_GROWTH_BYTES: u64 = 10 << 20;

    #[test]
    fn a_thousand_connections_leak_no_task_socket_file_or_thread() {
        if let Ok(url) = std::env::var(SERVER) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            return runtime.unwrap().block_on(connect_repeatedly(&url));
        }
        let server = server();
        let name = std::thread::current().name().unwrap().to_owned();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(SERVER, server.url())
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        // A session that is still empty when its connection ends is not reused.
        let sessions: Vec<_> = server.sessions().into_iter().filter(|s| s.frames > 0).collect();
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        let laps = laps(&server.frames(&sessions[0].session_id));
        let every_tenth = 1..=(WARM_UP + CYCLES) / 10;
        assert!(laps.iter().copied().eq(every_tenth), "all once and in order: {laps:?}");
    }

    async fn connect_repeatedly(url: &str) {
        let pit = Pit::new();
        let publisher = pit.publisher(url);
        cycles(&publisher, 1..=WARM_UP).await;
        sleep(Duration::from_millis(500)).await;
        let before = ProcessUsage::now();
        cycles(&publisher, WARM_UP + 1..=WARM_UP + CYCLES).await;
        // The thread of the last connection may still be ending, here and before.
        until("nothing is left", || ProcessUsage::now().counts == before.counts).await;
        let growth = ProcessUsage::now().resident_bytes.saturating_sub(before.resident_bytes);
        println!("{before:?}, then {growth} bytes more");
        assert!(growth < MOST_GROWTH_BYTES, "{growth} bytes");
    }

    async fn cycles(publisher: &DashboardPublisher, cycles: std::ops::RangeInclusive<u64>) {
        for cycle in cycles {
            publisher.connect().await.unwrap();
            if cycle % 10 == 0 {
                publish(publisher, cycle / 10..=cycle / 10).await;
                drained(publisher).await;
            }
            publisher.disconnect().await;
        }
    }

    #[derive(Debug)]
    struct ProcessUsage {
        /// Open files and sockets, threads, tasks.
        counts: [usize; 3],
        resident_bytes: u64,
    }

    impl ProcessUsage {
        fn now() -> Self {
            let count = |folder| std::fs::read_dir(folder).unwrap().count();
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
            Self {
                counts: [count("/proc/self/fd"), count("/proc/self/task"), tasks],
                resident_bytes: kib << 10,
            }
        }
    }
}

/// The folder of a publisher's queue, for the duration of a test.
struct Pit {
    folder: TempDir,
}

impl Pit {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A configuration without rate limit and with short waits between connection attempts.
    fn config(&self, url: &str) -> Config {
        let mut config = Config { update_rate_hz: 0.0, ..Config::default() };
        config.server.url = url.parse().unwrap();
        config.queue.path = self.folder.path().join("queue");
        config.delivery.backoff_min = Duration::from_millis(50);
        config.delivery.backoff_max = Duration::from_millis(200);
        config
    }

    fn publisher(&self, url: &str) -> DashboardPublisher {
        DashboardPublisher::open(self.config(url)).unwrap()
    }
}

fn server() -> Server {
    Server::start((Ipv4Addr::LOCALHOST, 0).into(), Behaviour::default()).unwrap()
}

/// An address without a listener.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Publishes a frame for each of these laps, and checks that all are stored.
async fn publish(publisher: &DashboardPublisher, laps: impl IntoIterator<Item = u64>) {
    for lap in laps {
        let taken = publisher.publish_telemetry(sample(lap)).await.unwrap();
        assert!(matches!(taken, Taken::Stored(_)), "{taken:?}");
    }
}

fn sample(lap: u64) -> Value {
    json!({"lap": lap, "speed": 212.5})
}

fn laps(frames: &[Value]) -> Vec<u64> {
    frames.iter().map(|frame| frame["lap"].as_u64().unwrap()).collect()
}

async fn drained(publisher: &DashboardPublisher) {
    until("everything is delivered", || publisher.queue_status().entries == 0).await;
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_setup_appended_during_eviction_is_delivered() {
    let behaviour = Behaviour { delay: Duration::from_millis(50), ..Behaviour::default() };
    let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), behaviour).unwrap();
    let pit = Pit::new();
    let mut config = pit.config(&server.url());
    config.queue.max_entries = 10;
    let publisher = DashboardPublisher::open(config).unwrap();
    publisher.connect().await.unwrap();
    publish(&publisher, 1..=1).await;
    drained(&publisher).await;
    publish(&publisher, 2..=2).await; // in flight
    publisher.publish_setup(json!({"VM_REAR_WING": 7})).await.unwrap();
    publish(&publisher, 3..=40).await;
    drained(&publisher).await;
    assert_eq!(
        server.setups(&publisher.session_id().unwrap()).len(),
        1,
        "{:?}",
        publisher.queue_status()
    );
}

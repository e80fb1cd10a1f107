//! How the agent reaches a server: WebSocket, long-polling, forward proxies, several addresses.

mod devices;
mod poll_server;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pitwire::sink::Transport;
use tokio::time::sleep;

use self::devices::{ForwardProxy, Middlebox, Rule};
use self::poll_server::{PollServer, response};
use crate::agent::{Agent, eventually, within};
use crate::hostile::{Pit, laps};
use crate::long::{is_long, size};
use crate::peers::{Kind, Peer};

/// Time limit for the frames of one rate measurement; a threaded server takes one at a time.
const RATE_LIMIT: Duration = Duration::from_secs(600);

const POLLING: [(&str, &str); 1] = [("server.transport", "polling")];

/// Waits for a connection and returns its transport.
async fn transport(pit: &Pit) -> Transport {
    eventually("a connection", async || pit.status().transport).await
}

/// Stores frames and waits until the server has all of them in order.
async fn deliver(pit: &Pit, url: &str, frames: u64) {
    pit.store(1..=frames, "Ana").await;
    pit.drained().await;
    assert_eq!(laps(url).await, (1..=frames).collect::<Vec<_>>());
}

async fn polling_only_server_gets_every_frame(kind: Kind, args: &[&str]) {
    let server = Peer::start(kind, &[&["--polling-only"], args].concat());
    let pit = Pit::new(&server.url(), &[]);
    deliver(&pit, &server.url(), 100).await;
    assert_eq!(transport(&pit).await, Transport::Polling);
    assert_eq!(pit.status().failures, 0, "{:?}", pit.status());
}

#[tokio::test]
async fn a_polling_only_flask_server_gets_every_frame() {
    polling_only_server_gets_every_frame(Kind::Flask, &[]).await;
}

#[tokio::test]
async fn a_polling_only_threaded_flask_server_gets_every_frame() {
    let server = Peer::start(Kind::Flask, &["--polling-only", "--async-mode", "threading"]);
    let pit = Pit::new(&server.url(), &[]);
    pit.store(1..=100, "Ana").await;
    pit.drained().await;
    assert_eq!(transport(&pit).await, Transport::Polling);
    // With a thread for each event, frames may be swapped until pitwire notices.
    let mut laps = laps(&server.url()).await;
    laps.sort_unstable();
    assert_eq!(laps, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_polling_only_asgi_server_gets_every_frame() {
    polling_only_server_gets_every_frame(Kind::Asgi, &[]).await;
}

#[tokio::test]
async fn a_polling_only_node_server_gets_every_frame() {
    polling_only_server_gets_every_frame(Kind::Node, &[]).await;
}

#[tokio::test]
async fn pitwire_serve_gets_every_frame_by_polling() {
    let server = Peer::start(Kind::Embedded, &[]);
    let pit = Pit::new(&server.url(), &POLLING);
    deliver(&pit, &server.url(), 300).await;
    assert_eq!(transport(&pit).await, Transport::Polling);
}

/// A server asks each client for a sign of life after 25 s.
#[tokio::test]
async fn a_polling_connection_outlives_the_ping_interval() {
    let server = Peer::start(Kind::Flask, &["--polling-only", "--ping-interval", "1"]);
    let pit = Pit::new(&server.url(), &[]);
    deliver(&pit, &server.url(), 10).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!((pit.status().connects, pit.status().failures), (1, 0), "{:?}", pit.status());
}

async fn polling_is_used_where_a_middlebox_blocks_websocket(rule: Rule) {
    let server = Peer::start(Kind::Flask, &[]);
    let middlebox = Middlebox::start(server.port(), rule).await;
    let pit = Pit::new(&middlebox.url(), &[]);
    deliver(&pit, &server.url(), 100).await;
    assert_eq!(transport(&pit).await, Transport::Polling);
    for head in middlebox.heads() {
        let agent = concat!("user-agent: pitwire/", env!("CARGO_PKG_VERSION"), "\r\n");
        assert!(head.to_lowercase().contains(agent), "{head}");
    }
    // Once WebSocket gets through, the next connection uses it.
    middlebox.set(Rule::Pass);
    middlebox.cut();
    let websocket = async || (pit.status().transport == Some(Transport::Websocket)).then_some(());
    eventually("a WebSocket connection", websocket).await;
    pit.store(101..=150, "Ana").await;
    pit.drained().await;
    assert_eq!(laps(&server.url()).await, (1..=150).collect::<Vec<_>>());
}

#[tokio::test]
async fn polling_is_used_where_upgrades_are_refused() {
    polling_is_used_where_a_middlebox_blocks_websocket(Rule::Refuse).await;
}

#[tokio::test]
async fn polling_is_used_where_upgrades_are_cut() {
    polling_is_used_where_a_middlebox_blocks_websocket(Rule::Cut).await;
}

#[tokio::test]
async fn polling_is_used_where_upgrades_get_no_answer() {
    polling_is_used_where_a_middlebox_blocks_websocket(Rule::Swallow).await;
}

#[tokio::test]
async fn polling_is_used_where_nothing_follows_an_upgrade() {
    polling_is_used_where_a_middlebox_blocks_websocket(Rule::Mute).await;
}

#[tokio::test]
async fn a_lost_polling_connection_loses_no_frame() {
    let mut server = Peer::start(Kind::Flask, &["--polling-only"]);
    let middlebox = Middlebox::start(server.port(), Rule::Pass).await;
    let pit = Pit::new(&middlebox.url(), &[("delivery.backoff_min", "50ms")]);
    for round in 0..5 {
        pit.store(round * 40 + 1..=round * 40 + 40, "Ana").await;
        middlebox.cut();
    }
    pit.drained().await;
    assert_eq!(laps(&server.url()).await, (1..=200).collect::<Vec<_>>());
    server.kill();
    eventually("the link ends", async || (!pit.status().connected).then_some(())).await;
}

#[tokio::test]
async fn the_transport_is_in_the_status_the_metrics_and_the_log() {
    let server = Peer::start(Kind::Flask, &["--polling-only"]);
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(folder.path(), &server.url(), &[]);
    agent.metric_becomes(r#"pitwire_transport{transport="polling"}"#, |is| is == 1.0).await;
    assert_eq!(agent.metric(r#"pitwire_transport{transport="websocket"}"#).await, 0.0);
    let (_, status) = agent.page("/status").await;
    assert!(status.contains(r#""transport":"polling""#), "{status}");
    agent.process.says("WebSocket does not get through to the server").await;
}

#[tokio::test]
async fn a_cookie_of_a_load_balancer_is_sent_back() {
    let cookies = |index: usize| match index {
        0 => Some(response(
            200,
            "Set-Cookie: AWSALB=one; Path=/; HttpOnly\r\nSet-Cookie: lb=two\r\n",
            poll_server::HANDSHAKE,
        )),
        _ => None,
    };
    let server = PollServer::start(cookies).await;
    let _pit = Pit::new(&server.url(), &POLLING);
    let requests = eventually("three requests", async || {
        Some(server.heads()).filter(|heads| heads.len() >= 3)
    });
    for head in &requests.await[1..] {
        assert!(head.contains("cookie: AWSALB=one; lb=two\r\n"), "{head}");
    }
}

/// Regression: the library polled again at once, thousands of times a second.
#[tokio::test]
async fn useless_answers_to_polls_do_not_cause_a_request_loop() {
    let answers = [
        ("empty", response(200, "", "")),
        ("not found", response(404, "", "nothing")),
        ("unavailable", response(503, "", "")),
        ("noop", response(200, "", "6")),
        ("event", response(200, "", r#"42["noise",1]"#)),
        ("not a packet", response(200, "", "<html>")),
    ];
    for (name, answer) in answers {
        let server = PollServer::start(move |poll| (poll >= 2).then(|| answer.clone())).await;
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(folder.path(), &server.url(), &["server.transport=polling"]);
        let reached = async || (server.heads().len() >= 3).then_some(());
        eventually("three requests", reached).await;
        let (before, cpu_before) = (server.heads().len(), cpu_seconds(agent.process.id()));
        let began = Instant::now();
        sleep(Duration::from_secs(4)).await;
        let took = began.elapsed().as_secs_f64();
        let rate = (server.heads().len() - before) as f64 / took;
        let cpu = (cpu_seconds(agent.process.id()) - cpu_before) / took;
        assert!(rate < 250.0, "{name}: {rate} requests a second");
        assert!(cpu < 0.7, "{name}: {cpu} of a core");
    }
}

/// User and system time of a process.
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test]
async fn a_post_has_16_packets_at_most() {
    let server = PollServer::start(|_| None).await;
    let pit = Pit::new(&server.url(), &POLLING);
    pit.store(1..=100, "Ana").await;
    let posted = async || (server.packets().iter().sum::<usize>() >= 3).then_some(());
    eventually("posts", posted).await;
    assert!(
        server.packets().iter().all(|count| (1..=16).contains(count)),
        "{:?}",
        server.packets()
    );
}

#[tokio::test]
async fn a_forward_proxy_passes_websocket_on() {
    let server = Peer::start(Kind::Flask, &[]);
    let proxy = ForwardProxy::start(server.port(), Some("me:s%C3%A9cret"), true).await;
    let pit = Pit::new("http://pit.test:8080", &[("server.proxy", &proxy.url("me:s%C3%A9cret@"))]);
    deliver(&pit, &server.url(), 100).await;
    assert_eq!(transport(&pit).await, Transport::Websocket);
    let heads = proxy.heads();
    assert!(heads.iter().all(|head| head.starts_with("CONNECT pit.test:8080 ")), "{heads:?}");
    let agent = concat!("User-Agent: pitwire/", env!("CARGO_PKG_VERSION"), "\r\n");
    assert!(heads.iter().all(|head| head.contains(agent)), "{heads:?}");
}

/// As Squid does by default for ports other than 443.
#[tokio::test]
async fn a_forward_proxy_without_connect_forwards_polls() {
    let server = Peer::start(Kind::Flask, &[]);
    let proxy = ForwardProxy::start(server.port(), Some("me:secret"), false).await;
    let pit = Pit::new("http://pit.test:8080", &[("server.proxy", &proxy.url("me:secret@"))]);
    deliver(&pit, &server.url(), 50).await;
    assert_eq!(transport(&pit).await, Transport::Polling);
    let heads = proxy.heads();
    assert!(heads[0].starts_with("CONNECT "), "{heads:?}");
    assert!(heads[1].starts_with("GET http://pit.test:8080/socket.io/?"), "{heads:?}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_without_its_password() {
    let proxy = ForwardProxy::start(0, Some("me:secret"), true).await;
    let pit = Pit::new("http://pit.test:8080", &[("server.proxy", &proxy.url("me:hunter2@"))]);
    let complaint = pit.complaint().await;
    let shown = proxy.url("");
    assert!(complaint.contains(&format!("the proxy {shown} answers 407")), "{complaint}");
    assert!(!complaint.contains("hunter2") && !complaint.contains("me:"), "{complaint}");
}

#[tokio::test]
async fn the_environment_names_the_proxy() {
    let server = Peer::start(Kind::Flask, &[]);
    let proxy = ForwardProxy::start(server.port(), None, true).await;
    let agent = |url: &str, folder: &Path| {
        let mut environment = Command::new("env");
        environment.args(["no_proxy=", "http_proxy=", "NO_PROXY=excluded.test"]);
        environment.arg(format!("HTTP_PROXY={}", proxy.url("")));
        Agent::under(environment, folder, url)
    };
    let folder = tempfile::tempdir().unwrap();
    let through = agent("http://pit.test:8080", folder.path());
    through.metric_becomes("pitwire_connected", |is| is == 1.0).await;
    assert!(!proxy.heads().is_empty());
    let count = proxy.heads().len();
    for url in [&server.url(), "http://excluded.test:8080"] {
        let folder = tempfile::tempdir().unwrap();
        let direct = agent(url, folder.path());
        let tried = async || {
            let text = direct.metrics().await;
            let is_tried =
                |line: &str| line.starts_with("pitwire_connects_total") && !line.ends_with(" 0");
            text.lines().any(is_tried).then_some(())
        };
        eventually("an attempt to connect", tried).await;
    }
    assert_eq!(proxy.heads().len(), count);
}

/// The name has an address that does not answer, and one that does.
#[tokio::test]
async fn a_dead_address_does_not_delay_a_connection() {
    let server = Peer::start(Kind::Flask, &[]);
    let (dead, _sockets) = devices::dead_address(server.port());
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, format!("{dead} pit.test\n127.0.0.1 pit.test\n")).unwrap();
    let mut namespace = Command::new("unshare");
    let mount = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
    namespace.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]).arg(&hosts);
    let url = format!("http://pit.test:{}", server.port());
    let agent = Agent::under(namespace, &folder.path().join("queue"), &url);
    let admin = agent.admin().await;
    let began = Instant::now();
    agent.metric_becomes("pitwire_connected", |is| is == 1.0).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?} {admin}", began.elapsed());
    assert_eq!(agent.metric(r#"pitwire_connects_total{outcome="timeout"}"#).await, 0.0);
}

/// Prints frames per second by polling, for `deploy/docs/performance.md`.
#[tokio::test]
async fn rate_of_polling() {
    let cases: &[(Kind, &[&str])] = &[
        (Kind::Flask, &["--polling-only"]),
        (Kind::Flask, &["--polling-only", "--async-mode", "threading"]),
        (Kind::Asgi, &["--polling-only"]),
        (Kind::Node, &["--polling-only"]),
    ];
    let frames = size(500, 10_000) as u64;
    for (kind, args) in &cases[..size(1, cases.len())] {
        let server = Peer::start(*kind, args);
        let pit = Pit::new(&server.url(), &[]);
        let began = Instant::now();
        pit.store(1..=frames, "Ana").await;
        let is_empty = async || (pit.publisher.queue_status().entries == 0).then_some(());
        within(RATE_LIMIT, is_empty).await.expect("the queue drains");
        let rate = frames as f64 / began.elapsed().as_secs_f64();
        let latency = pit.publisher.watch_destinations()[0].latencies.lately();
        if is_long() {
            println!("{kind:?} {args:?}: {rate:.0} frames/s {latency:?}");
        } else {
            assert!(rate > 20.0, "{kind:?}: {rate:.0} frames a second");
        }
    }
}

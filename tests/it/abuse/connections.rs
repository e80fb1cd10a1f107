//! Clients that open many connections, or keep them open without using them.
//!
//! The process under attack has a low limit of open files, so that a few hundred connections exceed
//! it. Each attacker reconnects whenever its connection is closed.

use std::fs;
use std::future::pending;
use std::time::{Duration, Instant};

use pitwire::dashboard::{Behaviour, Server};
use pitwire::net::open_files;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{MAX_AGENT_RSS_KIB, PeakUsage, beside_live_source};
use crate::agent::{Agent, Process, eventually, limit_open_files, pitwire};

/// Open-file limit of the process under attack.
const OPEN_FILES: u64 = 200;
/// Open files that must stay free during an attack, for the queue and the link to the server.
const SPARE_FILES: u64 = 40;
/// Attackers of each listener, each with one connection at a time. Those of one listener alone
/// would use up all descriptors.
const ATTACKERS: usize = 250;
/// Pause between the end of an attacker's connection and its next one. Long enough that accepting
/// them all does not need a whole core of a loaded machine.
const RECONNECT_PAUSE: Duration = Duration::from_millis(1500);
/// Duration of each attack.
const ATTACK: Duration = Duration::from_secs(4);
/// Longest time from a client's first try to its answer, on two cores that also run other tests.
const ANSWER: Duration = Duration::from_secs(5);

/// Bytes that an attacker sends.
#[derive(Clone, Copy, Debug)]
struct Attack {
    begins: &'static str,
    /// Sent repeatedly so that the connection looks alive.
    goes_on: &'static str,
}

const IDLE: Attack = Attack { begins: "", goes_on: "" };
const HALF_REQUEST: Attack = Attack { begins: "GET /heal", goes_on: "" };
const SLOW_HEAD: Attack =
    Attack { begins: "GET /healthz HTTP/1.1\r\nHost: localhost\r\n", goes_on: "X: y\r\n" };
const SLOW_BODY: Attack = Attack {
    begins: "POST /v1/telemetry HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{",
    goes_on: " ",
};
const KEPT_ALIVE: Attack =
    Attack { begins: "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", goes_on: "" };
/// A WebSocket on which nothing is sent; on listeners without WebSockets, a request for an unknown
/// path.
const UNUSED_WEBSOCKET: Attack = Attack {
    begins: "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    goes_on: "",
};

#[tokio::test]
async fn idle_connections_do_not_block_other_clients() {
    check_agent(IDLE).await;
}

#[tokio::test]
async fn incomplete_requests_do_not_block_other_clients() {
    check_agent(HALF_REQUEST).await;
}

#[tokio::test]
async fn slow_request_heads_do_not_block_other_clients() {
    check_agent(SLOW_HEAD).await;
}

#[tokio::test]
async fn slow_request_bodies_do_not_block_other_clients() {
    check_agent(SLOW_BODY).await;
}

#[tokio::test]
async fn idle_keep_alive_connections_do_not_block_other_clients() {
    check_agent(KEPT_ALIVE).await;
}

#[tokio::test]
async fn unused_websockets_do_not_block_other_clients() {
    check_agent(UNUSED_WEBSOCKET).await;
}

/// Attacks all listeners of an agent at once; sources, delivery and pages must keep working.
async fn check_agent(attack: Attack) {
    open_files::raise_limit();
    let server = Server::start("127.0.0.1:0".parse().unwrap(), Behaviour::default()).unwrap();
    let queue = TempDir::new().unwrap();
    let settings = ["source.socketio.enabled=true", "source.socketio.listen=127.0.0.1:0"];
    let mut agent = Agent::with_open_files(OPEN_FILES, queue.path(), &server.url(), &settings);
    let metrics = agent.admin().await;
    let telemetry = agent.address("telemetry").await;
    let publishers = agent.address("publishers").await;
    let delivered = || server.sessions().iter().map(|session| session.frames).sum::<usize>();

    let under_attack = async {
        let mut before_the_end = 0;
        let requests = async {
            let end = Instant::now() + ATTACK;
            while Instant::now() < end {
                assert_eq!(answer("GET", &format!("{metrics}/healthz")).await, 200);
                assert_eq!(answer("POST", &format!("{telemetry}/v1/telemetry")).await, 200);
                assert_eq!(answer("GET", &format!("{publishers}/dashboard/none")).await, 404);
                before_the_end = delivered();
                sleep(Duration::from_millis(250)).await;
            }
        };
        tokio::select! {
            () = requests => {}
            () = attack_on(&metrics, attack) => {}
            () = attack_on(&telemetry, attack) => {}
            () = attack_on(&publishers, attack) => {}
        }
        before_the_end
    };
    let started_at = Instant::now();
    let (delivered_under_attack, observed) = beside_live_source(&agent, under_attack).await;
    let logged = agent.process.stderr();

    assert!(observed.peak_rss_kib <= MAX_AGENT_RSS_KIB, "{observed:?}");
    assert!(observed.peak_open_files <= OPEN_FILES - SPARE_FILES, "{observed:?}");
    assert!(observed.longest_wait < ANSWER, "{observed:?}");
    // Half of the frames captured during the attack, to allow for a slow machine.
    assert!(delivered_under_attack >= 40, "only {delivered_under_attack} frames were delivered");
    let limits: Vec<_> = logged.iter().filter(|line| line.contains("exceeds the limit")).collect();
    let most = 3 * (1 + started_at.elapsed().as_secs() / 10) as usize;
    assert!((3..=most).contains(&limits.len()), "{limits:#?}");
    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    assert_eq!(agent.metric("pitwire_ledger_imbalance_entries").await, 0.0);
    agent.stop().await;
}

#[tokio::test]
async fn pitwire_serve_keeps_serving_under_each_attack() {
    open_files::raise_limit();
    let (serve, url) = start_serve(OPEN_FILES).await;
    let queue = TempDir::new().unwrap();
    let agent = Agent::start(queue.path(), &url, &[]);
    agent.link(1).await;
    let peak = PeakUsage::of(serve.id());
    let started_at = Instant::now();

    let under_attacks = async {
        for attack in [IDLE, HALF_REQUEST, SLOW_HEAD, SLOW_BODY, KEPT_ALIVE, UNUSED_WEBSOCKET] {
            let requests = async {
                let end = Instant::now() + ATTACK / 2;
                while Instant::now() < end {
                    assert_eq!(answer("GET", &format!("{url}/api/sessions")).await, 200);
                    sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::select! {
                () = requests => {}
                () = attack_on(&url, attack) => {}
            }
        }
    };
    let ((), observed) = beside_live_source(&agent, under_attacks).await;
    assert!(observed.longest_wait < ANSWER, "{observed:?}");
    let stored = agent.receipts().len() as f64;
    agent
        .metric_becomes("pitwire_ledger_entries{state=\"delivered\"}", |delivered| {
            delivered == stored
        })
        .await;
    // The publisher's connection was never closed in favor of an attacker's.
    assert_eq!(agent.metric("pitwire_connects_total{outcome=\"ok\"}").await, 1.0);
    let (_, open_files) = peak.end();
    assert!(open_files <= OPEN_FILES - SPARE_FILES, "{open_files} open files");
    let logged = serve.stderr();
    let limits: Vec<_> = logged.iter().filter(|line| line.contains("exceeds the limit")).collect();
    let most = 1 + started_at.elapsed().as_secs() as usize / 10;
    assert!((1..=most).contains(&limits.len()), "{limits:#?}");
}

#[tokio::test]
async fn a_server_out_of_file_descriptors_accepts_again_once_one_is_free() {
    let (serve, _) = start_serve(OPEN_FILES).await;
    let idle_files = fs::read_dir(format!("/proc/{}/fd", serve.id())).unwrap().count() as u64;
    drop(serve);
    let (serve, url) = start_serve(idle_files + 2).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap());
    }
    serve.says("cannot accept connections").await;
    drop(held);
    assert_eq!(answer("GET", &format!("{url}/healthz")).await, 200);
}

/// Starts `pitwire serve` with this open-file limit; returns the process and its URL.
async fn start_serve(open_files: u64) -> (Process, String) {
    let serve = pitwire(&["serve", "--listen", "127.0.0.1:0"]);
    let serve = Process::start(&mut limit_open_files(open_files, &serve));
    let url = eventually("the address of the server", async || {
        let lines = serve.stdout();
        Some(lines.first()?.strip_prefix("dashboard server on ")?.to_owned())
    });
    let url = url.await;
    (serve, url)
}

/// Keeps [`ATTACKERS`] connections to `url` until it is dropped.
async fn attack_on(url: &str, attack: Attack) {
    let address = url.strip_prefix("http://").unwrap().to_owned();
    let mut attackers = JoinSet::new();
    for _ in 0..ATTACKERS {
        attackers.spawn(attack_repeatedly(address.clone(), attack));
    }
    pending().await
}

async fn attack_repeatedly(address: String, attack: Attack) {
    loop {
        if let Ok(stream) = TcpStream::connect(&address).await {
            // Errors are expected: the server closes the connection.
            let _ = attack_once(stream, attack).await;
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

/// Ends when the server closes the connection.
async fn attack_once(mut stream: TcpStream, attack: Attack) -> std::io::Result<()> {
    stream.write_all(attack.begins.as_bytes()).await?;
    let mut bytes = [0; 1024];
    loop {
        match timeout(Duration::from_secs(1), stream.read(&mut bytes)).await {
            Ok(read) => {
                if read? == 0 {
                    return Ok(());
                }
            }
            Err(_) => stream.write_all(attack.goes_on.as_bytes()).await?,
        }
    }
}

/// Sends a request, retries when the connection is closed, and returns the HTTP status.
///
/// # Panics
/// If no answer arrives within [`ANSWER`].
async fn answer(method: &str, url: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let asked_at = Instant::now();
    loop {
        let request = client.request(method.parse().unwrap(), url).body(r#"{"lap": 1}"#);
        let error = match timeout(ANSWER, request.send()).await {
            Ok(Ok(response)) => return response.status().as_u16(),
            Ok(Err(error)) => format!("{error:?}"),
            Err(_) => "no answer".to_owned(),
        };
        assert!(asked_at.elapsed() < ANSWER, "{method} {url}: {error}");
        sleep(Duration::from_millis(20)).await;
    }
}

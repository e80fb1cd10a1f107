//! JSON that is slow to parse, such as objects with many keys or arrays with many objects, and
//! bodies that are larger than the memory reserved for them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{MAX_AGENT_RSS_KIB, beside_live_source};
use crate::agent::{Agent, eventually};
use crate::contract::Client;

/// How long a hostile text may delay any other request: in a debug build also on a machine that is
/// overloaded tenfold. A parser that searches an object for each of its keys needs tens of seconds.
pub const MAX_WAIT: Duration =
    Duration::from_millis(if cfg!(debug_assertions) { 2_000 } else { 100 });

/// Number of keys whose text is just below the size limit of a sample.
const KEYS: usize = 80_000;

/// A closed port, so that accepted samples stay in the queue.
const UNREACHABLE: &str = "http://127.0.0.1:1";

const MAX_BODY_BYTES: usize = pitwire::source::http::MAX_HTTP_BODY_BYTES;

/// A JSON object with `keys` keys, each with a number.
fn wide(keys: usize) -> String {
    let members: Vec<_> = (0..keys).map(|key| format!(r#""k{key}":0"#)).collect();
    format!("{{{}}}", members.join(","))
}

/// Hostile objects: many keys, one key repeated, many keys in a nested object, many values.
pub fn hostile_objects() -> [String; 4] {
    let wide = wide(KEYS);
    let same_key = format!("{{{}}}", vec![r#""k":0"#; KEYS].join(","));
    let inside = format!(r#"{{"carSetup":{{"garageValues":{wide}}}}}"#);
    let values = json!({"a": vec![0; 400_000]}).to_string();
    [wide, same_key, inside, values]
}

fn start(queue: &std::path::Path, settings: &[&str]) -> Agent {
    Agent::start(queue, UNREACHABLE, settings)
}

#[tokio::test]
async fn objects_with_80_000_keys_on_stdin_and_http_do_not_delay_frames() {
    let folder = tempfile::tempdir().unwrap();
    let agent = start(folder.path(), &[]);
    let attack = async {
        let mut slowest = Duration::ZERO;
        for object in hostile_objects() {
            let setup = format!(r#"{{"setup":{object}}}"#);
            let array = format!("[{object},{object}]");
            for (path, body) in [
                ("telemetry", &object),
                ("telemetry", &array),
                ("setup", &object),
                ("telemetry", &setup),
            ] {
                let start = Instant::now();
                let response = agent.post(&format!("/v1/{path}"), body.clone()).await;
                slowest = slowest.max(start.elapsed());
                assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
                let answer: Value = response.json().await.unwrap();
                let refused = &answer["refused"][0];
                assert_eq!(refused["reason"], "too_large", "{answer}");
                let message = refused["message"].as_str().unwrap();
                assert!(message.contains("send at most 100"), "{message}");
            }
            agent.feed(&[object, setup]);
        }
        slowest
    };
    let (slowest, observed) = beside_live_source(&agent, attack).await;
    assert!(slowest < 2 * MAX_WAIT, "a request took {slowest:?}");
    assert!(observed.longest_wait < MAX_WAIT, "{observed:?}");
    assert!(observed.peak_rss_kib < MAX_AGENT_RSS_KIB, "{observed:?}");
    let rejected = r#"pitwire_source_rejected_total{source="stdin",reason="too_large"}"#;
    agent.metric_becomes(rejected, |count| count == 8.0).await;
}

#[tokio::test]
async fn objects_with_80_000_keys_from_a_publisher_do_not_delay_frames() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["source.socketio.enabled=true", "source.socketio.listen=127.0.0.1:0"];
    let agent = start(folder.path(), &settings);
    let url = agent.address("publishers").await;
    // On another thread: the client library is slow too, and its time must not count as the
    // agent's.
    let attack = spawn_blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(publish_hostile_objects(&url));
    });
    let (ended, observed) = beside_live_source(&agent, attack).await;
    ended.unwrap();
    assert!(observed.longest_wait < MAX_WAIT, "{observed:?}");
    assert!(observed.peak_rss_kib < MAX_AGENT_RSS_KIB, "{observed:?}");
    let rejected = r#"pitwire_source_rejected_total{source="socketio",reason="too_large"}"#;
    // Of the four objects, the one with a repeated key is accepted: the client library collapses it
    // to one key.
    agent.metric_becomes(rejected, |count| count == 6.0).await;
}

async fn publish_hostile_objects(url: &str) {
    let mut publisher = Client::connect(url).await;
    let session_id = publisher.new_session().await;
    // Wait until the live source is sending.
    sleep(Duration::from_secs(1)).await;
    for object in hostile_objects() {
        let object: Value = serde_json::from_str(&object).unwrap();
        let telemetry = json!({"session_id": session_id, "telemetry": object});
        // Refused telemetry is not acknowledged.
        publisher.is_acked("telemetry_update", telemetry).await;
        let timestamp = "2025-11-22T14:30:22.123Z";
        let setup = json!({"session_id": session_id, "timestamp": timestamp, "setup": object});
        publisher.is_acked("setup_data", setup).await;
    }
}

#[tokio::test]
async fn a_setup_with_the_maximum_number_of_keys_is_accepted_quickly() {
    let folder = tempfile::tempdir().unwrap();
    let agent = start(folder.path(), &[]);
    let attack = async {
        let start = Instant::now();
        let response = agent.post("/v1/setup", wide(10_000)).await;
        assert_eq!(response.status(), StatusCode::OK);
        start.elapsed()
    };
    let (taken, observed) = beside_live_source(&agent, attack).await;
    assert!(taken < MAX_WAIT, "{taken:?}");
    assert!(observed.longest_wait < MAX_WAIT, "{observed:?}");
}

/// Bodies of 8 MiB of each kind that is cheap to send and expensive to hold.
fn hostile_bodies() -> Vec<String> {
    let array = |element: &str| {
        let count = (MAX_BODY_BYTES - 2) / (element.len() + 1);
        format!("[{}]", vec![element; count].join(","))
    };
    let lines = |line: &str| format!("{line}\n").repeat(MAX_BODY_BYTES / (line.len() + 1));
    let numbers = format!(r#"{{"a":[{}]}}"#, vec!["1e15"; 160].join(","));
    let frame = format!(r#"{{"lap":1,"player_name":"{}"}}"#, "x".repeat(800));
    let nested = format!(r#"{{"a":[{}]}}"#, vec![r#"{"":1}"#; 49_000].join(","));
    vec![
        array("{}"),
        array("[]"),
        array("0"),
        lines("{}"),
        lines("x"),
        "\n".repeat(MAX_BODY_BYTES),
        "[".repeat(MAX_BODY_BYTES),
        r#"{"a":"#.repeat(MAX_BODY_BYTES / 5),
        format!(r#""{}""#, "x".repeat(MAX_BODY_BYTES - 2)),
        array(&numbers),
        lines(&numbers),
        array(&frame),
        lines(&frame),
        array(&nested),
        lines(&nested),
        wide(MAX_BODY_BYTES / 15),
    ]
}

#[tokio::test]
async fn concurrent_bodies_of_8_mib_stay_within_the_memory_limit() {
    let folder = tempfile::tempdir().unwrap();
    let agent = start(folder.path(), &[]);
    let mut bodies = hostile_bodies();
    bodies.extend(bodies[..4].to_vec());
    assert_eq!(bodies.len(), 20);
    assert!(bodies.iter().all(|body| body.len() <= MAX_BODY_BYTES));
    let request = agent.request("/v1/telemetry").await;
    let attack = async {
        let posts = bodies.into_iter().map(|body| {
            let request = request.try_clone().unwrap().timeout(Duration::from_secs(60));
            async move { request.body(body).send().await.map(|answer| answer.status().as_u16()) }
        });
        let frames = async {
            let mut slowest = Duration::ZERO;
            for lap in 0..40 {
                let start = Instant::now();
                let frame = json!({"lap": lap}).to_string();
                let answered = agent.post("/v1/telemetry", frame).await;
                assert_eq!(answered.status(), StatusCode::OK);
                slowest = slowest.max(start.elapsed());
                sleep(Duration::from_millis(50)).await;
            }
            slowest
        };
        tokio::join!(futures_util::future::join_all(posts), frames)
    };
    let ((answers, slowest), observed) = beside_live_source(&agent, attack).await;
    assert!(observed.peak_rss_kib < MAX_AGENT_RSS_KIB, "{observed:?}");
    assert!(observed.longest_wait < MAX_WAIT, "{observed:?}");
    assert!(slowest < MAX_WAIT, "a frame over HTTP took {slowest:?}");
    for answer in answers.into_iter().flatten() {
        assert!([200, 202, 400, 408, 413, 503].contains(&answer), "{answer}");
    }
    let answered = agent.post("/v1/telemetry", r#"{"lap":1}"#).await;
    assert_eq!(answered.status(), StatusCode::OK);
}

/// Sends the head of a request and the first `sent` bytes of its body, then nothing more.
async fn half_a_body(address: SocketAddr, declared: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/telemetry HTTP/1.1\r\nHost: {address}\r\nContent-Length: {declared}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; sent]).await.unwrap();
    stream
}

#[tokio::test]
async fn an_endless_large_body_delays_only_large_bodies_and_times_out() {
    let folder = tempfile::tempdir().unwrap();
    let agent = start(folder.path(), &[]);
    let url = agent.address("telemetry").await;
    let address: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
    let mut half = half_a_body(address, MAX_BODY_BYTES, 100_000).await;
    // Wait until the agent has read it, before the next request arrives.
    sleep(Duration::from_millis(500)).await;
    let large = format!(r#"{{"lap":1,"player_name":"{}"}}"#, "x".repeat(200_000));

    let refused = agent.post("/v1/telemetry", large.clone()).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(RETRY_AFTER));
    let answer: Value = refused.json().await.unwrap();
    assert_eq!(answer["error"], "too many large bodies at a time");
    assert_eq!(agent.post("/v1/telemetry", r#"{"lap":1}"#).await.status(), StatusCode::OK);

    let taken = async || {
        let answer = agent.post("/v1/telemetry", large.clone()).await;
        (answer.status() == StatusCode::OK).then_some(())
    };
    eventually("the large body is accepted", taken).await;
    let mut answer = String::new();
    timeout(Duration::from_secs(20), half.read_to_string(&mut answer)).await.unwrap().ok();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

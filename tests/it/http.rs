//! The HTTP source over a real socket, with a queue on a disk that the test controls.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pitwire::config::{Durability, WhenFull};
use pitwire::entry::Entry;
use pitwire::fields::MAX_SAMPLE_BYTES;
use pitwire::net::loopback_guard::Access;
use pitwire::platform::clock::{self, Clock};
use pitwire::queue::{Limit, Limits, Reader, STORAGE_RETRY_INTERVAL, Writer};
use pitwire::source::http::{MAX_HTTP_BODY_BYTES, MAX_HTTP_ENTRIES};
use pitwire::source::{Intake, http};
use reqwest::header::{ORIGIN, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::disk::Disk;
use crate::single;

#[tokio::test]
async fn accepted_samples_are_answered_with_their_sequence_numbers() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    let answer = source.post("telemetry", r#"{"lap": 1}"#).await;
    assert_eq!(
        answer,
        (
            200,
            json!({
                "seqs": [1], "seq": 1, "unchanged": 0, "rate_limited": 0, "dropped": 0, "buffered": 0,
            })
        )
    );
    for (body, seqs) in [
        (r#"[{"lap": 2}, {"lap": 3}]"#, json!([2, 3])),
        ("{\"lap\": 4}\n{\"lap\": 5}\r\n\n{\"lap\": 6}", json!([4, 5, 6])),
        ("{\n  \"lap\": 7\n}\n", json!([7])),
    ] {
        let (status, answer) = source.post("telemetry", body).await;
        assert_eq!((status, &answer["seqs"]), (200, &seqs), "{answer}");
    }
    let laps: Vec<_> = source.stored().await.iter().map(|entry| number(entry, "lap")).collect();
    assert_eq!(laps, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn an_unchanged_setup_is_stored_once() {
    let source = Source::start(2.0, WhenFull::DropOldest, 100).await;
    let setup = r#"{"carSetup": {"garageValues": {"VM_REAR_WING": 7}}}"#;
    let (status, answer) = source.post("setup", setup).await;
    assert_eq!((status, &answer["seq"]), (200, &json!(1)), "{answer}");
    let (status, answer) = source.post("setup", setup).await;
    assert_eq!((status, &answer["unchanged"]), (200, &json!(1)), "{answer}");
}

#[tokio::test]
async fn invalid_samples_are_refused_with_a_reason_and_the_rest_is_stored() {
    let source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    let body = "{\"lap\": 1}\nlap=2\n{\"lap\": \"three\"}\n{\"lap\": 4}";
    let (status, answer) = source.post("telemetry", body).await;
    assert_eq!((status, &answer["seqs"]), (400, &json!([1, 2])), "{answer}");
    let refused = answer["refused"].as_array().unwrap();
    let refused: Vec<_> = refused.iter().map(|row| (&row["index"], &row["reason"])).collect();
    let expected = [(&json!(1), &json!("not_json")), (&json!(2), &json!("wrong_type"))];
    assert_eq!(refused, expected, "{answer}");
}

#[tokio::test]
async fn a_body_without_valid_samples_is_refused() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    let text = |length| format!(r#"{{"lap": 1, "player_name": "{}"}}"#, "x".repeat(length));
    for (what, body, status, reason) in [
        ("empty", Vec::new(), 400, "not_json"),
        ("blank", b" \r\n ".to_vec(), 400, "not_json"),
        ("empty array", b"[]".to_vec(), 400, "not_json"),
        ("no JSON", b"lap=1".to_vec(), 400, "not_json"),
        ("cut short", b"{\"lap\": 1".to_vec(), 400, "not_json"),
        ("no objects", b"[1, 2]".to_vec(), 400, "not_object"),
        ("not UTF-8", b"{\"player_name\": \"\xff\"}".to_vec(), 400, "not_utf8"),
        ("nan", b"{\"speed\": nan}".to_vec(), 400, "not_finite"),
        ("one sample too large", text(MAX_SAMPLE_BYTES).into_bytes(), 413, "too_large"),
        ("too large", vec![b' '; MAX_HTTP_BODY_BYTES + 1], 413, "too_large"),
        ("too many", b"{}\n".repeat(MAX_HTTP_ENTRIES + 1), 413, "too_large"),
    ] {
        let (answered, answer) = source.post("telemetry", body).await;
        assert_eq!(answered, status, "{what}: {answer}");
        assert_eq!(answer["seqs"], json!([]), "{what}");
        for refused in answer["refused"].as_array().unwrap() {
            assert_eq!(refused["reason"], reason, "{what}: {answer}");
            assert!(!refused["message"].as_str().unwrap().is_empty(), "{what}");
        }
    }
    let (status, answer) = source.post("setup", "[]").await;
    assert_eq!((status, &answer["refused"][0]["reason"]), (400, &json!("not_object")));
    assert!(source.stored().await.is_empty());
}

#[tokio::test]
async fn a_body_with_the_maximum_number_of_samples_is_stored() {
    let source = Source::start(0.0, WhenFull::DropOldest, 20_000).await;
    let (status, answer) = source.post("telemetry", b"{}\n".repeat(MAX_HTTP_ENTRIES)).await;
    assert_eq!(status, 200);
    assert_eq!(answer["seqs"].as_array().unwrap().len(), MAX_HTTP_ENTRIES);
}

#[tokio::test]
async fn a_full_queue_that_drops_the_newest_answers_unavailable() {
    let mut source = Source::start(0.0, WhenFull::DropNewest, 2).await;
    let (status, answer) =
        source.post("telemetry", r#"[{"lap": 1}, {"lap": 2}, {"lap": 3}]"#).await;
    assert_eq!((status, &answer["seqs"], &answer["dropped"]), (200, &json!([1, 2]), &json!(1)));
    source.is_unavailable(r#"{"lap": 4}"#).await;

    assert_eq!(source.stored().await.len(), 2);
    let (status, answer) = source.post("telemetry", r#"{"lap": 4}"#).await;
    assert_eq!((status, &answer["seqs"]), (200, &json!([3])), "{answer}");
}

#[tokio::test]
async fn a_failing_disk_loses_no_sample() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    source.post("telemetry", r#"{"lap": 1}"#).await;
    source.disk.fail_flushes(true);
    for lap in 2..5 {
        let (status, answer) = source.post("telemetry", format!(r#"{{"lap": {lap}}}"#)).await;
        assert_eq!((status, &answer["buffered"]), (202, &json!(1)), "{answer}");
    }
    source.disk.fail_flushes(false);
    tokio::time::sleep(STORAGE_RETRY_INTERVAL + Duration::from_millis(500)).await;
    let (status, answer) = source.post("telemetry", r#"{"lap": 5}"#).await;
    assert_eq!((status, &answer["seqs"]), (200, &json!([5])), "{answer}");
    let laps: Vec<_> = source.stored().await.iter().map(|entry| number(entry, "lap")).collect();
    assert_eq!(laps, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_in_mid_body_times_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    let address = source.url("").split('/').nth(2).unwrap().to_owned();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "POST /v1/telemetry HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_closed_queue_answers_unavailable() {
    let source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    source.writer.close().await;
    source.is_unavailable(r#"{"lap": 1}"#).await;
}

#[tokio::test]
async fn concurrent_clients_each_keep_their_order() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 1000).await;
    let posters = (0..8).map(|poster| {
        let (client, url) = (source.client.clone(), source.url("telemetry"));
        tokio::spawn(async move {
            for first in (0..40).step_by(4) {
                let lap = |n| json!({"position": poster, "lap": first + n});
                let body = Value::from_iter((0..4).map(lap)).to_string();
                let response = client.post(&url).body(body).send().await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
            }
        })
    });
    for poster in posters.collect::<Vec<_>>() {
        poster.await.unwrap();
    }
    let stored = source.stored().await;
    for poster in 0..8 {
        let own = stored.iter().filter(|entry| number(entry, "position") == poster);
        assert!(own.map(|entry| number(entry, "lap")).eq(0..40), "poster {poster}");
    }
    assert!(stored.is_sorted_by(|a, b| a.captured_at < b.captured_at));
}

#[tokio::test]
async fn a_request_from_a_foreign_origin_is_refused() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    for (origin, status) in [("https://example.com", 403), ("http://localhost:3000", 200)] {
        let request = source.client.post(source.url("telemetry")).header(ORIGIN, origin);
        let response = request.body(r#"{"lap": 1}"#).send().await.unwrap();
        assert_eq!(response.status(), status, "{origin}");
    }
    assert_eq!(source.stored().await.len(), 1);
}

#[tokio::test]
async fn a_frame_from_the_far_future_affects_no_other_frame() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    let now = clock::now();
    source.post("telemetry", r#"{"lap": 1}"#).await;
    let frame = json!({
        "timestamp": "2999-01-01T00:00:00.000Z", "lap": 2, "position": 1, "fuel": 1.0,
        "fuel_capacity": 2.0, "player_name": "", "car_name": "", "track_name": "",
        "session_type": "",
    });
    source.post("telemetry", frame.to_string()).await;
    source.post("telemetry", r#"{"lap": 3}"#).await;
    let stored = source.stored().await;
    let [before, frame, after] = &stored[..] else { panic!("an entry has expired: {stored:?}") };
    assert!(frame.json.contains("2999-01-01T00:00:00.000Z"), "{frame:?}");
    assert_eq!((before.stint, frame.stint), (after.stint, after.stint));
    for live in [before, after] {
        assert!((now.0..now.0 + 60_000).contains(&live.captured_at.0), "{live:?}");
    }
}

/// A listening HTTP source and its queue.
struct Source {
    base: String,
    client: Client,
    disk: Disk,
    writer: Writer,
    reader: Reader,
}

impl Source {
    async fn start(rate_hz: f64, when_full: WhenFull, max_entries: u64) -> Self {
        let limits = Limits {
            max_entries,
            max_bytes: 16 << 20,
            max_age: Duration::from_hours(1),
            when_full,
            durability: Durability::Entry,
            resume_after: Duration::from_mins(30),
        };
        let disk = Disk::default();
        let ((writer, reader), keeper) =
            single::with_store(disk.clone(), limits, Clock::system()).unwrap();
        tokio::spawn(keeper);
        let router =
            http::router(Arc::new(Intake::new(writer.clone(), "http", rate_hz)), Access::ThisPc);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async { axum::serve(listener, router).await });
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        Self { base, client, disk, writer, reader }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// Posts `body`; returns the HTTP status and the JSON answer.
    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let response = self.send(path, body).await;
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn send(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.client.post(self.url(path)).body(body).send().await.unwrap()
    }

    async fn is_unavailable(&self, body: &'static str) {
        let response = self.send("telemetry", body).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let seconds: u64 = response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        let answer: Value = response.json().await.unwrap();
        assert!(answer["error"].is_string() && answer["seqs"] == json!([]), "{answer}");
    }

    /// Removes and returns all entries of the queue.
    async fn stored(&mut self) -> Vec<Entry> {
        let mut stored = Vec::new();
        while self.writer.status().entries > 0 {
            let limit = Limit { entries: 1000, bytes: usize::MAX };
            let batch = self.reader.next_batch(limit).await.unwrap();
            stored.extend_from_slice(batch.entries());
            self.reader.ack(batch).await.unwrap();
        }
        stored
    }
}

fn number(entry: &Entry, field: &str) -> u64 {
    serde_json::from_str::<Value>(&entry.json).unwrap()[field].as_u64().unwrap()
}

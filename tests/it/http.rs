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
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ORIGIN, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode};
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
async fn one_invalid_element_of_an_array_is_refused_with_its_index_and_the_rest_is_stored() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    for (body, seqs, index, reason) in [
        (r#"[{"lap":1},{'lap':2},{"lap":3}]"#, json!([1, 2]), 1, "not_json"),
        (r#"[{"lap":4},{"lap":5,"rpm":},{"lap":6}]"#, json!([3, 4]), 1, "not_json"),
        (r#"[{"Lap":7},{"lap":8}]"#, json!([5]), 0, "no_known_field"),
        (r#"[{"lap":9},NaN]"#, json!([6]), 1, "not_object"),
        (r#"[{"lap":10},{"lap":11}"#, json!([7, 8]), 9, ""),
        (r#"[{"lap":12},{"lap":13"#, json!([9]), 1, "not_json"),
    ] {
        let (status, answer) = source.post("telemetry", body).await;
        assert_eq!(
            (&answer["seqs"], status),
            (&seqs, if index == 9 { 200 } else { 400 }),
            "{body}"
        );
        if index != 9 {
            let refused = answer["refused"].as_array().unwrap();
            assert_eq!(refused.len(), 1, "{body}: {answer}");
            let row = (&refused[0]["index"], &refused[0]["reason"]);
            assert_eq!(row, (&json!(index), &json!(reason)), "{body}: {answer}");
        }
    }
    let mut body = br#"[{"player_name":"Zo"#.to_vec();
    body.extend(b"\xff\"},{\"lap\":14,\"speed\":NaN},{\"lap\":15}]");
    let (status, answer) = source.post("telemetry", body).await;
    assert_eq!((status, &answer["seqs"]), (400, &json!([10, 11])), "{answer}");
    assert_eq!(answer["refused"][0]["reason"], "not_utf8", "{answer}");
    let (status, answer) = source.post("telemetry", "\u{feff}[{\"lap\":16}]").await;
    assert_eq!((status, &answer["seqs"]), (200, &json!([12])), "{answer}");
    let laps: Vec<_> = source.stored().await.iter().map(|entry| number(entry, "lap")).collect();
    assert_eq!(laps, [1, 3, 4, 6, 8, 9, 10, 11, 12, 14, 15, 16]);
}

#[tokio::test]
async fn omitted_values_are_listed_with_the_index_of_their_sample() {
    let source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    let body = r#"[{"lap":1},{"lap":2,"fuel":-0.01,"speed":NaN},{"rpm":3,"lap":-1}]"#;
    let (status, answer) = source.post("telemetry", body).await;
    assert_eq!((status, &answer["seqs"]), (200, &json!([1, 2, 3])), "{answer}");
    assert_eq!(answer["omitted_count"], 3, "{answer}");
    let expected = json!([
        {
            "index": 1,
            "message": "speed: NaN is not a finite number and was omitted; leave the value out",
        },
        {
            "index": 2,
            "message":
                "lap: -1 is below 0 and was omitted; send the lap from 0 up or leave the field out",
        },
    ]);
    assert_eq!(answer["omitted"], expected);
}

#[tokio::test]
async fn a_setup_is_read_from_an_event_whichever_path_it_is_posted_to() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    let at = "2025-11-22T14:30:22.123Z";
    for (path, body) in [
        ("setup", r#"{"wing":1}"#.to_owned()),
        ("setup", r#"{"setup":{"wing":2}}"#.to_owned()),
        ("setup", format!(r#"{{"session_id":"a","timestamp":"{at}","setup":{{"wing":3}}}}"#)),
        ("telemetry", r#"{"setup":{"wing":4}}"#.to_owned()),
        ("telemetry", format!(r#"{{"session_id":"a","timestamp":"{at}","setup":{{"wing":5}}}}"#)),
    ] {
        let (status, answer) = source.post(path, body.clone()).await;
        assert_eq!((status, answer["seq"].is_u64()), (200, true), "{body}: {answer}");
    }
    let (_, answer) = source.post("setup", r#"{"telemetry":{"lap":6}}"#).await;
    assert_eq!(answer["seq"], 6, "{answer}");
    let stored = source.stored().await;
    for (wing, entry) in (1..).zip(&stored[..5]) {
        let entry: Value = serde_json::from_str(&entry.json).unwrap();
        assert_eq!(entry["setup"], json!({"wing": wing}));
    }
    assert_eq!(number(&stored[5], "lap"), 6);
}

#[tokio::test]
async fn a_rate_limited_answer_says_which_key_to_change() {
    let source = Source::start(0.01, WhenFull::DropOldest, 100).await;
    let (_, answer) = source.post("telemetry", r#"[{"lap":1},{"lap":2},{"lap":3}]"#).await;
    assert_eq!(answer["rate_limited"], 2, "{answer}");
    let note = answer["note"].as_str().unwrap();
    assert!(note.starts_with("2 of 3 samples were rate-limited"), "{note}");
    assert!(note.contains("raise update_rate_hz"), "{note}");
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, text).unwrap();
    packed.finish().unwrap()
}

#[tokio::test]
async fn a_body_may_be_compressed_with_gzip_but_not_in_another_way() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    let bomb = gzip(&vec![b' '; 3 * MAX_HTTP_BODY_BYTES]);
    for (encoding, body, status) in [
        ("gzip", gzip(br#"[{"lap":1},{"lap":2}]"#), 200),
        ("identity", br#"{"lap":3}"#.to_vec(), 200),
        ("gzip", br#"{"lap":4}"#.to_vec(), 400),
        ("gzip", gzip(br#"{"lap":4}"#)[..20].to_vec(), 400),
        ("gzip", bomb, 413),
        ("br", br#"{"lap":4}"#.to_vec(), 415),
        ("deflate", br#"{"lap":4}"#.to_vec(), 415),
        ("gzip, gzip", br#"{"lap":4}"#.to_vec(), 415),
    ] {
        let request =
            source.client.post(source.url("telemetry")).header(CONTENT_ENCODING, encoding);
        let response = request.body(body).send().await.unwrap();
        assert_eq!(response.status(), status, "{encoding}");
        if status == 415 {
            assert_eq!(response.headers()[ACCEPT_ENCODING], "gzip, identity");
            let answer: Value = response.json().await.unwrap();
            let error = answer["error"].as_str().unwrap();
            let expected = format!("Content-Encoding: {encoding} is not supported; send the body");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
    assert_eq!(source.stored().await.len(), 3);
}

#[tokio::test]
async fn a_page_of_this_pc_may_post_and_a_page_of_another_origin_may_not() {
    let mut source = Source::start(0.0, WhenFull::DropOldest, 100).await;
    for (origin, is_allowed) in [
        ("http://localhost:3000", true),
        ("http://127.0.0.1", true),
        ("https://example.com", false),
        ("http://localhost.example.com", false),
        ("null", false),
    ] {
        let preflight = source.client.request(Method::OPTIONS, source.url("telemetry"));
        let preflight = preflight
            .header(ORIGIN, origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "content-type")
            .send()
            .await
            .unwrap();
        let expected = if is_allowed { 204 } else { 403 };
        assert_eq!(preflight.status(), expected, "{origin}");
        let allowed = |response: &Response, header: &str| {
            let header = format!("access-control-allow-{header}");
            response.headers().get(header).map(|value| value.to_str().unwrap().to_owned())
        };
        let origin_allowed = is_allowed.then(|| origin.to_owned());
        assert_eq!(allowed(&preflight, "origin"), origin_allowed);
        assert_eq!(allowed(&preflight, "methods"), is_allowed.then(|| "POST".to_owned()));
        let headers = allowed(&preflight, "headers").unwrap_or_default();
        assert_eq!(headers.contains("content-type"), is_allowed, "{headers}");

        let request = source.client.post(source.url("telemetry")).header(ORIGIN, origin);
        let response = request.body(r#"{"lap": 1}"#).send().await.unwrap();
        assert_eq!(response.status(), if is_allowed { 200 } else { 403 }, "{origin}");
        assert_eq!(allowed(&response, "origin"), origin_allowed);
    }
    // No page asks, so nothing is allowed to one.
    let options = source.client.request(Method::OPTIONS, source.url("telemetry"));
    assert_eq!(options.send().await.unwrap().status(), 405);
    let response = source.send("telemetry", r#"{"lap": 1}"#).await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    assert_eq!(source.stored().await.len(), 3);
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
        ("unknown names", b"{\"Speed\": 1}".to_vec(), 400, "no_known_field"),
        ("one sample too large", text(MAX_SAMPLE_BYTES).into_bytes(), 413, "too_large"),
        ("too large", vec![b' '; MAX_HTTP_BODY_BYTES + 1], 413, "too_large"),
        ("too many", b"{\"lap\":1}\n".repeat(MAX_HTTP_ENTRIES + 1), 413, "too_large"),
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
    let (status, answer) =
        source.post("telemetry", b"{\"lap\":1}\n".repeat(MAX_HTTP_ENTRIES)).await;
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
        let ((writer, reader), worker) =
            single::with_store(disk.clone(), limits, Clock::system()).unwrap();
        tokio::spawn(worker);
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

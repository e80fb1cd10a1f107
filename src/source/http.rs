//! Samples over HTTP: `POST /v1/telemetry` and `POST /v1/setup`, by default on loopback only.
//!
//! A body is one JSON object, an array of objects, or one object per line, possibly compressed with
//! gzip. The response is sent when the accepted samples are in the queue, and lists their positions; status 202 means that the
//! disk is too slow and some samples are only in memory. [`crate::net::loopback_guard`] decides who may
//! post.
//!
//! Memory is bounded in bytes: for all bodies together, and for the samples of one body that are
//! parsed and passed to the queue at a time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower_http::decompression::RequestDecompressionLayer;

use super::{Intake, Sample, Taken};
use crate::fields::{self, Reason, Refused};
use crate::net::body::{BodyBudget, BodyError};
use crate::net::cross_origin::allow_posts;
use crate::net::loopback_guard::{Access, guard};
use crate::platform::offload;
use crate::queue::ledger::DropReason;
use crate::queue::{QueueError, STORAGE_RETRY_INTERVAL};

/// The maximum body of an HTTP request; a larger one is refused.
pub const MAX_HTTP_BODY_BYTES: usize = 8 << 20;

/// The maximum number of samples in an HTTP request; a request with more is refused.
pub const MAX_HTTP_ENTRIES: usize = 10_000;

/// The maximum time from an HTTP request to its response.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Concurrent connections. A program that posts at a high rate keeps one open.
pub(crate) const MAX_CONNECTIONS: usize = 128;

/// How many samples of a body are passed to the queue together: enough to share one disk write, and
/// half a megabyte of ordinary frames.
const GROUP_ENTRIES: usize = 1_000;

/// How many bytes of input such a group has at most, unless a single sample is larger. The text of
/// an entry is up to five times as long as its input.
const GROUP_BYTES: usize = 1 << 20;

/// How many refused samples, and samples with omitted values, a response lists individually.
const MAX_LISTED: usize = 100;

/// The routes of this source, restricted to clients that have `access`.
pub fn router(intake: Arc<Intake>, access: Access) -> Router {
    let source = Source { intake, bodies: BodyBudget::new() };
    Router::new()
        .route("/v1/telemetry", post(telemetry))
        .route("/v1/setup", post(setup))
        .layer(middleware::from_fn(in_time))
        // The budget bounds the decompressed body.
        .layer(RequestDecompressionLayer::new())
        .layer(middleware::from_fn(with_known_encoding))
        .layer(middleware::from_fn(allow_posts))
        .layer(middleware::from_fn_with_state(access, guard))
        .with_state(Arc::new(source))
}

#[derive(Debug)]
struct Source {
    intake: Arc<Intake>,
    bodies: BodyBudget,
}

async fn telemetry(State(source): State<Arc<Source>>, body: Body) -> Response {
    let received = match source.bodies.read(body, MAX_HTTP_BODY_BYTES).await {
        Ok(received) => received,
        Err(error) => return source.not_received(error).await,
    };
    let body = received.bytes.clone();
    let parts = match offload::parse(body.len(), move || split(&body)).await {
        Ok(parts) => parts,
        Err(refused) => return source.take(vec![Err(refused)]).await,
    };
    let mut answer = BodyOutcome::default();
    let mut rest = &parts[..];
    while !rest.is_empty() {
        let (group, bytes) = first_group(rest);
        rest = &rest[group.len()..];
        let group = group.to_vec();
        let samples = offload::parse(bytes, move || {
            Ok(group.iter().map(|part| Sample::parse(part)).collect::<Vec<_>>())
        })
        .await
        .unwrap_or_else(|refused| vec![Err(refused)]);
        if let Err(error) = source.take_into(samples, &mut answer).await {
            return unavailable(&answer.seqs, &error.to_string());
        }
    }
    answer.into_response()
}

async fn setup(State(source): State<Arc<Source>>, body: Body) -> Response {
    let received = match source.bodies.read(body, MAX_HTTP_BODY_BYTES).await {
        Ok(received) => received,
        Err(error) => return source.not_received(error).await,
    };
    let body = received.bytes.clone();
    let setup = offload::parse(body.len(), move || Sample::parse_setup(&body)).await;
    source.take(vec![setup]).await
}

impl Source {
    async fn take(&self, samples: Vec<Result<Sample, Refused>>) -> Response {
        let mut answer = BodyOutcome::default();
        match self.take_into(samples, &mut answer).await {
            Ok(()) => answer.into_response(),
            Err(error) => unavailable(&[], &error.to_string()),
        }
    }

    async fn take_into(
        &self,
        samples: Vec<Result<Sample, Refused>>,
        answer: &mut BodyOutcome,
    ) -> Result<(), QueueError> {
        answer.note_omissions(&samples);
        let taken = self.intake.take(samples).await?;
        answer.note(taken);
        Ok(())
    }

    async fn not_received(&self, error: BodyError) -> Response {
        let (reason, message) = match error {
            BodyError::TooLarge => {
                let message = format!("the body is larger than {MAX_HTTP_BODY_BYTES} bytes");
                (Reason::TooLarge, message)
            }
            BodyError::Broken(error) => (Reason::NotJson, format!("the body breaks off: {error}")),
            BodyError::Busy => return unavailable(&[], "too many large bodies at a time"),
            BodyError::Slow => return too_late("the body does not arrive in time"),
        };
        self.take(vec![Err(Refused { reason, message })]).await
    }
}

/// Splits a body into the unparsed texts of its samples, which share its memory.
fn split(body: &Bytes) -> Result<Vec<Bytes>, Refused> {
    let text = body.trim_ascii();
    // A byte order mark, as PowerShell writes it.
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text).trim_ascii_start();
    let parts: Vec<&[u8]> = if text.starts_with(b"[") {
        fields::elements(text, MAX_HTTP_ENTRIES).ok_or_else(too_many)?
    } else if fields::is_one_object(text) {
        vec![text]
    } else {
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let lines: Vec<_> = lines.take(MAX_HTTP_ENTRIES + 1).collect();
        // An object over several lines that is not closed is one sample, and gets one error message.
        let is_one =
            text.starts_with(b"{") && !lines.iter().any(|line| fields::is_one_object(line));
        if is_one { vec![text] } else { lines }
    };
    match parts.len() {
        0 => Err(Refused { reason: Reason::NotJson, message: "the body is empty".into() }),
        1..=MAX_HTTP_ENTRIES => Ok(parts.into_iter().map(|part| body.slice_ref(part)).collect()),
        _ => Err(too_many()),
    }
}

fn too_many() -> Refused {
    let message = format!(
        "more than {MAX_HTTP_ENTRIES} samples in one body; send at most {MAX_HTTP_ENTRIES}"
    );
    Refused { reason: Reason::TooLarge, message }
}

/// The first group of parts to pass to the queue together, at least one, and its size in bytes.
fn first_group(parts: &[Bytes]) -> (&[Bytes], usize) {
    let (mut count, mut bytes) = (0, 0);
    for part in parts.iter().take(GROUP_ENTRIES) {
        if count > 0 && bytes + part.len() > GROUP_BYTES {
            break;
        }
        count += 1;
        bytes += part.len();
    }
    (&parts[..count], bytes)
}

/// Collects the outcomes of a body's samples for the response.
#[derive(Default)]
struct BodyOutcome {
    samples: usize,
    seqs: Vec<u64>,
    unchanged: u64,
    rate_limited: u64,
    buffered: u64,
    dropped: u64,
    last_reason: Option<DropReason>,
    refused: u64,
    refused_too_large: u64,
    /// The first refused samples, with their index in the body.
    refusals: Vec<(usize, Refused)>,
    omitted: u64,
    /// The first samples with omitted values: their index in the body, and the first value.
    omissions: Vec<(usize, String)>,
}

impl BodyOutcome {
    /// Notes the values that are missing from the next samples; call it before [`Answer::note`].
    fn note_omissions(&mut self, samples: &[Result<Sample, Refused>]) {
        for (index, sample) in samples.iter().enumerate() {
            let Ok(sample) = sample else { continue };
            let Some(first) = sample.omissions().first() else { continue };
            self.omitted += sample.omissions().count();
            if self.omissions.len() < MAX_LISTED {
                self.omissions.push((self.samples + index, first.to_owned()));
            }
        }
    }

    fn note(&mut self, taken: Vec<Taken>) {
        for taken in taken {
            match taken {
                Taken::Stored(seq) => self.seqs.push(seq.0),
                Taken::Unchanged => self.unchanged += 1,
                Taken::RateLimited => self.rate_limited += 1,
                Taken::Buffered => self.buffered += 1,
                Taken::Dropped(reason) => {
                    self.dropped += 1;
                    self.last_reason = Some(reason);
                }
                Taken::Refused(why) => {
                    self.refused += 1;
                    self.refused_too_large += u64::from(why.reason == Reason::TooLarge);
                    if self.refusals.len() < MAX_LISTED {
                        self.refusals.push((self.samples, why));
                    }
                }
            }
            self.samples += 1;
        }
    }

    fn into_response(self) -> Response {
        let Self { seqs, unchanged, rate_limited, buffered, dropped, refused, .. } = self;
        match self.last_reason {
            Some(DropReason::Storage) if seqs.is_empty() => {
                return unavailable(&[], "the queue's disk fails and its buffer in memory is full");
            }
            Some(_) if seqs.is_empty() => return unavailable(&[], "the queue is full"),
            _ => {}
        }
        let status = match refused {
            // Some samples are only in memory.
            0 if buffered > 0 => StatusCode::ACCEPTED,
            0 => StatusCode::OK,
            _ if refused == self.refused_too_large => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        let mut answer = json!({
            "seqs": seqs, "unchanged": unchanged, "rate_limited": rate_limited, "dropped": dropped,
            "buffered": buffered,
        });
        if let [seq] = seqs[..] {
            answer["seq"] = seq.into();
        }
        if refused > 0 {
            answer["refused_count"] = refused.into();
            answer["refused"] = self.refusals.iter().map(reason).collect();
        }
        if self.omitted > 0 {
            let row =
                |(index, message): &(usize, String)| json!({"index": index, "message": message});
            answer["omitted_count"] = self.omitted.into();
            answer["omitted"] = self.omissions.iter().map(row).collect();
        }
        if rate_limited > 0 {
            answer["note"] = why_rate_limited(rate_limited, self.samples).into();
        }
        json_response(status, &answer)
    }
}

fn why_rate_limited(rate_limited: u64, samples: usize) -> String {
    format!(
        "{rate_limited} of {samples} samples were rate-limited and not stored, because the source is \
         faster than update_rate_hz; raise update_rate_hz, or set it to 0 to store every sample"
    )
}

fn reason((index, why): &(usize, Refused)) -> Value {
    json!({"index": index, "reason": why.reason.as_str(), "message": why.message})
}

fn unavailable(seqs: &[u64], why: &str) -> Response {
    let retry_after = STORAGE_RETRY_INTERVAL.as_secs().max(1).to_string();
    let body = json!({"seqs": seqs, "error": why});
    let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, &body);
    if let Ok(value) = retry_after.parse() {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Answers a body in an encoding that [`RequestDecompressionLayer`] cannot decode.
async fn with_known_encoding(request: Request, next: Next) -> Response {
    let Some(encoding) = unknown_encoding(request.headers()) else {
        return next.run(request).await;
    };
    let message = format!(
        "Content-Encoding: {encoding} is not supported; send the body with Content-Encoding: gzip, \
         or uncompressed without this header"
    );
    let body = json!({"seqs": [], "error": message});
    let mut response = json_response(StatusCode::UNSUPPORTED_MEDIA_TYPE, &body);
    let accepted = HeaderValue::from_static("gzip, identity");
    response.headers_mut().insert(header::ACCEPT_ENCODING, accepted);
    response
}

fn unknown_encoding(headers: &HeaderMap) -> Option<String> {
    let encoding = headers.get(header::CONTENT_ENCODING)?;
    let is_known = ["gzip", "identity"].iter().any(|known| encoding == known);
    (!is_known).then(|| fields::shorten(&String::from_utf8_lossy(encoding.as_bytes())))
}

/// Bounds the time of a request, so that neither a client that stalls in mid-body nor a disk that
/// hangs holds resources for ever.
async fn in_time(request: Request, next: Next) -> Response {
    match timeout(HTTP_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => too_late(&format!("the request did not finish within {HTTP_TIMEOUT:?}")),
    }
}

fn too_late(why: &str) -> Response {
    json_response(StatusCode::REQUEST_TIMEOUT, &json!({"seqs": [], "error": why}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts_of(body: &str) -> Result<Vec<Bytes>, Refused> {
        split(&Bytes::from(body.to_owned()))
    }

    #[test]
    fn a_body_may_be_an_object_an_array_or_json_lines() {
        for (body, expected) in [
            (r#"{"lap":1}"#, vec![true]),
            ("{\n \"lap\": 1\n}", vec![true]),
            ("{\n \"lap\": 1,\n}", vec![false]),
            (r#"[{"lap":1},{"lap":2}]"#, vec![true, true]),
            ("\u{feff}[{\"lap\":1}]", vec![true]),
            (r#"[{"lap":1},2]"#, vec![true, false]),
            (r#"[{"lap":1},{'lap':2},{"lap":3}]"#, vec![true, false, true]),
            (r#"[{"lap":1},{"lap":2},]"#, vec![true, true, false]),
            (r#"[{"lap":1},{"lap":2"#, vec![true, false]),
            ("{\"lap\":1}\n{\"lap\":2}\n\n", vec![true, true]),
            ("{\"lap\":1}\nnonsense\n", vec![true, false]),
            ("{\"lap\":1\n{\"lap\":2}\n", vec![false, true]),
            ("{\"lap\":1,\n\"rpm\":NaN}", vec![true]),
            ("{\"lap\":1,\"rpm\":NaN}\n{\"rpm\":NaN}\n", vec![true, false]),
            (r#"[{"lap":1,"rpm":NaN},NaN]"#, vec![true, false]),
        ] {
            let parts = parts_of(body).unwrap();
            let samples: Vec<_> = parts.iter().map(|part| Sample::parse(part).is_ok()).collect();
            assert_eq!(samples, expected, "{body}");
        }
        for body in ["", " \n ", "[", "[]"] {
            assert!(parts_of(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn a_body_with_too_many_samples_is_refused() {
        for (samples, fits) in [(MAX_HTTP_ENTRIES, true), (MAX_HTTP_ENTRIES + 1, false)] {
            let array = format!("[{}]", vec!["{}"; samples].join(","));
            let lines = "{}\n".repeat(samples);
            for body in [array, lines] {
                let parts = parts_of(&body);
                assert_eq!(parts.as_ref().is_ok(), fits);
                if let Err(refused) = parts {
                    let expected = "more than 10000 samples in one body; send at most 10000";
                    assert_eq!(refused.message, expected);
                }
            }
        }
    }

    #[test]
    fn groups_are_bounded_in_entries_and_bytes_and_lose_no_sample() {
        let small = Bytes::from_static(b"{}");
        let large = Bytes::from(vec![b' '; GROUP_BYTES * 2 / 3]);
        let huge = Bytes::from(vec![b' '; GROUP_BYTES + 1]);
        let mut parts = vec![small.clone(); GROUP_ENTRIES + 1];
        parts.extend([large.clone(), large, huge, small]);
        let (mut rest, mut groups) = (&parts[..], Vec::new());
        while !rest.is_empty() {
            let (group, _) = first_group(rest);
            groups.push(group.len());
            rest = &rest[group.len()..];
        }
        assert_eq!(groups, [GROUP_ENTRIES, 2, 1, 1, 1]);
    }
}

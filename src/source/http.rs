//! Samples over HTTP: `POST /v1/telemetry` and `POST /v1/setup`, on loopback unless told otherwise.
//!
//! A body is one JSON object, an array of objects, or one object a line. The answer comes when
//! what was accepted is in the queue, and names its positions; 202 says that the disk does not keep
//! up and some is in memory. Web pages of other origins are kept
//! out, as a browser on the same PC reaches loopback too.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Intake, Sample, Taken};
use crate::config::{HTTP_TIMEOUT, MAX_HTTP_BODY_BYTES, MAX_HTTP_ENTRIES, STORAGE_RETRY_INTERVAL};
use crate::fields::{self, Frame, Reason, Refused};
use crate::local::has_local_origin;
use crate::queue::ledger::DropReason;

/// Connections at the same time; programs that post at a high rate keep one.
pub(crate) const MAX_CONNECTIONS: usize = 128;

/// The routes of this source.
pub fn router(intake: Arc<Intake>) -> Router {
    Router::new()
        .route("/v1/telemetry", post(telemetry))
        .route("/v1/setup", post(setup))
        .layer(DefaultBodyLimit::max(MAX_HTTP_BODY_BYTES))
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn(only_local_origins))
        .with_state(intake)
}

type Body = Result<Bytes, BytesRejection>;

async fn telemetry(State(intake): State<Arc<Intake>>, body: Body) -> Response {
    let parts = body.map_err(unread).and_then(|body| parts(&body));
    let frames = parts.unwrap_or_else(|refused| vec![Err(refused)]);
    let samples = frames.into_iter().map(|frame| frame.map(Sample::Telemetry)).collect();
    answer(&intake, samples).await
}

async fn setup(State(intake): State<Arc<Intake>>, body: Body) -> Response {
    let setup = body.map_err(unread).and_then(|body| fields::parse(&body));
    answer(&intake, vec![setup.map(Sample::setup)]).await
}

/// A body that was cut off or is too large.
fn unread(rejection: BytesRejection) -> Refused {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("the body is larger than {MAX_HTTP_BODY_BYTES} bytes");
        return Refused { reason: Reason::TooLarge, message };
    }
    Refused { reason: Reason::NotJson, message: rejection.body_text() }
}

/// The objects of a body, each a frame or refused.
fn parts(body: &[u8]) -> Result<Vec<Result<Frame, Refused>>, Refused> {
    let text = body.trim_ascii();
    let is_array = text.starts_with(b"[");
    let parts: Vec<_> = if is_array {
        match fields::parse_any(text)? {
            Value::Array(values) => values.iter().map(Frame::of).collect(),
            value => vec![Frame::of(&value)],
        }
    } else {
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let parsed: Vec<_> = lines.map(Frame::parse).collect();
        // One object that is spread over several lines.
        if parsed.len() > 1 && parsed.iter().all(Result::is_err) {
            vec![Frame::parse(text)]
        } else {
            parsed
        }
    };
    match parts.len() {
        0 => Err(Refused { reason: Reason::NotJson, message: "the body is empty".into() }),
        1..=MAX_HTTP_ENTRIES => Ok(parts),
        count => Err(Refused {
            reason: Reason::TooLarge,
            message: format!("{count} samples in one body; send at most {MAX_HTTP_ENTRIES}"),
        }),
    }
}

async fn answer(intake: &Intake, samples: Vec<Result<Sample, Refused>>) -> Response {
    let taken = match intake.take(samples).await {
        Ok(taken) => taken,
        Err(error) => return unavailable(&error.to_string()),
    };
    let (mut seqs, mut refused) = (Vec::new(), Vec::new());
    let (mut unchanged, mut thinned, mut buffered) = (0, 0, 0);
    let (mut dropped, mut last_reason) = (0, None);
    for (index, taken) in taken.into_iter().enumerate() {
        match taken {
            Taken::Stored(seq) => seqs.push(seq.0),
            Taken::Unchanged => unchanged += 1,
            Taken::Thinned => thinned += 1,
            Taken::Buffered => buffered += 1,
            Taken::Dropped(reason) => {
                dropped += 1;
                last_reason = Some(reason);
            }
            Taken::Refused(why) => refused.push((index, why)),
        }
    }
    match last_reason {
        Some(DropReason::Storage) if seqs.is_empty() => {
            return unavailable("the queue's disk fails, and the memory for it is full");
        }
        Some(_) if seqs.is_empty() => return unavailable("the queue is full"),
        _ => {}
    }
    let status = match &refused[..] {
        // In memory, not on the disk.
        [] if buffered > 0 => StatusCode::ACCEPTED,
        [] => StatusCode::OK,
        all if all.iter().all(|(_, why)| why.reason == Reason::TooLarge) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        _ => StatusCode::BAD_REQUEST,
    };
    let mut answer = json!({
        "seqs": seqs, "unchanged": unchanged, "thinned": thinned, "dropped": dropped,
        "buffered": buffered,
    });
    if let [seq] = seqs[..] {
        answer["seq"] = seq.into();
    }
    if !refused.is_empty() {
        answer["refused"] = refused.iter().map(reason).collect();
    }
    json_response(status, &answer)
}

fn reason((index, why): &(usize, Refused)) -> Value {
    json!({"index": index, "reason": why.reason.as_str(), "message": why.message})
}

fn unavailable(why: &str) -> Response {
    let retry_after = STORAGE_RETRY_INTERVAL.as_secs().max(1).to_string();
    let body = json!({"seqs": [], "error": why});
    let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, &body);
    if let Ok(value) = retry_after.parse() {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// A client that stops in the middle of a body, or a disk that does not answer, holds nothing for
/// ever.
async fn in_time(request: Request, next: Next) -> Response {
    match timeout(HTTP_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let body = json!({"seqs": [], "error": format!("not done within {HTTP_TIMEOUT:?}")});
            json_response(StatusCode::REQUEST_TIMEOUT, &body)
        }
    }
}

/// Refuses web pages of other origins.
pub(super) async fn only_local_origins(
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    if has_local_origin(&headers) {
        return next.run(request).await;
    }
    let body = json!({"seqs": [], "error": "pages of other origins may not send telemetry"});
    json_response(StatusCode::FORBIDDEN, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_an_object_an_array_or_lines() {
        for (body, expected) in [
            (r#"{"lap":1}"#, vec![true]),
            ("{\n \"lap\": 1\n}", vec![true]),
            (r#"[{"lap":1},{"lap":2}]"#, vec![true, true]),
            ("{\"lap\":1}\n{\"lap\":2}\n\n", vec![true, true]),
            ("{\"lap\":1}\nnonsense\n", vec![true, false]),
        ] {
            let parts = parts(body.as_bytes()).unwrap();
            assert_eq!(parts.iter().map(Result::is_ok).collect::<Vec<_>>(), expected, "{body}");
        }
        for body in ["", " \n ", "[", "[]"] {
            assert!(parts(body.as_bytes()).is_err(), "{body:?}");
        }
    }
}

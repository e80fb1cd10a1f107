//! The queue tools over HTTP, at the agent's admin address: `/queue/…`, GET reads and POST changes.
//!
//! Only this PC may use them, even if the admin listener is open to others: there is no password,
//! and the frames belong to the team. Requests from web pages of other origins are rejected.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::{Line, Tools};
use crate::entry::{MAX_SEQ, Seq};
use crate::fields::{Reason, Refused};
use crate::net::body::{BodyBudget, BodyError};
use crate::net::loopback_guard::{Access, guard};
use crate::platform::clock;
use crate::platform::offload;
use crate::queue::{PAGE_BYTES, PAGE_ENTRIES, QueueError};
use crate::tools::{MAX_LINE_BYTES, TOOL_TIMEOUT};

/// Largest body of one import: `pitwire queue import` sends a page and the line that exceeds it.
const MAX_IMPORT_BYTES: usize = PAGE_BYTES + MAX_LINE_BYTES + 1;

/// Most lines in one import: `pitwire queue import` sends a few hundred, and an entry takes about
/// 1 kB of memory even if its line is short.
const MAX_IMPORT_LINES: usize = 10_000;

/// The routes of the tools.
pub(crate) fn router(tools: Tools) -> Router {
    Router::new()
        .route("/queue/status", get(status))
        .route("/queue/entries", get(entries))
        .route("/queue/trace", get(trace))
        .route("/queue/examination", get(examination))
        .route("/queue/dead-letters", get(refused))
        .route("/queue/mend", post(mend))
        .route("/queue/drop", post(drop_between))
        .route("/queue/import", post(import))
        .route("/queue/requeue", post(requeue))
        .layer(Extension(Arc::new(BodyBudget::new())))
        .layer(middleware::from_fn(bounded))
        .layer(middleware::from_fn_with_state(Access::ThisPc, guard))
        .with_state(tools)
}

type Parameters = Query<Vec<(String, String)>>;

async fn status(State(tools): State<Tools>) -> Response {
    Json(tools.status()).into_response()
}

async fn entries(State(tools): State<Tools>, Query(query): Parameters) -> Response {
    let asked = async {
        let from = seq(&query, "from", Some(Seq(0)))?;
        let entries = number(&query, "entries", Some(PAGE_ENTRIES as u64), PAGE_ENTRIES as u64)?;
        let whole = number(&query, "whole", Some(1), 1)? == 1;
        Ok(tools.page(from, entries as usize, whole).await?)
    };
    answer(asked.await)
}

async fn trace(State(tools): State<Tools>, Query(query): Parameters) -> Response {
    answer(async { Ok(tools.trace(seq(&query, "seq", None)?).await?) }.await)
}

async fn examination(State(tools): State<Tools>, Query(query): Parameters) -> Response {
    answer(async { Ok(tools.operator().scan(seq(&query, "from", Some(Seq(0)))?).await?) }.await)
}

async fn refused(State(tools): State<Tools>) -> Response {
    answer(async { Ok(tools.refused().await?) }.await)
}

async fn mend(State(tools): State<Tools>, Query(query): Parameters) -> Response {
    answer(async { Ok(tools.operator().repair(seq(&query, "from", None)?).await?) }.await)
}

async fn drop_between(State(tools): State<Tools>, Query(query): Parameters) -> Response {
    let asked = async {
        let (first, last) = (seq(&query, "first", None)?, seq(&query, "last", None)?);
        Ok(tools.operator().purge(first, last).await?)
    };
    answer(asked.await)
}

async fn import(
    State(tools): State<Tools>,
    Extension(bodies): Extension<Arc<BodyBudget>>,
    body: Body,
) -> Response {
    let received = match bodies.read(body, MAX_IMPORT_BYTES).await {
        Ok(received) => received,
        Err(error) => return not_received(error),
    };
    let body = received.bytes.clone();
    match offload::parse(body.len(), move || lines(&body)).await {
        Ok(lines) => carried_through(async move { tools.append(&lines).await }).await,
        Err(refused) => wrong(refused.message).into_response(),
    }
}

/// Parses the lines of an import. Fails as a whole if one of them is invalid.
fn lines(body: &[u8]) -> Result<Vec<Line>, Refused> {
    let now = clock::now();
    let mut lines = Vec::new();
    for (index, line) in body.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if lines.len() == MAX_IMPORT_LINES {
            let message = format!("more than {MAX_IMPORT_LINES} lines; send fewer at a time");
            return Err(Refused { reason: Reason::TooLarge, message });
        }
        lines.push(Line::parse(line, now).map_err(|Refused { reason, message }| Refused {
            reason,
            message: format!("line {}: {message}", index + 1),
        })?);
    }
    Ok(lines)
}

fn not_received(error: BodyError) -> Response {
    let (status, why) = match error {
        BodyError::TooLarge => {
            let why = format!("the body is larger than {MAX_IMPORT_BYTES} bytes; send fewer lines");
            (StatusCode::PAYLOAD_TOO_LARGE, why)
        }
        BodyError::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, "too many large bodies at a time".into())
        }
        BodyError::Slow => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".into()),
        BodyError::Broken(error) => {
            (StatusCode::BAD_REQUEST, format!("the body is incomplete: {error}"))
        }
    };
    (status, Json(json!({"error": why}))).into_response()
}

async fn requeue(State(tools): State<Tools>) -> Response {
    carried_through(async move { tools.requeue().await }).await
}

/// Runs `work` to completion even if the client disconnects.
async fn carried_through<T: Serialize + Send + 'static>(
    work: impl Future<Output = Result<T, QueueError>> + Send + 'static,
) -> Response {
    let done = tokio::spawn(work).await.unwrap_or(Err(QueueError::Closed));
    answer(done.map_err(Failed::Queue))
}

/// Why a request failed.
enum Failed {
    Wrong(String),
    Queue(QueueError),
}

impl From<QueueError> for Failed {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Wrong(text) => (StatusCode::BAD_REQUEST, text),
            Self::Queue(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        };
        (status, Json(json!({"error": text}))).into_response()
    }
}

fn wrong(text: String) -> Failed {
    Failed::Wrong(text)
}

fn answer(result: Result<impl Serialize, Failed>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(failed) => failed.into_response(),
    }
}

fn seq(query: &[(String, String)], name: &str, default: Option<Seq>) -> Result<Seq, Failed> {
    number(query, name, default.map(|seq| seq.0), MAX_SEQ).map(Seq)
}

fn number(
    query: &[(String, String)],
    name: &str,
    default: Option<u64>,
    most: u64,
) -> Result<u64, Failed> {
    let given = query.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let number = match (given, default) {
        (None, Some(default)) => return Ok(default),
        (None, None) => None,
        (Some(text), _) => text.parse().ok().filter(|number| *number <= most),
    };
    number.ok_or_else(|| {
        let given = given.map_or("is missing".into(), |text| format!("{text:?} is not valid"));
        wrong(format!("{name}: {given}; send a whole number from 0 to {most}"))
    })
}

/// Limits the time of a request, and keeps caches from storing the answer: it holds queued frames.
async fn bounded(request: Request, next: Next) -> Response {
    let Ok(mut response) = timeout(TOOL_TIMEOUT, next.run(request)).await else {
        let error = format!("not completed within {TOOL_TIMEOUT:?}; check the agent's log");
        return (StatusCode::REQUEST_TIMEOUT, Json(json!({"error": error}))).into_response();
    };
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

//! The tools over HTTP, at the agent's admin address: `/queue/…`, GET to look and POST to change.
//!
//! For this PC alone, wherever the admin address listens: there is no password, and the frames are
//! the team's. Web pages of other origins are kept out.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::{Line, Tools};
use crate::clock;
use crate::config::{MAX_HTTP_BODY_BYTES, MAX_SEQ, PAGE_ENTRIES, TOOL_TIMEOUT};
use crate::entry::Seq;
use crate::local::only_this_pc;
use crate::queue::QueueError;

/// The routes of the tools.
pub(crate) fn router(tools: Tools) -> Router {
    Router::new()
        .route("/queue/status", get(status))
        .route("/queue/entries", get(entries))
        .route("/queue/trace", get(trace))
        .route("/queue/examination", get(examination))
        .route("/queue/refused", get(refused))
        .route("/queue/mend", post(mend))
        .route("/queue/drop", post(drop_between))
        .route("/queue/import", post(import))
        .route("/queue/requeue", post(requeue))
        .layer(DefaultBodyLimit::max(MAX_HTTP_BODY_BYTES))
        .layer(middleware::from_fn(bounded))
        .layer(middleware::from_fn(only_this_pc))
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
    answer(async { Ok(tools.examine(seq(&query, "from", Some(Seq(0)))?).await?) }.await)
}

async fn refused(State(tools): State<Tools>) -> Response {
    answer(async { Ok(tools.refused().await?) }.await)
}

async fn mend(State(tools): State<Tools>, Query(query): Parameters) -> Response {
    answer(async { Ok(tools.mend(seq(&query, "from", None)?).await?) }.await)
}

async fn drop_between(State(tools): State<Tools>, Query(query): Parameters) -> Response {
    let asked = async {
        let (first, last) = (seq(&query, "first", None)?, seq(&query, "last", None)?);
        Ok(tools.drop_between(first, last).await?)
    };
    answer(asked.await)
}

async fn import(State(tools): State<Tools>, body: Bytes) -> Response {
    let now = clock::now();
    let mut lines = Vec::new();
    for (index, line) in body.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match Line::parse(line, now) {
            Ok(line) => lines.push(line),
            Err(refused) => return wrong(format!("line {}: {refused}", index + 1)).into_response(),
        }
    }
    carried_through(async move { tools.append(&lines).await }).await
}

async fn requeue(State(tools): State<Tools>) -> Response {
    carried_through(async move { tools.requeue().await }).await
}

/// Done to its end even when whoever asked goes away.
async fn carried_through<T: Serialize + Send + 'static>(
    work: impl Future<Output = Result<T, QueueError>> + Send + 'static,
) -> Response {
    let done = tokio::spawn(work).await.unwrap_or(Err(QueueError::Closed));
    answer(done.map_err(Failed::Queue))
}

/// Why there is no answer.
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
        let given = given.map_or("is missing".into(), |text| format!("{text:?} is no such number"));
        wrong(format!("{name}: {given}; send a whole number from 0 to {most}"))
    })
}

/// A bound on the time, and what the queue holds is nobody else's to keep.
async fn bounded(request: Request, next: Next) -> Response {
    let Ok(mut response) = timeout(TOOL_TIMEOUT, next.run(request)).await else {
        let error = format!("it is not done within {TOOL_TIMEOUT:?}; look at the agent's log");
        return (StatusCode::REQUEST_TIMEOUT, Json(json!({"error": error}))).into_response();
    };
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

//! The routes for the people at the pit wall: the list of sessions, and the laps, stints and fuel
//! of each.

use std::num::NonZeroU16;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::SharedState;
use super::http::not_found;
use super::sessions::SessionRow;
use super::timing::CarSummary;
use crate::entry::CapturedAt;
use crate::net::page::{FormPolicy, document};
use crate::platform::clock;

/// Maximum number of sessions in the list: more than a person reads. The older ones are only
/// counted.
const SESSIONS_LISTED: usize = 200;

/// A session is live if a frame was received within this time, in milliseconds. Its page uses the
/// same limit.
const STALE_MS: i64 = 5_000;

/// A session without frames for this time, in milliseconds, has ended: longer than most outages.
const ENDED_MS: i64 = 600_000;

/// The list of sessions.
const LIST: [&str; 5] = [
    include_str!("page/list.html"),
    "<script>\n",
    include_str!("page/basics.js"),
    include_str!("page/list.js"),
    "</script>",
];

pub(super) fn routes() -> Router<Arc<SharedState>> {
    Router::new()
        .route("/", get(async || document(FormPolicy::Nowhere, &LIST)))
        .route("/manifest.webmanifest", get(manifest))
        .route("/api/overview", get(overview))
        .route("/api/sessions/{session_id}/timing", get(timing))
        .route("/api/sessions/{session_id}/series", get(series))
}

/// The manifest with which a browser installs the page as an app.
async fn manifest() -> Response {
    let headers = [(header::CONTENT_TYPE, "application/manifest+json")];
    (headers, include_str!("page/manifest.json")).into_response()
}

/// The list of sessions as JSON.
#[derive(Serialize)]
struct Overview<'a> {
    sessions: Vec<OverviewRow<'a>>,
    /// The number of sessions that are too old for the list.
    not_listed: usize,
}

#[derive(Serialize)]
struct OverviewRow<'a> {
    session_id: &'a str,
    state: SessionState,
    /// The time since the last frame was received, in milliseconds.
    silent_ms: Option<i64>,
    frames: u64,
    #[serde(flatten)]
    summary: &'a CarSummary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum SessionState {
    /// It has no frames yet.
    Waiting,
    Live,
    Stale,
    Ended,
}

impl SessionState {
    fn of(silent_ms: Option<i64>) -> Self {
        match silent_ms {
            None => Self::Waiting,
            Some(..STALE_MS) => Self::Live,
            Some(STALE_MS..ENDED_MS) => Self::Stale,
            Some(ENDED_MS..) => Self::Ended,
        }
    }
}

async fn overview(State(hub): State<Arc<SharedState>>) -> Response {
    let CapturedAt(now) = clock::now();
    let mut sessions = hub.sessions();
    let not_listed = sessions.count().saturating_sub(SESSIONS_LISTED);
    let rows = sessions.overview(SESSIONS_LISTED).into_iter().map(|row| {
        let SessionRow { session_id, frames, received_at, summary } = row;
        let silent_ms = received_at.map(|CapturedAt(at)| (now - at).max(0));
        OverviewRow { session_id, state: SessionState::of(silent_ms), silent_ms, frames, summary }
    });
    Json(Overview { sessions: rows.collect(), not_listed }).into_response()
}

async fn timing(State(hub): State<Arc<SharedState>>, Path(id): Path<String>) -> Response {
    let tables = hub.sessions().tables(&id);
    tables.map_or_else(|| not_found("no such session"), |tables| Json(tables).into_response())
}

/// The query of a request for a series.
#[derive(Debug, Deserialize)]
struct SeriesQuery {
    /// Maximum number of points to return.
    points: NonZeroU16,
}

async fn series(
    State(hub): State<Arc<SharedState>>,
    Path(id): Path<String>,
    Query(SeriesQuery { points }): Query<SeriesQuery>,
) -> Response {
    let sessions = hub.sessions();
    let series = sessions.series(&id, points);
    series.map_or_else(|| not_found("no such session"), |series| Json(series).into_response())
}

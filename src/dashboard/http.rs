//! The HTTP routes: the page, and the sessions as JSON.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;

use super::sessions::Summary;
use super::{SharedState, export, wall};
use crate::contract::{Events, SetupEvent};
use crate::net::loopback_guard::{Access, guard};
use crate::net::page::{FormPolicy, document, is_shown, message};

/// The parts of the page; the scripts are in the order of their dependencies.
const PAGE: [&str; 10] = [
    include_str!("page/page.html"),
    "<script>\n",
    include_str!("page/basics.js"),
    include_str!("page/history.js"),
    include_str!("page/plots.js"),
    include_str!("page/setup.js"),
    include_str!("page/socket.js"),
    include_str!("page/page.js"),
    include_str!("page/timing.js"),
    "</script>",
];

/// The approximate size of the pieces in which a history is sent, so that it is never in memory
/// twice.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// All routes of the server, including the `events`, for clients that `access` admits.
pub(super) fn routes(hub: &Arc<SharedState>, events: Events, access: Access) -> Router {
    // The health check reveals only that the server runs, so it needs no token.
    let health_access = match &access {
        Access::Token(_) => Access::Anyone,
        other => other.clone(),
    };
    let health = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(from_fn_with_state(health_access, guard));
    Router::new()
        .merge(wall::routes())
        .merge(export::routes())
        .route("/dashboard/{session_id}", get(page))
        .route("/api/sessions", get(sessions).delete(forget_sessions))
        .route("/api/sessions/{session_id}/frames", get(frames))
        .route("/api/sessions/{session_id}/setups", get(setups))
        .fallback(no_such_path)
        .with_state(hub.clone())
        .layer(events)
        .layer(from_fn_with_state(access, guard))
        .merge(health)
}

async fn no_such_path(headers: HeaderMap) -> Response {
    if !is_shown(&headers) {
        return not_found("no such path");
    }
    let text = "This server has no such page. <a href=\"/\">All sessions</a>";
    (StatusCode::NOT_FOUND, message("No such page", text)).into_response()
}

/// The page of a session. It does not depend on the session, which may not exist yet: the page
/// waits for the first frame.
async fn page() -> Response {
    document(FormPolicy::Nowhere, &PAGE)
}

async fn sessions(State(hub): State<Arc<SharedState>>) -> Json<Vec<Summary>> {
    Json(hub.sessions().summaries())
}

/// Forgets every session, like a restart.
async fn forget_sessions(State(hub): State<Arc<SharedState>>) -> Response {
    let forgotten = hub.sessions().forget_all();
    Json(json!({ "forgotten": forgotten })).into_response()
}

/// The query of a request for frames.
#[derive(Debug, Deserialize)]
struct Frames {
    /// The maximum number of frames, evenly spaced and including the newest; without it, all
    /// frames.
    thin_to: Option<NonZeroU64>,
}

async fn frames(
    State(hub): State<Arc<SharedState>>,
    Path(id): Path<String>,
    Query(Frames { thin_to }): Query<Frames>,
) -> Response {
    let Some(positions) = hub.sessions().frame_positions(&id) else {
        return not_found("no such session");
    };
    let frames = positions.end - positions.start;
    let every = thin_to.map_or(1, |most| frames.div_ceil(most.get()).max(1));
    let newest = positions.end.saturating_sub(1);
    let kind = Sampling::Frames { newest, every };
    json_array(History { hub, id, kind, rest: positions, separator: '[' })
}

/// The query of a request for setups.
#[derive(Debug, Deserialize)]
struct Setups {
    /// The maximum number of setups, the newest ones; without it, all setups.
    newest: Option<u64>,
}

async fn setups(
    State(hub): State<Arc<SharedState>>,
    Path(id): Path<String>,
    Query(Setups { newest }): Query<Setups>,
) -> Response {
    let Some(mut positions) = hub.sessions().setup_positions(&id) else {
        return not_found("no such session");
    };
    if let Some(newest) = newest {
        positions.start = positions.start.max(positions.end.saturating_sub(newest));
    }
    json_array(History { hub, id, kind: Sampling::Setups, rest: positions, separator: '[' })
}

/// Streams a part of the history as a JSON array.
fn json_array(history: History) -> Response {
    let pieces = stream::unfold(Some(history), |history| async move {
        let mut history = history?;
        let piece = history.next_piece();
        let next = if history.rest.is_empty() { None } else { Some(history) };
        Some((Ok::<_, std::convert::Infallible>(piece), next))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response()
}

/// The state of a response with the frames or setups of a session.
struct History {
    hub: Arc<SharedState>,
    id: String,
    kind: Sampling,
    /// The positions that remain to be sent; empty once the array is closed.
    rest: Range<u64>,
    separator: char,
}

#[derive(Clone, Copy)]
enum Sampling {
    /// Sends each `every`-th frame, counted back from the newest.
    Frames {
        newest: u64,
        every: u64,
    },
    Setups,
}

impl History {
    /// The next piece of the array; skips entries that were dropped since the response began.
    fn next_piece(&mut self) -> String {
        let mut piece = String::new();
        let mut next = self.rest.end;
        let sessions = self.hub.sessions();
        let (id, rest) = (&self.id, self.rest.clone());
        let separator = &mut self.separator;
        match self.kind {
            Sampling::Frames { newest, every } => {
                for (position, frame) in sessions.frames(id, rest) {
                    if !(newest - position).is_multiple_of(every) {
                        continue;
                    }
                    if piece.len() >= PIECE_BYTES {
                        next = position;
                        break;
                    }
                    let received_at = frame.received_at.to_string();
                    let parts = [
                        "{\"received_at\":\"",
                        &received_at,
                        "\",\"telemetry\":",
                        frame.telemetry.get(),
                        "}",
                    ];
                    append(&mut piece, separator, &parts);
                }
            }
            Sampling::Setups => {
                for (position, SetupEvent { timestamp, setup }) in sessions.setups(id, rest) {
                    if piece.len() >= PIECE_BYTES {
                        next = position;
                        break;
                    }
                    let timestamp = timestamp.as_deref().map(|timestamp| timestamp.get());
                    let parts = match timestamp {
                        Some(timestamp) => ["{\"timestamp\":", timestamp, ",\"setup\":"],
                        None => ["{\"setup\":", "", ""],
                    };
                    append(&mut piece, separator, &[&parts[..], &[setup.get(), "}"]].concat());
                }
            }
        }
        self.rest.start = next;
        if self.rest.is_empty() {
            piece.push_str(if self.separator == '[' { "[]" } else { "]" });
        }
        piece
    }
}

/// Appends an element of the array.
fn append(piece: &mut String, separator: &mut char, parts: &[&str]) {
    piece.push(*separator);
    *separator = ',';
    parts.iter().for_each(|part| piece.push_str(part));
}

pub(super) fn not_found(reason: &str) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": reason }))).into_response()
}

//! The status page for drivers, at `/` of the admin address.
//!
//! `/status` is its data as JSON, which the page polls every half second; `/qr.svg` is the
//! dashboard link of a destination as a QR code for a phone. Only this PC may access them, because
//! the session id in the link is a secret.

mod badge;
pub mod drain;
mod history;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(crate) use self::badge::count;
use self::badge::was_forgotten;
pub use self::badge::{Badge, Severity};
pub use self::history::StatusHistory;
use self::history::{QueueSample, Trouble};
use crate::net::loopback_guard::{Access, guard};
use crate::net::page::{FormPolicy, document};
use crate::queue::{DestinationStatus, QueueStatus};
use crate::session::{DestinationWatch, FORGOTTEN, Latency};
use crate::sink::Transport;
use crate::tools::{OperatorStatus, Tools};

/// A status snapshot of the agent.
#[derive(Clone, Debug)]
pub struct StatusSnapshot {
    pub pill: Badge,
    /// Entries in the queue.
    pub queued: u64,
    /// Entries ever accepted, and ever delivered to the slowest destination.
    pub appended: u64,
    pub delivered: u64,
    /// Bytes of the recording up to the end of the last line that was stored.
    pub recording_bytes: u64,
}

/// The state behind the routes.
#[derive(Debug)]
struct PageState {
    tools: Tools,
    destinations: Vec<DestinationWatch>,
    board: StatusHistory,
}

/// The routes of the status page.
pub(crate) fn router(
    tools: Tools,
    destinations: Vec<DestinationWatch>,
    board: StatusHistory,
) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .route("/qr.svg", get(qr))
        .layer(middleware::from_fn_with_state(Access::ThisPc, guard))
        .with_state(Arc::new(PageState { tools, destinations, board }))
}

async fn page() -> Response {
    document(FormPolicy::Nowhere, &[include_str!("status/page.html")])
}

/// The response to `/status`.
#[derive(Debug, Serialize)]
struct StatusResponse {
    pill: Badge,
    destinations: Vec<DestinationView>,
    /// The current problems of the queue, as messages for a driver.
    wrong: Vec<String>,
    /// The recent failures, oldest first.
    troubles: Vec<Trouble>,
    /// The queue, with the ledger of each destination.
    queue: OperatorStatus,
    looks: Vec<QueueSample>,
}

/// The status of a destination.
#[derive(Debug, Serialize)]
struct DestinationView {
    name: String,
    pill: Badge,
    /// The dashboard link.
    page: Option<String>,
    connected: bool,
    verified: bool,
    proof: Option<&'static str>,
    /// `websocket` or `polling`.
    transport: Option<&'static str>,
    /// Seconds until the next attempt to connect.
    retry_in: Option<f64>,
    /// The entry that is sent again because the server confirmed no delivery of it.
    retrying: Option<String>,
    /// The current problem, as a message for a driver.
    wrong: Option<String>,
    /// Time from capture to proof.
    latency: Option<Latency>,
}

impl DestinationView {
    fn new(watch: &DestinationWatch, pill: Badge) -> Self {
        let session = watch.session.borrow().clone();
        let wrong = if session.connected && was_forgotten(&session) {
            Some(FORGOTTEN.into())
        } else if (!session.connected || session.session.is_some())
            && let Some(message) = &session.user_message
        {
            Some(message.clone())
        } else {
            session.stuck_on().map(|retrying| {
                format!(
                    "Stuck: {retrying}. If the server confirms others, it becomes a dead letter and \
                     the rest is delivered."
                )
            })
        };
        Self {
            name: watch.name.clone(),
            pill,
            page: session.page,
            connected: session.connected,
            verified: session.verified,
            proof: session.proof.map(|proof| proof.as_str()),
            transport: session.transport.map(Transport::as_str),
            retry_in: session.retry_at.map(|at| (at - Instant::now()).as_secs_f64()),
            retrying: session.retrying.map(|retrying| retrying.to_string()),
            wrong,
            latency: watch.latencies.lately(),
        }
    }
}

async fn status(State(view): State<Arc<PageState>>) -> Response {
    let PageState { tools, destinations, board } = &*view;
    let status = tools.status();
    let queue = &status.queue;
    let (looks, troubles) = board.latest();
    let status = StatusResponse {
        pill: board.pill(queue, destinations),
        destinations: destinations
            .iter()
            .map(|watch| DestinationView::new(watch, board.destination_pill(queue, watch)))
            .collect(),
        wrong: wrong(queue),
        troubles,
        looks,
        queue: status,
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(status)).into_response()
}

/// The parameters of `/qr.svg`.
#[derive(Debug, Deserialize)]
struct OfDestination {
    /// The name of a destination; the first one if it is missing.
    destination: Option<String>,
}

async fn qr(State(view): State<Arc<PageState>>, Query(of): Query<OfDestination>) -> Response {
    let code = view
        .destinations
        .iter()
        .find(|watch| of.destination.as_ref().is_none_or(|name| *name == watch.name))
        .and_then(|watch| watch.session.borrow().page.clone())
        .and_then(|page| QrCode::new(page).ok());
    let Some(code) = code else {
        return (StatusCode::NOT_FOUND, "there is no dashboard page yet\n").into_response();
    };
    let image = code.render::<svg::Color<'_>>().min_dimensions(200, 200).build();
    let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "no-store")];
    (headers, image).into_response()
}

/// The current problems of the queue, as messages for a driver.
fn wrong(queue: &QueueStatus) -> Vec<String> {
    let mut wrong = Vec::new();
    if queue.storage_error.is_some() {
        wrong.push(disk_plainly(queue.disk_is_full).into());
    }
    for DestinationStatus { name, imbalance, .. } in queue.imbalanced() {
        wrong
            .push(format!("The ledger of {name} is off by {imbalance}. This is a bug in pitwire."));
    }
    wrong
}

/// The message for a driver about a full or failing disk of the queue.
pub(crate) fn disk_plainly(is_full: bool) -> &'static str {
    if is_full {
        "The disk is full. Free some space; until then new frames wait in memory."
    } else {
        "The disk does not work properly. Check it; until then new frames wait in memory."
    }
}

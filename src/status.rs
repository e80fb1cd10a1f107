//! The status page for drivers, at `/` of the admin address.
//!
//! `/status` is its data as JSON, which the page polls every half second; `/retry` is its button to
//! connect at once. `/share` and `/qr.svg` are the dashboard link of a destination for other devices,
//! as text and as a QR code. Only this PC may access them, because the session id in the link is a
//! secret.

mod badge;
pub mod drain;
mod history;
mod share;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

pub(crate) use self::badge::count;
use self::badge::was_forgotten;
pub use self::badge::{Badge, Severity};
pub use self::history::StatusHistory;
use self::history::{QueueSample, Trouble};
use crate::net::loopback_guard::{Access, guard};
use crate::net::page::{FormPolicy, document};
use crate::queue::{DestinationStatus, QueueStatus, Writer};
use crate::session::{DestinationWatch, FORGOTTEN, Latency};
use crate::sink::Transport;
use crate::source::{SourceActivity, SourceView};
use crate::tools::{OperatorHandler, OperatorStatus};

/// A status snapshot of the agent.
#[derive(Clone, Debug)]
pub struct StatusSnapshot {
    pub badge: Badge,
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
pub(crate) struct PageState {
    pub tools: OperatorHandler,
    pub writer: Writer,
    pub destinations: Vec<DestinationWatch>,
    pub history: StatusHistory,
    pub sources: SourceActivity,
}

/// The routes of the status page.
pub(crate) fn router(state: PageState) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .route("/retry", post(retry))
        .route("/share", get(share))
        .route("/qr.svg", get(qr))
        .layer(middleware::from_fn_with_state(Access::ThisPc, guard))
        .with_state(Arc::new(state))
}

async fn page() -> Response {
    document(FormPolicy::Nowhere, &[include_str!("status/page.html")])
}

/// The response to `/status`.
#[derive(Debug, Serialize)]
struct StatusResponse {
    badge: Badge,
    sources: Vec<SourceView>,
    destinations: Vec<DestinationView>,
    /// The current problems of the queue, as messages for a driver.
    wrong: Vec<String>,
    /// The recent failures, oldest first.
    troubles: Vec<Trouble>,
    /// The queue, with the ledger of each destination.
    queue: OperatorStatus,
    /// Seconds since the oldest entry was queued, whatever the wall clock shows.
    oldest_age: Option<f64>,
    looks: Vec<SampleView>,
}

/// The status of a destination.
#[derive(Debug, Serialize)]
struct DestinationView {
    name: String,
    badge: Badge,
    /// The dashboard link.
    page: Option<String>,
    connecting: bool,
    connected: bool,
    verified: bool,
    proof: Option<&'static str>,
    /// `websocket` or `polling`.
    transport: Option<&'static str>,
    /// Seconds until the next attempt to connect.
    retry_in: Option<f64>,
    /// Seconds since the oldest of its entries was queued, whatever the wall clock shows.
    oldest_age: Option<f64>,
    /// The entry that is sent again because the server confirmed no delivery of it.
    retrying: Option<String>,
    /// The current problem, as a message for a driver.
    wrong: Option<String>,
    /// Time from capture to proof.
    latency: Option<Latency>,
}

impl DestinationView {
    fn new(watch: &DestinationWatch, badge: Badge, oldest_age: Option<Duration>) -> Self {
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
            badge,
            page: session.page,
            connecting: session.connecting,
            connected: session.connected,
            verified: session.verified,
            proof: session.proof.map(|proof| proof.as_str()),
            transport: session.transport.map(Transport::as_str),
            retry_in: session.retry_at.map(|at| (at - Instant::now()).as_secs_f64()),
            oldest_age: oldest_age.map(|age| age.as_secs_f64()),
            retrying: session.retrying.map(|retrying| retrying.to_string()),
            wrong,
            latency: watch.latencies.lately(),
        }
    }
}

async fn status(State(view): State<Arc<PageState>>) -> Response {
    let PageState { tools, writer, destinations, history, sources } = &*view;
    let (status, now) = (tools.status(), writer.now());
    let queue = &status.queue;
    let (looks, troubles) = history.latest();
    let status = StatusResponse {
        badge: history.badge(queue, destinations),
        sources: sources.views(),
        destinations: destinations
            .iter()
            .map(|watch| {
                let own = queue.destination(&watch.name);
                let age = own.and_then(|own| own.oldest_age(now));
                DestinationView::new(watch, history.destination_badge(queue, watch), age)
            })
            .collect(),
        wrong: wrong(queue),
        oldest_age: queue.oldest_age(now).map(|age| age.as_secs_f64()),
        troubles,
        looks: looks.iter().map(SampleView::new).collect(),
        queue: status,
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(status)).into_response()
}

/// A queue length of the history.
#[derive(Debug, Serialize)]
struct SampleView {
    /// Seconds since it was measured.
    age: f64,
    entries: u64,
}

impl SampleView {
    fn new(sample: &QueueSample) -> Self {
        Self { age: sample.at.elapsed().as_secs_f64(), entries: sample.entries }
    }
}

/// The parameters of `/retry`, `/share` and `/qr.svg`.
#[derive(Debug, Deserialize)]
struct OfDestination {
    /// The name of a destination; the first one if it is missing.
    destination: Option<String>,
}

impl OfDestination {
    fn find<'a>(&self, state: &'a PageState) -> Option<&'a DestinationWatch> {
        let mut watches = state.destinations.iter();
        watches.find(|watch| self.destination.as_ref().is_none_or(|name| *name == watch.name))
    }
}

/// Ends the wait before the next attempt to connect to a destination.
async fn retry(State(state): State<Arc<PageState>>, Query(of): Query<OfDestination>) -> Response {
    let Some(watch) = of.find(&state) else {
        let names: Vec<_> = state.destinations.iter().map(|watch| &*watch.name).collect();
        let error = format!("no such destination; use one of: {}", names.join(", "));
        return (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response();
    };
    let is_waiting = watch.session.borrow().retry_at.is_some();
    watch.retry.request();
    (StatusCode::ACCEPTED, Json(json!({ "was_waiting": is_waiting }))).into_response()
}

/// The link that other devices can open, or advice if there is no such link.
async fn share(State(state): State<Arc<PageState>>, Query(of): Query<OfDestination>) -> Response {
    let page = of.find(&state).and_then(|watch| watch.session.borrow().page.clone());
    let Some(page) = page else { return no_page() };
    let link = share::shareable(&page).await;
    let advice = link.is_none().then_some(share::ONLY_HERE);
    ([(header::CACHE_CONTROL, "no-store")], Json(json!({ "link": link, "advice": advice })))
        .into_response()
}

async fn qr(State(state): State<Arc<PageState>>, Query(of): Query<OfDestination>) -> Response {
    let page = of.find(&state).and_then(|watch| watch.session.borrow().page.clone());
    let Some(page) = page else { return no_page() };
    let link = share::shareable(&page).await;
    let Some(code) = link.and_then(|link| QrCode::new(link).ok()) else {
        return (StatusCode::NOT_FOUND, format!("{}\n", share::ONLY_HERE)).into_response();
    };
    let image = code.render::<svg::Color<'_>>().min_dimensions(200, 200).build();
    let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "no-store")];
    (headers, image).into_response()
}

fn no_page() -> Response {
    (StatusCode::NOT_FOUND, "there is no dashboard page yet\n").into_response()
}

/// The current problems of the queue, as messages for a driver.
fn wrong(queue: &QueueStatus) -> Vec<String> {
    let mut wrong = Vec::new();
    if queue.storage_error.is_some() {
        wrong.push(disk_message(queue.disk_is_full).into());
    }
    for DestinationStatus { name, imbalance, .. } in queue.imbalanced() {
        wrong
            .push(format!("The ledger of {name} is off by {imbalance}. This is a bug in pitwire."));
    }
    wrong
}

/// The message for a driver about a full or failing disk of the queue.
pub(crate) fn disk_message(is_full: bool) -> &'static str {
    if is_full {
        "The disk is full. Free some space; until then new frames wait in memory."
    } else {
        "The disk does not work properly. Check it; until then new frames wait in memory."
    }
}

//! The status page for drivers, at `/` of the admin address.
//!
//! `/status` is its data as JSON, which the page polls every half second; `/qr.svg` is the
//! dashboard link of a destination as a QR code for a phone. Only this PC may access them, because the session id in
//! the link is a secret.

mod badge;
pub mod drain;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
use crate::entry::CapturedAt;
use crate::net::loopback_guard::{Access, guard};
use crate::net::page::{FormPolicy, document};
use crate::queue::{DestinationStatus, QueueStatus};
use crate::session::{DestinationWatch, FORGOTTEN, Latency};
use crate::sink::Transport;
use crate::status::drain::Drain;
use crate::tools::{self, Tools};

/// The number of queue lengths that the status page plots: one hour.
const STATUS_LOOKS: usize = 360;

/// The number of recent failures on the status page.
const STATUS_TROUBLES: usize = 5;

/// The history on the status page: the length of the queue at regular intervals, and recent
/// failures.
#[derive(Clone, Debug, Default)]
pub struct StatusHistory {
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    /// How each destination drains, by name.
    drains: BTreeMap<String, Drain>,
    /// The latest queue lengths, oldest first.
    looks: VecDeque<QueueSample>,
    /// The latest failures, oldest first.
    troubles: VecDeque<Trouble>,
}

/// The length of the queue at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct QueueSample {
    /// Milliseconds since 1970.
    at: CapturedAt,
    entries: u64,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Trouble {
    /// The time of its latest occurrence, in milliseconds since 1970.
    at: CapturedAt,
    /// The destination that it is about, if there are several.
    destination: Option<String>,
    /// The message for a driver.
    plainly: &'static str,
    /// The technical error, for support.
    detail: String,
}

impl StatusHistory {
    /// Records the length of the queue.
    pub fn look(&self, at: CapturedAt, entries: u64) {
        let mut memory = self.memory();
        if memory.looks.len() >= STATUS_LOOKS {
            memory.looks.pop_front();
        }
        memory.looks.push_back(QueueSample { at, entries });
    }

    /// The status badge of the agent.
    pub fn pill(&self, queue: &QueueStatus, destinations: &[DestinationWatch]) -> Badge {
        let watches = destinations.iter();
        let pills = watches.map(|watch| (&*watch.name, self.destination_pill(queue, watch)));
        Badge::new(queue, pills.collect())
    }

    fn destination_pill(&self, queue: &QueueStatus, watch: &DestinationWatch) -> Badge {
        let queued = queue.destination(&watch.name).map_or(0, |destination| destination.queued);
        let drain = self.memory().drains.get(&watch.name).copied().unwrap_or_default();
        Badge::of_destination(queued, &watch.session.borrow(), drain)
    }

    /// Records how a destination drains.
    pub fn drains(&self, destination: &str, drain: Drain) {
        self.memory().drains.insert(destination.to_owned(), drain);
    }

    /// Records a failure. A repetition replaces the earlier entry with the same message.
    pub fn trouble(
        &self,
        at: CapturedAt,
        destination: Option<String>,
        plainly: &'static str,
        detail: String,
    ) {
        let mut memory = self.memory();
        let troubles = &mut memory.troubles;
        let is_it = |old: &Trouble| old.plainly == plainly && old.destination == destination;
        if let Some(known) = troubles.iter().position(is_it) {
            troubles.remove(known);
        } else if troubles.len() >= STATUS_TROUBLES {
            troubles.pop_front();
        }
        troubles.push_back(Trouble { at, destination, plainly, detail });
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
struct View {
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
        .with_state(Arc::new(View { tools, destinations, board }))
}

async fn page() -> Response {
    document(FormPolicy::Nowhere, &[include_str!("status/page.html")])
}

/// The response to `/status`.
#[derive(Debug, Serialize)]
struct Status {
    pill: Badge,
    destinations: Vec<Destination>,
    /// The current problems of the queue, as messages for a driver.
    wrong: Vec<String>,
    /// The recent failures, oldest first.
    troubles: Vec<Trouble>,
    /// The queue, with the ledger of each destination.
    queue: tools::Status,
    looks: Vec<QueueSample>,
}

/// The status of a destination.
#[derive(Debug, Serialize)]
struct Destination {
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

impl Destination {
    fn new(watch: &DestinationWatch, pill: Badge) -> Self {
        let session = watch.session.borrow().clone();
        let wrong = if session.connected && was_forgotten(&session) {
            Some(FORGOTTEN.into())
        } else if (!session.connected || session.session.is_some())
            && let Some(message) = session.user_message
        {
            Some(message.into())
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

async fn status(State(view): State<Arc<View>>) -> Response {
    let View { tools, destinations, board } = &*view;
    let status = tools.status();
    let queue = &status.queue;
    let destination =
        |watch: &DestinationWatch| Destination::new(watch, board.destination_pill(queue, watch));
    let (looks, troubles) = {
        let Memory { looks, troubles, .. } = &*board.memory();
        (looks.iter().copied().collect(), troubles.iter().cloned().collect())
    };
    let status = Status {
        pill: board.pill(queue, destinations),
        destinations: destinations.iter().map(destination).collect(),
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

async fn qr(State(view): State<Arc<View>>, Query(of): Query<OfDestination>) -> Response {
    let is_it =
        |watch: &&DestinationWatch| of.destination.as_ref().is_none_or(|n| *n == watch.name);
    let watch = view.destinations.iter().find(is_it);
    let page = watch.and_then(|watch| watch.session.borrow().page.clone());
    let code = page.and_then(|page| QrCode::new(page).ok());
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
    wrong.extend(queue.storage_error.as_ref().map(|_| disk_plainly(queue.disk_is_full).into()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_problem_is_listed_only_once() {
        let board = StatusHistory::default();
        let words = ["a", "b", "c", "d", "e", "f"];
        for (at, plainly) in (0..).zip(words.iter().chain(&["c", "e"])) {
            board.trouble(CapturedAt(at), None, plainly, String::new());
        }
        let kept: Vec<_> =
            board.memory().troubles.iter().map(|kept| (kept.plainly, kept.at.0)).collect();
        assert_eq!(kept, [("b", 1), ("d", 3), ("f", 5), ("c", 6), ("e", 7)]);
    }

    #[test]
    fn the_oldest_status_sample_is_evicted() {
        let board = StatusHistory::default();
        (0..STATUS_LOOKS as i64 + 5).for_each(|at| board.look(CapturedAt(at), 1));
        let memory = board.memory();
        assert_eq!((memory.looks.len(), memory.looks[0].at), (STATUS_LOOKS, CapturedAt(5)));
    }
}

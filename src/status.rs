//! The status page, at `/` of the admin address: what a driver wants to know at a glance.
//!
//! `/status` gives it as JSON, which the page asks for every second; `/qr.svg` is the link to the
//! dashboard for a phone. All of it for this PC alone: the link's id is the session's secret.

mod pill;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::Serialize;

pub(crate) use self::pill::count;
use self::pill::{Disk, was_forgotten};
pub use self::pill::{Mood, Pill};
use crate::config::{STATUS_LOOKS, STATUS_TROUBLES};
use crate::contract::{FormPolicy, document};
use crate::drain::Drain;
use crate::entry::CapturedAt;
use crate::loopback_guard::{Access, guard};
use crate::session::{FORGOTTEN, Latencies, Latency, Others, SessionStatus, Watched};
use crate::tools::{self, Tools};

/// What the page remembers: looks at the queue, taken at regular intervals, and what went wrong.
#[derive(Clone, Debug, Default)]
pub struct Board {
    memory: Arc<Mutex<Memory>>,
    latencies: Latencies,
}

#[derive(Debug, Default)]
struct Memory {
    drain: Drain,
    /// The last ones, oldest first.
    looks: VecDeque<Look>,
    /// The last ones, oldest first.
    troubles: VecDeque<Trouble>,
}

/// The queue at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Look {
    /// Milliseconds since 1970.
    at: CapturedAt,
    entries: u64,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Trouble {
    /// The last time, in milliseconds since 1970.
    at: CapturedAt,
    /// In words for a driver.
    plainly: &'static str,
    /// For whoever is asked about it.
    detail: String,
}

impl Board {
    /// A board with nothing on it.
    pub fn new(latencies: Latencies) -> Self {
        Self { latencies, ..Self::default() }
    }

    /// So many entries are queued at this moment.
    pub fn look(&self, at: CapturedAt, entries: u64) {
        let mut memory = self.memory();
        if memory.looks.len() >= STATUS_LOOKS {
            memory.looks.pop_front();
        }
        memory.looks.push_back(Look { at, entries });
    }

    /// How all of it stands.
    pub fn pill(&self, queue: &tools::Status, session: &SessionStatus) -> Pill {
        Pill::new(Disk::new(queue), queue.queued, session, self.memory().drain)
    }

    /// The queue drains like this from now on.
    pub fn drains(&self, drain: Drain) {
        self.memory().drain = drain;
    }

    /// This went wrong. The same again is no line of its own.
    pub fn trouble(&self, at: CapturedAt, plainly: &'static str, detail: String) {
        let mut memory = self.memory();
        let troubles = &mut memory.troubles;
        if let Some(known) = troubles.iter().position(|trouble| trouble.plainly == plainly) {
            troubles.remove(known);
        } else if troubles.len() >= STATUS_TROUBLES {
            troubles.pop_front();
        }
        troubles.push_back(Trouble { at, plainly, detail });
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the agent stands, for one look at it.
#[derive(Clone, Debug)]
pub struct Glance {
    pub pill: Pill,
    /// Entries that wait.
    pub queued: u64,
    /// Entries that were ever accepted, and delivered.
    pub appended: u64,
    pub delivered: u64,
    /// Bytes of the recording that is read, up to the end of the last line that was taken.
    pub recording_bytes: u64,
}

/// What the page is made from.
#[derive(Debug)]
struct View {
    tools: Tools,
    session: Watched,
    others: Others,
    board: Board,
}

/// The page's routes.
pub(crate) fn router(tools: Tools, session: Watched, others: Others, board: Board) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .route("/qr.svg", get(qr))
        .layer(middleware::from_fn_with_state(Access::ThisPc, guard))
        .with_state(Arc::new(View { tools, session, others, board }))
}

async fn page() -> Response {
    document(FormPolicy::Nowhere, &[include_str!("status/page.html")])
}

/// Everything on the page.
#[derive(Debug, Serialize)]
struct Status {
    pill: Pill,
    /// The dashboard.
    page: Option<String>,
    connected: bool,
    verified: bool,
    proof: Option<&'static str>,
    /// Seconds until the next attempt to connect.
    retry_in: Option<f64>,
    /// What is wrong now, in words for a driver.
    wrong: Vec<String>,
    /// What went wrong lately, oldest first.
    troubles: Vec<Trouble>,
    /// From capture to proof.
    latency: Option<Latency>,
    queue: tools::Status,
    looks: Vec<Look>,
    others: Vec<Other>,
}

/// A destination besides `[server]`.
#[derive(Debug, Serialize)]
struct Other {
    name: String,
    pill: Pill,
    /// What is wrong with it now, in words for a driver.
    wrong: Option<&'static str>,
    page: Option<String>,
}

impl Other {
    fn new(name: &str, session: &SessionStatus, queue: &tools::Status) -> Self {
        let standing = queue.others.iter().find(|standing| standing.name == name);
        let queued = standing.map_or(0, |standing| standing.queued);
        Self {
            name: name.to_owned(),
            pill: Pill::new(Disk::new(queue), queued, session, Drain::Level),
            wrong: session.last_error_plainly.filter(|_| !session.connected),
            page: session.page.clone(),
        }
    }
}

async fn status(State(view): State<Arc<View>>) -> Response {
    let queue = view.tools.status();
    let session = view.session.borrow().clone();
    let (looks, troubles) = {
        let Memory { looks, troubles, .. } = &*view.board.memory();
        (looks.iter().copied().collect(), troubles.iter().cloned().collect())
    };
    let other = |(name, session): &(String, Watched)| Other::new(name, &session.borrow(), &queue);
    let others = view.others.iter().map(other).collect();
    let status = Status {
        pill: view.board.pill(&queue, &session),
        wrong: wrong(&queue, &session),
        page: session.page,
        connected: session.connected,
        verified: session.verified,
        proof: session.proof.map(|proof| proof.as_str()),
        retry_in: session.retry_in.map(|wait| wait.as_secs_f64()),
        troubles,
        latency: view.board.latencies.lately(),
        queue,
        looks,
        others,
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(status)).into_response()
}

async fn qr(State(view): State<Arc<View>>) -> Response {
    let page = view.session.borrow().page.clone();
    let code = page.and_then(|page| QrCode::new(page).ok());
    let Some(code) = code else {
        return (StatusCode::NOT_FOUND, "there is no dashboard page yet\n").into_response();
    };
    let image = code.render::<svg::Color<'_>>().min_dimensions(200, 200).build();
    let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "no-store")];
    (headers, image).into_response()
}

/// What is wrong now, in words for a driver.
fn wrong(queue: &tools::Status, session: &SessionStatus) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(queue.storage_error.as_ref().map(|_| disk_plainly(queue.disk_is_full).into()));
    if !session.connected {
        wrong.extend(session.last_error_plainly.map(String::from));
    } else if was_forgotten(session) {
        wrong.push(FORGOTTEN.into());
    }
    if queue.imbalance != 0 {
        wrong.push(format!("The ledger is out by {}: a fault of pitwire.", queue.imbalance));
    }
    wrong
}

/// What it means that the queue's disk fails, in words for a driver.
pub(crate) fn disk_plainly(is_full: bool) -> &'static str {
    if is_full {
        "The disk is full. Make room on it; until then what comes waits in memory."
    } else {
        "The disk does not work as it should. Look at it; until then what comes waits in memory."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_again_is_no_line_of_its_own() {
        let board = Board::default();
        let words = ["a", "b", "c", "d", "e", "f"];
        for (at, plainly) in (0..).zip(words.iter().chain(&["c", "e"])) {
            board.trouble(CapturedAt(at), plainly, String::new());
        }
        let kept: Vec<_> =
            board.memory().troubles.iter().map(|kept| (kept.plainly, kept.at.0)).collect();
        assert_eq!(kept, [("b", 1), ("d", 3), ("f", 5), ("c", 6), ("e", 7)]);
    }

    #[test]
    fn the_oldest_look_makes_room() {
        let board = Board::default();
        (0..STATUS_LOOKS as i64 + 5).for_each(|at| board.look(CapturedAt(at), 1));
        let memory = board.memory();
        assert_eq!((memory.looks.len(), memory.looks[0].at), (STATUS_LOOKS, CapturedAt(5)));
    }
}

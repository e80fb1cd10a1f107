//! The status page, at `/` of the admin address: what a driver wants to know at a glance.
//!
//! `/status` gives it as JSON, which the page asks for every second; `/qr.svg` is the link to the
//! dashboard for a phone. All of it for this PC alone: the link's id is the session's secret.

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
use tokio::sync::watch;

use crate::config::STATUS_LOOKS;
use crate::contract::document;
use crate::drain::{Drain, ON_ITS_WAY};
use crate::entry::CapturedAt;
use crate::local::only_this_pc;
use crate::session::SessionStatus;
use crate::tools::{self, Tools};

/// What the page remembers: looks at the queue, taken at regular intervals.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    drain: Drain,
    /// The last ones, oldest first.
    looks: VecDeque<Look>,
}

/// The queue at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Look {
    /// Milliseconds since 1970.
    at: CapturedAt,
    entries: u64,
}

impl Board {
    /// So many entries are queued at this moment.
    pub fn look(&self, at: CapturedAt, entries: u64) {
        let mut memory = self.memory();
        if memory.looks.len() >= STATUS_LOOKS {
            memory.looks.pop_front();
        }
        memory.looks.push_back(Look { at, entries });
    }

    /// The queue drains like this from now on.
    pub fn drains(&self, drain: Drain) {
        self.memory().drain = drain;
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the page is made from.
#[derive(Debug)]
struct View {
    tools: Tools,
    session: watch::Receiver<SessionStatus>,
    board: Board,
}

/// The page's routes.
pub(crate) fn router(
    tools: Tools,
    session: watch::Receiver<SessionStatus>,
    board: Board,
) -> Router {
    Router::new()
        .route("/", get(async || document(include_str!("status/page.html"))))
        .route("/status", get(status))
        .route("/qr.svg", get(qr))
        .layer(middleware::from_fn(only_this_pc))
        .with_state(Arc::new(View { tools, session, board }))
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
    /// Why there is no connection, or was none the last time.
    last_error: Option<String>,
    queue: tools::Status,
    looks: Vec<Look>,
}

async fn status(State(view): State<Arc<View>>) -> Response {
    let queue = view.tools.status();
    let session = view.session.borrow().clone();
    let (drain, looks) = {
        let memory = view.board.memory();
        (memory.drain, memory.looks.iter().copied().collect())
    };
    let in_memory = queue.storage_error.as_ref().map(|_| queue.buffered);
    let status = Status {
        pill: Pill::new(queue.entries, in_memory, &session, drain),
        page: session.page,
        connected: session.connected,
        verified: session.verified,
        proof: session.proof.map(|proof| proof.as_str()),
        retry_in: session.retry_in.map(|wait| wait.as_secs_f64()),
        last_error: session.last_error,
        queue,
        looks,
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

/// The whole in a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Pill {
    mood: Mood,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mood {
    /// Nothing to do.
    Good,
    /// Nothing is lost; somebody may want to look.
    Waiting,
    /// Somebody has to do something.
    Bad,
}

impl Pill {
    /// For so many entries in the queue and, while its disk fails, so many in memory.
    fn new(queued: u64, in_memory: Option<u64>, session: &SessionStatus, drain: Drain) -> Self {
        let saved = count(queued);
        let (mood, text) = match (in_memory, drain) {
            (Some(entries), _) => (Mood::Bad, format!("Disk fails, {} in memory", count(entries))),
            _ if !session.connected => (Mood::Waiting, format!("Offline, {saved} saved")),
            _ if session.session.is_none() => {
                (Mood::Waiting, format!("No session yet, {saved} saved"))
            }
            _ if queued <= ON_ITS_WAY => (Mood::Good, "Live".into()),
            (None, Drain::CatchingUp { ready_in }) => {
                (Mood::Waiting, format!("Catching up, {} s", count(ready_in.as_secs().max(1))))
            }
            (None, Drain::FallingBehind) => (Mood::Bad, format!("Falling behind, {saved} saved")),
            (None, Drain::Level) => (Mood::Waiting, format!("Catching up, {saved} left")),
        };
        Self { mood, text }
    }
}

/// With a comma between thousands.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups = groups.map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_pill_says_what_matters_most() {
        let offline = SessionStatus::default();
        let connected = SessionStatus { connected: true, ..offline.clone() };
        let bound = SessionStatus { session: Some("a".into()), ..connected.clone() };
        let catching_up = Drain::CatchingUp { ready_in: Duration::from_millis(14_700) };
        for (queued, in_memory, session, drain, mood, text) in [
            (0, None, &bound, Drain::Level, Mood::Good, "Live"),
            (7, None, &bound, Drain::FallingBehind, Mood::Good, "Live"),
            (1_204, None, &offline, Drain::Level, Mood::Waiting, "Offline, 1,204 saved"),
            (3, None, &connected, Drain::Level, Mood::Waiting, "No session yet, 3 saved"),
            (900, None, &bound, catching_up, Mood::Waiting, "Catching up, 14 s"),
            (900, None, &bound, Drain::Level, Mood::Waiting, "Catching up, 900 left"),
            (
                1_000_000,
                None,
                &bound,
                Drain::FallingBehind,
                Mood::Bad,
                "Falling behind, 1,000,000 saved",
            ),
            (5, Some(12), &bound, Drain::Level, Mood::Bad, "Disk fails, 12 in memory"),
        ] {
            let pill = Pill::new(queued, in_memory, session, drain);
            assert_eq!(pill, Pill { mood, text: text.into() });
        }
    }

    #[test]
    fn the_oldest_look_makes_room() {
        let board = Board::default();
        (0..STATUS_LOOKS as i64 + 5).for_each(|at| board.look(CapturedAt(at), 1));
        let memory = board.memory();
        assert_eq!((memory.looks.len(), memory.looks[0].at), (STATUS_LOOKS, CapturedAt(5)));
    }
}

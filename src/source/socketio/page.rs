//! `/dashboard/<id>`: from the id that a publisher was given to the page of its stint.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Publishers;
use super::streams::Place;
use crate::config::PAGE_REFRESH;
use crate::contract::{FormPolicy, document};

/// The paths beside `/socket.io/`.
pub(super) fn routes(publishers: &Arc<Publishers>) -> Router {
    Router::new()
        .route("/dashboard/{session_id}", get(page))
        .fallback(nothing)
        .with_state(publishers.clone())
}

async fn page(State(publishers): State<Arc<Publishers>>, Path(id): Path<String>) -> Response {
    let queued = publishers.intake.entries();
    match publishers.memory().streams.place(&id) {
        None => (StatusCode::NOT_FOUND, note("No such session", UNKNOWN)).into_response(),
        Some(Place::Empty) => note("Nothing is stored yet", EMPTY),
        Some(Place::Stored) => note("No page yet", &stored(queued)),
        Some(Place::Page(url)) => go_to(url),
    }
}

const UNKNOWN: &str = "This agent has given no such id to a publisher, or forgot it long ago.";

const EMPTY: &str = "Nothing that a publisher sent under this id is stored so far. Should another \
                     publisher be connected to this agent, then this one is let in when that one \
                     leaves.";

fn stored(queued: u64) -> String {
    format!(
        "No page is known for this session so far: a dashboard server gives it one, NATS has none. \
         What the publisher sends is stored on this PC, and goes there as soon as the server can be reached. Entries that \
         wait: {queued}."
    )
}

/// Another session may be bound tomorrow: nobody is to remember where this led.
fn go_to(url: &str) -> Response {
    let Ok(location) = HeaderValue::try_from(url) else {
        return note("No page yet", "The dashboard server's address cannot be linked to.");
    };
    let headers = [
        (header::LOCATION, location),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::FOUND, headers).into_response()
}

async fn nothing() -> Response {
    let text = "Publishers connect here: this address is their server_url.";
    (StatusCode::NOT_FOUND, note("Nothing to see", text)).into_response()
}

/// A page that looks again by itself. Nothing that a client sent is in it.
fn note(title: &str, text: &str) -> Response {
    let again = PAGE_REFRESH.as_secs();
    let page = format!(
        "<title>pitwire: {title}</title><meta http-equiv=\"refresh\" content=\"{again}\">\
         <h1>{title}</h1><p>{text}<p>This page looks again every {again} s."
    );
    document(FormPolicy::Nowhere, &[&page])
}

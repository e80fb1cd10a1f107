//! `/dashboard/<id>`: redirects from a publisher's session id to the page of its stint.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Publishers;
use super::streams::PageTarget;
use crate::net::page::message;

/// Every route except `/socket.io/`.
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
        Some(PageTarget::Empty) => note("Nothing is stored yet", EMPTY),
        Some(PageTarget::Stored) => note("No page yet", &stored(queued)),
        Some(PageTarget::Page(url)) => go_to(url),
    }
}

const UNKNOWN: &str = "This agent did not assign this id to a publisher, or has discarded it.";

const EMPTY: &str = "Nothing that a publisher sent under this id has been stored yet. If too many \
                     publishers already send to this agent, this one is accepted some time after \
                     one of them has stopped.";

fn stored(queued: u64) -> String {
    format!(
        "This session has no page yet. A dashboard server assigns one; NATS does not. Entries from \
         the publisher are stored on this PC and sent as soon as the server is reachable. Queued \
         entries: {queued}."
    )
}

/// Forbids caching, because the id may lead to another page later.
fn go_to(url: &str) -> Response {
    let Ok(location) = HeaderValue::try_from(url) else {
        return note("No page yet", "The dashboard server's address is not a valid link.");
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

/// A page that leads to the page of the car as soon as there is one. It contains no text from a
/// client.
fn note(title: &str, text: &str) -> Response {
    message(title, &[text, include_str!("wait.html")].concat())
}

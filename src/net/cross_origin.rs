//! Lets the browser show answers to pages of other origins (CORS).
//!
//! It decides nothing: [`super::loopback_guard`] has already refused the pages that may not use a
//! listener, so every origin that arrives here is one of this PC, or the listener's own.

use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// How long a browser remembers the answer to a preflight, in seconds.
const MAX_AGE_SECONDS: &str = "600";

/// Whether a request is the question of a browser whether a page may send another request. It has
/// neither a body nor a token.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Middleware for routes that take POST requests: answers preflights, and adds to each answer the
/// origin that may read it.
pub(crate) async fn allow_posts(request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let is_preflight = is_preflight(request.method(), request.headers());
    let mut response = if is_preflight {
        let allowed = [
            (ACCESS_CONTROL_ALLOW_METHODS, "POST"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-encoding, content-type"),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS),
        ];
        (StatusCode::NO_CONTENT, allowed).into_response()
    } else {
        next.run(request).await
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    response
}

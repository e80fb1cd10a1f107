//! What every HTML page of this program is sent with.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

/// An HTML document that may load nothing and may talk to nobody but this server.
pub(crate) fn document(html: impl Into<String>) -> Response {
    let headers = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
             img-src data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
        // The id in the address is the session's secret.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Html(html.into())).into_response()
}

//! What every HTML page of this program begins and is sent with.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

/// The beginning of every page: what a browser must know, and the look that they share.
const HEAD: &str = include_str!("head.html");

/// An HTML document out of its parts, the first of which begins with its title. It may load nothing
/// and may talk to nobody but this server.
pub(crate) fn document(parts: &[&str]) -> Response {
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
    (headers, Html([HEAD, &parts.concat(), "\n</html>\n"].concat())).into_response()
}

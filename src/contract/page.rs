//! What every HTML page of this program begins and is sent with.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

/// The beginning of every page: what a browser must know, and the look that they share.
const HEAD: &str = include_str!("head.html");

/// Where the forms of a page may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormPolicy {
    Nowhere,
    ThisServer,
}

/// An HTML document out of its parts, the first of which begins with its title. It may load
/// nothing, may talk to no server but this one, and may not be framed.
pub(crate) fn document(forms: FormPolicy, parts: &[&str]) -> Response {
    let form_action = match forms {
        FormPolicy::Nowhere => "'none'",
        FormPolicy::ThisServer => "'self'",
    };
    let policy = format!(
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
         img-src data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; \
         form-action {form_action}"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        // The id in the address is the session's secret.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Html([HEAD, &parts.concat(), "\n</html>\n"].concat())).into_response()
}

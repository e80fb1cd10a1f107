//! The common head and HTTP headers of all HTML pages.

use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};

/// The beginning of every page: metadata and the common style.
const HEAD: &str = include_str!("head.html");

/// Where the forms of a page may be submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormPolicy {
    Nowhere,
    ThisServer,
}

/// Builds an HTML document from parts, the first of which begins with the title. The document may
/// not load resources, connect to other servers or be framed.
pub(crate) fn document(forms: FormPolicy, parts: &[&str]) -> Response {
    let form_action = match forms {
        FormPolicy::Nowhere => "'none'",
        FormPolicy::ThisServer => "'self'",
    };
    let policy = format!(
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
         img-src data:; manifest-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; \
         form-action {form_action}"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        // The session id in the address is a secret.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Html([HEAD, &parts.concat(), "\n</html>\n"].concat())).into_response()
}

/// Builds a page with a title and a text, for an error or a wait. Neither is escaped: they must not
/// contain text from a client.
pub(crate) fn message(title: &str, text: &str) -> Response {
    let title = ["<title>pitwire: ", title, "</title><main><h1>", title, "</h1><p>"].concat();
    document(FormPolicy::Nowhere, &[&title, text, "</main>"])
}

/// Whether the client is a browser that shows the response, rather than a program or a script.
pub(crate) fn is_shown(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|types| types.to_str().ok());
    accepted.is_some_and(|types| types.contains("text/html"))
}

//! Who may talk to the agent: programs, and web pages of this PC. A browser on it reaches loopback
//! too, whatever page it shows.

use std::net::{IpAddr, SocketAddr};

use axum::Json;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Answers programs and pages of this PC, wherever the address listens.
pub(crate) async fn only_this_pc(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match refusal(peer.ip(), request.headers()) {
        Some(why) => (StatusCode::FORBIDDEN, Json(json!({"error": why}))).into_response(),
        None => next.run(request).await,
    }
}

/// Why whoever asks gets no answer.
fn refusal(peer: IpAddr, headers: &HeaderMap) -> Option<&'static str> {
    if !peer.to_canonical().is_loopback() || !has_local_host(headers) {
        Some("this is for this PC alone; ask at 127.0.0.1")
    } else if !has_local_origin(headers) {
        Some("pages of other origins may not use this")
    } else {
        None
    }
}

/// Whether a request comes from a page of this PC, or from no page. Programs say where they come
/// from only if they want to.
pub(crate) fn has_local_origin(headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("?"));
    origin.is_none_or(|origin| is_local(origin.split_once("://").map_or(origin, |(_, host)| host)))
}

/// Whether a request calls this PC by a name of its own: a page of another origin can give its own
/// name the address of this PC, and then says nothing of its origin.
pub(crate) fn has_local_host(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    host.is_some_and(is_local)
}

/// Whether a host, with or without its port, is this PC.
fn is_local(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|local| {
        host.strip_prefix(local).is_some_and(|port| port.is_empty() || port.starts_with(':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn only_pages_of_this_pc_are_local() {
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:80"] {
            assert!(has_local_origin(&headers(header::ORIGIN, origin)), "{origin}");
        }
        for origin in ["null", "https://localhost.evil.example", "http://10.0.0.1", "?"] {
            assert!(!has_local_origin(&headers(header::ORIGIN, origin)), "{origin}");
        }
        assert!(has_local_origin(&HeaderMap::new()));
    }

    #[test]
    fn only_this_pcs_own_names_are_local() {
        for host in ["localhost", "127.0.0.1:9184", "[::1]:9184"] {
            assert!(has_local_host(&headers(header::HOST, host)), "{host}");
        }
        for host in ["evil.example:9184", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(!has_local_host(&headers(header::HOST, host)), "{host}");
        }
        assert!(!has_local_host(&HeaderMap::new()));
    }

    #[test]
    fn only_this_pc_may_ask() {
        let host = |host: &str| HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
        for (peer, headers, may) in [
            ("127.0.0.1", host("127.0.0.1:9184"), true),
            ("::ffff:127.0.0.1", host("localhost:9184"), true),
            ("::1", host("[::1]:9184"), true),
            // Another machine says what it likes.
            ("192.168.1.7", host("127.0.0.1:9184"), false),
            ("::ffff:192.168.1.7", host("127.0.0.1:9184"), false),
            ("127.0.0.1", host("evil.example:9184"), false),
            ("127.0.0.1", HeaderMap::new(), false),
        ] {
            let refused = refusal(peer.parse().unwrap(), &headers);
            assert_eq!(refused.is_none(), may, "{peer} {headers:?}");
        }
    }
}

//! Classifies the answers of a server's address.
//!
//! This file is pure; `probe` makes the observations.
//!
//! | observation | verdict |
//! | --- | --- |
//! | no name, no TCP connection | `UnknownName`, `NotListening`, `NoAnswer`, `Unreachable` |
//! | TLS fails | `Untrusted`, `TlsFailed`; `PlainPort` if the port answers plain HTTP |
//! | no HTTP | `NotHttp`; `TlsPort` if the port completes a TLS handshake |
//! | no response | `Silent` |
//! | 301, 302, 303, 307, 308 | followed if `follow` allows it, else `Redirected` |
//! | 401, 403 | `AccessDenied` |
//! | 407 | `ProxyAuth` |
//! | 502, 503 | `Unavailable` |
//! | 504 | `GatewayTimeout` |
//! | the handshake of Engine.IO 4, or its error for a server without polling | `SpeaksSocketIo` |
//! | the handshake of Engine.IO 3, or an error that demands it | `OldSocketIo` |
//! | anything else | `NotSocketIo` |

use std::io;
use std::time::Duration;

use url::{Position, Url};

use super::SinkError;
use super::diagnosis::{Cause, Diagnosis, NotFollowed};
use crate::net::http_client::StatusCode;
use crate::remote_text::{RemoteText, Secrets};

const HANDSHAKE: &[u8] = b"0{\"sid\"";
/// Maximum number of bytes before the handshake of Engine.IO 3: the length of the packet.
const MAX_OLD_PREFIX: usize = 16;

/// What one request to a server's address found.
#[derive(Debug)]
pub(crate) enum Observation {
    NoName(String),
    NoConnection(io::ErrorKind, String),
    /// No TCP connection within this time.
    ConnectTimeout(Duration),
    /// The TLS handshake failed at the certificate.
    Untrusted(String),
    NoTls(String),
    /// The TLS handshake failed, and the port answers plain HTTP.
    OnlyPlain,
    NoHttp(String),
    /// No response within this time, not even another protocol's.
    Silence(Duration),
    /// A plain HTTP request failed, and the port completes a TLS handshake.
    OnlyTls,
    Response {
        status: StatusCode,
        location: Option<String>,
        body: Vec<u8>,
    },
}

/// The meaning of an [`Observation`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    SpeaksSocketIo,
    /// Redirects to this base address, which may be followed.
    Follow(Url),
    Fault(Cause),
}

/// Classifies an observation of `base`, a server's address without `/socket.io/`.
pub(crate) fn classify(base: &Url, seen: &Observation, secrets: &Secrets) -> Verdict {
    let text = |text: &str| RemoteText::new(text, secrets);
    Verdict::Fault(match seen {
        Observation::NoName(error) => Cause::UnknownName(text(error)),
        Observation::NoConnection(io::ErrorKind::ConnectionRefused, _) => Cause::NotListening,
        Observation::NoConnection(_, error) => Cause::Unreachable(text(error)),
        Observation::ConnectTimeout(limit) => Cause::NoAnswer(*limit),
        Observation::Untrusted(error) => Cause::Untrusted(text(error)),
        Observation::NoTls(error) => Cause::TlsFailed(text(error)),
        Observation::OnlyPlain => Cause::PlainPort,
        Observation::NoHttp(error) => Cause::NotHttp(text(error)),
        Observation::Silence(limit) => Cause::Silent(*limit),
        Observation::OnlyTls => Cause::TlsPort,
        Observation::Response { status, location, body } => match status.as_u16() {
            301 | 302 | 303 | 307 | 308 => match follow(base, location.as_deref()) {
                Ok(next) => return Verdict::Follow(next),
                Err(why) => {
                    let target = location.as_deref().map_or_else(String::new, shown);
                    Cause::Redirected { status: *status, target: text(&target), why }
                }
            },
            401 | 403 => Cause::AccessDenied(text(&status.to_string())),
            407 => Cause::ProxyAuth,
            502 | 503 => Cause::Unavailable(*status),
            504 => Cause::GatewayTimeout,
            200 if body.starts_with(HANDSHAKE) => return Verdict::SpeaksSocketIo,
            400 if refuses_polling(body) => return Verdict::SpeaksSocketIo,
            200 if is_old_handshake(body) => Cause::OldSocketIo,
            400 if demands_another_version(body) => Cause::OldSocketIo,
            _ => Cause::NotSocketIo(*status),
        },
    })
}

/// The base address to continue with after a redirect: on the same host only, because the request
/// carries credentials. Scheme and port stay, except from http to https.
fn follow(base: &Url, location: Option<&str>) -> Result<Url, NotFollowed> {
    let location = location.filter(|text| !text.is_empty()).ok_or(NotFollowed::NoTarget)?;
    let mut target = handshake_url(base).join(location).map_err(|_| NotFollowed::NoTarget)?;
    if target.host() != base.host() {
        return Err(NotFollowed::OtherHost);
    }
    match (base.scheme(), target.scheme()) {
        ("http", "https") => {}
        ("https", "http") => return Err(NotFollowed::Downgrade),
        (from, to) if from != to => return Err(NotFollowed::NoTarget),
        _ if base.port_or_known_default() != target.port_or_known_default() => {
            return Err(NotFollowed::OtherPort);
        }
        _ => {}
    }
    let path = target.path().trim_end_matches('/');
    let path = path.strip_suffix("/socket.io").ok_or(NotFollowed::OtherPath)?.to_owned();
    target.set_path(&path);
    target.set_query(None);
    target.set_fragment(None);
    // Fails only for addresses without a host.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    Ok(target)
}

/// The URL of the first request of a Socket.IO client.
pub(crate) fn handshake_url(base: &Url) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/socket.io/", base.path().trim_end_matches('/')));
    url.set_query(Some("EIO=4&transport=polling"));
    url
}

/// A redirect's target without credentials, query and fragment.
fn shown(location: &str) -> String {
    let Ok(mut url) = Url::parse(location) else {
        return location.split(['?', '#']).next().unwrap_or_default().to_owned();
    };
    // Fails only for addresses without a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url[..Position::AfterPath].to_owned()
}

/// Whether this is the response of Engine.IO 3, the protocol of Socket.IO 1 and 2: its packets are
/// preceded by their length, as text (`97:`) or as binary digits (`\0\x09\x07\xff`).
fn is_old_handshake(body: &[u8]) -> bool {
    let start = &body[..body.len().min(MAX_OLD_PREFIX + HANDSHAKE.len())];
    let found = start.windows(HANDSHAKE.len()).position(|window| window == HANDSHAKE);
    match found.map(|at| &start[..at]) {
        Some([digits @ .., b':']) => digits.iter().all(u8::is_ascii_digit),
        Some([0, digits @ .., 0xff]) => digits.iter().all(|digit| *digit <= 9),
        _ => false,
    }
}

/// Whether the server rejects version 4 of Engine.IO: python-engineio 3, or another server with
/// the error code of Engine.IO.
fn demands_another_version(body: &[u8]) -> bool {
    let text = beginning(body);
    text.contains("unsupported version of the socket.io")
        || text.contains("unsupported protocol version")
}

/// Whether this is the error of a Socket.IO server that offers only WebSocket.
fn refuses_polling(body: &[u8]) -> bool {
    let text = beginning(body);
    text.contains("transport unknown") || text.contains("invalid transport")
}

/// The beginning of an error's text, in lower case.
fn beginning(body: &[u8]) -> String {
    const MAX_BYTES: usize = 512;
    String::from_utf8_lossy(&body[..body.len().min(MAX_BYTES)]).to_lowercase()
}

/// The error of a failed connection, given the verdict about its server.
pub(crate) fn explain(
    base: &Url,
    failed: SinkError,
    verdict: Verdict,
    secrets: &Secrets,
) -> SinkError {
    let cause = match (verdict, failed) {
        // The status of the response is a better reason than the client library's text.
        (Verdict::Fault(cause @ Cause::AccessDenied(_)), SinkError::Auth(_)) => cause,
        // Conclusive, whatever other requests receive.
        (_, SinkError::Auth(text)) => Cause::AccessDenied(text),
        (Verdict::SpeaksSocketIo, SinkError::Protocol(text)) => Cause::NoConnection(text),
        (Verdict::SpeaksSocketIo, failed) => return failed,
        (Verdict::Fault(cause), _) => cause,
        (Verdict::Follow(_), _) => Cause::TooManyRedirects,
    };
    SinkError::Diagnosed(Box::new(Diagnosis::new(base, cause, secrets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn diagnosis(url: &str, cause: Cause) -> Diagnosis {
        Diagnosis::new(&base(url), cause, &Secrets::default())
    }

    fn response(status: u16, location: Option<&str>, body: &[u8]) -> Observation {
        Observation::Response {
            status: StatusCode::from_u16(status).unwrap(),
            location: location.map(str::to_owned),
            body: body.to_vec(),
        }
    }

    fn cause(seen: &Observation) -> Cause {
        match classify(&base("http://pit:5000"), seen, &Secrets::default()) {
            Verdict::Fault(cause) => cause,
            other => panic!("{seen:?}: {other:?}"),
        }
    }

    #[test]
    fn each_status_is_classified_for_what_it_is() {
        for (code, expected, is_slow) in [
            (401, Cause::AccessDenied("401 Unauthorized".into()), true),
            (403, Cause::AccessDenied("403 Forbidden".into()), true),
            (407, Cause::ProxyAuth, true),
            (502, Cause::Unavailable(StatusCode::BAD_GATEWAY), false),
            (503, Cause::Unavailable(StatusCode::SERVICE_UNAVAILABLE), false),
            (504, Cause::GatewayTimeout, false),
            (404, Cause::NotSocketIo(StatusCode::NOT_FOUND), false),
            (500, Cause::NotSocketIo(StatusCode::INTERNAL_SERVER_ERROR), false),
            (200, Cause::NotSocketIo(StatusCode::OK), false),
        ] {
            let seen = response(code, None, b"text");
            assert_eq!(cause(&seen), expected, "{code}");
            let diagnosis = diagnosis("http://pit:5000", expected);
            assert_eq!(diagnosis.needs_an_operator(), is_slow, "{code}");
            assert!(diagnosis.problem().contains(&code.to_string()), "{diagnosis}");
        }
    }

    #[test]
    fn a_server_is_recognized_by_its_handshake() {
        for (status, body) in [
            (200, &br#"0{"sid":"a","upgrades":[]}"#[..]),
            (400, br#"{"code":0,"message":"Transport unknown"}"#),
            (400, br#""Invalid transport""#),
        ] {
            let seen = response(status, None, body);
            let verdict = classify(&base("http://pit"), &seen, &Secrets::default());
            assert_eq!(verdict, Verdict::SpeaksSocketIo);
        }
        let rejects = br#""The client is using an unsupported version of the Socket.IO or Eng""#;
        for (status, body) in [
            (200, &br#"97:0{"sid":"a","upgrades":["websocket"]}2:40"#[..]),
            (200, b"\x00\x01\x00\x09\xff0{\"sid\":\"a\"}\x00\x02\xff40"),
            (400, rejects),
            (400, br#"{"code":5,"message":"Unsupported protocol version"}"#),
        ] {
            assert_eq!(cause(&response(status, None, body)), Cause::OldSocketIo, "{body:?}");
        }
        for body in [&br#"[0{"sid":"a"}"#[..], b":x0{\"sid\"", b"\x00a\xff0{\"sid\"", b"", b"0"] {
            assert!(matches!(cause(&response(200, None, body)), Cause::NotSocketIo(_)), "{body:?}");
        }
    }

    #[test]
    fn a_redirect_is_followed_on_the_same_host_only() {
        let query = "socket.io/?EIO=4&transport=polling";
        for (from, location, expected) in [
            ("http://pit", format!("https://pit/{query}"), Ok("https://pit/")),
            ("http://pit:5000", format!("https://PIT:5001/a/{query}"), Ok("https://pit:5001/a")),
            ("http://pit:5000", format!("/team/{query}"), Ok("http://pit:5000/team")),
            ("http://pit/a", "../../b/socket.io".into(), Ok("http://pit/b")),
            ("https://pit", format!("https://x:y@pit/a/{query}#z"), Ok("https://pit/a")),
            ("http://pit", format!("//evil/{query}"), Err(NotFollowed::OtherHost)),
            ("http://pit", format!("https://evil/{query}"), Err(NotFollowed::OtherHost)),
            ("http://pit", format!("https://pit@evil/{query}"), Err(NotFollowed::OtherHost)),
            ("http://pit", format!("http://pit:81/{query}"), Err(NotFollowed::OtherPort)),
            ("https://pit", format!("https://pit:81/{query}"), Err(NotFollowed::OtherPort)),
            ("https://pit", format!("http://pit/{query}"), Err(NotFollowed::Downgrade)),
            ("http://pit", "/login?next=/socket.io/".into(), Err(NotFollowed::OtherPath)),
            ("http://pit", "ftp://pit/socket.io/".into(), Err(NotFollowed::NoTarget)),
            ("http://pit", "http://[".into(), Err(NotFollowed::NoTarget)),
            ("http://pit", String::new(), Err(NotFollowed::NoTarget)),
        ] {
            let next = follow(&base(from), Some(&location));
            let next = next.as_ref().map(Url::as_str).map_err(|why| *why);
            assert_eq!(next, expected, "{from} to {location}");
        }
        assert_eq!(follow(&base("http://pit"), None), Err(NotFollowed::NoTarget));
    }

    #[test]
    fn a_redirect_is_named_with_its_target_and_without_secrets() {
        let secrets = Secrets::new(["hunter2".into()]);
        let seen = response(302, Some("https://u:p@evil/hunter2/login?token=hunter2"), b"");
        let Verdict::Fault(cause) = classify(&base("http://pit:5000"), &seen, &secrets) else {
            panic!("followed");
        };
        assert_eq!(
            diagnosis("http://pit:5000", cause).problem(),
            "http://pit:5000 redirects (302) to https://evil/[secret]/login, another host, which \
             must not receive the token"
        );
    }

    #[test]
    fn a_denied_connection_keeps_the_server_s_reason() {
        let denied = SinkError::Auth("wrong token".into());
        let not_found = Verdict::Fault(Cause::NotSocketIo(StatusCode::NOT_FOUND));
        let status = Verdict::Fault(Cause::AccessDenied("401 Unauthorized".into()));
        for (error, verdict, expected) in [
            (&denied, Verdict::SpeaksSocketIo, "http://pit refuses access: wrong token; "),
            (&denied, not_found, "http://pit refuses access: wrong token; "),
            (&denied, status, "http://pit refuses access: 401 Unauthorized; "),
            (&SinkError::Lost("cut".into()), Verdict::SpeaksSocketIo, "connection lost: cut"),
        ] {
            let error = explain(&base("http://pit"), error.clone(), verdict, &Secrets::default());
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}

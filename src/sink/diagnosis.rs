//! Diagnoses of a server's address and advice for them: one text for the log, the status page and
//! `pitwire doctor`.

use std::fmt;
use std::time::Duration;

use url::Url;

use crate::net::http_client::StatusCode;
use crate::remote_text::{RemoteText, Secrets};

/// Maximum number of redirects that are followed to one server.
pub(crate) const MAX_REDIRECTS: usize = 5;

/// Why a server's address is not usable now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    UnknownName(RemoteText),
    NotListening,
    NoAnswer(Duration),
    Unreachable(RemoteText),
    Untrusted(RemoteText),
    TlsFailed(RemoteText),
    PlainPort,
    TlsPort,
    NotHttp(RemoteText),
    Silent(Duration),
    Redirected {
        status: StatusCode,
        /// Without the query, which may hold credentials.
        target: RemoteText,
        why: NotFollowed,
    },
    TooManyRedirects,
    /// The status of the response, or the server's text.
    AccessDenied(RemoteText),
    ProxyAuth,
    Unavailable(StatusCode),
    GatewayTimeout,
    OldSocketIo,
    NotSocketIo(StatusCode),
    /// It speaks Socket.IO by HTTP, but the connection failed.
    NoConnection(RemoteText),
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFollowed {
    OtherHost,
    OtherPort,
    /// From https to http.
    Downgrade,
    /// The path does not belong to a Socket.IO request, for example a login page.
    OtherPath,
    /// Without a valid `Location`.
    NoTarget,
}

/// Why a server's address is not usable, for the log, the status page and `pitwire doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The address that was asked: the configured one, or the target of a redirect.
    url: RemoteText,
    pub(crate) cause: Cause,
}

impl Diagnosis {
    /// `base` may be the target of a redirect, which may repeat a secret.
    pub(crate) fn new(base: &Url, cause: Cause, secrets: &Secrets) -> Self {
        Self { url: RemoteText::new(base.as_str().trim_end_matches('/'), secrets), cause }
    }

    /// The problem, as one phrase.
    pub(crate) fn problem(&self) -> String {
        let url = &self.url;
        match &self.cause {
            Cause::UnknownName(error) => {
                format!("cannot reach {url}: its name does not resolve: {error}")
            }
            Cause::NotListening => format!("nothing listens at {url}: connection refused"),
            Cause::NoAnswer(limit) => format!("cannot reach {url}: no answer in {limit:?}"),
            Cause::Unreachable(error) => format!("cannot reach {url}: {error}"),
            Cause::Untrusted(error) => {
                format!("TLS failed: the certificate of {url} is not trusted: {error}")
            }
            Cause::TlsFailed(error) => format!("TLS failed: no handshake with {url}: {error}"),
            Cause::PlainPort => format!("TLS failed: {url} answers plain HTTP, without TLS"),
            Cause::TlsPort => format!("{url} is a port for TLS, and answers no plain HTTP"),
            Cause::NotHttp(error) => format!("{url} does not speak HTTP: {error}"),
            Cause::Silent(limit) => {
                format!("{url} accepts connections, but answers no request in {limit:?}")
            }
            Cause::Redirected { status, target, why } => {
                let to = if target.is_empty() { "no address" } else { &**target };
                format!("{url} redirects ({}) to {to}, {why}", status.as_str())
            }
            Cause::TooManyRedirects => {
                format!("{url} is the target of more than {MAX_REDIRECTS} redirects")
            }
            Cause::AccessDenied(text) => format!("{url} refuses access: {text}"),
            Cause::ProxyAuth => {
                format!("the proxy on the way to {url} demands a password: 407")
            }
            Cause::Unavailable(status) => {
                format!("the server at {url} is starting or down: its proxy answers {status}")
            }
            Cause::GatewayTimeout => {
                format!("the server at {url} does not answer its proxy in time: 504")
            }
            Cause::OldSocketIo => {
                format!("{url} speaks a version of Socket.IO that is too old: 1 or 2")
            }
            Cause::NotSocketIo(status) => {
                format!("{url} is not a Socket.IO server: it answers {status}")
            }
            Cause::NoConnection(error) => {
                format!("{url} speaks Socket.IO, but no WebSocket gets through: {error}")
            }
        }
    }

    /// What to do about it, as one phrase.
    pub(crate) fn advice(&self) -> String {
        match &self.cause {
            Cause::UnknownName(_) => {
                "check its spelling in server.url, and that this PC is online".into()
            }
            Cause::NotListening => {
                "check that the dashboard server runs, and that server.url has its port".into()
            }
            Cause::NoAnswer(_) => "check that this PC is online, and that no firewall is between \
                                   it and the server"
                .into(),
            Cause::Unreachable(_) => {
                "check that this PC is online, and that server.url is the server's address".into()
            }
            Cause::Untrusted(_) => "set server.ca_file to the authority that signed it; check \
                                    that it is valid for this name and has not expired, and that \
                                    the clock of this PC is right"
                .into(),
            Cause::PlainPort => format!(
                "write {} in server.url, or the port that has TLS",
                self.url_with("https://", "http://")
            ),
            Cause::TlsPort => {
                format!("write {} in server.url", self.url_with("http://", "https://"))
            }
            Cause::TlsFailed(_) | Cause::NotHttp(_) => {
                "check that server.url has the port of the dashboard server".into()
            }
            Cause::Silent(_) => "check that the dashboard server is not overloaded, and that \
                                 server.url has its port"
                .into(),
            Cause::Redirected { why: NotFollowed::OtherPath | NotFollowed::NoTarget, .. } => {
                "check that server.url is the address of the dashboard, including its path; on a \
                 network with a login page, log in first"
                    .into()
            }
            Cause::Redirected { .. } => "if the target is your dashboard server, write it in \
                                         server.url, without /socket.io/; on a network with a \
                                         login page, log in first"
                .into(),
            Cause::TooManyRedirects => {
                "ask the server's operator to remove the loop, and write the last address in \
                 server.url"
                    .into()
            }
            Cause::AccessDenied(_) => {
                "ask its operator for a token; put it into server.token or server.token_file, \
                 other credentials into server.auth or server.headers"
                    .into()
            }
            Cause::ProxyAuth => "check the user name and the password of the proxy".into(),
            Cause::Unavailable(_) => {
                "start the dashboard server, or wait until it has started".into()
            }
            Cause::GatewayTimeout => "check that the dashboard server is not overloaded".into(),
            Cause::OldSocketIo => "ask its operator to update it to Flask-SocketIO 5, \
                                   python-socketio 5, or socket.io 3 or newer"
                .into(),
            Cause::NotSocketIo(_) => {
                "check that server.url is the address of the dashboard, including its path".into()
            }
            Cause::NoConnection(_) => {
                "let the proxy in front of it pass WebSocket upgrades on to it".into()
            }
        }
    }

    /// The message for a driver.
    pub(crate) fn user_message(&self) -> &'static str {
        match &self.cause {
            Cause::UnknownName(_) => {
                "The server's name is unknown. Check that this PC is online and that the server's \
                 address is spelled correctly."
            }
            Cause::NotListening => {
                "The dashboard server is not running, or the port in its address is wrong."
            }
            Cause::NoAnswer(_) | Cause::Unreachable(_) => {
                "The server cannot be reached. Check that this PC is online and that the server's \
                 address is correct."
            }
            Cause::Untrusted(_) => {
                "The server's identity could not be verified. Ask the server's operator about its \
                 certificate."
            }
            Cause::PlainPort => {
                "The server's address begins with https://, but the server has no encryption. \
                 Write http:// instead, or ask the server's operator for the right port."
            }
            Cause::TlsPort => {
                "The server's address begins with http://, but the server demands encryption. \
                 Write https:// instead."
            }
            Cause::TlsFailed(_) | Cause::NotHttp(_) | Cause::NotSocketIo(_) => {
                "The server's address answers, but not like a dashboard server. The server is \
                 still starting, or the address is wrong."
            }
            Cause::Redirected { .. } | Cause::TooManyRedirects => {
                "The server's address forwards to another address, which receives nothing. Check \
                 the server's address; on a network with a login page, log in first."
            }
            Cause::AccessDenied(_) => {
                "The server does not let this PC in. Ask the server's operator for a valid token."
            }
            Cause::ProxyAuth => {
                "The proxy of this network demands a password. Ask the network's operator for it."
            }
            Cause::Unavailable(_) => {
                "The dashboard server is starting or down. pitwire reconnects automatically."
            }
            Cause::Silent(_) | Cause::GatewayTimeout => {
                "The dashboard server does not answer in time: it is overloaded or down. pitwire \
                 reconnects automatically."
            }
            Cause::OldSocketIo => {
                "The dashboard server is too old for pitwire: it speaks Socket.IO 1 or 2. Ask the \
                 server's operator to update it."
            }
            Cause::NoConnection(_) => {
                "The dashboard server is there, but something on the way blocks the connection. \
                 Ask the server's operator to allow WebSocket."
            }
        }
    }

    /// Whether only an operator can end this state, so that a retry is useful rarely.
    pub(crate) fn needs_an_operator(&self) -> bool {
        match &self.cause {
            Cause::Untrusted(_)
            | Cause::TlsFailed(_)
            | Cause::PlainPort
            | Cause::TlsPort
            | Cause::AccessDenied(_)
            | Cause::ProxyAuth
            | Cause::OldSocketIo
            | Cause::TooManyRedirects => true,
            Cause::UnknownName(_)
            | Cause::NotListening
            | Cause::NoAnswer(_)
            | Cause::Unreachable(_)
            | Cause::NotHttp(_)
            | Cause::Silent(_)
            // A network's login page redirects until the driver has logged in.
            | Cause::Redirected { .. }
            | Cause::Unavailable(_)
            | Cause::GatewayTimeout
            | Cause::NotSocketIo(_)
            | Cause::NoConnection(_) => false,
        }
    }

    /// The label in metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match &self.cause {
            Cause::UnknownName(_)
            | Cause::NotListening
            | Cause::Unreachable(_)
            | Cause::Unavailable(_) => "refused",
            Cause::NoAnswer(_) | Cause::Silent(_) | Cause::GatewayTimeout => "timeout",
            Cause::Untrusted(_) | Cause::TlsFailed(_) | Cause::PlainPort => "tls",
            Cause::AccessDenied(_) | Cause::ProxyAuth => "auth",
            Cause::TlsPort
            | Cause::NotHttp(_)
            | Cause::Redirected { .. }
            | Cause::TooManyRedirects
            | Cause::OldSocketIo
            | Cause::NotSocketIo(_)
            | Cause::NoConnection(_) => "protocol",
        }
    }

    fn url_with(&self, from: &str, to: &str) -> String {
        self.url.replacen(from, to, 1)
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem(), self.advice())
    }
}

impl fmt::Display for NotFollowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherHost => "another host, which must not receive the token",
            Self::OtherPort => "another port, which must not receive the token",
            Self::Downgrade => "which is not encrypted",
            Self::OtherPath => "which is not the address of a Socket.IO server",
            Self::NoTarget => "which is not an address",
        })
    }
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

    #[test]
    fn the_advice_for_a_wrong_scheme_is_the_right_address() {
        for (url, cause, advice) in [
            (
                "https://pit:5000/a",
                Cause::PlainPort,
                "write http://pit:5000/a in server.url, or the port that has TLS",
            ),
            ("http://pit:5000", Cause::TlsPort, "write https://pit:5000 in server.url"),
        ] {
            assert_eq!(diagnosis(url, cause).advice(), advice);
        }
    }

    #[test]
    fn a_redirect_cannot_make_the_log_show_a_secret() {
        let secrets = Secrets::new(["hunter2".into()]);
        let target = base("http://pit/hunter2");
        let diagnosis = Diagnosis::new(&target, Cause::OldSocketIo, &secrets);
        assert!(!diagnosis.to_string().contains("hunter2"), "{diagnosis}");
        let diagnosis = Diagnosis::new(&target, Cause::TlsPort, &secrets);
        assert!(!diagnosis.to_string().contains("hunter2"), "{diagnosis}");
    }
}

//! One small HTTP request to a server's address, to find out why a connection fails.
//!
//! The request is the first one of a Socket.IO client, with the same credentials as the connection;
//! it follows redirects on the same host only ([`diagnosis`](super::classify)). Time and bytes are
//! bounded.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_native_tls::{TlsConnector, TlsStream};
use url::{Host, Position, Url};

use super::SinkError;
use super::classify::{Observation, Verdict, classify, explain, handshake_url};
use super::diagnosis::{Cause, Diagnosis, MAX_REDIRECTS};
use super::dial::{DialedStream, Dialer, Through};
use super::socketio::{Address, tls_connector};
use crate::net::http_client::{Bytes, Full, Request, Response, StatusCode, ask, header};
use crate::platform::clock;
use crate::remote_text::{RemoteText, Secrets};

/// Time limit for a diagnosis, redirects included: the next attempt to connect waits for it.
pub(crate) const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(7);
/// Time limit for each step of a diagnosis: name, connection, TLS, response. Windows needs two
/// seconds to report a refused connection.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a diagnosis remains valid while connections fail with the same error: a long outage
/// costs one request per period.
const DIAGNOSIS_VALID_FOR: Duration = Duration::from_secs(30);
/// How long after a diagnosis no other one starts, as a multiple of its duration. While failures
/// vary, slow diagnoses delay the attempts to connect by at most a tenth.
const PAUSE_FACTOR: u32 = 10;
/// A server that has accepted a connection before and now fails more slowly than this does not
/// answer at all: a diagnosis would only delay the next attempt.
const SLOW_FAILURE: Duration = Duration::from_secs(3);

/// Maximum size of a response: a Socket.IO server sends 200 bytes, an error page a few thousand.
const MAX_RESPONSE_BYTES: usize = 64 << 10;
/// Maximum number of addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// A step that succeeded.
#[derive(Debug)]
pub(crate) enum Passed {
    Name(String),
    Connection(String, SocketAddr),
    Certificate(String),
}

/// The result of asking a server's address.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) passed: Vec<Passed>,
    /// The address that was asked last, without `/socket.io/`.
    pub(crate) base: Url,
    pub(crate) verdict: Verdict,
    /// Whether the last request received a response.
    pub(crate) has_response: bool,
    /// The server's clock minus this PC's, in seconds; `None` without a `Date` header.
    pub(crate) clock_offset_s: Option<i64>,
}

impl Reached {
    /// The diagnosis; `None` for a Socket.IO server.
    pub(crate) fn diagnosis(&self, secrets: &Secrets) -> Option<Diagnosis> {
        match &self.verdict {
            Verdict::Fault(cause) => Some(Diagnosis::new(&self.base, cause.clone(), secrets)),
            Verdict::SpeaksSocketIo | Verdict::Follow(_) => None,
        }
    }
}

/// Asks a server's address, and the targets of its redirects that may be followed.
///
/// # Errors
/// If the address or the certificate authority of the configuration is invalid.
pub(crate) async fn reach(address: &Address, step_timeout: Duration) -> Result<Reached, SinkError> {
    let mut base = base_of(&address.url)?;
    let mut passed = Vec::new();
    let mut redirects = 0;
    loop {
        let mut probe = Probe { base: &base, address, step_timeout, passed, answer: None };
        let seen = probe.observe().await?;
        let answer = probe.answer;
        passed = probe.passed;
        let verdict = match classify(&base, &seen, &address.secrets) {
            Verdict::Follow(next) if redirects < MAX_REDIRECTS => {
                redirects += 1;
                base = next;
                continue;
            }
            Verdict::Follow(_) => Verdict::Fault(Cause::TooManyRedirects),
            verdict => verdict,
        };
        let (has_response, clock_offset_s) = (answer.is_some(), answer.flatten());
        return Ok(Reached { passed, base, verdict, has_response, clock_offset_s });
    }
}

/// The base address of a Socket.IO URL.
fn base_of(url: &str) -> Result<Url, SinkError> {
    Url::parse(url.trim_end_matches("/socket.io/"))
        .map_err(|_| SinkError::Protocol("server.url is not an address".into()))
}

/// One request to one address.
struct Probe<'a> {
    base: &'a Url,
    address: &'a Address,
    step_timeout: Duration,
    passed: Vec<Passed>,
    /// The clock offset of the response, once there is a response.
    answer: Option<Option<i64>>,
}

impl Probe<'_> {
    async fn observe(&mut self) -> Result<Observation, SinkError> {
        // A proxy resolves the name itself.
        let addresses = if self.address.proxy.is_some() {
            Vec::new()
        } else {
            match self.resolve().await {
                Ok(addresses) => addresses,
                Err(error) => return Ok(Observation::NoName(error)),
            }
        };
        let stream = match self.connect(&addresses).await? {
            Ok(stream) => stream,
            Err(seen) => return Ok(seen),
        };
        if self.base.scheme() == "https" {
            return match self.secure(stream).await? {
                Ok(stream) => {
                    self.passed.push(Passed::Certificate(self.host()));
                    Ok(self.exchange(stream, &self.address.headers).await)
                }
                Err(untrusted @ Observation::Untrusted(_)) => Ok(untrusted),
                Err(_) if self.answers_plain_http(&addresses).await? => Ok(Observation::OnlyPlain),
                Err(seen) => Ok(seen),
            };
        }
        let seen = self.exchange(stream, &self.address.headers).await;
        let may_be_tls = match classify(self.base, &seen, &self.address.secrets) {
            Verdict::Fault(Cause::NotHttp(_)) => true,
            // Some servers answer in plain HTTP that they expect TLS.
            Verdict::Fault(Cause::NotSocketIo(status)) => status == StatusCode::BAD_REQUEST,
            _ => false,
        };
        if may_be_tls && self.completes_tls(&addresses).await? {
            return Ok(Observation::OnlyTls);
        }
        Ok(seen)
    }

    fn host(&self) -> String {
        self.base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned()
    }

    async fn resolve(&mut self) -> Result<Vec<SocketAddr>, String> {
        let port = self.base.port_or_known_default().unwrap_or_default();
        let name = match self.base.host() {
            Some(Host::Ipv4(ip)) => return Ok(vec![(ip, port).into()]),
            Some(Host::Ipv6(ip)) => return Ok(vec![(ip, port).into()]),
            Some(Host::Domain(name)) => name,
            None => return Err("it has no name".into()),
        };
        match timeout(self.step_timeout, lookup_host((name, port))).await {
            Ok(Ok(addresses)) => {
                let addresses: Vec<_> = addresses.take(MAX_ADDRESSES).collect();
                if addresses.is_empty() {
                    return Err("it has no address".into());
                }
                self.passed.push(Passed::Name(name.to_owned()));
                Ok(addresses)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer in {:?}", self.step_timeout)),
        }
    }

    async fn connect(
        &mut self,
        addresses: &[SocketAddr],
    ) -> Result<Result<TcpStream, Observation>, SinkError> {
        let stream = self.dial(addresses).await?;
        if let Ok(stream) = &stream
            && let (None, Ok(address)) = (&self.address.proxy, stream.peer_addr())
        {
            let shown = self.base.as_str().trim_end_matches('/').to_owned();
            self.passed.push(Passed::Connection(shown, address));
        }
        Ok(stream)
    }

    /// A TCP connection to the first address that accepts, or a tunnel through the proxy.
    async fn dial(
        &self,
        addresses: &[SocketAddr],
    ) -> Result<Result<TcpStream, Observation>, SinkError> {
        if let Some(proxy) = &self.address.proxy {
            let dialer = Dialer::new(None, Some(proxy.clone()));
            let tunnel = dialer.dial(self.base, Through::Tunnel);
            let error = match timeout(self.step_timeout, tunnel).await {
                Ok(Ok(DialedStream::Plain(stream))) => return Ok(Ok(stream)),
                // Impossible: the dialer has no TLS connector.
                Ok(Ok(DialedStream::Tls(_))) => "unexpected TLS".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            return Err(SinkError::Proxy(RemoteText::new(error, &self.address.secrets)));
        }
        let mut seen = Observation::ConnectTimeout(self.step_timeout);
        for address in addresses {
            match timeout(self.step_timeout, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(Ok(stream)),
                Ok(Err(error)) => {
                    seen = Observation::NoConnection(error.kind(), error.to_string());
                }
                Err(_) => {}
            }
        }
        Ok(Err(seen))
    }

    /// The TLS handshake with the server's certificate verified.
    async fn secure(
        &self,
        stream: TcpStream,
    ) -> Result<Result<TlsStream<TcpStream>, Observation>, SinkError> {
        let connector = tls_connector(self.address.ca.as_deref())?;
        let connector = TlsConnector::from(connector);
        let host = self.host();
        Ok(match timeout(self.step_timeout, connector.connect(&host, stream)).await {
            Ok(handshake) => handshake.map_err(|error| {
                let error = error.to_string();
                if error.to_lowercase().contains("certificate") {
                    Observation::Untrusted(error)
                } else {
                    Observation::NoTls(error)
                }
            }),
            Err(_) => Err(Observation::NoTls(format!("no answer in {:?}", self.step_timeout))),
        })
    }

    /// Whether the port speaks TLS, with any certificate. Sends nothing over it.
    async fn completes_tls(&self, addresses: &[SocketAddr]) -> Result<bool, SinkError> {
        let Ok(stream) = self.dial(addresses).await? else { return Ok(false) };
        Ok(matches!(self.secure(stream).await?, Ok(_) | Err(Observation::Untrusted(_))))
    }

    /// Whether the port of an https address speaks plain HTTP. Sends no credentials.
    async fn answers_plain_http(&mut self, addresses: &[SocketAddr]) -> Result<bool, SinkError> {
        let Ok(stream) = self.dial(addresses).await? else { return Ok(false) };
        let is_http = matches!(self.exchange(stream, &[]).await, Observation::Response { .. });
        self.answer = None;
        Ok(is_http)
    }

    /// Sends the first request of a Socket.IO client.
    async fn exchange(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        headers: &[(String, String)],
    ) -> Observation {
        let url = handshake_url(self.base);
        let mut request = Request::builder()
            .uri(&url[Position::BeforePath..])
            .header(header::HOST, &url[Position::BeforeHost..Position::AfterPort])
            .header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let asked = clock::now();
        let answered = async {
            let request = request.body(Full::new(Bytes::new())).map_err(io::Error::other)?;
            ask(stream, request, MAX_RESPONSE_BYTES).await
        };
        match timeout(self.step_timeout, answered).await {
            Ok(Ok(response)) => {
                self.answer = Some(clock_offset(&response, asked.0, clock::now().0));
                let location = response.headers().get(header::LOCATION);
                Observation::Response {
                    status: response.status(),
                    location: location.map(|to| String::from_utf8_lossy(to.as_bytes()).into()),
                    body: response.into_body().to_vec(),
                }
            }
            Ok(Err(error)) => Observation::NoHttp(format!("it {error}")),
            Err(_) => Observation::Silence(self.step_timeout),
        }
    }
}

/// The server's clock minus this PC's, in seconds; `asked_ms` and `answered_ms` enclose the
/// response.
fn clock_offset(response: &Response<Bytes>, asked_ms: i64, answered_ms: i64) -> Option<i64> {
    let date = response.headers().get(header::DATE)?.to_str().ok()?;
    // The time halfway between request and answer, rounded down as in the header.
    let between = i64::midpoint(asked_ms, answered_ms);
    Some(seconds(date)? - between.div_euclid(1000))
}

/// The time in a `Date` header, in seconds since 1970.
fn seconds(date: &str) -> Option<i64> {
    let zoned = rfc2822::DateTimeParser::new().parse_timestamp(date).ok();
    zoned.map(Timestamp::as_second)
}

/// Diagnoses failed connections of one sink.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    /// A connection has succeeded before.
    was_connected: bool,
    last: Option<Last>,
    /// No diagnosis starts earlier.
    not_before: Option<Instant>,
}

/// The last diagnosis.
#[derive(Debug)]
struct Last {
    /// The text of the error that it explains.
    failed: String,
    at: Instant,
    outcome: Outcome,
}

/// The result of a diagnosis.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Error(SinkError),
    /// The server is a Socket.IO server at this URL, to which the configured one redirects.
    Moved {
        url: String,
        shown: RemoteText,
    },
}

impl Outcome {
    fn is_to(&self, target: &RemoteText) -> bool {
        matches!(self, Self::Moved { shown, .. } if shown == target)
    }
}

impl Diagnostics {
    pub(crate) fn connected(&mut self) {
        self.was_connected = true;
        // The outcome of a redirect remains valid.
        self.last.take_if(|last| matches!(last.outcome, Outcome::Error(_)));
    }

    /// Explains the error of a connection that failed after `took`.
    pub(crate) async fn explain(
        &mut self,
        failed: SinkError,
        took: Duration,
        address: &Address,
    ) -> Outcome {
        // The dialer has already named the proxy's answer.
        if matches!(failed, SinkError::Proxy(_)) {
            return Outcome::Error(failed);
        }
        let text = failed.to_string();
        if self.was_connected && took >= SLOW_FAILURE {
            return Outcome::Error(failed);
        }
        if let Some(last) = &self.last
            && last.failed == text
            && last.at.elapsed() < DIAGNOSIS_VALID_FOR
        {
            return last.outcome.clone();
        }
        let at = Instant::now();
        if self.not_before.is_some_and(|not_before| at < not_before) {
            return Outcome::Error(failed);
        }
        let outcome = match timeout(DIAGNOSIS_TIMEOUT, reach(address, STEP_TIMEOUT)).await {
            Ok(Ok(reached)) => outcome(failed, reached, address),
            // What cannot be diagnosed keeps its own error.
            Ok(Err(_)) | Err(_) => Outcome::Error(failed),
        };
        self.not_before = Some(at + at.elapsed() * (1 + PAUSE_FACTOR));
        if let Outcome::Moved { shown, .. } = &outcome
            && !self.last.as_ref().is_some_and(|last| last.outcome.is_to(shown))
        {
            tracing::warn!(
                "{} redirects to {shown}, where pitwire connects; write that address as the url of \
                 the server in the configuration to connect faster",
                RemoteText::new(address.url.trim_end_matches("/socket.io/"), &address.secrets)
            );
        }
        self.last = Some(Last { failed: text, at, outcome: outcome.clone() });
        outcome
    }
}

fn outcome(failed: SinkError, reached: Reached, address: &Address) -> Outcome {
    let Reached { base, verdict, .. } = reached;
    let moved = base_of(&address.url).is_ok_and(|configured| configured != base);
    if moved && verdict == Verdict::SpeaksSocketIo {
        let base = base.as_str().trim_end_matches('/');
        let shown = RemoteText::new(base, &address.secrets);
        return Outcome::Moved { url: format!("{base}/socket.io/"), shown };
    }
    Outcome::Error(explain(&base, failed, verdict, &address.secrets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TransportChoice;

    #[test]
    fn the_date_header_is_parsed() {
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("yesterday"), None);
    }

    fn address(port: u16) -> Address {
        Address {
            url: format!("http://127.0.0.1:{port}/socket.io/"),
            open_timeout: Duration::from_secs(1),
            headers: Vec::new(),
            auth: None,
            ca: None,
            proxy: None,
            transport: TransportChoice::Auto,
            secrets: Secrets::default(),
        }
    }

    /// The error after a connection to `port` failed within `took`, as text.
    async fn explained(diagnostics: &mut Diagnostics, took: Duration, port: u16) -> String {
        let failed = SinkError::Protocol("cut".into());
        match diagnostics.explain(failed, took, &address(port)).await {
            Outcome::Error(error) => error.to_string(),
            Outcome::Moved { url, .. } => url,
        }
    }

    #[tokio::test]
    async fn a_server_that_stopped_answering_is_not_asked_why() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut diagnostics = Diagnostics::default();
        let text = explained(&mut diagnostics, SLOW_FAILURE, port).await;
        assert!(text.contains("connection refused"), "never connected: {text}");
        diagnostics.connected();
        let text = explained(&mut diagnostics, SLOW_FAILURE, port).await;
        assert!(text.ends_with(": cut"), "{text}");
        diagnostics.not_before = None;
        let text = explained(&mut diagnostics, Duration::ZERO, port).await;
        assert!(text.contains("connection refused"), "failed quickly: {text}");
    }

    #[tokio::test]
    async fn the_same_failure_is_diagnosed_once_per_period() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut diagnostics = Diagnostics::default();
        let first = explained(&mut diagnostics, Duration::ZERO, port).await;
        // Another server would now be diagnosed differently.
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(explained(&mut diagnostics, Duration::ZERO, port).await, first);
        let is_untouched = listener.accept().is_err();
        assert!(is_untouched);
        let other = SinkError::Protocol("another error".into());
        diagnostics.not_before = Some(Instant::now() + Duration::from_secs(60));
        let paused = diagnostics.explain(other.clone(), Duration::ZERO, &address(port)).await;
        assert!(matches!(paused, Outcome::Error(SinkError::Protocol(_))), "{paused:?}");
        assert!(listener.accept().is_err());
        diagnostics.not_before = None;
        let soon = Duration::from_millis(500);
        let _ = timeout(soon, diagnostics.explain(other, Duration::ZERO, &address(port))).await;
        assert!(listener.accept().is_ok(), "another failure is diagnosed");
    }
}

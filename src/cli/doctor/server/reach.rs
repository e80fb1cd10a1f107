//! Checks whether the server can be reached: name, connection, TLS, HTTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_native_tls::TlsStream;
use url::{Host, Url};

use super::Report;
use crate::cli::queue::count;
use crate::clock;
use crate::config::{
    DOCTOR_CLOCK_OFFSET, DOCTOR_NETWORK_TIMEOUT, MAX_DOCTOR_ADDRESSES, MAX_DOCTOR_ANSWER_BYTES,
    ServerUrl,
};
use crate::remote_text::{RemoteText, Secrets};
use crate::request::{Bytes, Full, Request, StatusCode, ask, header};
use crate::sink::socketio::trusting;

/// The address of the server.
pub(super) struct Place {
    /// The address as it is in the configuration.
    shown: String,
    host: Host<String>,
    port: u16,
    /// The path, without a trailing `/`.
    prefix: String,
    pub(super) is_tls: bool,
}

/// The server's answer to the first request of a Socket.IO client.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Whether it is the answer of a Socket.IO server.
    pub(super) speaks_engine_io: bool,
    /// The server's clock minus this PC's, in seconds; `None` without a `Date` header.
    offset_s: Option<i64>,
}

impl Place {
    pub(super) fn of(server: &ServerUrl) -> Option<Self> {
        let url = Url::parse(server.as_str()).ok()?;
        Some(Self {
            shown: server.to_string(),
            host: url.host()?.to_owned(),
            port: url.port_or_known_default()?,
            prefix: url.path().trim_end_matches('/').to_owned(),
            is_tls: url.scheme() == "https",
        })
    }

    pub(super) async fn resolve(&self, report: &mut Report) -> Option<Vec<SocketAddr>> {
        let found = |ip: IpAddr| Some(vec![SocketAddr::new(ip, self.port)]);
        let name = match &self.host {
            Host::Ipv4(ip) => return found((*ip).into()),
            Host::Ipv6(ip) => return found((*ip).into()),
            Host::Domain(name) => name,
        };
        let looked_up = lookup_host((name.as_str(), self.port));
        let why = match timeout(DOCTOR_NETWORK_TIMEOUT, looked_up).await {
            Ok(Ok(addresses)) => {
                let addresses: Vec<_> = addresses.take(MAX_DOCTOR_ADDRESSES).collect();
                if !addresses.is_empty() {
                    report.ok(format!("the name {name} resolves"));
                    return Some(addresses);
                }
                "it has no address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {DOCTOR_NETWORK_TIMEOUT:?}"),
        };
        report.fault(
            format!("the name {name} does not resolve: {why}"),
            "check its spelling in server.url, and that this PC is online",
        );
        None
    }

    pub(super) async fn connect(
        &self,
        report: &mut Report,
        addresses: &[SocketAddr],
    ) -> Option<TcpStream> {
        let mut why = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            match timeout(DOCTOR_NETWORK_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    report.ok(format!("{} can be reached, at {address}", self.shown));
                    return Some(stream);
                }
                Ok(Err(error)) => why = error,
                Err(_) => why = io::ErrorKind::TimedOut.into(),
            }
        }
        match why.kind() {
            io::ErrorKind::ConnectionRefused => report.fault(
                format!("no server listens at {}", self.shown),
                "check that the dashboard server runs, and that server.url has its port",
            ),
            io::ErrorKind::TimedOut => report.fault(
                format!("{} does not answer in {DOCTOR_NETWORK_TIMEOUT:?}", self.shown),
                "check that this PC is online, and that no firewall is between it and the server",
            ),
            _ => report.fault(
                format!("{} cannot be reached: {why}", self.shown),
                "check that this PC is online, and that server.url is the server's address",
            ),
        }
        None
    }

    pub(super) async fn secure(
        &self,
        report: &mut Report,
        stream: TcpStream,
        ca: Option<&[u8]>,
    ) -> Option<TlsStream<TcpStream>> {
        let connector = match ca {
            Some(ca) => trusting(ca).map_err(super::reason),
            None => native_tls::TlsConnector::new().map_err(|error| error.to_string()),
        };
        let connector = match connector {
            Ok(connector) => tokio_native_tls::TlsConnector::from(connector),
            Err(why) => {
                report.fault(
                    format!("cannot set up TLS: {why}"),
                    "set server.ca_file to a certificate authority in PEM format, or remove it",
                );
                return None;
            }
        };
        let host = self.host.to_string();
        let name = host.trim_matches(['[', ']']);
        let why = match timeout(DOCTOR_NETWORK_TIMEOUT, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                report.ok(format!("its certificate is valid for {name}"));
                return Some(stream);
            }
            Ok(Err(error)) => RemoteText::new(error, &Secrets::default()).to_string(),
            Err(_) => format!("no answer in {DOCTOR_NETWORK_TIMEOUT:?}"),
        };
        let (what, advice) = match why.to_lowercase().contains("certificate") {
            true => (
                format!("its certificate is not trusted: {why}"),
                format!(
                    "set server.ca_file to the authority that signed it; check that it is valid \
                     for {name} and has not expired, and that the clock of this PC is right"
                ),
            ),
            false => (
                format!("it does not speak TLS: {why}"),
                "use http:// instead of https:// in server.url, or the port that has TLS".into(),
            ),
        };
        report.fault(what, advice);
        None
    }

    /// Sends the first request of a Socket.IO client.
    pub(super) async fn ask(
        &self,
        report: &mut Report,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        headers: &[(String, String)],
    ) -> Option<Answer> {
        let mut request = Request::builder()
            .uri(format!("{}/socket.io/?EIO=4&transport=polling", self.prefix))
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let asked = clock::now();
        let answered = async {
            let request = request.body(Full::new(Bytes::new())).map_err(io::Error::other)?;
            ask(stream, request, MAX_DOCTOR_ANSWER_BYTES).await
        };
        let why = match timeout(DOCTOR_NETWORK_TIMEOUT, answered).await {
            Ok(Ok(answer)) => {
                let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
                // The time halfway between request and answer, rounded down as in the header.
                let between = (asked.0 + clock::now().0) / 2;
                return Some(Answer {
                    status: answer.status(),
                    speaks_engine_io: answer.body().starts_with(b"0{\"sid\""),
                    offset_s: date.and_then(seconds).map(|date| date - between.div_euclid(1000)),
                });
            }
            Ok(Err(error)) => format!("it {error}"),
            Err(_) => format!("no answer in {DOCTOR_NETWORK_TIMEOUT:?}"),
        };
        report.fault(
            format!("the server at {} does not speak HTTP: {why}", self.shown),
            match self.is_tls {
                true => "check that server.url has the port of the dashboard server",
                false => {
                    "check that server.url has the port of the dashboard server; with TLS it \
                     begins with https://"
                }
            },
        );
        None
    }
}

/// The time in a `Date` header, in seconds since 1970.
fn seconds(date: &str) -> Option<i64> {
    let zoned = rfc2822::DateTimeParser::new().parse_timestamp(date).ok();
    zoned.map(Timestamp::as_second)
}

pub(super) fn say_clock(report: &mut Report, answer: &Answer) {
    let Some(offset) = answer.offset_s else {
        return report.note("it does not report its time", "compare its clock with this PC's");
    };
    if Duration::from_secs(offset.unsigned_abs()) <= DOCTOR_CLOCK_OFFSET {
        return report.ok("its clock agrees with this PC's");
    }
    let off = count(offset.unsigned_abs(), "second");
    let (direction, pc) = if offset > 0 { ("ahead of", "slow") } else { ("behind", "fast") };
    report.warning(
        format!("its clock is {off} {direction} this PC's"),
        format!(
            "synchronize both clocks; if this PC's is the {pc} one, its frames have wrong times"
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_http_is_read() {
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn a_clock_is_said_to_be_off_beyond_what_http_can_tell() {
        for (offset_s, expected) in [
            (None, "it does not report its time"),
            (Some(5), "its clock agrees with this PC's"),
            (Some(-5), "its clock agrees with this PC's"),
            (Some(6), "its clock is 6 seconds ahead of this PC's"),
            (Some(-3600), "its clock is 3600 seconds behind this PC's"),
        ] {
            let mut report = Report::new("server");
            let status = StatusCode::OK;
            say_clock(&mut report, &Answer { status, speaks_engine_io: true, offset_s });
            assert_eq!(report.findings[0].what, expected);
        }
    }
}

//! From an address to an answer: name, connection, TLS, HTTP.

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

/// Where the server is.
pub(super) struct Place {
    /// As the configuration has it.
    shown: String,
    host: Host<String>,
    port: u16,
    /// Of the path, without a `/` at its end.
    prefix: String,
    pub(super) is_tls: bool,
}

/// What the server answers to the first request of Socket.IO.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Whether it is the answer of such a server.
    pub(super) speaks_engine_io: bool,
    /// Its clock less ours, in seconds, if it tells its time.
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
                    report.ok(format!("the name {name} is known"));
                    return Some(addresses);
                }
                "it has no address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {DOCTOR_NETWORK_TIMEOUT:?}"),
        };
        report.fault(
            format!("the name {name} is not known: {why}"),
            "see that it is written right in server.url, and that this PC is online",
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
                format!("nobody listens at {}", self.shown),
                "see that the dashboard server runs, and that server.url has its port",
            ),
            io::ErrorKind::TimedOut => report.fault(
                format!("{} does not answer in {DOCTOR_NETWORK_TIMEOUT:?}", self.shown),
                "see that this PC is online, and that no firewall is between it and the server",
            ),
            _ => report.fault(
                format!("{} cannot be reached: {why}", self.shown),
                "see that this PC is online, and that server.url is the server's address",
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
                    format!("TLS cannot begin: {why}"),
                    "name a certificate authority as PEM in server.ca_file, or none",
                );
                return None;
            }
        };
        let host = self.host.to_string();
        let name = host.trim_matches(['[', ']']);
        let why = match timeout(DOCTOR_NETWORK_TIMEOUT, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                report.ok(format!("its certificate is good for {name}"));
                return Some(stream);
            }
            Ok(Err(error)) => RemoteText::new(error, &Secrets::default()).to_string(),
            Err(_) => format!("no answer in {DOCTOR_NETWORK_TIMEOUT:?}"),
        };
        let (what, advice) = match why.to_lowercase().contains("certificate") {
            true => (
                format!("its certificate is not trusted: {why}"),
                format!(
                    "name the authority that signed it in server.ca_file; see that it is for {name} \
                     and not out of date, and that the clock of this PC is right"
                ),
            ),
            false => (
                format!("it does not speak TLS: {why}"),
                "write http:// in place of https:// in server.url, or the port that has TLS".into(),
            ),
        };
        report.fault(what, advice);
        None
    }

    /// Asks as a client of Socket.IO begins.
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
                // In the middle between the request and the answer, rounded down as it is there.
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
            format!("what listens at {} does not speak HTTP: {why}", self.shown),
            match self.is_tls {
                true => "see that server.url has the port of the dashboard server",
                false => {
                    "see that server.url has the port of the dashboard server; one with TLS begins \
                     with https://"
                }
            },
        );
        None
    }
}

/// The moment in a `Date` header, in seconds since 1970.
fn seconds(date: &str) -> Option<i64> {
    let zoned = rfc2822::DateTimeParser::new().parse_timestamp(date).ok();
    zoned.map(Timestamp::as_second)
}

pub(super) fn say_clock(report: &mut Report, answer: &Answer) {
    let Some(offset) = answer.offset_s else {
        return report.note("it does not tell its time", "compare its clock with this PC's");
    };
    if Duration::from_secs(offset.unsigned_abs()) <= DOCTOR_CLOCK_OFFSET {
        return report.ok("its clock and the one of this PC agree");
    }
    let off = count(offset.unsigned_abs(), "second");
    let (direction, pc) = if offset > 0 { ("ahead of", "slow") } else { ("behind", "fast") };
    report.warning(
        format!("its clock is {off} {direction} the one of this PC"),
        format!(
            "let both be set by the network; if this PC is the one that is {pc}, its frames have \
             wrong times"
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
            (None, "it does not tell its time"),
            (Some(5), "its clock and the one of this PC agree"),
            (Some(-5), "its clock and the one of this PC agree"),
            (Some(6), "its clock is 6 seconds ahead of the one of this PC"),
            (Some(-3600), "its clock is 3600 seconds behind the one of this PC"),
        ] {
            let mut report = Report::new("server");
            let status = StatusCode::OK;
            say_clock(&mut report, &Answer { status, speaks_engine_io: true, offset_s });
            assert_eq!(report.findings[0].what, expected);
        }
    }
}

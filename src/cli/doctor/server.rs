//! Checks the dashboard server step by step: its name, a connection, TLS, HTTP, Socket.IO, a
//! session, a frame. Steps after one that failed are skipped. A NATS server is checked in one step.

mod frame;
mod nats;
mod steps;

use std::time::Duration;

use super::{DoctorReport, disk};
use crate::config::{self, Config, Protocol};
use crate::sink::dashboard::{Dashboard, DashboardLink};
use crate::sink::diagnosis::Cause;
use crate::sink::probe::reach;
use crate::sink::{Link, Sink, SinkError, Transport};

/// How long the doctor waits for a name lookup, a connection to each address, a TLS handshake and
/// an HTTP response. The other steps have the limits of `[delivery]`.
const DOCTOR_NETWORK_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const SUBJECT: &str = config::SERVER;

/// The error of a failed step: what cannot be checked without it.
struct Unchecked(&'static str);

const CONNECTION: Unchecked =
    Unchecked("whether it can be reached, and all that follows from there");
const TLS: Unchecked = Unchecked("TLS, Socket.IO, its clock, sessions, acknowledgements, echoes");
const HTTP: Unchecked = Unchecked("Socket.IO, its clock, sessions, acknowledgements, echoes");
const SESSION: Unchecked = Unchecked("sessions, acknowledgements, echoes");
const FRAME: Unchecked = Unchecked("acknowledgements, echoes");

/// Checks one destination; the subject of its findings is its table of the configuration.
pub(super) async fn look(config: &Config, destination: &str) -> DoctorReport {
    let config = &config.towards(destination);
    let mut report = DoctorReport::new(config::table_of(destination));
    match config.server.url.protocol() {
        Protocol::Nats => nats::look(&mut report, config).await,
        Protocol::SocketIo => {
            if let Err(Unchecked(checks)) = steps(&mut report, config).await {
                report.not_checked(checks);
            }
        }
    }
    for finding in &mut report.findings {
        finding.summary = config::with_keys_of(&finding.summary, destination);
        let advice = finding.advice.take();
        finding.advice = advice.map(|advice| config::with_keys_of(&advice, destination));
    }
    report
}

async fn steps(report: &mut DoctorReport, config: &Config) -> Result<(), Unchecked> {
    let mut dashboard = Dashboard::new(config);
    let probed = Dashboard::new(config);
    let address = disk::in_time(move || probed.address())
        .await
        .unwrap_or_else(|| Err(SinkError::Auth("the disk with its files does not answer".into())));
    let address = address.map_err(|error| {
        // The report about the configuration names files that cannot be used.
        if !matches!(error, SinkError::Configuration(_)) {
            report.fault(
                format!("cannot use its credentials: {}", reason(error)),
                "check server.token, server.token_file and server.proxy",
            );
        }
        CONNECTION
    })?;
    if let Some(proxy) = &address.proxy {
        report.note(
            format!("connections go through the proxy {proxy}; name, TLS and clock are unchecked"),
            "set server.proxy = \"none\" if this PC reaches the server directly",
        );
        let link = open(report, &mut dashboard).await.ok_or(SESSION)?;
        return frame::publish(report, config, &mut dashboard, link).await.ok_or(FRAME);
    }
    let reached = reach(&address, DOCTOR_NETWORK_TIMEOUT).await.map_err(|error| {
        report.fault(
            format!("cannot set up TLS: {}", reason(error)),
            "check the TLS library of this PC, and server.ca_file",
        );
        HTTP
    })?;
    steps::passed(report, &config.server.url, &reached, &address.secrets);
    // A server without polling may still accept a WebSocket.
    let diagnosis = reached.diagnosis(&address.secrets);
    let diagnosis = diagnosis.filter(|found| !matches!(found.cause, Cause::NotSocketIo(_)));
    if let Some(diagnosis) = diagnosis {
        report.fault(diagnosis.problem(), diagnosis.advice());
        return Err(unchecked_after(&diagnosis.cause));
    }
    let link = open(report, &mut dashboard).await.ok_or(SESSION)?;
    frame::publish(report, config, &mut dashboard, link).await.ok_or(FRAME)
}

/// What cannot be checked at an address with this fault.
fn unchecked_after(cause: &Cause) -> Unchecked {
    match cause {
        Cause::UnknownName(_) => CONNECTION,
        Cause::NotListening | Cause::NoAnswer(_) | Cause::Unreachable(_) => TLS,
        Cause::Untrusted(_) | Cause::TlsFailed(_) | Cause::PlainPort => HTTP,
        Cause::TlsPort
        | Cause::NotHttp(_)
        | Cause::Silent(_)
        | Cause::Redirected { .. }
        | Cause::TooManyRedirects
        | Cause::AccessDenied(_)
        | Cause::ProxyAuth
        | Cause::Unavailable(_)
        | Cause::GatewayTimeout
        | Cause::OldSocketIo
        | Cause::NotSocketIo(_)
        | Cause::NoConnection(_) => SESSION,
    }
}

/// Opens a link with the agent's code.
async fn open(report: &mut DoctorReport, dashboard: &mut Dashboard) -> Option<DashboardLink> {
    match dashboard.open().await {
        Ok(link) => {
            say_transport(report, &link);
            return Some(link);
        }
        Err(SinkError::Diagnosed(diagnosis)) => {
            report.fault(diagnosis.problem(), diagnosis.advice());
        }
        Err(SinkError::Proxy(text)) => report.fault(
            format!("no connection through the proxy: {text}"),
            "check server.proxy, and server.url as the proxy reaches it",
        ),
        Err(error) => report.fault(
            format!("it accepts no Socket.IO connection: {}", reason(error)),
            "run the doctor again; if it fails again, check the log of the dashboard server",
        ),
    }
    None
}

fn say_transport(report: &mut DoctorReport, link: &DashboardLink) {
    match link.transport() {
        Some(Transport::Polling) => report.warning(
            "it accepts HTTP long-polling, but no WebSocket gets through",
            "nothing is lost, but long-polling is slower; let the server and the proxy in front of \
             it accept WebSocket upgrades",
        ),
        _ => report.ok("it speaks Socket.IO and accepts the connection"),
    }
}

/// The cause of the error, without the advice that the agent's log adds.
fn reason(error: SinkError) -> String {
    match error {
        SinkError::Refused(text)
        | SinkError::Tls(text)
        | SinkError::Auth(text)
        | SinkError::Configuration(text)
        | SinkError::Proxy(text)
        | SinkError::Protocol(text)
        | SinkError::Stream(text)
        | SinkError::Lost(text) => text.to_string(),
        SinkError::Diagnosed(diagnosis) => diagnosis.problem(),
        SinkError::NoTls(address) => format!("TLS failed: {address} speaks no TLS"),
        error @ SinkError::Timeout(..) => error.to_string(),
    }
}

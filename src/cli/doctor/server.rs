//! Checks the dashboard server step by step: its name, a connection, TLS, HTTP, Socket.IO, a
//! session, a frame. Steps after one that failed are skipped. A NATS server is checked in one step.

mod frame;
mod nats;
mod reach;

use self::reach::{Answer, Place};
use super::{Report, disk};
use crate::config::{self, Config, Protocol};
use crate::sink::dashboard::{Dashboard, DashboardLink};
use crate::sink::{Link, Sink, SinkError};

pub(super) const SUBJECT: &str = config::SERVER;

/// The error of a failed step: what cannot be checked without it.
struct Rest(&'static str);

const CONNECTION: Rest = Rest("whether it can be reached, and all that follows from there");
const TLS: Rest = Rest("TLS, Socket.IO, its clock, sessions, acknowledgements, echoes");
const HTTP: Rest = Rest("Socket.IO, its clock, sessions, acknowledgements, echoes");
const SESSION: Rest = Rest("sessions, acknowledgements, echoes");
const FRAME: Rest = Rest("acknowledgements, echoes");

/// Checks one destination; the subject of its findings is its table of the configuration.
pub(super) async fn look(config: &Config, destination: &str) -> Report {
    let config = &config.towards(destination);
    let mut report = Report::new(config::table_of(destination));
    match config.server.url.protocol() {
        Protocol::Nats => nats::look(&mut report, config).await,
        Protocol::SocketIo => {
            if let Err(Rest(what)) = steps(&mut report, config).await {
                report.not_looked_at(what);
            }
        }
    }
    for finding in &mut report.findings {
        finding.what = config::with_keys_of(&finding.what, destination);
        let advice = finding.advice.take();
        finding.advice = advice.map(|advice| config::with_keys_of(&advice, destination));
    }
    report
}

async fn steps(report: &mut Report, config: &Config) -> Result<(), Rest> {
    let mut dashboard = Dashboard::new(config);
    let door = Dashboard::new(config);
    let silent = || Err(SinkError::Auth("the disk with its files does not answer".into()));
    let address = disk::in_time(move || door.address()).await.unwrap_or_else(silent);
    let address = address.map_err(|error| {
        report.fault(
            format!("cannot use its token or CA file: {}", reason(error)),
            "check that server.token_file and server.ca_file name files that your user may read",
        );
        CONNECTION
    })?;
    let place = Place::of(&config.server.url).ok_or_else(|| {
        report.fault(format!("{} is not an address", config.server.url), "correct server.url");
        CONNECTION
    })?;
    let addresses = place.resolve(report).await.ok_or(CONNECTION)?;
    let stream = place.connect(report, &addresses).await.ok_or(TLS)?;
    let answer = match place.is_tls {
        true => {
            let stream = place.secure(report, stream, address.ca.as_deref()).await.ok_or(HTTP)?;
            place.ask(report, stream, &address.headers).await
        }
        false => place.ask(report, stream, &address.headers).await,
    };
    let answer = answer.ok_or(SESSION)?;
    reach::say_clock(report, &answer);
    let link = open(report, &mut dashboard, &answer).await.ok_or(SESSION)?;
    frame::publish(report, config, &mut dashboard, link).await.ok_or(FRAME)
}

/// Opens a link with the agent's code.
async fn open(
    report: &mut Report,
    dashboard: &mut Dashboard,
    answer: &Answer,
) -> Option<DashboardLink> {
    let error = match dashboard.open().await {
        Ok(link) => {
            report.ok("it speaks Socket.IO and accepts the connection");
            return Some(link);
        }
        Err(error) => error,
    };
    let said = answer.status;
    match error {
        SinkError::Auth(text) => report.fault(
            format!("it refuses access: {text}"),
            "ask its operator for a token; put it into server.token or server.token_file, other \
             credentials into server.auth or server.headers",
        ),
        error if answer.speaks_engine_io => report.fault(
            format!("it speaks Socket.IO, but no WebSocket gets through: {}", reason(error)),
            "let the proxy in front of it pass WebSocket upgrades on to it",
        ),
        error => report.fault(
            format!("it is not a Socket.IO server: it answers {said}; {}", reason(error)),
            "check that server.url is the address of the dashboard, including its path",
        ),
    }
    None
}

/// The cause of the error, without the advice that the agent's log adds.
fn reason(error: SinkError) -> String {
    match error {
        SinkError::Refused(text)
        | SinkError::Tls(text)
        | SinkError::Auth(text)
        | SinkError::Protocol(text)
        | SinkError::Stream(text)
        | SinkError::Lost(text) => text.to_string(),
        error @ SinkError::Timeout(..) => error.to_string(),
    }
}

//! Checks the addresses on which the agent listens: whether they are free, and who uses them.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::{DoctorReport, disk};
use crate::cli::doctor::{DOCTOR_LOCAL_TIMEOUT, MAX_DOCTOR_ANSWER_BYTES};
use crate::cli::queue::access::{is_same, on_this_pc};
use crate::config::Config;
use crate::net::http_client::{Bounds, Bytes, Method, RequestError, StatusCode, request};

pub(super) const SUBJECT: &str = "addresses";

pub(super) async fn look(config: &Config) -> DoctorReport {
    let mut report = DoctorReport::new(SUBJECT);
    let Config { source, metrics, .. } = config;
    for (key, is_on, address, role) in [
        ("metrics.listen", metrics.enabled, metrics.listen, Role::Admin),
        ("source.http.listen", source.http.enabled, source.http.listen, Role::Samples),
        (
            "source.socketio.listen",
            source.socketio.enabled,
            source.socketio.listen,
            Role::Publishers,
        ),
    ] {
        if is_on {
            look_at(&mut report, config, key, address, role).await;
        }
    }
    report
}

/// The purpose of an address of the agent.
#[derive(Clone, Copy)]
enum Role {
    Admin,
    Samples,
    Publishers,
}

async fn look_at(
    report: &mut DoctorReport,
    config: &Config,
    key: &str,
    address: SocketAddr,
    role: Role,
) {
    if address.port() == 0 {
        return report.ok(format!("{key} takes a free port"));
    }
    let place = format!("{address} ({key})");
    // The listener is closed at once.
    let error = match TcpListener::bind(address).map(drop) {
        Ok(()) => return report.ok(format!("{place} is free")),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => match role.holder(address).await {
            Some(Holder::Agent) => report.ok(format!("{place} is used by a running agent")),
            Some(Holder::Admin { health, queue }) => {
                let (theirs, ours) = (queue.clone(), config.queue.path.clone());
                let is_same = disk::in_time(move || is_same(theirs.as_ref(), &ours)).await;
                say_agent(report, &place, &health, &queue, is_same.unwrap_or(false));
            }
            None => report.fault(
                format!("{place} is taken by another program"),
                format!("stop that program, or set {key} to another port"),
            ),
        },
        io::ErrorKind::AddrNotAvailable => report.fault(
            format!("{place} is not an address of this PC"),
            format!("set {key} to one of its addresses, such as 127.0.0.1:{}", address.port()),
        ),
        io::ErrorKind::PermissionDenied => report.fault(
            format!("no permission to listen on {place}: {error}"),
            format!("set {key} to a port above 1023"),
        ),
        _ => report.fault(
            format!("cannot listen on {place}: {error}"),
            format!("set {key} to another address"),
        ),
    }
}

fn say_agent(report: &mut DoctorReport, place: &str, health: &str, queue: &str, is_ours: bool) {
    if !is_ours {
        report.warning(
            format!("{place} is used by another agent, with the queue {queue}"),
            "stop that agent, or give each agent its own addresses",
        );
    } else if health.trim() == "ok" {
        report.ok(format!("{place} is used by the running agent; it is healthy"));
    } else {
        report.fault(
            format!(
                "{place} is used by the running agent; its health check says: {}",
                health.trim()
            ),
            "check its log and the disk of its queue",
        );
    }
}

/// An agent that listens on an address.
enum Holder {
    Agent,
    Admin { health: String, queue: String },
}

impl Role {
    /// Finds out whether an agent listens on the address in this role.
    async fn holder(self, address: SocketAddr) -> Option<Holder> {
        match self {
            Self::Admin => {
                let (_, status) = get(address, "/status").await.ok()?;
                let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
                let queue = status["queue"]["path"].as_str()?.to_owned();
                let (_, health) = get(address, "/healthz").await.ok()?;
                let health = String::from_utf8_lossy(&health).into_owned();
                Some(Holder::Admin { health, queue })
            }
            Self::Samples | Self::Publishers if asks_for_token(address).await => {
                Some(Holder::Agent)
            }
            // The HTTP source accepts only POST.
            Self::Samples => {
                let (telemetry, _) = get(address, "/v1/telemetry").await.ok()?;
                let (setup, _) = get(address, "/v1/setup").await.ok()?;
                let expected = StatusCode::METHOD_NOT_ALLOWED;
                (telemetry == expected && setup == expected).then_some(Holder::Agent)
            }
            Self::Publishers => {
                let (_, page) = get(address, "/").await.ok()?;
                let says = String::from_utf8_lossy(&page).contains("Publishers connect here");
                says.then_some(Holder::Agent)
            }
        }
    }
}

/// Whether an agent that requires a token listens on the address.
async fn asks_for_token(address: SocketAddr) -> bool {
    let answer = get(address, "/").await;
    answer.is_ok_and(|(status, body)| {
        status == StatusCode::UNAUTHORIZED && String::from_utf8_lossy(&body).contains("pitwire")
    })
}

async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), RequestError> {
    let bounds = Bounds { time: DOCTOR_LOCAL_TIMEOUT, answer_bytes: MAX_DOCTOR_ANSWER_BYTES };
    request(&on_this_pc(address).to_string(), Method::GET, path, Bytes::new(), bounds).await
}

#[cfg(test)]
mod tests {
    use super::super::finding::FindingSeverity;
    use super::*;

    #[test]
    fn an_unhealthy_agent_is_a_fault() {
        for (health, is_ours, severity, said) in [
            ("ok\n", true, FindingSeverity::Ok, "is used by the running agent; it is healthy"),
            (
                "the queue is closed\n",
                true,
                FindingSeverity::Fault,
                "is used by the running agent; its health check says: the queue is closed",
            ),
            (
                "ok\n",
                false,
                FindingSeverity::Warning,
                "is used by another agent, with the queue /theirs",
            ),
        ] {
            let mut report = DoctorReport::new(SUBJECT);
            say_agent(&mut report, "127.0.0.1:9184", health, "/theirs", is_ours);
            let found = &report.findings[0];
            assert_eq!(
                (found.severity, &*found.summary),
                (severity, &*format!("127.0.0.1:9184 {said}"))
            );
        }
    }
}

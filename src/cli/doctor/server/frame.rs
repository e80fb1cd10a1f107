//! Tests how the server handles a frame, in a new session whose page no viewer knows.

use std::time::Duration;

use tokio::time::timeout;

use super::super::DoctorReport;
use super::{Dashboard, DashboardLink, Link, Sink, reason};
use crate::config::Config;
use crate::entry::{Entry, Kind, Seq, StintId};
use crate::fields;
use crate::platform::clock;
use crate::session::ECHO_GRACE;
use crate::sink::{Ack, Addressed, JOIN_TIMEOUT, JoinWait, Joined, Proof};
use crate::source::simulator::Car;

/// How the server behaves when it receives a frame.
struct PublishBehavior {
    acknowledges: bool,
    /// It sends the frame back to the sender too.
    echoes: bool,
    /// It returns the frame in the answer to `join_session`.
    shows: bool,
    /// It answers `join_session`.
    joins: bool,
    objection: Option<String>,
}

/// Publishes a frame and reports the server's behavior; `None` if the server assigns no session.
pub(super) async fn publish(
    report: &mut DoctorReport,
    config: &Config,
    dashboard: &mut Dashboard,
    mut link: DashboardLink,
) -> Option<()> {
    let session = match link.request_session(StintId(1)).await {
        Ok(session) => session,
        Err(error) => {
            report.fault(
                format!("it assigns no session: {}", reason(error)),
                "check that it is a dashboard server, which answers request_session_id",
            );
            return None;
        }
    };
    report.ok("it assigns a session");
    let manners = try_out(config, dashboard, &mut link, &session).await;
    say(report, &manners);
    Some(())
}

async fn try_out(
    config: &Config,
    dashboard: &mut Dashboard,
    link: &mut DashboardLink,
    session: &str,
) -> PublishBehavior {
    let limit = config.delivery.proof_timeout;
    let joined = link.join(session, JoinWait::Ack).await.unwrap_or(Joined::Unanswered);
    let frame = frame();
    let id = dashboard.identify(&frame);
    let addressed = [Addressed { session, entry: &frame, id }];
    let published = link.publish(&addressed, Proof::Echo, ECHO_GRACE);
    let receipt = timeout(limit, published).await.ok().and_then(Result::ok);
    let echoes = receipt.as_ref().is_some_and(|receipt| receipt.missing.is_empty());
    let objection = receipt.as_ref().and_then(|receipt| match &receipt.ack {
        Ack::Error(text) => Some(text.to_string()),
        Ack::UnknownSession => Some("it does not know the session that it assigned".into()),
        Ack::None | Ack::Plain => None,
    });
    let mut manners = PublishBehavior {
        acknowledges: joined != Joined::Unanswered
            || receipt.is_some_and(|receipt| receipt.ack != Ack::None),
        echoes,
        shows: false,
        joins: joined != Joined::Unanswered,
        objection,
    };
    if !manners.acknowledges {
        manners.acknowledges = acknowledges(dashboard, &frame, limit).await;
    }
    if !echoes {
        let asked = link.join(session, JoinWait::Data).await;
        manners.shows = matches!(asked, Ok(Joined::Known(shown)) if shown.frame.is_some());
        manners.joins |= manners.shows;
    }
    manners
}

/// Whether the server acknowledges a frame on a new link, without other pending events.
async fn acknowledges(dashboard: &mut Dashboard, frame: &Entry, limit: Duration) -> bool {
    let tried = async {
        let mut link = dashboard.open().await.ok()?;
        let session = link.request_session(StintId(1)).await.ok()?;
        let id = dashboard.identify(frame);
        let addressed = [Addressed { session: &session, entry: frame, id }];
        let published = link.publish(&addressed, Proof::Ack, ECHO_GRACE);
        let receipt = timeout(JOIN_TIMEOUT.min(limit), published).await.ok()?.ok()?;
        Some(receipt.ack != Ack::None)
    };
    tried.await.unwrap_or(false)
}

/// A frame that every schema accepts.
fn frame() -> Entry {
    let captured_at = clock::now();
    let mut sample = Car::new(1).sample();
    sample["player_name"] = "pitwire doctor".into();
    let json = fields::map(&sample, captured_at).unwrap_or_default();
    Entry { seq: Seq(1), stint: StintId(1), captured_at, kind: Kind::Frame, json }
}

fn say(report: &mut DoctorReport, manners: &PublishBehavior) {
    let PublishBehavior { acknowledges, echoes, shows, joins, objection } = manners;
    if let Some(text) = objection {
        report.fault(
            format!("it refuses a frame in a test session: {text}"),
            "check its log; the frame has the 20 fields of the dashboard",
        );
        return;
    }
    if *acknowledges {
        report.ok("it acknowledges a frame in a test session");
    } else {
        report.warning(
            "it acknowledges nothing",
            "make its handlers return, or set delivery.proof = \"echo\" if it sends frames back",
        );
    }
    match (echoes, shows) {
        (true, _) => report.ok("it sends a frame to all viewers"),
        (false, true) => report.warning(
            "it does not send a frame back to its sender, but returns it on request",
            "nothing is lost: pitwire asks it every delivery.verify_interval; a server that sends \
             to the whole room, including the sender, is faster",
        ),
        (false, false) if *joins => report.fault(
            "it does not keep frames: it neither sends them back nor returns them on request",
            "check its log: it may discard frames silently",
        ),
        (false, false) => report.warning(
            "it does not answer join_session, so pitwire cannot ask which frames it has",
            "an entry counts as delivered when the connection lasts for 90 s after it; a server \
             with join_session is better",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::FindingSeverity;
    use super::*;

    #[test]
    fn the_test_frame_has_all_dashboard_fields() {
        let frame = frame();
        let json: serde_json::Value = serde_json::from_str(&frame.json).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 20, "{json}");
        assert_eq!(json["player_name"], "pitwire doctor");
    }

    #[test]
    fn a_frame_refused_with_an_error_is_a_fault() {
        let manners = PublishBehavior {
            acknowledges: true,
            echoes: false,
            shows: false,
            joins: true,
            objection: Some("lap is below 0".into()),
        };
        let mut report = DoctorReport::new("server");
        say(&mut report, &manners);
        let said = "it refuses a frame in a test session: lap is below 0";
        assert_eq!(report.findings.len(), 1);
        assert_eq!(
            (report.findings[0].severity, &*report.findings[0].summary),
            (FindingSeverity::Fault, said)
        );
    }
}

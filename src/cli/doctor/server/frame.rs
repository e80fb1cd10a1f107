//! A session that is asked for just now, and one frame in it: nobody has the link to its page.

use std::time::Duration;

use tokio::time::timeout;

use super::super::Report;
use super::{Dashboard, DashboardLink, Link, Sink, reason};
use crate::clock;
use crate::config::{Config, ECHO_GRACE, JOIN_TIMEOUT};
use crate::entry::{Entry, Kind, Seq, StintId};
use crate::fields;
use crate::sink::{Ack, Addressed, Answer, Joined, Proof};
use crate::source::simulator::Car;

/// What the server does with a frame.
struct Manners {
    acknowledges: bool,
    /// Sends it back to us too.
    echoes: bool,
    /// Shows it when it is asked what it holds.
    shows: bool,
    /// Has an event to ask with.
    joins: bool,
    objection: Option<String>,
}

/// Returns nothing when there is no session to try with.
pub(super) async fn publish(
    report: &mut Report,
    config: &Config,
    dashboard: &mut Dashboard,
    mut link: DashboardLink,
) -> Option<()> {
    let session = match link.request_session(StintId(1)).await {
        Ok(session) => session,
        Err(error) => {
            report.fault(
                format!("it assigns no session: {}", reason(error)),
                "see that it is a dashboard server, which answers request_session_id",
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
) -> Manners {
    let limit = config.delivery.proof_timeout;
    let joined = link.join(session, Answer::Ack).await.unwrap_or(Joined::Unanswered);
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
    let mut manners = Manners {
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
        let asked = link.join(session, Answer::Data).await;
        manners.shows = matches!(asked, Ok(Joined::Known(shown)) if shown.frame.is_some());
        manners.joins |= manners.shows;
    }
    manners
}

/// Whether a frame is acknowledged on a link where nothing else waits to be.
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

/// One that no schema objects to.
fn frame() -> Entry {
    let captured_at = clock::now();
    let mut sample = Car::new(1).sample();
    sample["player_name"] = "pitwire doctor".into();
    let json = fields::map(&sample, captured_at).unwrap_or_default();
    Entry { seq: Seq(1), stint: StintId(1), captured_at, kind: Kind::Frame, json }
}

fn say(report: &mut Report, manners: &Manners) {
    let Manners { acknowledges, echoes, shows, joins, objection } = manners;
    if let Some(text) = objection {
        report.fault(
            format!("it refuses a frame in a session of our own: {text}"),
            "see its log; the frame has the 20 fields of the dashboard",
        );
        return;
    }
    match acknowledges {
        true => report.ok("it acknowledges a frame, in a session of our own"),
        false => report.warning(
            "it acknowledges nothing",
            "let its handlers return, or write delivery.proof = \"echo\" if it sends frames back",
        ),
    }
    match (echoes, shows) {
        (true, _) => report.ok("it sends a frame to all who look on"),
        (false, true) => report.warning(
            "it does not send a frame back to who sent it, but shows it when asked",
            "nothing is lost, it is asked every delivery.verify_interval; faster is a server that \
             sends to the whole room, the sender too",
        ),
        (false, false) if *joins => report.fault(
            "it keeps no frame: it neither sends one back nor shows one when asked",
            "see its log: it may refuse frames without a word",
        ),
        (false, false) => report.warning(
            "it does not answer who joins a session, so that it cannot be asked what it holds",
            "an entry counts as delivered when the connection outlives it for 90 s; better is a \
             server with join_session",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    #[test]
    fn the_frame_is_one_of_the_dashboard_s() {
        let frame = frame();
        let json: serde_json::Value = serde_json::from_str(&frame.json).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 20, "{json}");
        assert_eq!(json["player_name"], "pitwire doctor");
    }

    #[test]
    fn a_frame_that_is_refused_aloud_is_a_fault() {
        let manners = Manners {
            acknowledges: true,
            echoes: false,
            shows: false,
            joins: true,
            objection: Some("lap is below 0".into()),
        };
        let mut report = Report::new("server");
        say(&mut report, &manners);
        let said = "it refuses a frame in a session of our own: lap is below 0";
        assert_eq!(report.findings.len(), 1);
        assert_eq!(
            (report.findings[0].severity, &*report.findings[0].what),
            (Severity::Fault, said)
        );
    }
}

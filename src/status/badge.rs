//! The status badge: the state of the agent in a few words, for the status page and the terminal.

use std::cmp::Reverse;
use std::time::Duration;

use crate::queue::QueueStatus;
use crate::session::SessionStatus;
use crate::status::drain::{Drain, ON_ITS_WAY};
use serde::Serialize;

/// How long the status page shows that the server forgot the session, so that the driver passes the
/// new link on.
const FORGOTTEN_SHOWN: Duration = Duration::from_secs(60);

/// The status badge: severity and text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Badge {
    pub severity: Severity,
    pub text: String,
}

/// Ordered from the least to the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Everything works.
    Good,
    /// Delivery waits, nothing is lost; no action is required.
    Waiting,
    /// The user has to act.
    Bad,
}

impl Badge {
    /// The badge of the agent: the disk if it fails, else the first of the destinations in the worst
    /// state, with its name if there are several.
    pub(super) fn new(queue: &QueueStatus, destinations: Vec<(&str, Self)>) -> Self {
        let on_disk = |text| Self { severity: Severity::Bad, text };
        if queue.storage_error.is_some() && queue.disk_is_full {
            return on_disk("Disk full".into());
        } else if queue.storage_error.is_some() || queue.stuck.is_some() {
            return on_disk(format!("Disk fails, {} in memory", count(queue.buffered)));
        }
        let has_several = destinations.len() > 1;
        let worst = destinations.into_iter().min_by_key(|(_, badge)| Reverse(badge.severity));
        match worst {
            Some((name, Self { severity, text })) if has_several && severity > Severity::Good => {
                Self { severity, text: format!("{name}: {text}") }
            }
            Some((_, badge)) => badge,
            None => Self { severity: Severity::Waiting, text: "No destination".into() },
        }
    }

    /// The badge of a destination: the most important fact about its session and its queue.
    pub(super) fn of_destination(queued: u64, session: &SessionStatus, drain: Drain) -> Self {
        let saved = count(queued);
        let (severity, text) = match drain {
            _ if was_forgotten(session) => (Severity::Waiting, "Server forgot the session".into()),
            _ if let Some(retrying) = session.stuck_on() => (
                Severity::Waiting,
                format!(
                    "Retrying {} {}, attempt {} of {}",
                    retrying.kind.as_str(),
                    count(retrying.seq.0),
                    retrying.attempt,
                    retrying.of
                ),
            ),
            _ if !session.connected => (Severity::Waiting, format!("Offline, {saved} saved")),
            _ if session.session.is_none() => {
                (Severity::Waiting, format!("No session yet, {saved} saved"))
            }
            _ if queued <= ON_ITS_WAY => (Severity::Good, "Live".into()),
            Drain::CatchingUp { ready_in } => {
                (Severity::Waiting, format!("Catching up, {} s", count(ready_in.as_secs().max(1))))
            }
            Drain::FallingBehind => (Severity::Bad, format!("Falling behind, {saved} saved")),
            Drain::Level => (Severity::Waiting, format!("Catching up, {saved} left")),
        };
        Self { severity, text }
    }
}

/// Whether the server forgot the session recently, within [`FORGOTTEN_SHOWN`].
pub(super) fn was_forgotten(session: &SessionStatus) -> bool {
    session.forgotten_at.is_some_and(|at| at.elapsed() < FORGOTTEN_SHOWN)
}

/// Formats a number with commas between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups = groups.map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::*;
    use crate::entry::{Kind, Seq};
    use crate::queue::Stuck;
    use crate::session::Retrying;

    /// Replaces a troubleshooting page: this state is normal and has no page.
    const LIVE: &str = "## What you see\nLive";
    const DISK: &str = include_str!("../../deploy/docs/troubleshooting/disk.md");
    const OFFLINE: &str = include_str!("../../deploy/docs/troubleshooting/offline.md");
    const NO_SESSION: &str = include_str!("../../deploy/docs/troubleshooting/no-session.md");
    const NEW_PAGE: &str = include_str!("../../deploy/docs/troubleshooting/new-page.md");
    const SET_ASIDE: &str = include_str!("../../deploy/docs/troubleshooting/dead-letters.md");
    const BEHIND: &str = include_str!("../../deploy/docs/troubleshooting/behind.md");

    /// Checks that the troubleshooting page quotes the text up to its first number.
    fn leads_to(text: &str, page: &str) {
        let (_, seen) = page.split_once("## What you see").unwrap();
        let seen = seen.split("\n## ").next().unwrap();
        let words = text.split(|c: char| c.is_ascii_digit()).next().unwrap();
        assert!(seen.contains(words), "{words:?} is not in {seen}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_shows_what_matters_most_and_a_page_explains_it() {
        let offline = SessionStatus::default();
        let connected = SessionStatus { connected: true, ..offline.clone() };
        let bound = SessionStatus { session: Some("a".into()), ..connected.clone() };
        let forgotten = SessionStatus { forgotten_at: Some(Instant::now()), ..connected.clone() };
        let retrying = Retrying { seq: Seq(1_204), kind: Kind::Setup, attempt: 2, of: 3 };
        let stuck = SessionStatus { retrying: Some(retrying), ..bound.clone() };
        let catching_up = Drain::CatchingUp { ready_in: Duration::from_millis(14_700) };
        let (level, behind) = (Drain::Level, Drain::FallingBehind);
        for (queued, session, drain, severity, text, page) in [
            (0, &bound, level, Severity::Good, "Live", LIVE),
            (7, &bound, behind, Severity::Good, "Live", LIVE),
            (1_204, &offline, level, Severity::Waiting, "Offline, 1,204 saved", OFFLINE),
            (3, &connected, level, Severity::Waiting, "No session yet, 3 saved", NO_SESSION),
            (900, &bound, catching_up, Severity::Waiting, "Catching up, 14 s", BEHIND),
            (900, &bound, level, Severity::Waiting, "Catching up, 900 left", BEHIND),
            (1_000_000, &bound, behind, Severity::Bad, "Falling behind, 1,000,000 saved", BEHIND),
            (
                900,
                &forgotten,
                catching_up,
                Severity::Waiting,
                "Server forgot the session",
                NEW_PAGE,
            ),
            (
                900,
                &stuck,
                catching_up,
                Severity::Waiting,
                "Retrying setup 1,204, attempt 2 of 3",
                SET_ASIDE,
            ),
        ] {
            let badge = Badge::of_destination(queued, session, drain);
            assert_eq!(badge, Badge { severity, text: text.into() });
            leads_to(text, page);
        }
        advance(FORGOTTEN_SHOWN).await;
        let badge = Badge::of_destination(900, &forgotten, Drain::Level);
        assert_eq!(badge.text, "No session yet, 900 saved");
    }

    #[test]
    fn the_agent_shows_a_failing_disk_or_its_worst_destination() {
        let badge = |severity, text: &str| Badge { severity, text: text.into() };
        let live = ("server", badge(Severity::Good, "Live"));
        let offline = ("league", badge(Severity::Waiting, "Offline, 200 saved"));
        let behind = ("club", badge(Severity::Bad, "Falling behind, 900 saved"));
        let works = QueueStatus::default();
        let storage_error = Some("no room".to_owned());
        let fails = QueueStatus { storage_error, buffered: 12, ..works.clone() };
        let full = QueueStatus { disk_is_full: true, ..fails.clone() };
        let stuck = Some(Stuck { step: "flush", since: Instant::now() });
        let hangs = QueueStatus { stuck, buffered: 7, ..works.clone() };
        for (queue, destinations, severity, text) in [
            (&works, vec![live.clone()], Severity::Good, "Live"),
            (&works, vec![offline.clone()], Severity::Waiting, "Offline, 200 saved"),
            (&works, vec![live.clone(), live.clone()], Severity::Good, "Live"),
            (&works, vec![live, offline.clone()], Severity::Waiting, "league: Offline, 200 saved"),
            (
                &works,
                vec![offline.clone(), behind],
                Severity::Bad,
                "club: Falling behind, 900 saved",
            ),
            (&fails, vec![offline.clone()], Severity::Bad, "Disk fails, 12 in memory"),
            (&hangs, vec![offline.clone()], Severity::Bad, "Disk fails, 7 in memory"),
            (&full, vec![offline], Severity::Bad, "Disk full"),
        ] {
            assert_eq!(Badge::new(queue, destinations), badge(severity, text));
            if text.starts_with("Disk") {
                leads_to(text, DISK);
            }
        }
    }
}

//! The status badge: the state of the agent in a few words, for the status page and the terminal.

use serde::Serialize;

use crate::config::FORGOTTEN_SHOWN;
use crate::drain::{Drain, ON_ITS_WAY};
use crate::session::SessionStatus;
use crate::tools;

/// The status badge: severity and text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pill {
    pub mood: Mood,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mood {
    /// Everything works.
    Good,
    /// Delivery waits, nothing is lost; no action is required.
    Waiting,
    /// The user has to act.
    Bad,
}

impl Pill {
    /// The badge for the most important fact about the disk, the queue and the session.
    pub(super) fn new(disk: Disk, queued: u64, session: &SessionStatus, drain: Drain) -> Self {
        let saved = count(queued);
        let (mood, text) = match (disk, drain) {
            (Disk::Full, _) => (Mood::Bad, "Disk full".into()),
            (Disk::Fails(entries), _) => {
                (Mood::Bad, format!("Disk fails, {} in memory", count(entries)))
            }
            _ if was_forgotten(session) => (Mood::Waiting, "Server forgot the session".into()),
            _ if !session.connected => (Mood::Waiting, format!("Offline, {saved} saved")),
            _ if session.session.is_none() => {
                (Mood::Waiting, format!("No session yet, {saved} saved"))
            }
            _ if queued <= ON_ITS_WAY => (Mood::Good, "Live".into()),
            (Disk::Works, Drain::CatchingUp { ready_in }) => {
                (Mood::Waiting, format!("Catching up, {} s", count(ready_in.as_secs().max(1))))
            }
            (Disk::Works, Drain::FallingBehind) => {
                (Mood::Bad, format!("Falling behind, {saved} saved"))
            }
            (Disk::Works, Drain::Level) => (Mood::Waiting, format!("Catching up, {saved} left")),
        };
        Self { mood, text }
    }
}

/// The state of the queue's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    Works,
    Full,
    /// The disk fails, and this many entries wait in memory.
    Fails(u64),
}

impl Disk {
    pub(super) fn new(queue: &tools::Status) -> Self {
        match &queue.storage_error {
            None => Self::Works,
            Some(_) if queue.disk_is_full => Self::Full,
            Some(_) => Self::Fails(queue.buffered),
        }
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

    /// Stands in for a troubleshooting page: nothing is wrong, so there is none.
    const LIVE: &str = "## What you see\nLive";
    const DISK: &str = include_str!("../../deploy/docs/troubleshooting/disk.md");
    const OFFLINE: &str = include_str!("../../deploy/docs/troubleshooting/offline.md");
    const NO_SESSION: &str = include_str!("../../deploy/docs/troubleshooting/no-session.md");
    const NEW_PAGE: &str = include_str!("../../deploy/docs/troubleshooting/new-page.md");
    const BEHIND: &str = include_str!("../../deploy/docs/troubleshooting/behind.md");

    /// Checks that the troubleshooting page quotes the text up to its first number.
    fn leads_to(text: &str, page: &str) {
        let (_, seen) = page.split_once("## What you see").unwrap();
        let seen = seen.split("\n## ").next().unwrap();
        let words = text.split(|c: char| c.is_ascii_digit()).next().unwrap();
        assert!(seen.contains(words), "{words:?} is not in {seen}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pill_says_what_matters_most_and_a_page_what_to_do() {
        let offline = SessionStatus::default();
        let connected = SessionStatus { connected: true, ..offline.clone() };
        let bound = SessionStatus { session: Some("a".into()), ..connected.clone() };
        let forgotten = SessionStatus { forgotten_at: Some(Instant::now()), ..connected.clone() };
        let catching_up = Drain::CatchingUp { ready_in: Duration::from_millis(14_700) };
        for (disk, queued, session, drain, mood, text, page) in [
            (Disk::Works, 0, &bound, Drain::Level, Mood::Good, "Live", LIVE),
            (Disk::Works, 7, &bound, Drain::FallingBehind, Mood::Good, "Live", LIVE),
            (
                Disk::Works,
                1_204,
                &offline,
                Drain::Level,
                Mood::Waiting,
                "Offline, 1,204 saved",
                OFFLINE,
            ),
            (
                Disk::Works,
                3,
                &connected,
                Drain::Level,
                Mood::Waiting,
                "No session yet, 3 saved",
                NO_SESSION,
            ),
            (Disk::Works, 900, &bound, catching_up, Mood::Waiting, "Catching up, 14 s", BEHIND),
            (
                Disk::Works,
                900,
                &bound,
                Drain::Level,
                Mood::Waiting,
                "Catching up, 900 left",
                BEHIND,
            ),
            (
                Disk::Works,
                1_000_000,
                &bound,
                Drain::FallingBehind,
                Mood::Bad,
                "Falling behind, 1,000,000 saved",
                BEHIND,
            ),
            (Disk::Fails(12), 5, &bound, Drain::Level, Mood::Bad, "Disk fails, 12 in memory", DISK),
            (Disk::Full, 5, &offline, Drain::Level, Mood::Bad, "Disk full", DISK),
            (
                Disk::Works,
                900,
                &forgotten,
                catching_up,
                Mood::Waiting,
                "Server forgot the session",
                NEW_PAGE,
            ),
        ] {
            let pill = Pill::new(disk, queued, session, drain);
            assert_eq!(pill, Pill { mood, text: text.into() });
            leads_to(text, page);
        }
        advance(FORGOTTEN_SHOWN).await;
        let pill = Pill::new(Disk::Works, 900, &forgotten, Drain::Level);
        assert_eq!(pill.text, "No session yet, 900 saved");
    }
}

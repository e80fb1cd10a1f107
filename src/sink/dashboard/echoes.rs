//! Filters the events of a server for our sessions, and matches echoes with the published batch.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::identity;
use crate::entry::MAX_SESSIONS;
use crate::entry::{Kind, Seq};
use crate::remote_text::{RemoteText, Secrets};
use crate::sink::{Ack, Addressed, EntryId, Receipt};

/// The longest session id that a server may assign; a UUID has 36 characters.
const MAX_SESSION_ID_CHARS: usize = 128;

const ASSIGNED: &str = "session_id_assigned";
const TELEMETRY: &str = "telemetry_update";
const SETUP: &str = "setup_update";

/// The sessions whose events are processed, the most recently used last. A server may also send any
/// number of events of other sessions, of any size.
#[derive(Clone, Debug, Default)]
pub(super) struct Listening(Arc<Mutex<Vec<Arc<str>>>>);

impl Listening {
    pub(super) fn to(&self, session: &str) -> Arc<str> {
        let mut wanted = self.wanted();
        match wanted.iter().rposition(|known| **known == *session) {
            Some(index) => wanted[index..].rotate_left(1),
            None => {
                let excess = (wanted.len() + 1).saturating_sub(MAX_SESSIONS);
                wanted.drain(..excess);
                wanted.push(session.into());
            }
        }
        wanted.last().map(Arc::clone).unwrap_or_default()
    }

    fn wanted(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parses an event of the server; `None` if it is irrelevant.
    pub(super) fn read(
        &self,
        name: &str,
        payload: &RawValue,
        secrets: &Secrets,
    ) -> Option<ServerEvent> {
        if name == ASSIGNED {
            let payload: Value = serde_json::from_str(payload.get()).unwrap_or_default();
            return Some(ServerEvent::Assigned(session_id(&payload, secrets)));
        }
        let update: Update<'_> = serde_json::from_str(payload.get()).ok()?;
        let wanted = self.wanted();
        let of_ours = wanted.iter().rfind(|session| ***session == update.session_id);
        let session = Arc::clone(of_ours?);
        drop(wanted);
        let (kind, id) = match name {
            TELEMETRY => (Kind::Frame, identity::frame(update.telemetry?.get())?),
            SETUP => (Kind::Setup, identity::setup(update.timestamp?.get(), update.setup?.get())?),
            _ => return None,
        };
        Some(ServerEvent::Echo(Echo { session, kind, id }))
    }
}

/// A parsed event of the server, waiting to be processed.
#[derive(Debug)]
pub(super) enum ServerEvent {
    /// The server assigned a session; an error if the id is invalid.
    Assigned(Result<String, RemoteText>),
    Echo(Echo),
}

impl ServerEvent {
    pub(super) fn echo(&self, session: &str) -> Option<&Echo> {
        match self {
            Self::Echo(echo) if *echo.session == *session => Some(echo),
            Self::Echo(_) | Self::Assigned(_) => None,
        }
    }
}

/// An event that the server sends to every viewer of the session.
#[derive(Debug)]
pub(super) struct Echo {
    session: Arc<str>,
    pub(super) kind: Kind,
    pub(super) id: EntryId,
}

/// The payload of an event to the viewers of a session, parsed only as far as needed.
#[derive(Deserialize)]
struct Update<'a> {
    #[serde(borrow)]
    session_id: Cow<'a, str>,
    #[serde(borrow)]
    telemetry: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    setup: Option<&'a RawValue>,
}

fn even_null<'de: 'a, 'a, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Parses an assigned session id. It must be usable in a URL.
fn session_id(payload: &Value, secrets: &Secrets) -> Result<String, RemoteText> {
    let id = payload.get("session_id").and_then(Value::as_str).unwrap_or_default();
    let fits = (1..=MAX_SESSION_ID_CHARS).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
    if fits {
        Ok(id.to_owned())
    } else {
        Err(RemoteText::new(id, secrets).within("it assigns \"", "\" as a session id"))
    }
}

/// Tracks the echoes of a published batch.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Entries without an echo, newest first.
    entries: Vec<Awaited>,
    /// Echoed entries in order of arrival.
    pub(super) came_back: Vec<Seq>,
    /// The newest echoed entry of each session.
    newest_back: Vec<(Arc<str>, Seq)>,
    inversions: u64,
}

/// An entry without an echo so far.
#[derive(Debug)]
struct Awaited {
    session: Arc<str>,
    seq: Seq,
    id: EntryId,
}

impl Expected {
    pub(super) fn new(entries: &[Addressed<'_>], listening: &Listening) -> Self {
        let entries = entries
            .iter()
            .rev()
            .map(|Addressed { session, entry, id }| Awaited {
                session: listening.to(session),
                seq: entry.seq,
                id: *id,
            })
            .collect();
        Self { entries, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes the oldest entry with the content of the echo from the list. An echo of another
    /// publisher's entry matches none.
    pub(super) fn match_echo(&mut self, echo: &Echo) {
        // Search from the end, which holds the oldest entry: in-order echoes match at once.
        let index = self
            .entries
            .iter()
            .rposition(|awaited| awaited.session == echo.session && awaited.id == echo.id);
        let Some(index) = index else { return };
        let Awaited { session, seq, .. } = self.entries.remove(index);
        self.came_back.push(seq);
        match self.newest_back.iter_mut().find(|(of, _)| *of == session) {
            Some((_, newest)) if seq < *newest => {
                self.inversions += 1;
            }
            Some((_, newest)) => *newest = seq,
            None => self.newest_back.push((session, seq)),
        }
    }

    pub(super) fn skipped(&self) -> Vec<Seq> {
        let awaited = self.entries.iter().rev();
        awaited
            .filter(|awaited| {
                self.newest_back
                    .iter()
                    .any(|(of, newest)| *of == awaited.session && awaited.seq < *newest)
            })
            .map(|awaited| awaited.seq)
            .collect()
    }

    pub(super) fn receipt(&self, ack: Ack) -> Receipt {
        let missing = self.entries.iter().rev().map(|one| one.seq).collect();
        Receipt { ack, missing, inversions: self.inversions }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::entry::{CapturedAt, Entry, StintId};

    /// The state of a batch of frames 1 to 4 after these echoes.
    fn after(back: &[i64]) -> Expected {
        after_in(|_| "race", back)
    }

    /// The state of a batch of frames 1 to 4 in the given sessions after these echoes.
    fn after_in(session_of: impl Fn(u64) -> &'static str, back: &[i64]) -> Expected {
        let entries = [1, 2, 3, 4].map(|n| Entry {
            seq: Seq(n),
            stint: StintId(1),
            captured_at: CapturedAt(n as i64 * 500),
            kind: Kind::Frame,
            json: "{}".into(),
        });
        let addressed: Vec<_> = entries
            .iter()
            .map(|entry| Addressed {
                session: session_of(entry.seq.0),
                entry,
                id: EntryId(entry.seq.0),
            })
            .collect();
        let mut expected = Expected::new(&addressed, &Listening::default());
        for n in back {
            let (session, id) = (session_of(*n as u64).into(), EntryId(*n as u64));
            expected.match_echo(&Echo { session, kind: Kind::Frame, id });
        }
        expected
    }

    #[test]
    fn an_assigned_session_id_unfit_for_a_url_is_refused() {
        for id in ["5f0b7a5e-8b5e-4f7e-9d0e-0f4c6c1d2e3f", "race_1", "a"] {
            assert_eq!(session_id(&json!({"session_id": id}), &Secrets::default()).unwrap(), id);
        }
        let long = "x".repeat(MAX_SESSION_ID_CHARS + 1);
        for id in ["", "a b", "../x", "<b>", "a\u{1b}[2J", &long] {
            let read = session_id(&json!({"session_id": id}), &Secrets::default());
            assert!(read.is_err(), "{id:?}");
        }
        assert!(session_id(&json!(7), &Secrets::default()).is_err());
    }

    #[test]
    fn an_echo_of_another_session_is_ignored() {
        let listening = Listening::default();
        listening.to("race");
        for (session, is_ours) in [("race", true), (r"r\u0061ce", true), ("another", false)] {
            for (name, content) in [
                (TELEMETRY, r#""telemetry":{"lap":1}"#),
                (SETUP, r#""timestamp":"noon","setup":{"wing":1},"more":[]"#),
                (SETUP, r#""setup":{"wing":1},"timestamp":null"#),
            ] {
                let payload = format!(r#"{{"session_id":"{session}",{content}}}"#);
                let event = read(&listening, name, &payload);
                assert_eq!(event.is_some(), is_ours, "{payload}");
            }
        }
    }

    #[test]
    fn an_event_without_an_entry_is_ignored() {
        let listening = Listening::default();
        listening.to("race");
        for payload in ["null", "[]", "7", "{}", r#"{"session_id":"race"}"#] {
            assert!(read(&listening, TELEMETRY, payload).is_none(), "{payload}");
            assert!(read(&listening, "join_session", payload).is_none(), "{payload}");
        }
        let setup = r#"{"session_id":"race","setup":{}}"#;
        assert!(read(&listening, SETUP, setup).is_none(), "no timestamp");
    }

    fn read(listening: &Listening, name: &str, payload: &str) -> Option<ServerEvent> {
        listening.read(name, serde_json::from_str(payload).unwrap(), &Secrets::default())
    }

    #[test]
    fn late_echoes_are_inversions_and_absent_ones_are_missing() {
        let receipt = after(&[1, 3, 2, 9]).receipt(Ack::Plain);
        assert_eq!(receipt, Receipt { ack: Ack::Plain, missing: vec![Seq(4)], inversions: 1 });
    }

    fn in_turn(n: u64) -> &'static str {
        if n.is_multiple_of(2) { "even" } else { "odd" }
    }

    #[test]
    fn echo_order_is_tracked_per_session() {
        let back = after_in(in_turn, &[4, 1]);
        assert_eq!(back.skipped(), [Seq(2)]);
        assert_eq!(back.receipt(Ack::Plain).inversions, 0);
        assert_eq!(after_in(in_turn, &[4, 2]).receipt(Ack::Plain).inversions, 1);
    }

    #[test]
    fn an_entry_is_skipped_if_only_a_later_one_is_echoed() {
        assert_eq!(after(&[]).skipped(), []);
        assert_eq!(after(&[1, 2]).skipped(), []);
        assert_eq!(after(&[3]).skipped(), [Seq(1), Seq(2)]);
        assert_eq!(after(&[1, 3, 2]).skipped(), []);
        assert_eq!(after(&[1, 3, 4]).skipped(), [Seq(2)]);
    }
}

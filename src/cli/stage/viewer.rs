//! A viewer of the dashboard that counts what it is shown, over connections of its own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::config::DEMO_DRAIN_TIMEOUT;
use crate::dashboard::Server;
use crate::remote_text::Secrets;
use crate::sink::SinkError;
use crate::sink::socketio::{Address, Connection, Outgoing};

/// What a viewer saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) out_of_order: u64,
    pub(super) duplicated: u64,
    /// Of different frames.
    timestamps: HashSet<String>,
    /// Of the page that is looked at.
    newest: String,
    /// Read from the page when it was opened: shown once more if they came at that moment.
    held: HashSet<String>,
}

impl Seen {
    /// Different frames.
    pub(super) fn frames(&self) -> u64 {
        self.timestamps.len() as u64
    }

    fn note(&mut self, timestamp: String) {
        if self.held.remove(&timestamp) {
            return;
        }
        // RFC 3339 of one form sorts as text.
        if !self.timestamps.insert(timestamp.clone()) {
            self.duplicated += 1;
        } else if timestamp < self.newest {
            self.out_of_order += 1;
        } else {
            self.newest = timestamp;
        }
    }

    /// Another page is opened, or the same anew: what it holds counts as seen.
    fn open(&mut self, held: Vec<String>) {
        self.newest.clear();
        self.held.clear();
        for timestamp in held {
            // On the page before it was seen, too.
            if !self.timestamps.contains(&timestamp) {
                self.note(timestamp.clone());
            }
            self.held.insert(timestamp);
        }
    }
}

/// A viewer at work.
#[derive(Debug)]
pub(super) struct Viewer {
    session: String,
    seen: Arc<Mutex<Seen>>,
    reader: JoinHandle<()>,
}

impl Viewer {
    /// Joins a session on the server, past the plug.
    pub(super) async fn start(server: &Server, session: &str) -> Result<Self, SinkError> {
        let seen = Arc::<Mutex<Seen>>::default();
        let reader = look_at(server, session, &seen).await?;
        Ok(Self { session: session.into(), seen, reader })
    }

    /// Goes over to this session, if it is another one.
    pub(super) async fn follow(&mut self, server: &Server, session: &str) -> Result<(), SinkError> {
        if self.session != session {
            self.reader.abort();
            self.reader = look_at(server, session, &self.seen).await?;
            self.session = session.into();
        }
        Ok(())
    }

    /// Reads what the page holds, before its server is gone.
    pub(super) fn catch_up(&self, server: &Server) {
        lock(&self.seen).open(held(server, &self.session));
    }

    /// What it saw so far.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn look_at(
    server: &Server,
    session: &str,
    seen: &Arc<Mutex<Seen>>,
) -> Result<JoinHandle<()>, SinkError> {
    let address = Address {
        url: format!("{}/socket.io/", server.url()),
        open_timeout: DEMO_DRAIN_TIMEOUT,
        headers: Vec::new(),
        auth: None,
        ca: None,
        secrets: Secrets::default(),
    };
    let read = |name: &str, payload: &Value| {
        (name == "telemetry_update").then(|| timestamp(payload.get("telemetry")?)).flatten()
    };
    let mut connection = Connection::open(address, read).await?;
    let json = serde_json::json!({"session_id": session}).to_string();
    let joined = connection.emit_with_ack(vec![Outgoing { name: "join_session", json }]).await?;
    let _ = joined.await;
    // Joined first, so that nothing comes between what is held and what is shown.
    lock(seen).open(held(server, session));
    let notes = Arc::clone(seen);
    Ok(tokio::spawn(async move {
        while let Ok(timestamp) = connection.next().await {
            lock(&notes).note(timestamp);
        }
    }))
}

fn held(server: &Server, session: &str) -> Vec<String> {
    server.frames(session).iter().filter_map(timestamp).collect()
}

fn timestamp(telemetry: &Value) -> Option<String> {
    Some(telemetry.get("timestamp")?.as_str()?.to_owned())
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(held: &[&str], live: &[&str]) -> Seen {
        let mut seen = Seen::default();
        seen.open(held.iter().map(ToString::to_string).collect());
        live.iter().for_each(|timestamp| seen.note(timestamp.to_string()));
        seen
    }

    #[test]
    fn what_comes_late_or_again_is_counted() {
        let seen = shown(&[], &["1", "2", "4", "3", "2"]);
        assert_eq!((seen.frames(), seen.out_of_order, seen.duplicated), (4, 1, 1));
    }

    #[test]
    fn what_a_page_held_when_it_was_opened_may_be_shown_once_more() {
        let mut seen = shown(&["1", "2"], &["2", "3", "2"]);
        assert_eq!((seen.frames(), seen.out_of_order, seen.duplicated), (3, 0, 1));
        // Another page begins anew.
        seen.open(Vec::new());
        seen.note("0".into());
        assert_eq!((seen.frames(), seen.out_of_order, seen.duplicated), (4, 0, 1));
    }
}

//! A dashboard viewer that counts the frames it receives, over its own connections to the server.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::task::JoinHandle;

use super::harness::DRAIN_TIMEOUT;
use crate::config::TransportChoice;
use crate::dashboard::Server;
use crate::remote_text::Secrets;
use crate::sink::SinkError;
use crate::sink::socketio::{Address, Connection, Outgoing};

/// The frames that a viewer has seen.
#[derive(Debug, Default)]
pub(super) struct SeenFrames {
    pub(super) out_of_order: u64,
    pub(super) duplicated: u64,
    /// Timestamps of all distinct frames.
    timestamps: HashSet<String>,
    /// The newest timestamp on the current page.
    newest: String,
    /// Timestamps that the page held when it was opened. Each may arrive once more as an update, if
    /// it was published while the viewer joined.
    held: HashSet<String>,
}

impl SeenFrames {
    /// Number of distinct frames.
    pub(super) fn frames(&self) -> u64 {
        self.timestamps.len() as u64
    }

    fn note(&mut self, timestamp: String) {
        if self.held.remove(&timestamp) {
            return;
        }
        // The timestamps all have the same RFC 3339 form, so they sort as text.
        if !self.timestamps.insert(timestamp.clone()) {
            self.duplicated += 1;
        } else if timestamp < self.newest {
            self.out_of_order += 1;
        } else {
            self.newest = timestamp;
        }
    }

    /// Opens or reopens a page: the frames that it holds count as seen.
    fn open(&mut self, held: Vec<String>) {
        self.newest.clear();
        self.held.clear();
        for timestamp in held {
            // Frames that the previous page showed too are not duplicates.
            if !self.timestamps.contains(&timestamp) {
                self.note(timestamp.clone());
            }
            self.held.insert(timestamp);
        }
    }
}

/// A running viewer.
#[derive(Debug)]
pub(super) struct Viewer {
    session: String,
    seen: Arc<Mutex<SeenFrames>>,
    reader: JoinHandle<()>,
}

impl Viewer {
    /// Joins a session on the server directly, not through the proxy.
    pub(super) async fn start(server: &Server, session: &str) -> Result<Self, SinkError> {
        let seen = Arc::<Mutex<SeenFrames>>::default();
        let reader = open_page(server, session, &seen).await?;
        Ok(Self { session: session.into(), seen, reader })
    }

    /// Switches to this session if it is not the current one.
    pub(super) async fn follow(&mut self, server: &Server, session: &str) -> Result<(), SinkError> {
        if self.session != session {
            self.reader.abort();
            self.reader = open_page(server, session, &self.seen).await?;
            self.session = session.into();
        }
        Ok(())
    }

    /// Reads the frames on the page, before its server stops.
    pub(super) fn catch_up(&self, server: &Server) {
        lock(&self.seen).open(held(server, &self.session));
    }

    /// The frames seen so far.
    pub(super) fn seen(&self) -> MutexGuard<'_, SeenFrames> {
        lock(&self.seen)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn open_page(
    server: &Server,
    session: &str,
    seen: &Arc<Mutex<SeenFrames>>,
) -> Result<JoinHandle<()>, SinkError> {
    let address = Address {
        url: format!("{}/socket.io/", server.url()),
        open_timeout: DRAIN_TIMEOUT,
        headers: Vec::new(),
        auth: None,
        ca: None,
        proxy: None,
        transport: TransportChoice::Websocket,
        secrets: Secrets::default(),
    };
    let mut connection = Connection::open(address, |name, payload| match name {
        "telemetry_update" => {
            let payload: Value = serde_json::from_str(payload.get()).ok()?;
            timestamp(payload.get("telemetry")?)
        }
        _ => None,
    })
    .await?;
    let json = serde_json::json!({"session_id": session}).to_string();
    let joined = connection.emit_with_ack(vec![Outgoing { name: "join_session", json }]).await?;
    let _ = joined.await;
    // Join first, so that no frame is missed between reading the page and receiving updates.
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

fn lock(seen: &Mutex<SeenFrames>) -> MutexGuard<'_, SeenFrames> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(held: &[&str], live: &[&str]) -> SeenFrames {
        let mut seen = SeenFrames::default();
        seen.open(held.iter().map(ToString::to_string).collect());
        live.iter().for_each(|timestamp| seen.note(timestamp.to_string()));
        seen
    }

    #[test]
    fn out_of_order_and_duplicate_frames_are_counted() {
        let seen = shown(&[], &["1", "2", "4", "3", "2"]);
        assert_eq!((seen.frames(), seen.out_of_order, seen.duplicated), (4, 1, 1));
    }

    #[test]
    fn a_frame_in_the_loaded_history_may_be_broadcast_once_more() {
        let mut seen = shown(&["1", "2"], &["2", "3", "2"]);
        assert_eq!((seen.frames(), seen.out_of_order, seen.duplicated), (3, 0, 1));
        // The order is counted separately for each page.
        seen.open(Vec::new());
        seen.note("0".into());
        assert_eq!((seen.frames(), seen.out_of_order, seen.duplicated), (4, 0, 1));
    }
}

//! A viewer of the dashboard that counts what it is shown, over a connection of its own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::config::DEMO_DRAIN_TIMEOUT;
use crate::sink::SinkError;
use crate::sink::socketio::{Address, Connection, Outgoing};

/// What a viewer saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Different frames.
    pub(super) frames: u64,
    pub(super) out_of_order: u64,
    pub(super) duplicated: u64,
    timestamps: HashSet<String>,
    newest: String,
}

impl Seen {
    fn note(&mut self, timestamp: String) {
        if !self.timestamps.insert(timestamp.clone()) {
            self.duplicated += 1;
            return;
        }
        self.frames += 1;
        // RFC 3339 of one form sorts as text.
        if timestamp < self.newest {
            self.out_of_order += 1;
        } else {
            self.newest = timestamp;
        }
    }
}

/// A viewer at work.
#[derive(Debug)]
pub(super) struct Viewer {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Viewer {
    /// Joins a session on the server at `url`, past the plug.
    pub(super) async fn start(url: &str, session: &str) -> Result<Self, SinkError> {
        let address = Address {
            url: format!("{url}/socket.io/"),
            open_timeout: DEMO_DRAIN_TIMEOUT,
            headers: Vec::new(),
            auth: None,
            ca: None,
        };
        let timestamp = |name: &str, payload: &Value| {
            let timestamp = payload.pointer("/telemetry/timestamp")?.as_str()?;
            (name == "telemetry_update").then(|| timestamp.to_owned())
        };
        let mut connection = Connection::open(address, timestamp).await?;
        let json = serde_json::json!({"session_id": session}).to_string();
        let joined =
            connection.emit_with_ack(vec![Outgoing { name: "join_session", json }]).await?;
        let _ = joined.await;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok(timestamp) = connection.next().await {
                notes.lock().unwrap_or_else(PoisonError::into_inner).note(timestamp);
            }
        });
        Ok(Self { seen, task })
    }

    /// Different frames seen so far.
    pub(super) fn seen(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).frames
    }

    /// Leaves, and says what it saw.
    pub(super) async fn stop(self) -> Seen {
        self.task.abort();
        let _ = self.task.await;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

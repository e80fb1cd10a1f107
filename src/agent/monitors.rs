//! Watches the destinations and the queue's disk: logs how they change, and records it in the status
//! history.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::metrics;
use crate::platform::clock;
use crate::queue::Writer;
use crate::session::{self, DestinationWatch, SessionStatus};
use crate::status::drain::{DRAIN_INTERVAL, Drain, Watch};
use crate::status::{self, StatusHistory};

/// How often the queue's disk is checked.
const DISK_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Logs when a destination starts to fall behind and when it has caught up, and updates the status
/// history.
pub(super) async fn watch_drain(
    queue: Writer,
    destinations: Vec<DestinationWatch>,
    history: StatusHistory,
) {
    let mut watches: Vec<(Watch, Drain)> =
        destinations.iter().map(|_| Default::default()).collect();
    loop {
        history.look(queue.status().entries);
        sleep(DRAIN_INTERVAL).await;
        let status = queue.status();
        for (DestinationWatch { name, session, .. }, (watch, logged)) in
            destinations.iter().zip(&mut watches)
        {
            // Without a session nothing drains, and the reason is already logged.
            let Some(own) = status.destination(name).filter(|_| session.borrow().session.is_some())
            else {
                watch.pause();
                continue;
            };
            let drain = watch.look(own);
            metrics::catch_up(name, drain.seconds());
            history.drains(name, drain);
            if !drain.is_like(*logged) {
                tracing::info!(destination = name, queued = own.queued, "{drain}");
                *logged = drain;
            }
        }
    }
}

/// Records the connection and session failures of a destination in the status history.
pub(super) async fn watch_session(
    destination: Option<String>,
    mut session: watch::Receiver<SessionStatus>,
    history: StatusHistory,
) {
    let (mut failures, mut forgotten_at) = (0, None);
    loop {
        let now = session.borrow_and_update().clone();
        if now.failures > failures {
            let message = now.user_message.unwrap_or_default();
            let detail = now.last_error.unwrap_or_default();
            history.trouble(clock::now(), destination.clone(), message, detail);
        }
        if now.forgotten_at.is_some() && now.forgotten_at != forgotten_at {
            history.trouble(clock::now(), destination.clone(), session::FORGOTTEN, String::new());
        }
        (failures, forgotten_at) = (now.failures, now.forgotten_at);
        if session.changed().await.is_err() {
            return;
        }
    }
}

/// Records disk failures in the status history.
pub(super) async fn watch_disk(queue: Writer, history: StatusHistory) {
    let (mut storage_error, mut stuck_since) = (None, None);
    loop {
        let disk = queue.status();
        if let Some(error) = &disk.storage_error
            && Some(error) != storage_error.as_ref()
        {
            let message = status::disk_message(disk.disk_is_full);
            history.trouble(clock::now(), None, message, error.clone());
        }
        storage_error = disk.storage_error;
        if let Some(stuck) = disk.stuck
            && stuck_since != Some(stuck.since)
        {
            tracing::error!("{stuck}; new entries wait in memory");
            history.trouble(clock::now(), None, status::disk_message(false), stuck.to_string());
            stuck_since = Some(stuck.since);
        }
        sleep(DISK_CHECK_INTERVAL).await;
    }
}

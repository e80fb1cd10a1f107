//! Announces the dashboard pages of new sessions.

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::entry::{MAX_PAGES, StintId};
use crate::session::{DestinationWatch, SessionStatus};

/// The new dashboard pages of all destinations.
pub(super) struct NewPages {
    lines: mpsc::Receiver<String>,
    _tasks: JoinSet<()>,
}

impl NewPages {
    pub(super) fn watch(destinations: &[DestinationWatch]) -> Self {
        let (sender, lines) = mpsc::channel(MAX_PAGES);
        let mut tasks = JoinSet::new();
        for DestinationWatch { name, session, .. } in destinations {
            let label = if destinations.len() > 1 { format!(" of {name}") } else { String::new() };
            tasks.spawn(send_pages(label, session.clone(), sender.clone()));
        }
        Self { lines, _tasks: tasks }
    }

    /// Waits for a new page and returns a line that announces it; `None` after the last one.
    pub(super) async fn next(&mut self) -> Option<String> {
        self.lines.recv().await
    }
}

/// Sends a line for each new dashboard page of a destination.
async fn send_pages(
    label: String,
    mut session: watch::Receiver<SessionStatus>,
    sender: mpsc::Sender<String>,
) {
    let mut known: Vec<(StintId, String)> = Vec::new();
    loop {
        let pages = session.borrow_and_update().pages.clone();
        for (_, page) in pages.iter().filter(|page| !known.contains(page)) {
            // The receiver is dropped when the agent ends.
            let _ = sender.send(format!("dashboard{label}: {page}")).await;
        }
        known = pages;
        if session.changed().await.is_err() {
            return;
        }
    }
}

//! Bounds the unhandled events of a client by slowing it down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::net::ReadGate;

/// The bytes of unhandled events above which a client's connection is not read any further. One
/// message of 1 MB may exceed it, for each client: ten clients stay below 16 MiB.
const MAX_UNHANDLED_BYTES: usize = 512 << 10;

/// The bytes of unhandled events below which the reading resumes.
const RESUME_BYTES: usize = MAX_UNHANDLED_BYTES / 2;

/// The unhandled events of one client.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    state: Mutex<BacklogState>,
    /// Notified when the reading resumes.
    resumed: Notify,
}

#[derive(Debug, Default)]
struct BacklogState {
    bytes: usize,
    is_full: bool,
    /// The connection that carries the events; `None` with polling, where each request may have
    /// another one.
    gate: Option<ReadGate>,
}

impl Backlog {
    /// Adds an event of this size until the returned value is dropped.
    pub(super) fn add(self: &Arc<Self>, bytes: usize) -> Unhandled {
        let mut state = self.state();
        state.bytes += bytes;
        if state.bytes > MAX_UNHANDLED_BYTES {
            state.is_full = true;
            state.gate.iter().for_each(ReadGate::shut);
        }
        Unhandled { backlog: Arc::clone(self), bytes }
    }

    /// Sets the connection that carries the events from now on.
    pub(super) fn set_gate(&self, gate: ReadGate) {
        let mut state = self.state();
        if state.is_full {
            gate.shut();
        }
        if let Some(earlier) = state.gate.replace(gate) {
            earlier.open();
        }
    }

    /// Resolves when further events may be read.
    pub(super) async fn has_room(&self) {
        loop {
            let resumed = self.resumed.notified();
            if !self.state().is_full {
                return;
            }
            resumed.await;
        }
    }

    fn remove(&self, bytes: usize) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
        if state.is_full && state.bytes < RESUME_BYTES {
            state.is_full = false;
            state.gate.iter().for_each(ReadGate::open);
            drop(state);
            self.resumed.notify_waiters();
        }
    }

    fn state(&self) -> MutexGuard<'_, BacklogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event that is not handled yet.
#[derive(Debug)]
pub(super) struct Unhandled {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Drop for Unhandled {
    fn drop(&mut self) {
        self.backlog.remove(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_client_is_not_read_from_the_limit_until_half_of_it_is_handled() {
        let backlog = Arc::new(Backlog::default());
        let full = backlog.add(MAX_UNHANDLED_BYTES);
        assert!(backlog.has_room().now_or_never().is_some());
        let one = backlog.add(1);
        assert!(backlog.has_room().now_or_never().is_none());
        let waiting = tokio::spawn({
            let backlog = Arc::clone(&backlog);
            async move { backlog.has_room().await }
        });
        tokio::task::yield_now().await;
        drop(one);
        assert!(backlog.has_room().now_or_never().is_none());
        drop(full);
        waiting.await.unwrap();
    }
}

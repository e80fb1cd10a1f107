//! Accounting of the memory that clients of a server hold, in bytes, per client and in total:
//! unhandled events, unread packets, names of rooms.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that each client may always hold, even when the others have used up the total, so that a
/// greedy client cannot cause a modest one to be disconnected. About 60 frames.
const RESERVED_BYTES: usize = 64 << 10;

/// Limits for the clients of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    /// The maximum number of connected clients.
    pub(crate) clients: usize,
    /// The maximum bytes of one client.
    pub(crate) bytes_per_client: usize,
    /// The maximum bytes of all clients together, not counting [`RESERVED_BYTES`] of each.
    pub(crate) bytes: usize,
}

/// Memory that all clients of a server hold together.
#[derive(Debug)]
pub(super) struct Pool {
    limits: ClientLimits,
    /// Bytes beyond [`RESERVED_BYTES`] of each account.
    used: AtomicUsize,
}

impl Pool {
    pub(super) fn new(limits: ClientLimits) -> Self {
        Self { limits, used: AtomicUsize::new(0) }
    }
}

/// Memory that one client holds.
#[derive(Debug)]
pub(super) struct ClientMemory {
    pool: Arc<Pool>,
    used: Mutex<usize>,
}

impl ClientMemory {
    pub(super) fn new(pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { pool, used: Mutex::new(0) })
    }

    /// Reserves `bytes` until the charge is dropped; `None` if that exceeds a limit.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let after = used.checked_add(bytes)?;
        if after > self.pool.limits.bytes_per_client {
            return None;
        }
        let shared = beyond_reserved(after) - beyond_reserved(*used);
        self.pool
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
                Some(all + shared).filter(|all| *all <= self.pool.limits.bytes)
            })
            .ok()?;
        *used = after;
        Some(Charge { account: Arc::clone(self), bytes })
    }
}

/// Reserved bytes of a client, released on drop.
#[derive(Debug)]
pub(super) struct Charge {
    account: Arc<ClientMemory>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut used = self.account.used.lock().unwrap_or_else(PoisonError::into_inner);
        let after = used.saturating_sub(self.bytes);
        let shared = beyond_reserved(*used) - beyond_reserved(after);
        self.account.pool.used.fetch_sub(shared, Ordering::Relaxed);
        *used = after;
    }
}

fn beyond_reserved(bytes: usize) -> usize {
    bytes.saturating_sub(RESERVED_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ClientLimits =
        ClientLimits { clients: 2, bytes_per_client: 3 << 20, bytes: 4 << 20 };

    #[test]
    fn memory_is_limited_per_client_and_in_total() {
        let pool = Arc::new(Pool::new(LIMITS));
        let (greedy, second) =
            (ClientMemory::new(Arc::clone(&pool)), ClientMemory::new(Arc::clone(&pool)));
        let held = greedy.charge(3 << 20).unwrap();
        assert!(greedy.charge(1).is_none());
        let rest = second.charge((1 << 20) + 2 * RESERVED_BYTES).unwrap();
        assert!(second.charge(1).is_none());
        drop(held);
        assert!(second.charge(1).is_some());
        drop(rest);
        assert_eq!(pool.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_client_gets_its_reserve_when_the_pool_is_exhausted() {
        let pool = Arc::new(Pool::new(LIMITS));
        let greedy: Vec<_> = (0..2).map(|_| ClientMemory::new(Arc::clone(&pool))).collect();
        let _held: Vec<_> = greedy.iter().map(|account| account.charge(2 << 20)).collect();
        let _rest = greedy[0].charge(2 * RESERVED_BYTES).unwrap();
        let modest = ClientMemory::new(pool);
        assert!(modest.charge(RESERVED_BYTES).is_some());
        assert!(modest.charge(RESERVED_BYTES + 1).is_none());
    }
}

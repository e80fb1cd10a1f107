//! The open connections of one listener, and the choice of which one to close at a limit.
//!
//! Programs on this PC share one address, so a plain limit would let one of them lock out the
//! others. At a limit, a connection that keeps the server waiting is closed for the new one;
//! connections with a pending response, and WebSockets in use, are never closed. Connections whose
//! request is incomplete are closed first, but only while there are as many of them as idle
//! kept-alive ones: neither kind can crowd out the other. A client that connects and sends its
//! request at once is served even while another one keeps opening connections.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::open_files::affordable;
use super::progress::{TrackedConnection, WaitsFor};

/// How long a connection that is closed for a new one may take to free its descriptor. One poll of
/// its task is enough; no other connection is accepted until then.
const EVICTION_TIMEOUT: Duration = Duration::from_millis(20);

/// The minimum time between log lines about connections that were closed or refused at a limit.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The open connections of one listener. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The name of the listener in the log.
    name: &'static str,
    limits: ConnectionLimits,
    table: Mutex<ConnectionTable>,
    /// Notified when a connection has closed or its pending response is complete.
    changed: Arc<Notify>,
    is_closing: watch::Sender<bool>,
}

/// The maximum connections of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConnectionLimits {
    connections: usize,
    /// From one address: half of all, so that other addresses always get connections.
    per_peer: usize,
}

#[derive(Debug, Default)]
struct ConnectionTable {
    next_id: u64,
    open: HashMap<u64, Open>,
    /// When a limit was last logged, and the number of connections affected since.
    limit_logged_at: Option<Instant>,
    unlogged: u64,
    accept_error_logged_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Open {
    peer: IpAddr,
    connection: TrackedConnection,
}

/// How a new connection is handled.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Admit,
    /// Admits it after closing the connection with this id.
    Replace(u64),
    Refuse,
}

impl Connections {
    /// Creates an empty table for up to `wanted` connections; fewer if the process may open few
    /// files.
    pub(crate) fn new(name: &'static str, wanted: usize) -> Self {
        let connections = affordable(wanted);
        if connections < wanted {
            tracing::warn!(
                "{name}: accepts {connections} connections at a time instead of {wanted}, because \
                 the open-files limit is low; raise it (`ulimit -n`, `LimitNOFILE=`)"
            );
        }
        let limits = ConnectionLimits { connections, per_peer: connections.div_ceil(2) };
        Self(Arc::new(Shared {
            name,
            limits,
            table: Mutex::default(),
            changed: Arc::default(),
            is_closing: watch::Sender::new(false),
        }))
    }

    pub(super) fn name(&self) -> &'static str {
        self.0.name
    }

    /// Reserves a slot for a connection from `peer`, and closes another one for it if necessary;
    /// `None` if the connection is refused.
    pub(super) async fn admit(&self, peer: IpAddr) -> Option<Slot> {
        let peer = network_of(peer);
        if let Some(slot) = self.insert_if_room(peer) {
            return Some(slot);
        }
        // The connections that were just accepted read their requests first. Otherwise one with a
        // complete request could be closed as one that keeps the server waiting.
        yield_now().await;
        let victim = {
            let mut table = self.table();
            match table.admission(self.0.limits, peer, Instant::now()) {
                Admission::Admit => return Some(self.insert(&mut table, peer)),
                Admission::Replace(victim) => {
                    table.open.get(&victim).map(|open| open.connection.clone())
                }
                Admission::Refuse => None,
            }
        };
        self.log_limit(peer, victim.is_some());
        victim?.kill_switch().kill();
        let freed = timeout(EVICTION_TIMEOUT, async {
            loop {
                let changed = self.0.changed.notified();
                if let Some(slot) = self.insert_if_room(peer) {
                    return slot;
                }
                changed.await;
            }
        });
        freed.await.ok()
    }

    /// Breaks all open connections; new ones are still accepted.
    pub(crate) fn kill_all(&self) {
        self.table().open.values().for_each(|open| open.connection.kill_switch().kill());
    }

    /// Gives pending responses up to `limit` to finish, then breaks all connections. The caller
    /// must not accept new ones.
    pub(crate) async fn close(&self, limit: Duration) {
        self.drain(limit).await;
        self.kill_all();
    }

    /// Waits up to `limit` until no response is pending. Each connection is closed after its
    /// response.
    pub(crate) async fn drain(&self, limit: Duration) {
        self.0.is_closing.send_replace(true);
        let drained = timeout(limit, async {
            loop {
                let changed = self.0.changed.notified();
                let is_answering =
                    self.table().open.values().any(|open| open.connection.is_answering());
                if !is_answering {
                    return;
                }
                changed.await;
            }
        });
        if drained.await.is_err() {
            tracing::debug!(listener = self.0.name, "some responses were cut off at shutdown");
        }
    }

    /// Resolves when the listener starts to close its connections.
    pub(super) async fn closing(&self) {
        // `self` owns the sender, so it cannot be dropped.
        let _ = self.0.is_closing.subscribe().wait_for(|is_closing| *is_closing).await;
    }

    fn insert_if_room(&self, peer: IpAddr) -> Option<Slot> {
        let mut table = self.table();
        let has_room = table.lacks_room(self.0.limits, peer).is_none();
        has_room.then(|| self.insert(&mut table, peer))
    }

    fn insert(&self, table: &mut ConnectionTable, peer: IpAddr) -> Slot {
        let id = table.next_id;
        table.next_id += 1;
        let connection = TrackedConnection::new(Arc::clone(&self.0.changed));
        table.open.insert(id, Open { peer, connection: connection.clone() });
        Slot { connections: self.clone(), id, connection }
    }

    /// Logs a connection at a limit, at most one line per [`LOG_INTERVAL`].
    fn log_limit(&self, peer: IpAddr, replaces: bool) {
        let mut table = self.table();
        table.unlogged += 1;
        if !is_due(&mut table.limit_logged_at, Instant::now()) {
            return;
        }
        let closed = std::mem::take(&mut table.unlogged);
        let (name, ConnectionLimits { connections, per_peer }) = (self.0.name, self.0.limits);
        let action = if replaces { "closed an idle one for it" } else { "refused it" };
        tracing::warn!(
            "{name}: a connection from {peer} exceeds the limit ({per_peer} for one address, \
             {connections} in all): {action}; {closed} closed since the last report"
        );
    }

    /// Logs why no connection can be accepted, at most once per [`LOG_INTERVAL`].
    pub(super) fn log_accept_error(&self, error: &io::Error) {
        if is_due(&mut self.table().accept_error_logged_at, Instant::now()) {
            tracing::warn!("{}: cannot accept connections: {error}; retrying", self.0.name);
        }
    }

    fn table(&self) -> MutexGuard<'_, ConnectionTable> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether [`LOG_INTERVAL`] has passed since the last line; if so, restarts it.
fn is_due(logged_at: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = logged_at.is_none_or(|at| now - at >= LOG_INTERVAL);
    if is_due {
        *logged_at = Some(now);
    }
    is_due
}

impl ConnectionTable {
    fn admission(&self, limits: ConnectionLimits, peer: IpAddr, now: Instant) -> Admission {
        let Some(candidates) = self.lacks_room(limits, peer) else { return Admission::Admit };
        let open = self.open.iter().filter(|(_, open)| match candidates {
            Candidates::All => true,
            Candidates::OfThePeer => open.peer == peer,
        });
        let waiting = open.filter_map(|(id, open)| {
            let (waits_for, waited) = open.connection.waits_for(now)?;
            Some((waits_for, Reverse(waited), *id))
        });
        let waiting: Vec<_> = waiting.collect();
        let count = |kind| waiting.iter().filter(|(waits_for, ..)| *waits_for == kind).count();
        let spares_requests = count(WaitsFor::Request) < count(WaitsFor::NextRequest);
        let victims = waiting
            .iter()
            .filter(|(waits_for, ..)| !spares_requests || *waits_for != WaitsFor::Request);
        match victims.min() {
            Some((_, _, victim)) => Admission::Replace(*victim),
            None => Admission::Refuse,
        }
    }

    /// Which connections may be closed for a new one of this peer; `None` if no limit is reached.
    fn lacks_room(&self, limits: ConnectionLimits, peer: IpAddr) -> Option<Candidates> {
        let of_the_peer = self.open.values().filter(|open| open.peer == peer).count();
        if of_the_peer >= limits.per_peer {
            Some(Candidates::OfThePeer)
        } else if self.open.len() >= limits.connections {
            Some(Candidates::All)
        } else {
            None
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Candidates {
    OfThePeer,
    All,
}

/// The network that counts as one peer: a machine can use 2^64 addresses of its IPv6 network.
fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// The slot of a connection in the limits of its listener, released on drop.
#[derive(Debug)]
pub(super) struct Slot {
    connections: Connections,
    id: u64,
    pub(super) connection: TrackedConnection,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.table().open.remove(&self.id);
        self.connections.0.changed.notify_waiters();
    }
}

#[cfg(test)]
impl Connections {
    pub(super) fn count(&self) -> usize {
        self.table().open.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LIMIT: usize = 8;
    const PER_PEER: usize = LIMIT / 2;

    fn peer(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn connections() -> Connections {
        Connections::new("test", LIMIT)
    }

    /// Drops the slot of a connection as soon as it is killed, as its task does.
    async fn serve_until_killed(slot: Slot) {
        let killed = std::future::poll_fn(|context| {
            match slot.connection.kill_switch().check_reader(context) {
                Ok(()) => std::task::Poll::Pending,
                Err(_) => std::task::Poll::Ready(()),
            }
        });
        killed.await;
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_a_new_connection_evicts_the_longest_idle_one() {
        let connections = connections();
        let mut switches = Vec::new();
        for _ in 0..PER_PEER {
            let slot = connections.admit(peer(1)).await.unwrap();
            switches.push(slot.connection.kill_switch().clone());
            tokio::spawn(serve_until_killed(slot));
            advance(Duration::from_secs(1)).await;
        }
        for oldest in &switches {
            assert!(!oldest.is_killed());
            let slot = connections.admit(peer(1)).await.expect("the oldest makes room");
            assert!(oldest.is_killed());
            tokio::spawn(serve_until_killed(slot));
        }
        assert_eq!(connections.count(), PER_PEER);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_without_a_request_are_evicted_before_kept_alive_ones() {
        let connections = connections();
        let kept_alive = connections.admit(peer(1)).await.unwrap();
        kept_alive.connection.request_complete();
        kept_alive.connection.answered();
        advance(Duration::from_secs(10)).await;
        for _ in 1..=PER_PEER {
            tokio::spawn(serve_until_killed(connections.admit(peer(1)).await.unwrap()));
        }
        assert!(!kept_alive.connection.kill_switch().is_killed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_is_not_evicted_before_many_kept_alive_ones() {
        let connections = connections();
        for _ in 0..PER_PEER {
            let slot = connections.admit(peer(1)).await.unwrap();
            slot.connection.request_complete();
            slot.connection.answered();
            tokio::spawn(serve_until_killed(slot));
        }
        advance(Duration::from_secs(10)).await;
        let new = connections.admit(peer(1)).await.unwrap();
        let _newer = connections.admit(peer(1)).await.unwrap();
        assert!(!new.connection.kill_switch().is_killed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_in_use_is_never_evicted() {
        let connections = connections();
        let mut slots = Vec::new();
        for number in 0..PER_PEER {
            let slot = connections.admit(peer(1)).await.unwrap();
            slot.connection.request_complete();
            if number % 2 == 0 {
                slot.connection.upgraded();
                slot.connection.received();
            }
            slots.push(slot);
        }
        assert!(connections.admit(peer(1)).await.is_none());
        // Once its client stops reading, it may be closed.
        slots[0].connection.sent(true);
        advance(Duration::from_secs(3)).await;
        tokio::spawn(serve_until_killed(slots.remove(0)));
        assert!(connections.admit(peer(1)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_cannot_take_all_connections() {
        let connections = connections();
        let mut slots = Vec::new();
        for _ in 0..3 * LIMIT {
            if let Some(slot) = connections.admit(peer(1)).await {
                slot.connection.request_complete();
                slots.push(slot);
            }
        }
        assert_eq!(slots.len(), PER_PEER);
        assert!(connections.admit(peer(2)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_is_refused_if_the_evicted_one_does_not_close() {
        let connections = connections();
        let mut stuck = Vec::new();
        for _ in 0..PER_PEER {
            stuck.push(connections.admit(peer(1)).await.unwrap());
        }
        assert!(connections.admit(peer(1)).await.is_none());
        assert_eq!(connections.count(), PER_PEER);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_a_response_in_progress() {
        let connections = connections();
        let slot = connections.admit(peer(1)).await.unwrap();
        slot.connection.request_complete();
        let answered = async {
            advance(Duration::from_millis(300)).await;
            slot.connection.answered();
        };
        let begun_at = Instant::now();
        let ((), ()) = tokio::join!(connections.close(Duration::from_secs(1)), answered);
        let took = begun_at.elapsed();
        assert!(took < Duration::from_secs(1) && slot.connection.kill_switch().is_killed());
        // A response that does not end is cut off.
        slot.connection.request_complete();
        connections.close(Duration::from_secs(1)).await;
        assert!(begun_at.elapsed() < Duration::from_secs(3));
    }

    fn network(address: &str) -> IpAddr {
        network_of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_network_counts_as_one_peer() {
        assert_eq!(network("2001:db8:1:2::3"), network("2001:db8:1:2:ffff::4"));
        assert_ne!(network("2001:db8:1:2::3"), network("2001:db8:1:3::3"));
        assert_eq!(network("::ffff:10.0.0.1"), peer(1));
        assert_ne!(network("::1"), network("::2"));
    }
}

//! The embedded reference dashboard server.
//!
//! It implements the Socket.IO events of the public dashboard server, so that a demo, a test or a
//! small team needs no other server. It shows each session on a page, and tests can make it
//! misbehave in the ways of real servers.
//!
//! - `contract` handles events one at a time, so the history is in order of arrival.
//! - Sessions are kept in memory, and on disk if the server has a store. Without one, a restart
//!   deletes them; [`Server::forget_sessions`] always does.
//! - Memory is bounded: the history takes at most 1 GiB; unhandled and unread messages take at most
//!   64 MiB, plus 64 KiB for each of up to 512 clients; an unfinished message takes up to 2 MB.

mod export;
mod http;
mod schema;
mod sessions;
mod store;
mod timing;
mod wall;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time;

pub use crate::contract::Acks;
pub use sessions::Summary;

use crate::contract::{
    self, ClientId, ClientLimits, Event, Host, Omissions, Refusal, ServerBehavior, SetupEvent,
};
use crate::net::Connections;
use crate::net::loopback_guard::Access;
use sessions::{HISTORY_BYTES, Sessions, UnknownSession};

/// The maximum open connections. A publisher needs one, a viewer two: for the page and its events.
const MAX_CONNECTIONS: usize = 512;

/// How the server behaves; the default follows the contract.
///
/// "Every Nth frame" counts the frames of all connections together, since the behaviour was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Reads and ignores every event: no ack, nothing stored, nothing sent to viewers.
    pub silent: bool,
    /// Waits this long before it handles an event; later events wait too.
    pub delay: Duration,
    /// When a handled event is acknowledged.
    pub acks: Acks,
    /// Does not send a frame or a setup back to the connection that sent it.
    pub no_echo: bool,
    /// Acknowledges and discards every Nth frame.
    pub refuse_every: Option<NonZeroU64>,
    /// Acknowledges and discards events that `schema::refuses`.
    pub schema: bool,
    /// Breaks the connection at every Nth frame; that frame and later events are not handled.
    pub close_every: Option<NonZeroU64>,
    /// Forgets all sessions periodically, with this interval.
    pub forget_every: Option<Duration>,
}

/// Serves programs and pages on this PC until `shutdown` completes, then notifies the clients and
/// breaks every connection.
pub async fn serve(
    listener: TcpListener,
    behaviour: Behaviour,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let sessions = Sessions::new(HISTORY_BYTES);
    let shared = Arc::new(SharedState::new(behaviour, Access::ThisPc, sessions));
    shared.serve(listener, shutdown).await;
}

/// A running server, on a dedicated thread and runtime.
///
/// Dropping it breaks every connection at once, without a notice to the clients. Both
/// [`Server::stop`] and a drop free the address.
pub struct Server {
    addr: SocketAddr,
    hub: Arc<SharedState>,
    stop: Option<oneshot::Sender<()>>,
    /// No value is ever sent: dropping it ends the thread.
    life: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server for programs and pages on this PC; port 0 picks a free port.
    ///
    /// # Errors
    /// If the address cannot be bound, or no thread can be started.
    pub fn start(addr: SocketAddr, behaviour: Behaviour) -> io::Result<Self> {
        Self::start_for(addr, behaviour, Access::ThisPc, None)
    }

    /// Starts a server for clients that `access` admits; port 0 picks a free port. With a `store`,
    /// it has the sessions of that directory and keeps all sessions there.
    ///
    /// # Errors
    /// If the address cannot be bound, no thread can be started, or the store cannot be read.
    pub(crate) fn start_for(
        addr: SocketAddr,
        behaviour: Behaviour,
        access: Access,
        store: Option<&Path>,
    ) -> io::Result<Self> {
        // Clients that connect while the history is read wait, instead of being refused.
        let listener = std::net::TcpListener::bind(addr).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
        })?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let sessions = match store {
            Some(folder) => Sessions::open(HISTORY_BYTES, folder)?,
            None => Sessions::new(HISTORY_BYTES),
        };
        let hub = Arc::new(SharedState::new(behaviour, access, sessions));
        let (stop, stopped) = oneshot::channel();
        let (life, ended) = oneshot::channel();
        let (started, outcome) = mpsc::channel();

        let thread = thread::Builder::new().name("dashboard".to_owned()).spawn({
            let hub = hub.clone();
            move || {
                // The runtime is created and dropped on this thread, so that async callers can use
                // this function. Dropping it breaks the connections.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let listening = runtime.and_then(|runtime| {
                    let _context = runtime.enter();
                    let listener = TcpListener::from_std(listener)?;
                    Ok((runtime, listener))
                });
                match listening {
                    Ok((runtime, listener)) => {
                        started.send(Ok(())).ok();
                        runtime.block_on(live(hub, listener, stopped, ended));
                    }
                    Err(error) => {
                        started.send(Err(error)).ok();
                    }
                }
            }
        })?;

        outcome.recv().map_err(|_| io::Error::other("the server did not start"))??;
        Ok(Self { addr, hub, stop: Some(stop), life: Some(life), thread: Some(thread) })
    }

    /// The address on which it listens, with the actual port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL for an agent's `server.url`, such as `http://127.0.0.1:5000`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All known sessions, in the order in which they were assigned.
    pub fn sessions(&self) -> Vec<Summary> {
        self.hub.sessions().summaries()
    }

    /// All frames of a session as received, in order of arrival; empty for an unknown session.
    pub fn frames(&self, session_id: &str) -> Vec<serde_json::Value> {
        let sessions = self.hub.sessions();
        let frames = sessions.frames(session_id, 0..u64::MAX);
        // Stored frames were parsed on arrival, so this skips none.
        frames.filter_map(|(_, frame)| serde_json::from_str(frame.telemetry.get()).ok()).collect()
    }

    /// All setups of a session as received, in order of arrival; empty for an unknown session.
    pub fn setups(&self, session_id: &str) -> Vec<serde_json::Value> {
        let sessions = self.hub.sessions();
        let setups = sessions.setups(session_id, 0..u64::MAX);
        setups.filter_map(|(_, setup)| serde_json::from_str(setup.setup.get()).ok()).collect()
    }

    /// Changes the behaviour, starting with the next event.
    pub fn behave(&self, behaviour: Behaviour) {
        self.hub.frames_received.store(0, Ordering::Relaxed);
        self.hub.behaviour.send_replace(behaviour);
    }

    /// Forgets every session, like a restart, but keeps all connections open.
    pub fn forget_sessions(&self) {
        self.hub.sessions().forget_all();
    }

    /// Breaks all open connections, like a network failure; new ones are accepted.
    pub fn cut_connections(&self) {
        self.hub.connections.kill_all();
    }

    /// Notifies the clients, breaks the connections and waits for the end of the thread: about a
    /// second at most.
    pub fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the dashboard server's thread panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.life = None;
        self.join();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Serves until the [`Server`] is stopped or dropped.
async fn live(
    hub: Arc<SharedState>,
    listener: TcpListener,
    stopped: oneshot::Receiver<()>,
    ended: oneshot::Receiver<Infallible>,
) {
    // Dropping `stop` without sending is not a request to stop; dropping `life` is.
    let shutdown = async {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        _ = ended => {}
        () = hub.serve(listener, shutdown) => {}
    }
}

/// The state that all connections of a server share.
struct SharedState {
    access: Access,
    sessions: Mutex<Sessions>,
    behaviour: watch::Sender<Behaviour>,
    frames_received: AtomicU64,
    connections: Connections,
}

impl SharedState {
    fn new(behaviour: Behaviour, access: Access, sessions: Sessions) -> Self {
        Self {
            access,
            sessions: Mutex::new(sessions),
            behaviour: watch::Sender::new(behaviour),
            frames_received: AtomicU64::new(0),
            connections: Connections::new("dashboard server", MAX_CONNECTIONS),
        }
    }

    /// Locks the sessions. Do not hold the guard across an `.await`.
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let until = async {
            tokio::select! {
                biased;
                () = shutdown => {}
                never = self.forget_again_and_again() => match never {},
            }
        };
        contract::serve(
            &self,
            listener,
            &self.connections,
            |events| http::routes(&self, events, self.access.clone()),
            until,
        )
        .await;
    }

    async fn forget_again_and_again(&self) -> Infallible {
        let mut behaviour = self.behaviour.subscribe();
        loop {
            let period = behaviour.borrow_and_update().forget_every;
            let next = async {
                match period {
                    Some(period) => time::sleep(period).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // `self` owns the sender, so it cannot be dropped.
                _ = behaviour.changed() => {}
                () = next => {
                    let forgotten = self.sessions().forget_all();
                    tracing::info!(forgotten, "forgot all sessions");
                }
            }
        }
    }
}

impl Host for SharedState {
    /// Enough for a league and its viewers.
    const CLIENT_LIMITS: ClientLimits =
        ClientLimits { clients: 512, bytes_per_client: 16 << 20, bytes: 64 << 20 };

    async fn assign(&self, _: ClientId) -> Result<String, Refusal> {
        let session_id = self.sessions().assign();
        tracing::info!(session = %session_id, "session assigned");
        Ok(session_id)
    }

    /// Applies the configured refusals before the event is parsed.
    fn admit(&self, event: Event, payload: &RawValue) -> Result<(), Refusal> {
        let behaviour = self.behaviour.borrow().clone();
        if event == Event::Frame {
            let count = self.frames_received.fetch_add(1, Ordering::Relaxed) + 1;
            if is_nth(count, behaviour.close_every) {
                return Err(Refusal::Cut);
            }
            if is_nth(count, behaviour.refuse_every) {
                return Err(Refusal::NotKept("refused on purpose".into()));
            }
        }
        if behaviour.schema
            && let Some(reason) =
                schema::refuses(event.name(), &serde_json::from_str(payload.get())?)
        {
            return Err(Refusal::NotKept(format!("schema: {reason}")));
        }
        Ok(())
    }

    /// Each event is handled with the behaviour of its time.
    const MAX_FRAMES_TOGETHER: usize = 1;

    async fn keep_frames(
        &self,
        _: ClientId,
        session_id: &str,
        frames: &[&RawValue],
        _: Omissions,
    ) -> Vec<Result<(), Refusal>> {
        let mut sessions = self.sessions();
        frames.iter().map(|frame| Ok(sessions.store_frame(session_id, frame)?)).collect()
    }

    async fn keep_setup(
        &self,
        _: ClientId,
        session_id: &str,
        setup: SetupEvent,
        _: Omissions,
    ) -> Result<(), Refusal> {
        Ok(self.sessions().store_setup(session_id, setup)?)
    }

    fn latest(&self, session_id: &str) -> (Option<SetupEvent>, Option<Box<RawValue>>) {
        self.sessions().latest(session_id)
    }

    fn unreadable(&self, _: &str, _: &Refusal) {}

    fn left(&self, _: ClientId) {}

    fn behavior(&self) -> ServerBehavior {
        let Behaviour { silent, delay, acks, no_echo, .. } = *self.behaviour.borrow();
        ServerBehavior { silent, delay, acks, no_echo }
    }
}

impl From<UnknownSession> for Refusal {
    fn from(unknown: UnknownSession) -> Self {
        Self::NotKept(unknown.to_string())
    }
}

fn is_nth(count: u64, every: Option<NonZeroU64>) -> bool {
    every.is_some_and(|every| count.is_multiple_of(every.get()))
}

#[cfg(test)]
mod tests;

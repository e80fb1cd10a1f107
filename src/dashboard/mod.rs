//! The embedded reference dashboard server.
//!
//! It speaks the Socket.IO contract of the public dashboard server, so that a demo, a test or a
//! small team needs nothing else; it shows each session on a page; and it can be told to
//! misbehave in the ways in which real servers do.
//!
//! - Events are handled as `contract` says, one after the other: the history is in order
//!   of arrival.
//! - Sessions live in memory. A restart forgets them; so does [`Server::forget_sessions`].
//! - Nothing grows without bound. The history takes 1 GiB; what clients send and do not read takes 64
//!   MiB, and 64 KiB for each of up to 512 clients; an unfinished message takes up to 2 MB.

mod http;
pub mod schema;
mod sessions;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
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

use crate::contract::{self, Client, ClientLimits, Event, Host, Manners, Refusal, Setup};
use crate::loopback_guard::Access;
use crate::net::Connections;
use sessions::{HISTORY_BYTES, Sessions, UnknownSession};

/// Connections at the same time: publishers, and viewers with one each for the page and its events.
const MAX_CONNECTIONS: usize = 512;

/// How the server is to behave; the default behaves as the contract says.
///
/// "Every Nth frame" counts the frames of all connections together, from the moment the
/// behaviour was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Reads every event and does nothing with it: no ack, nothing stored, nothing sent on.
    pub silent: bool,
    /// Waits this long before it handles an event; the events behind it wait too.
    pub delay: Duration,
    /// When a handled event is acknowledged.
    pub acks: Acks,
    /// Does not send a frame or a setup back to the connection it came from.
    pub no_echo: bool,
    /// Throws away every Nth frame, acknowledged like the others.
    pub refuse_every: Option<NonZeroU64>,
    /// Throws away, acknowledged like the others, what [`schema::refuses`].
    pub schema: bool,
    /// Breaks the connection at every Nth frame, with that frame and all behind it unhandled.
    pub close_every: Option<NonZeroU64>,
    /// Forgets all sessions again and again, this long after the last time.
    pub forget_every: Option<Duration>,
}

/// Serves programs and pages of this PC until `shutdown` completes, then tells the clients and
/// breaks every connection.
pub async fn serve(
    listener: TcpListener,
    behaviour: Behaviour,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    Arc::new(Hub::new(behaviour, Access::ThisPc)).serve(listener, shutdown).await;
}

/// A running server, on a thread and a runtime of its own.
///
/// Dropping it is the hard end: every connection is broken at once, without a word. Either end
/// frees the address for the next server.
pub struct Server {
    addr: SocketAddr,
    hub: Arc<Hub>,
    stop: Option<oneshot::Sender<()>>,
    /// Nothing is ever sent: the thread ends when this is dropped.
    life: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server for programs and pages of this PC; port 0 takes any free one.
    ///
    /// # Errors
    /// If the address cannot be listened on, or no thread can be started.
    pub fn start(addr: SocketAddr, behaviour: Behaviour) -> io::Result<Self> {
        Self::start_for(addr, behaviour, Access::ThisPc)
    }

    /// Starts a server for those who have `access`; port 0 takes any free one.
    ///
    /// # Errors
    /// If the address cannot be listened on, or no thread can be started.
    pub fn start_for(addr: SocketAddr, behaviour: Behaviour, access: Access) -> io::Result<Self> {
        let hub = Arc::new(Hub::new(behaviour, access));
        let (stop, stopped) = oneshot::channel();
        let (life, ended) = oneshot::channel();
        let (bound, ready) = mpsc::channel();

        let thread = thread::Builder::new().name("dashboard".to_owned()).spawn({
            let hub = hub.clone();
            move || {
                // The runtime lives and dies on this thread, so that a caller may itself be
                // asynchronous; dropping it is what breaks the connections.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let listening = runtime.and_then(|runtime| {
                    let listener = runtime.block_on(TcpListener::bind(addr))?;
                    Ok((runtime, listener.local_addr()?, listener))
                });
                match listening {
                    Ok((runtime, addr, listener)) => {
                        bound.send(Ok(addr)).ok();
                        runtime.block_on(live(hub, listener, stopped, ended));
                    }
                    Err(error) => {
                        bound.send(Err(error)).ok();
                    }
                }
            }
        })?;

        let addr = ready.recv().map_err(|_| io::Error::other("the server did not start"))??;
        Ok(Self { addr, hub, stop: Some(stop), life: Some(life), thread: Some(thread) })
    }

    /// The address it listens on, with the port it was given.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What an agent's `server_url` is to be: `http://127.0.0.1:5000`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All sessions it knows, in the order in which they were assigned.
    pub fn sessions(&self) -> Vec<Summary> {
        self.hub.sessions().summaries()
    }

    /// Every frame of a session as received, in order of arrival; none for an unknown session.
    pub fn frames(&self, session_id: &str) -> Vec<serde_json::Value> {
        let sessions = self.hub.sessions();
        let frames = sessions.frames(session_id, 0..u64::MAX);
        // What was stored has been parsed before, so that nothing is left out here.
        frames.filter_map(|(_, frame)| serde_json::from_str(frame.get()).ok()).collect()
    }

    /// Every setup of a session as received, in order of arrival; none for an unknown session.
    pub fn setups(&self, session_id: &str) -> Vec<serde_json::Value> {
        let sessions = self.hub.sessions();
        let setups = sessions.setups(session_id, 0..u64::MAX);
        setups.filter_map(|(_, setup)| serde_json::from_str(setup.setup.get()).ok()).collect()
    }

    /// Changes how it behaves from the next event on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.hub.frames_received.store(0, Ordering::Relaxed);
        self.hub.behaviour.send_replace(behaviour);
    }

    /// Forgets every session, as a restart does, with all connections left standing.
    pub fn forget_sessions(&self) {
        self.hub.sessions().forget_all();
    }

    /// Breaks every connection there is, as a network does; new ones are accepted.
    pub fn cut_connections(&self) {
        self.hub.connections.kill_all();
    }

    /// Tells the clients, breaks the connections and waits for the end: about a second at most.
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

/// Serves until it is asked to stop or its [`Server`] is gone.
async fn live(
    hub: Arc<Hub>,
    listener: TcpListener,
    stopped: oneshot::Receiver<()>,
    ended: oneshot::Receiver<Infallible>,
) {
    // A `stop` that is dropped unsent is no wish to stop; the end of `life` says that.
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

/// What all connections of one server share.
struct Hub {
    access: Access,
    sessions: Mutex<Sessions>,
    behaviour: watch::Sender<Behaviour>,
    frames_received: AtomicU64,
    connections: Connections,
}

impl Hub {
    fn new(behaviour: Behaviour, access: Access) -> Self {
        Self {
            access,
            sessions: Mutex::new(Sessions::new(HISTORY_BYTES)),
            behaviour: watch::Sender::new(behaviour),
            frames_received: AtomicU64::new(0),
            connections: Connections::new("dashboard server", MAX_CONNECTIONS),
        }
    }

    /// The sessions, locked: never across an `.await`.
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
        let routes = |events| http::routes(&self, events, self.access.clone());
        contract::serve(&self, listener, &self.connections, routes, until).await;
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
                // The sender is ours: it is not gone while we are here.
                _ = behaviour.changed() => {}
                () = next => {
                    let forgotten = self.sessions().forget_all();
                    tracing::info!(forgotten, "forgot all sessions");
                }
            }
        }
    }
}

impl Host for Hub {
    /// A league and its viewers.
    const CLIENT_LIMITS: ClientLimits =
        ClientLimits { clients: 512, bytes_per_client: 16 << 20, bytes: 64 << 20 };

    async fn assign(&self, _: Client) -> Result<String, Refusal> {
        let session_id = self.sessions().assign();
        tracing::info!(session = %session_id, "session assigned");
        Ok(session_id)
    }

    /// What it was told to refuse is refused before it is looked at.
    fn admit(&self, event: Event, payload: &RawValue) -> Result<(), Refusal> {
        let behaviour = self.behaviour.borrow().clone();
        if event == Event::Frame {
            let count = self.frames_received.fetch_add(1, Ordering::Relaxed) + 1;
            if is_nth(count, behaviour.close_every) {
                return Err(Refusal::Cut);
            }
            if is_nth(count, behaviour.refuse_every) {
                return Err(Refusal::NotKept("one of those that are to be refused".into()));
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

    async fn keep_frame(
        &self,
        _: Client,
        session_id: &str,
        frame: &RawValue,
    ) -> Result<(), Refusal> {
        Ok(self.sessions().store_frame(session_id, frame)?)
    }

    async fn keep_setup(&self, _: Client, session_id: &str, setup: Setup) -> Result<(), Refusal> {
        Ok(self.sessions().store_setup(session_id, setup)?)
    }

    fn latest(&self, session_id: &str) -> (Option<Setup>, Option<Box<RawValue>>) {
        self.sessions().latest(session_id)
    }

    fn unreadable(&self, _: &str, _: &Refusal) {}

    fn left(&self, _: Client) {}

    fn manners(&self) -> Manners {
        let Behaviour { silent, delay, acks, no_echo, .. } = *self.behaviour.borrow();
        Manners { silent, delay, acks, no_echo }
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

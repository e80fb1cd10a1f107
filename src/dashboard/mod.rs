//! The embedded reference dashboard server.
//!
//! It speaks the Socket.IO contract of the public dashboard server, so that a demo, a test or a
//! small team needs nothing else; it shows each session on a page; and it can be told to
//! misbehave in the ways in which real servers do.
//!
//! - An event is handled completely before the next one of its connection: stored, then sent to
//!   the viewers, then acknowledged. The history is therefore in order of arrival.
//! - An acknowledgement says nothing: an event for an unknown session, or one that was refused,
//!   is acknowledged too and thrown away.
//! - Sessions live in memory. A restart forgets them; so does [`Server::forget_sessions`].
//! - Nothing grows without bound: neither the history, nor what a client sent and the server has
//!   not handled yet, nor what the server sent and a client does not read.

mod events;
mod http;
mod plug;
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

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time;

pub use sessions::Summary;

use plug::{Plug, PluggedListener, Plugs};
use sessions::{HISTORY_BYTES, Sessions};

/// How long a server that is asked to stop waits for its clients to take their leave.
const FAREWELL: Duration = Duration::from_secs(1);

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

/// When a handled event is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    #[default]
    AtOnce,
    /// This long after the event was handled; the events behind it wait too.
    After(Duration),
    Never,
}

/// Serves until `shutdown` completes, then tells the clients and breaks every connection.
///
/// # Errors
/// If the listener's address cannot be read. What happens on a connection ends that connection.
pub async fn serve(
    listener: TcpListener,
    behaviour: Behaviour,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    Arc::new(Hub::new(behaviour)).serve(listener, shutdown).await
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
    /// Starts a server; port 0 takes any free one.
    ///
    /// # Errors
    /// If the address cannot be listened on, or no thread can be started.
    pub fn start(addr: SocketAddr, behaviour: Behaviour) -> io::Result<Self> {
        let hub = Arc::new(Hub::new(behaviour));
        let (stop, stopped) = oneshot::channel();
        let (life, ended) = oneshot::channel();
        let (bound, ready) = mpsc::channel();

        let thread = thread::Builder::new().name("dashboard".to_owned()).spawn({
            let hub = hub.clone();
            move || {
                // The runtime lives and dies on this thread, so that a caller may itself be
                // asynchronous; dropping it is what breaks the connections. It is a
                // current_thread one, on which socketioxide keeps events in order.
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
        let setups = sessions.setups(session_id).into_iter().flatten();
        setups.filter_map(|setup| serde_json::from_str(setup.setup.get()).ok()).collect()
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
        self.hub.plugs.pull_all();
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
        result = hub.serve(listener, shutdown) => {
            if let Err(error) = result {
                tracing::error!(%error, "the dashboard server failed");
            }
        }
    }
}

/// What all connections of one server share.
struct Hub {
    sessions: Mutex<Sessions>,
    behaviour: watch::Sender<Behaviour>,
    frames_received: AtomicU64,
    plugs: Plugs,
}

impl Hub {
    fn new(behaviour: Behaviour) -> Self {
        Self {
            sessions: Mutex::new(Sessions::new(HISTORY_BYTES)),
            behaviour: watch::Sender::new(behaviour),
            frames_received: AtomicU64::new(0),
            plugs: Plugs::default(),
        }
    }

    /// The sessions, locked: never across an `.await`.
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let (events, io) = events::layer(&self);
        let app = http::routes(&self).layer(events);
        let listener = PluggedListener { listener, hub: self.clone() };
        let server = axum::serve(listener, app.into_make_service_with_connect_info::<Plug>());

        let result = tokio::select! {
            biased;
            () = shutdown => Ok(()),
            never = self.forget_again_and_again() => match never {},
            result = server => result,
        };
        if time::timeout(FAREWELL, io.close()).await.is_err() {
            tracing::debug!("not every client took its leave");
        }
        self.plugs.pull_all();
        result
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

#[cfg(test)]
mod tests;

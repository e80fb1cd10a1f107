//! The server side of the dashboard's Socket.IO contract, independent of the storage of sessions.
//! [`crate::dashboard`] keeps sessions in memory; [`crate::source::socketio`] passes entries to the
//! queue.
//!
//! - Each event of a connection is handled completely before the next one: stored, then sent to the
//!   viewers, then acknowledged.
//! - An acknowledgement proves nothing: like the public server, this one also acknowledges refused
//!   events and events for unknown sessions, unless the host refuses with [`Refusal::Unsure`].
//! - An event that cannot be parsed is not acknowledged, but the host is told about it.
//! - Memory is bounded: unhandled events of a client and packets that it has not read are counted
//!   in bytes ([`ClientLimits`]). A client whose events arrive faster than they are handled is
//!   slowed down.

mod backlog;
mod engineio;
mod events;
mod memory;
mod packet;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::time;

use self::engineio::Clients;
pub(crate) use self::engineio::{ClientId, Events};
pub(crate) use self::events::Event;
pub(crate) use self::memory::ClientLimits;
pub(crate) use crate::fields::Omissions;
use crate::net::{self, Connections};

/// How long a stopping server waits for its clients to disconnect.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// The storage of sessions behind the server.
pub(crate) trait Host: Send + Sync + 'static {
    /// The memory that clients of the server may hold.
    const CLIENT_LIMITS: ClientLimits;

    /// Creates a session for a client; its id is a random lower-case UUID.
    fn assign(&self, client: ClientId) -> impl Future<Output = Result<String, Refusal>> + Send;

    /// Decides whether an event is handled, before its payload is parsed.
    fn admit(&self, event: Event, payload: &RawValue) -> Result<(), Refusal>;

    /// The maximum consecutive frames of a client that are stored together.
    const MAX_FRAMES_TOGETHER: usize;

    /// Stores frames in order, and returns the outcome of each. The server then sends the stored
    /// ones to all clients that joined the session. `omissions` are missing from the first one.
    fn keep_frames(
        &self,
        client: ClientId,
        session_id: &str,
        frames: &[&RawValue],
        omissions: Omissions,
    ) -> impl Future<Output = Vec<Result<(), Refusal>>> + Send;

    /// Stores a setup, from which `omissions` are missing. The server then sends it to all clients
    /// that joined the session.
    fn keep_setup(
        &self,
        client: ClientId,
        session_id: &str,
        setup: SetupEvent,
        omissions: Omissions,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The latest setup and frame, which a joining viewer receives.
    fn latest(&self, session_id: &str) -> (Option<SetupEvent>, Option<Box<RawValue>>);

    /// Called for a frame or setup, or a text that may be one, that cannot be stored because it has
    /// no valid envelope. `message` is the event as text.
    fn unreadable(&self, message: &str, refusal: &Refusal);

    /// Called when a client has left and all its events are handled.
    fn left(&self, client: ClientId);

    /// The behaviour for the next event.
    fn behavior(&self) -> ServerBehavior {
        ServerBehavior::default()
    }
}

/// How a server handles events; the default follows the contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerBehavior {
    /// Reads and ignores every event.
    pub(crate) silent: bool,
    /// Waits this long before it handles an event; later events wait too.
    pub(crate) delay: Duration,
    pub(crate) acks: Acks,
    /// Does not send a frame or a setup back to the connection that sent it.
    pub(crate) no_echo: bool,
}

/// When a handled event is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    #[default]
    AtOnce,
    /// This long after the event was handled; later events wait too.
    After(Duration),
    Never,
}

/// Why an event is discarded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not JSON, or the payload is not an object. The public server cannot handle it either, and
    /// does not acknowledge it.
    #[error("not an event: {0}")]
    NoEvent(String),
    /// Without a session id. The public server acknowledges it and discards it.
    #[error("not an envelope: {0}")]
    NoEnvelope(#[from] serde_json::Error),
    #[error("nothing in the envelope")]
    Empty,
    #[error("too long a name, or too many rooms")]
    TooManyRooms,
    /// The host does not store it.
    #[error("{0}")]
    NotKept(String),
    /// The host does not know yet whether it stores the event, or has no space for it. The event is
    /// not acknowledged.
    #[error("{0}")]
    Unsure(String),
    /// The host breaks the connection; this event and later ones are not handled.
    #[error("the connection is cut")]
    Cut,
}

/// A car's setup and its timestamp, both as received.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SetupEvent {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timestamp: Option<Box<RawValue>>,
    pub(crate) setup: Box<RawValue>,
}

/// Generates a session id: a random lower-case UUID.
pub(crate) fn new_session_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Serves `host` until `shutdown` completes, then notifies the clients and closes every connection.
/// `routes` adds the events, as a layer, to the other routes.
pub(crate) async fn serve<H: Host>(
    host: &Arc<H>,
    listener: TcpListener,
    connections: &Connections,
    routes: impl FnOnce(Events) -> Router,
    shutdown: impl Future<Output = ()>,
) {
    let clients = Clients::new(H::CLIENT_LIMITS);
    let workers = Arc::clone(host);
    let slow_down = from_fn_with_state(clients.clone(), Clients::slow_down);
    let events = clients.layer(Arc::new(move |connection, inbox| {
        tokio::spawn(events::work(Arc::clone(&workers), connection, inbox));
    }));
    tokio::select! {
        biased;
        () = shutdown => {}
        never = net::serve(listener, connections, routes(events).layer(slow_down)) => match never {}
    }
    let farewell = time::timeout(FAREWELL_TIMEOUT, clients.close());
    let (farewell, ()) = tokio::join!(farewell, connections.drain(FAREWELL_TIMEOUT));
    if farewell.is_err() {
        tracing::debug!("some clients did not disconnect in time; their connections are cut");
    }
    connections.kill_all();
}

//! The server's side of the dashboard's contract: what every server with its events does, whoever
//! keeps the sessions. [`crate::dashboard`] keeps them in memory, [`crate::source::socketio`] hands
//! what comes in to the queue.
//!
//! - An event is handled completely before the next one of its connection: kept, then sent to the
//!   viewers, then acknowledged.
//! - An acknowledgement proves nothing: the public server acknowledges an event for an unknown session
//!   or one that it refuses, too. A host that refuses with [`Refusal::Unsure`] does not.
//! - Nothing grows without bound: what a client sent and the server has not handled yet, and what
//!   the server sent and the client has not read, are counted in bytes ([`ClientLimits`]).

mod engineio;
mod events;
mod memory;
mod packet;
mod page;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::time;

use self::engineio::Hall;
pub(crate) use self::engineio::{Client, Events};
pub(crate) use self::events::Event;
pub(crate) use self::memory::ClientLimits;
pub(crate) use self::page::{FormPolicy, document};
use crate::config::FAREWELL_TIMEOUT;
use crate::net::{self, Connections};

/// Who keeps the sessions.
pub(crate) trait Host: Send + Sync + 'static {
    /// How much of the server's memory its clients may hold.
    const CLIENT_LIMITS: ClientLimits;

    /// Begins a session for a client and names it: a random UUID in lower case.
    fn assign(&self, client: Client) -> impl Future<Output = Result<String, Refusal>> + Send;

    /// Whether an event is to be handled at all; asked before anything else of it is looked at.
    fn admit(&self, event: Event, payload: &RawValue) -> Result<(), Refusal>;

    /// Keeps a frame. What is kept is sent to all who joined the session.
    fn keep_frame(
        &self,
        client: Client,
        session_id: &str,
        frame: &RawValue,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Keeps a setup. What is kept is sent to all who joined the session.
    fn keep_setup(
        &self,
        client: Client,
        session_id: &str,
        setup: Setup,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The latest setup and the latest frame, which a viewer is sent on joining.
    fn latest(&self, session_id: &str) -> (Option<Setup>, Option<Box<RawValue>>);

    /// Hears of an event that is no envelope, so that nothing of it could be kept. `message` is
    /// the event as text.
    fn unreadable(&self, message: &str, refusal: &Refusal);

    /// Hears that a client has left and all that it sent is handled.
    fn left(&self, client: Client);

    /// How it handles the next event.
    fn manners(&self) -> Manners {
        Manners::default()
    }
}

/// How a server handles events; the default is as the contract says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manners {
    /// Reads every event and does nothing with it.
    pub(crate) silent: bool,
    /// Waits this long before it handles an event; the events behind it wait too.
    pub(crate) delay: Duration,
    pub(crate) acks: Acks,
    /// Does not send a frame or a setup back to the connection it came from.
    pub(crate) no_echo: bool,
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

/// Why an event is thrown away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not JSON, or without a session: the public server would not know what to do with it either.
    #[error("not an envelope: {0}")]
    NoEnvelope(#[from] serde_json::Error),
    #[error("nothing in the envelope")]
    Empty,
    #[error("too long a name, or too many rooms")]
    TooManyRooms,
    /// The host does not keep it.
    #[error("{0}")]
    NotKept(String),
    /// The host cannot say yet whether it keeps it, or has no room for it: not acknowledged either.
    #[error("{0}")]
    Unsure(String),
    /// The host wants the connection to break, with this event and all behind it unhandled.
    #[error("the connection is cut")]
    Cut,
}

/// A car's setup and the moment it was read, both as received.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setup {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timestamp: Option<Box<RawValue>>,
    pub(crate) setup: Box<RawValue>,
}

/// Names a session: a random UUID in lower case.
pub(crate) fn new_session_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Serves `host` until `shutdown` completes, then tells the clients and closes every connection.
/// `routes` puts the events around the other paths.
pub(crate) async fn serve<H: Host>(
    host: &Arc<H>,
    listener: TcpListener,
    connections: &Connections,
    routes: impl FnOnce(Events) -> Router,
    shutdown: impl Future<Output = ()>,
) {
    let hall = Hall::new(H::CLIENT_LIMITS);
    let workers = Arc::clone(host);
    let events = hall.layer(Arc::new(move |connection, inbox| {
        tokio::spawn(events::work(Arc::clone(&workers), connection, inbox));
    }));
    tokio::select! {
        biased;
        () = shutdown => {}
        never = net::serve(listener, connections, routes(events)) => match never {}
    }
    let farewell = time::timeout(FAREWELL_TIMEOUT, hall.close());
    let (farewell, ()) = tokio::join!(farewell, connections.drain(FAREWELL_TIMEOUT));
    if farewell.is_err() {
        tracing::debug!("not every client took its leave");
    }
    connections.kill_all();
}

//! Selects the kind of server by the scheme of its configured address.

use std::time::Duration;

use super::dashboard::{Dashboard, DashboardLink};
use super::nats::{Nats, NatsLink};
use super::{
    Addressed, EntryId, JoinWait, Joined, Link, Proof, Receipt, Sink, SinkError, Transport,
};
use crate::config::{Config, Protocol};
use crate::entry::{Entry, Seq, StintId};

/// Evaluates an expression for the sink or the link of either kind.
macro_rules! forward {
    ($self:expr, $inner:ident => $call:expr) => {
        match $self {
            Self::Dashboard($inner) => $call,
            Self::Nats($inner) => $call,
        }
    };
}

/// A server of any kind.
#[derive(Debug)]
pub(crate) enum AnyServer {
    Dashboard(Box<Dashboard>),
    Nats(Box<Nats>),
}

impl AnyServer {
    /// Creates the kind of sink that `server.url` selects.
    pub(crate) fn new(config: &Config) -> Self {
        match config.server.url.protocol() {
            Protocol::SocketIo => Self::Dashboard(Box::new(Dashboard::new(config))),
            Protocol::Nats => Self::Nats(Box::new(Nats::new(config))),
        }
    }
}

impl Sink for AnyServer {
    type Link = ServerLink;

    async fn open(&mut self) -> Result<ServerLink, SinkError> {
        match self {
            Self::Dashboard(dashboard) => {
                dashboard.open().await.map(Box::new).map(ServerLink::Dashboard)
            }
            Self::Nats(nats) => nats.open().await.map(Box::new).map(ServerLink::Nats),
        }
    }

    fn server(&self) -> &str {
        forward!(self, sink => sink.server())
    }

    fn page(&self, session: &str) -> Option<String> {
        forward!(self, sink => sink.page(session))
    }

    fn identify(&self, entry: &Entry) -> EntryId {
        forward!(self, sink => sink.identify(entry))
    }

    fn strongest_proof(&self) -> Proof {
        forward!(self, sink => sink.strongest_proof())
    }
}

/// One connection to a server of any kind.
#[derive(Debug)]
pub(crate) enum ServerLink {
    Dashboard(Box<DashboardLink>),
    Nats(Box<NatsLink>),
}

impl Link for ServerLink {
    async fn request_session(&mut self, stint: StintId) -> Result<String, SinkError> {
        forward!(self, link => link.request_session(stint).await)
    }

    async fn join(&mut self, session: &str, answer: JoinWait) -> Result<Joined, SinkError> {
        forward!(self, link => link.join(session, answer).await)
    }

    async fn publish(
        &mut self,
        entries: &[Addressed<'_>],
        proof: Proof,
        grace: Duration,
    ) -> Result<Receipt, SinkError> {
        forward!(self, link => link.publish(entries, proof, grace).await)
    }

    fn request_acks(&mut self, wanted: bool) {
        forward!(self, link => link.request_acks(wanted))
    }

    fn skipped(&self) -> Vec<Seq> {
        forward!(self, link => link.skipped())
    }

    fn came_back(&self) -> Vec<Seq> {
        forward!(self, link => link.came_back())
    }

    fn transport(&self) -> Option<Transport> {
        forward!(self, link => link.transport())
    }

    async fn closed(&mut self) -> SinkError {
        forward!(self, link => link.closed().await)
    }
}

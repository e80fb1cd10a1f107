//! Selects the kind of server by the scheme of its configured address.

use std::time::Duration;

use super::dashboard::{Dashboard, DashboardLink};
use super::nats::{Nats, NatsLink};
use super::{
    Addressed, EntryId, JoinWait, Joined, Link, Proof, Receipt, Sink, SinkError, Transport,
};
use crate::config::{Config, Protocol};
use crate::entry::{Entry, Seq, StintId};

/// A server of any kind.
#[derive(Debug)]
pub(crate) enum Server {
    Dashboard(Box<Dashboard>),
    Nats(Box<Nats>),
}

impl Server {
    /// Creates the kind of sink that `server.url` selects.
    pub(crate) fn new(config: &Config) -> Self {
        match config.server.url.protocol() {
            Protocol::SocketIo => Self::Dashboard(Box::new(Dashboard::new(config))),
            Protocol::Nats => Self::Nats(Box::new(Nats::new(config))),
        }
    }
}

impl Sink for Server {
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
        match self {
            Self::Dashboard(dashboard) => dashboard.server(),
            Self::Nats(nats) => nats.server(),
        }
    }

    fn page(&self, session: &str) -> Option<String> {
        match self {
            Self::Dashboard(dashboard) => dashboard.page(session),
            Self::Nats(nats) => nats.page(session),
        }
    }

    fn identify(&self, entry: &Entry) -> EntryId {
        match self {
            Self::Dashboard(dashboard) => dashboard.identify(entry),
            Self::Nats(nats) => nats.identify(entry),
        }
    }

    fn strongest_proof(&self) -> Proof {
        match self {
            Self::Dashboard(dashboard) => dashboard.strongest_proof(),
            Self::Nats(nats) => nats.strongest_proof(),
        }
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
        match self {
            Self::Dashboard(link) => link.request_session(stint).await,
            Self::Nats(link) => link.request_session(stint).await,
        }
    }

    async fn join(&mut self, session: &str, answer: JoinWait) -> Result<Joined, SinkError> {
        match self {
            Self::Dashboard(link) => link.join(session, answer).await,
            Self::Nats(link) => link.join(session, answer).await,
        }
    }

    async fn publish(
        &mut self,
        entries: &[Addressed<'_>],
        proof: Proof,
        grace: Duration,
    ) -> Result<Receipt, SinkError> {
        match self {
            Self::Dashboard(link) => link.publish(entries, proof, grace).await,
            Self::Nats(link) => link.publish(entries, proof, grace).await,
        }
    }

    fn request_acks(&mut self, wanted: bool) {
        match self {
            Self::Dashboard(link) => link.request_acks(wanted),
            Self::Nats(link) => link.request_acks(wanted),
        }
    }

    fn skipped(&self) -> Vec<Seq> {
        match self {
            Self::Dashboard(link) => link.skipped(),
            Self::Nats(link) => link.skipped(),
        }
    }

    fn came_back(&self) -> Vec<Seq> {
        match self {
            Self::Dashboard(link) => link.came_back(),
            Self::Nats(link) => link.came_back(),
        }
    }

    fn transport(&self) -> Option<Transport> {
        match self {
            Self::Dashboard(link) => link.transport(),
            Self::Nats(_) => None,
        }
    }

    async fn closed(&mut self) -> SinkError {
        match self {
            Self::Dashboard(link) => link.closed().await,
            Self::Nats(link) => link.closed().await,
        }
    }
}

//! Servers that entries are published to. A server assigns sessions and stores the entries
//! published to them.
//!
//! A [`Sink`] opens a [`Link`]; any error ends the link. This module does not retry, sleep or
//! access the queue: that is the task of the `session` module.

mod classify;
pub(crate) mod dashboard;
pub(crate) mod diagnosis;
pub(crate) mod dial;
pub mod nats;
pub(crate) mod probe;
pub(crate) mod server;
pub(crate) mod socketio;

use std::time::Duration;

use self::diagnosis::Diagnosis;
use crate::entry::{Entry, Kind, Seq, StintId};
use crate::remote_text::RemoteText;

/// How long to wait for the answer to joining a session, and for an earlier acknowledgement that
/// must arrive first.
pub(crate) const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The kinds of delivery confirmation, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// The bytes were written, and the connection outlived them by two heartbeats.
    Written,
    /// The server acknowledged the entry and knew the session.
    Ack,
    /// The server echoed the entry to us, as it does to every viewer.
    Echo,
}

impl Proof {
    /// All kinds, weakest first.
    pub const ALL: [Self; 3] = [Self::Written, Self::Ack, Self::Echo];

    /// The label in metrics, logs and the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Ack => "ack",
            Self::Echo => "echo",
        }
    }
}

/// How packets reach a dashboard server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Websocket,
    /// HTTP long-polling: requests that the server answers when it has packets.
    Polling,
}

impl Transport {
    pub const ALL: [Self; 2] = [Self::Websocket, Self::Polling];

    /// The label in metrics, logs and the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Polling => "polling",
        }
    }
}

/// Identifies an entry by the content that the server stores: an entry and its copy on the server
/// have the same id. Entries with the same content may share an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// The newest frame and the newest setup that a server stores for a session. Another program may
/// have published them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub frame: Option<EntryId>,
    pub setup: Option<EntryId>,
}

impl Shown {
    /// The newest entry of this kind.
    pub fn newest(&self, kind: Kind) -> Option<EntryId> {
        match kind {
            Kind::Frame => self.frame,
            Kind::Setup => self.setup,
        }
    }
}

/// A server's response to a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The server knows the session and shows what it stores.
    Known(Shown),
    /// The server acknowledged and sent nothing: it does not know the session, or the session is
    /// empty.
    Silent,
    /// The server did not answer, for example because it has no such event.
    Unanswered,
}

/// The answer to wait for when joining a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinWait {
    /// The server's acknowledgement.
    Ack,
    /// The stored entries. No acknowledgement is requested, because one that never comes would
    /// block those of entries.
    Data,
}

/// An entry with its identity on the server and its session.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    pub session: &'a str,
    pub entry: &'a Entry,
    pub id: EntryId,
}

/// The server's response to a published batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    pub ack: Ack,
    /// Entries of the batch that the server did not echo, oldest first.
    pub missing: Vec<Seq>,
    /// Number of entries that were echoed after a newer one of the same session.
    pub inversions: u64,
}

/// The acknowledgement of the last event of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// No acknowledgement yet.
    #[default]
    None,
    /// An acknowledgement without an error.
    Plain,
    /// An acknowledgement with the error that the session is unknown.
    UnknownSession,
    /// An acknowledgement with any other error.
    Error(RemoteText),
}

/// Why a link failed to open or ended; one variant for each reaction of the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SinkError {
    /// The connection was refused, or the name does not resolve.
    #[error("cannot reach the server: {0}")]
    Refused(RemoteText),
    /// The server did not answer in time.
    #[error("the server did not answer within {0:?}: {1}")]
    Timeout(Duration, &'static str),
    /// The TLS handshake failed, or the certificate is not trusted.
    #[error("TLS failed: {0}; check the server's certificate, or name its CA in server.ca_file")]
    Tls(RemoteText),
    /// The NATS server at this `tls://` address does not speak TLS.
    #[error(
        "TLS failed: {0} speaks no TLS; write {plain} in server.url, or the port that has TLS",
        plain = .0.replacen("tls://", "nats://", 1)
    )]
    NoTls(RemoteText),
    /// The forward proxy cannot be reached, or refuses to connect to the server.
    #[error("no way to the server: {0}; check server.proxy")]
    Proxy(RemoteText),
    /// The server rejected the credentials.
    #[error(
        "the server refuses access: {0}; check server.token, server.headers and \
         server.credentials_file"
    )]
    Auth(RemoteText),
    /// A file that the configuration names cannot be used; the text names the key.
    #[error("{0}")]
    Configuration(RemoteText),
    /// The peer is not a dashboard server, or violates the protocol.
    #[error("the server does not speak Socket.IO as expected: {0}")]
    Protocol(RemoteText),
    /// The NATS server does not accept entries with its current state or configuration.
    #[error("the NATS server accepts no entries: {0}")]
    Stream(RemoteText),
    /// The connection ended.
    #[error("connection lost: {0}")]
    Lost(RemoteText),
    /// The server's address does not answer like a dashboard server.
    #[error("{0}")]
    Diagnosed(Box<Diagnosis>),
}

impl SinkError {
    /// The label in metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Refused(_) | Self::Lost(_) => "refused",
            Self::Timeout(..) => "timeout",
            Self::Tls(_) | Self::NoTls(_) => "tls",
            Self::Proxy(_) => "proxy",
            Self::Auth(_) => "auth",
            Self::Configuration(_) => "configuration",
            Self::Protocol(_) | Self::Stream(_) => "protocol",
            Self::Diagnosed(diagnosis) => diagnosis.outcome(),
        }
    }

    /// Whether only an operator can end this state, so that a retry is useful rarely.
    pub(crate) fn needs_an_operator(&self) -> bool {
        match self {
            Self::Tls(_) | Self::NoTls(_) | Self::Auth(_) | Self::Configuration(_) => true,
            Self::Diagnosed(diagnosis) => diagnosis.needs_an_operator(),
            Self::Refused(_)
            | Self::Timeout(..)
            | Self::Proxy(_)
            | Self::Protocol(_)
            | Self::Stream(_)
            | Self::Lost(_) => false,
        }
    }
}

/// A server to publish to.
pub trait Sink: Send {
    type Link: Link;

    /// Opens a new link.
    fn open(&mut self) -> impl Future<Output = Result<Self::Link, SinkError>> + Send;

    /// The key under which the queue remembers this server's sessions.
    fn server(&self) -> &str;

    /// The URL of the session's dashboard page; `None` if the server has no pages.
    fn page(&self, session: &str) -> Option<String>;

    /// The identity of an entry's copy on this kind of server.
    fn identify(&self, entry: &Entry) -> EntryId;

    /// The strongest proof that this kind of server can give.
    fn strongest_proof(&self) -> Proof;
}

/// One connection to a server. Dropping it ends the connection at once.
pub trait Link: Send {
    /// Requests a new session for this stint.
    fn request_session(
        &mut self,
        stint: StintId,
    ) -> impl Future<Output = Result<String, SinkError>> + Send;

    /// Joins a session to determine whether the server knows it. With [`JoinWait::Data`], or while an
    /// earlier acknowledgement is pending, the result is never [`Joined::Silent`].
    fn join(
        &mut self,
        session: &str,
        answer: JoinWait,
    ) -> impl Future<Output = Result<Joined, SinkError>> + Send;

    /// Publishes entries in order and waits until all have `proof` or a stronger one. Returns a
    /// receipt with missing entries if the server has acknowledged but has not echoed all of them
    /// `grace` later.
    ///
    /// Has no timeout otherwise; the caller sets one.
    fn publish(
        &mut self,
        entries: &[Addressed<'_>],
        proof: Proof,
        grace: Duration,
    ) -> impl Future<Output = Result<Receipt, SinkError>> + Send;

    /// Sets whether publications that wait for echoes also request an acknowledgement; at first they
    /// do. Without one, a publication whose echoes stay away returns no receipt.
    fn request_acks(&mut self, _wanted: bool) {}

    /// The skipped entries of the last publication, oldest first: not echoed although a newer one
    /// of the same session was. Valid even if the publication was cancelled or failed.
    fn skipped(&self) -> Vec<Seq>;

    /// The echoed entries of the last publication. Valid even if it was cancelled or failed.
    fn came_back(&self) -> Vec<Seq>;

    /// How packets reach the server; `None` for servers with only one way.
    fn transport(&self) -> Option<Transport> {
        None
    }

    /// Returns when the link has ended. Cancel-safe.
    fn closed(&mut self) -> impl Future<Output = SinkError> + Send;
}

//! Where entries go: a server that hands out sessions and keeps what is published to them.
//!
//! A [`Sink`] opens a [`Link`]; any error on a link is the end of it. Nothing here retries, sleeps
//! or knows the queue: that is the session's part.

pub mod dashboard;
pub mod nats;
pub mod server;
pub mod socketio;

use std::time::Duration;

use crate::entry::{Entry, Kind, Seq, StintId};
use crate::remote_text::RemoteText;

/// How sure we are that the server kept an entry, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// The bytes left, and the connection lived on for two heartbeats.
    Written,
    /// The server acknowledged it, and knew the session.
    Ack,
    /// The server sent it back to us as it sends it to every viewer.
    Echo,
}

impl Proof {
    /// Every level.
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

/// Identifies an entry by what the server holds of it: an entry and its copy on the server have the
/// same id, whoever sends the copy back. Entries with the same content may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// The newest frame and the newest setup that a server holds for a session. Another program may
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

/// What a server says when a session is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It knows the session and shows what it holds.
    Known(Shown),
    /// It acknowledged and sent nothing: it does not know the session, or holds nothing for it.
    Silent,
    /// It did not answer: it has no such event.
    Unanswered,
}

/// What to wait for when a session is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server's acknowledgement.
    Ack,
    /// What the server holds. An acknowledgement that never comes would be in the way of those of
    /// entries.
    Data,
}

/// An entry, its identity at the server, and the session that it goes to.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    pub session: &'a str,
    pub entry: &'a Entry,
    pub id: EntryId,
}

/// What came back for a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    pub ack: Ack,
    /// Entries of the batch that the server did not send back, oldest first.
    pub missing: Vec<Seq>,
    /// Entries that were sent back after a newer one of the same session.
    pub inversions: u64,
}

/// What the server answered to the last event of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// Nothing so far.
    #[default]
    None,
    /// An acknowledgement without an objection.
    Plain,
    /// An acknowledgement that says that the session is not known.
    UnknownSession,
    /// An acknowledgement that carries another error.
    Error(RemoteText),
}

/// Why a link did not come about or ended; one variant per thing the caller does next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SinkError {
    /// Nobody listens there, or the name does not resolve.
    #[error("cannot reach the server: {0}")]
    Refused(RemoteText),
    /// It did not answer in time.
    #[error("the server did not answer within {0:?}: {1}")]
    Timeout(Duration, &'static str),
    /// No trust: the certificate is not good.
    #[error("TLS failed: {0}; check the server's certificate, or name its CA in server.ca_file")]
    Tls(RemoteText),
    /// The server wants other credentials.
    #[error(
        "the server refuses access: {0}; check server.token, server.headers and server.credentials_file"
    )]
    Auth(RemoteText),
    /// Something else than such a server.
    #[error("the server does not speak Socket.IO as expected: {0}")]
    Protocol(RemoteText),
    /// It speaks NATS, or should, and keeps nothing for us as things stand.
    #[error("the NATS server takes no entries: {0}")]
    Stream(RemoteText),
    /// The connection ended.
    #[error("connection lost: {0}")]
    Lost(RemoteText),
}

impl SinkError {
    /// The label in metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Refused(_) | Self::Lost(_) => "refused",
            Self::Timeout(..) => "timeout",
            Self::Tls(_) => "tls",
            Self::Auth(_) => "auth",
            Self::Protocol(_) | Self::Stream(_) => "protocol",
        }
    }
}

/// A server to publish to.
pub trait Sink: Send {
    type Link: Link;

    /// Opens a fresh link.
    fn open(&mut self) -> impl Future<Output = Result<Self::Link, SinkError>> + Send;

    /// Names the server in what is remembered about sessions.
    fn server(&self) -> &str;

    /// The page on which people look at a session, where there is one.
    fn page(&self, session: &str) -> Option<String>;

    /// The identity that the copy of an entry has at such a server.
    fn identify(&self, entry: &Entry) -> EntryId;

    /// The best proof that such a server can give.
    fn strongest_proof(&self) -> Proof;
}

/// One connection to a server. Dropping it ends the connection at once.
pub trait Link: Send {
    /// Asks for a new session, for this stint.
    fn request_session(
        &mut self,
        stint: StintId,
    ) -> impl Future<Output = Result<String, SinkError>> + Send;

    /// Joins a session and learns whether the server knows it. Where no acknowledgement is waited
    /// for, or an earlier one is still out, it never turns out to be [`Joined::Silent`].
    fn join(
        &mut self,
        session: &str,
        answer: Answer,
    ) -> impl Future<Output = Result<Joined, SinkError>> + Send;

    /// Publishes entries in their order and waits for `proof` of all of them, or for a better one.
    /// Gives a receipt
    /// without it when the server has acknowledged but `grace` later still not sent all back.
    ///
    /// Waits without a bound of its own otherwise; the caller sets one.
    fn publish(
        &mut self,
        entries: &[Addressed<'_>],
        proof: Proof,
        grace: Duration,
    ) -> impl Future<Output = Result<Receipt, SinkError>> + Send;

    /// The entries that were published last and have not come back although a newer one of the same
    /// session has, oldest first. Tells so of a publication too that was cancelled or failed.
    fn passed_over(&self) -> Vec<Seq>;

    /// The entries of the last publication that have come back, also if it was cancelled or failed.
    fn came_back(&self) -> Vec<Seq>;

    /// Returns when the link has ended. Safe to cancel.
    fn closed(&mut self) -> impl Future<Output = SinkError> + Send;
}

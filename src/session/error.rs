//! Why a link failed to open or ended: for the log, and as a message for a driver.
//!
//! A message for a driver names the problem and who can fix it. The status page itself says that no
//! entries are lost meanwhile.

use std::time::Duration;

use crate::entry::StintId;
use crate::queue::QueueError;
use crate::sink::SinkError;

/// Why a link failed to open or ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Neither an echo nor an acknowledgement came in time.
    #[error("no proof of delivery within {0:?}")]
    NoProof(Duration),
    /// The server acknowledges entries that it does not store.
    #[error("the server acknowledges entries that it does not store: {0}")]
    NotKept(&'static str),
    /// The server stores nothing for the configured session id.
    #[error(
        "the server does not know the session in server.session_id, and discards what it receives \
         for it; copy the id from the address of an open dashboard page, or set it to \"auto\""
    )]
    UnknownSession,
    /// The configuration demands a proof that this server does not give.
    #[error(
        "delivery.proof = \"{0}\" but the server gives no {0}; set it to \"auto\" or fix the server"
    )]
    Weak(&'static str),
    /// An internal error: an entry's stint has no bound session.
    #[error("stint {0} has no session")]
    Unbound(StintId),
    /// An internal error, of which the panic's own message is in the log or on stderr.
    #[error("the delivery panicked, an internal error; it starts again")]
    Panicked,
}

/// The message for a driver when the server forgot the session.
pub const FORGOTTEN: &str = "The dashboard server forgot the session, probably because it \
                             restarted. There is a new page: send its link to your viewers.";

impl SessionError {
    /// The message for a driver, with the keys of `[server]`.
    pub fn user_message(&self) -> &'static str {
        match self {
            Self::Sink(SinkError::Refused(_)) => {
                "The server cannot be reached. Check that this PC is online and that the server's \
                 address is correct."
            }
            Self::Sink(SinkError::Timeout(..)) => {
                "The server does not answer in time. It is overloaded, or the connection is bad."
            }
            Self::Sink(SinkError::Tls(_)) => {
                "The server's identity could not be verified. Ask the server's operator about its \
                 certificate."
            }
            Self::Sink(SinkError::NoTls(_)) => {
                "The server's address begins with tls://, but the server has no encryption. Write \
                 nats:// instead, or ask the server's operator for the right port."
            }
            Self::Sink(SinkError::Proxy(_)) => {
                "The proxy of this network does not let pitwire reach the server. Check \
                 server.proxy, or ask who runs the network."
            }
            Self::Sink(SinkError::Auth(_)) => {
                "The server does not let this PC in. Ask the server's operator for a valid token."
            }
            Self::Sink(SinkError::Configuration(_)) => {
                "A file that the configuration names cannot be used. Run pitwire check: it names \
                 the file and what to do."
            }
            Self::Sink(SinkError::Protocol(_)) => {
                "The server's address answers, but not like a dashboard server. The server is \
                 still starting, or the address is wrong."
            }
            Self::Sink(SinkError::Stream(_)) => {
                "The NATS server does not store entries for this PC. Ask the server's operator; \
                 the log has the reason."
            }
            Self::Sink(SinkError::Diagnosed(diagnosis)) => diagnosis.user_message(),
            Self::Sink(SinkError::Lost(_)) => {
                "The connection to the server was lost. pitwire reconnects automatically."
            }
            Self::Queue(_) => "The queue on this PC cannot be read. Check the disk.",
            Self::NoProof(_) => {
                "The server accepts entries but does not confirm them. They are sent again."
            }
            Self::NotKept(_) => {
                "The server does not store what it receives, or does not know the session. Ask the \
                 server's operator."
            }
            Self::UnknownSession => {
                "The server does not know the session in server.session_id. Copy the id from the \
                 address of an open dashboard page, or set it to \"auto\"."
            }
            Self::Weak(_) => {
                "The server cannot confirm delivery as delivery.proof demands. Set it to \"auto\"."
            }
            Self::Unbound(_) | Self::Panicked => {
                "Internal error in pitwire. It reconnects automatically."
            }
        }
    }
}

//! Why the line ended, in words for a driver: what it is, and who can do what about it. That
//! nothing is lost meanwhile, the status page says itself.

use super::SessionError;
use crate::sink::SinkError;

/// What it means that the server forgot the session.
pub const FORGOTTEN: &str = "The dashboard server forgot the session, as when it is started again. \
                             There is a new page: give its link to those who watch.";

impl SessionError {
    /// In words for a driver.
    pub fn plainly(&self) -> &'static str {
        match self {
            Self::Sink(SinkError::Refused(_)) => {
                "The server cannot be reached. Is this PC online? Is the server's address \
                 right?"
            }
            Self::Sink(SinkError::Timeout(..)) => {
                "The server does not answer in time. It is busy, or the connection is bad."
            }
            Self::Sink(SinkError::Tls(_)) => {
                "The server cannot prove who it is. Ask the one who runs it about its \
                 certificate."
            }
            Self::Sink(SinkError::Auth(_)) => {
                "The server does not let this PC in. Ask the one who runs it for the right \
                 token."
            }
            Self::Sink(SinkError::Protocol(_)) => {
                "What answers at the server's address does not speak as a dashboard server does. It is \
                 just starting, or the address is wrong."
            }
            Self::Sink(SinkError::Stream(_)) => {
                "The NATS server keeps nothing for this PC as things stand. Ask the one who runs it; the \
                 log says what is wrong."
            }
            Self::Sink(SinkError::Lost(_)) => {
                "The connection to the server broke. It is tried again by itself."
            }
            Self::Queue(_) => "What is stored on this PC cannot be read. Look at its disk.",
            Self::NoProof(_) => {
                "The server takes what is sent and does not confirm it. It is sent again."
            }
            Self::NotKept(_) => {
                "The server does not keep what is sent, or does not know the session. Ask \
                 the one who runs it."
            }
            Self::Weak(_) => {
                "The server cannot confirm as delivery.proof asks. Set that to \"auto\"."
            }
            Self::Unbound(_) => "A fault of pitwire. It begins anew by itself.",
        }
    }
}

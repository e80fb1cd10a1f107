//! The operator protocol: inspects a queue, moves entries in and out of it.
//!
//! An [`OperatorRequest`] is handled in the process that has the queue open, by [`OperatorHandler::handle`].
//! A command that opened the queue itself calls it directly; otherwise an [`AdminClient`] sends the
//! request as JSON to the agent's admin address, where `router` serves it.

mod client;
mod handler;
mod http;
mod line;
mod protocol;

pub use self::client::{AdminClient, ClientError};
pub use self::handler::{OperatorError, OperatorHandler};
pub(crate) use self::http::{REQUESTS, router};
pub use self::line::{Line, LineContent, MAX_LINE_BYTES, export_line};
pub use self::protocol::{
    AppendCounts, DeadLetterCounts, EntryTrace, OperatorRequest, OperatorResponse, OperatorStatus,
};

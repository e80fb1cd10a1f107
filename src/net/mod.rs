//! Accepts and serves the connections of all listeners: the agent's admin address, its HTTP and
//! Socket.IO sources, and `pitwire serve`.
//!
//! - `listener` accepts connections, serves HTTP/1.1 and closes stalled connections: incomplete
//!   requests, responses that the client does not read, unused connections.
//! - `connections` tracks the open connections of one listener and chooses which one to close at a
//!   limit.
//! - `stream` is the TCP connection that hyper reads and writes; `progress` tracks its state.
//! - `kill_switch` breaks a connection from the server side.
//! - `read_gate` stops and resumes the reading from a connection.
//! - `read_ahead` limits how much is read from a client that does not read.
//! - `loopback_guard` decides which requests are admitted; `host_kind` classifies their host names.
//! - `cross_origin` lets pages of this PC read the answers of a listener.
//! - `lan` lists the addresses of this PC that other devices can reach.
//! - `open_files` keeps the connections below the open-files limit of the process.

use std::time::Duration;

pub(crate) mod body;
pub(crate) mod connections;
pub(crate) mod cross_origin;
mod host_kind;
pub(crate) mod http_client;
pub(crate) mod kill_switch;
pub(crate) mod lan;
pub(crate) mod listener;
pub mod loopback_guard;
pub mod open_files;
pub(crate) mod page;
mod progress;
mod read_ahead;
mod read_gate;
mod stream;

pub(crate) use self::connections::Connections;
pub(crate) use self::kill_switch::KillSwitch;
pub(crate) use self::listener::serve;
pub(crate) use self::read_gate::ReadGate;

/// The minimum time between two log lines of the same kind.
pub(crate) const LOG_REPEAT_INTERVAL: Duration = Duration::from_secs(10);

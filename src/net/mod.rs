//! How every listener of this program accepts and serves connections: the agent's admin address,
//! its HTTP and Socket.IO sources, and `pitwire serve`.
//!
//! - `listener` accepts, serves HTTP/1.1 and ends what stalls: a request that does not become
//!   complete, an answer that the client does not read, a connection that is not used.
//! - `connections` is what one listener has open, and which connection has to go when a limit is
//!   reached.
//! - `progress` is what one connection is doing.
//! - `kill_switch` breaks a connection at the server's end.
//! - `open_files` keeps all connections together below the limit of the process for open files.

pub(crate) mod connections;
pub(crate) mod kill_switch;
pub(crate) mod listener;
pub mod open_files;
mod progress;
mod read_ahead;

pub(crate) use self::connections::Connections;
pub(crate) use self::kill_switch::KillSwitch;
pub(crate) use self::listener::serve;

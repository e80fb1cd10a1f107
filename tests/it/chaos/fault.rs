//! The faults that a chaos test injects.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::proxy::Network;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The network drops all connections and accepts none.
    Cut,
    /// The network resets open connections.
    Reset,
    /// Connections stay open, but nothing passes.
    Stall,
    /// Data reaches the server, but nothing comes back.
    HalfOpen,
    /// The bandwidth is low.
    Slow,
    /// Data passes in pieces of a few bytes.
    Sliced,
    /// Data is delayed at random.
    Jitter,
    /// The agent is killed and started again.
    AgentKilled,
    /// The agent's disk is filled completely.
    DiskFull,
    /// The server is killed and started again.
    ServerKilled,
    /// The server is restarted without its sessions.
    ServerForgets,
    /// The server is paused with a signal.
    ServerStops,
}

impl Fault {
    pub const ALL: [Self; 12] = [
        Self::Cut,
        Self::Reset,
        Self::Stall,
        Self::HalfOpen,
        Self::Slow,
        Self::Sliced,
        Self::Jitter,
        Self::AgentKilled,
        Self::DiskFull,
        Self::ServerKilled,
        Self::ServerForgets,
        Self::ServerStops,
    ];

    /// The state of the network during this fault; `None` for a fault of the agent or the server.
    pub fn network(self, chance: &mut SmallRng) -> Option<Network> {
        Some(match self {
            Self::Cut => Network::Down,
            Self::Reset => Network::UP,
            Self::Stall => Network::Stalled,
            Self::HalfOpen => Network::Mute,
            Self::Slow => Network::Slow { bytes_per_second: chance.random_range(20_000..200_000) },
            Self::Sliced => Network::Sliced,
            Self::Jitter => {
                Network::Jittery { most: Duration::from_millis(chance.random_range(50..400)) }
            }
            _ => return None,
        })
    }
}

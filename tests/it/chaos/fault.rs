//! What can go wrong.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::proxy::Network;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The network's.
    Cut,
    Reset,
    Stall,
    HalfOpen,
    Slow,
    Sliced,
    Jitter,
    /// The agent's: killed and started again.
    AgentKilled,
    DiskFull,
    /// The server's.
    ServerKilled,
    ServerForgets,
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

    /// How the network is meanwhile, if it is the network's.
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

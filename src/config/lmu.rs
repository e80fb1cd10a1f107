//! What there is to set, and the numbers, of the source that reads Le Mans Ultimate and rFactor 2.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::values::Textual;
use super::{Units, Wrong};

/// Le Mans Ultimate and rFactor 2, read on the PC on which they run.
#[derive(Clone, Debug, PartialEq)]
pub struct LmuConfig {
    pub enabled: bool,
    pub units: Units,
    /// Where the game's memory lies as files; Windows has it elsewhere and has no use for this.
    pub folder: PathBuf,
    pub rest: GameApi,
}

impl Default for LmuConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            units: Units::Label,
            folder: "/dev/shm".into(),
            rest: GameApi::Localhost { port: 6397 },
        }
    }
}

/// Where the game's REST API is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GameApi {
    /// The API is left alone.
    Off,
    /// 127.0.0.1, else ::1: which of them the game takes depends on its version.
    Localhost {
        port: u16,
    },
    At(SocketAddr),
}

impl GameApi {
    /// The addresses to try, in this order.
    pub fn addresses(self) -> Vec<SocketAddr> {
        match self {
            Self::Off => Vec::new(),
            Self::Localhost { port } => {
                vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
            }
            Self::At(address) => vec![address],
        }
    }
}

impl Textual for GameApi {
    fn read(&mut self, text: &str) -> Result<(), Wrong> {
        let wrong = Wrong("is no place for an API");
        let port = |port: &str| port.parse().ok().filter(|port| *port > 0).ok_or(wrong);
        *self = match text.strip_prefix("localhost:") {
            Some(text) => Self::Localhost { port: port(text)? },
            None if text.is_empty() => Self::Off,
            None => {
                let address: SocketAddr = text.parse().map_err(|_| wrong)?;
                port(&address.port().to_string())?;
                Self::At(address)
            }
        };
        Ok(())
    }

    fn show(&self) -> String {
        match self {
            Self::Off => String::new(),
            Self::Localhost { port } => format!("localhost:{port}"),
            Self::At(address) => address.to_string(),
        }
    }

    fn allowed(&self) -> String {
        r#""localhost:" and a port, an IP address and a port, or "" for none"#.into()
    }
}

/// Between two looks for a game that is away, paused or in its menus.
pub const LMU_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A game whose clock stands still for so long is paused, in its menus or gone.
pub const LMU_STALE_AFTER: Duration = Duration::from_secs(2);

/// Looks a second at a game that is driven, where `update_rate_hz` is 0 or more than this: two for
/// each of the game's own 100 updates.
pub const LMU_MAX_RATE_HZ: f64 = 200.0;

/// How often a copy of the game's memory is tried that the game writes into, and the pause between.
pub const LMU_COPY_TRIES: usize = 40;
pub const LMU_COPY_PAUSE: Duration = Duration::from_millis(1);

/// Pauses over which a copy without version counters must stay the same. Together longer than most
/// writes that the scheduler cuts in two, shorter than the 10 ms between two writes.
pub const LMU_SAME_PAUSES: usize = 5;

/// Without a new sample for longer than this, the game has left one out.
pub const LMU_GAP_AFTER: Duration = Duration::from_millis(100);

/// Samples that wait for a slow disk; at 2 a second, two minutes.
pub const LMU_CHANNEL_SAMPLES: usize = 256;

/// Between two requests for the car's setup, and at most when they fail.
pub const GAME_API_INTERVAL: Duration = Duration::from_secs(10);
pub const GAME_API_MAX_INTERVAL: Duration = Duration::from_secs(60);

/// From a request to its whole answer, at most: whether the API is there, and for data.
pub const GAME_API_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
pub const GAME_API_TIMEOUT: Duration = Duration::from_secs(2);

//! Settings and limits of the source that reads Le Mans Ultimate and rFactor 2.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::values::Textual;
use super::{ParseError, Units};

/// The source that reads Le Mans Ultimate and rFactor 2 on the PC that runs the game.
#[derive(Clone, Debug, PartialEq)]
pub struct LmuConfig {
    pub enabled: bool,
    pub units: Units,
    /// The directory of the game's shared memory files; not used on Windows.
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

/// The address of the game's REST API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GameApi {
    /// The API is not used.
    Off,
    /// 127.0.0.1, then ::1: the one that the game uses depends on its version.
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
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        let wrong = ParseError("is not the address of an API");
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

/// How often to check for a game that is not running, paused or in its menus.
pub const LMU_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A game whose clock has not advanced for this long is paused, in its menus or has ended.
pub const LMU_STALE_AFTER: Duration = Duration::from_secs(2);

/// The maximum poll rate while the car is driven, also if `update_rate_hz` is 0: twice the game's
/// own 100 updates per second.
pub const LMU_MAX_RATE_HZ: f64 = 200.0;

/// The number of attempts to copy the game's memory while the game writes to it, and the pause
/// between them.
pub const LMU_COPY_TRIES: usize = 40;
pub const LMU_COPY_PAUSE: Duration = Duration::from_millis(1);

/// The number of pauses over which memory without version counters must not change to count as
/// consistent. Together they are longer than most writes that the scheduler interrupts, and shorter
/// than the 10 ms between two writes.
pub const LMU_SAME_PAUSES: usize = 5;

/// A longer time between two samples counts as a gap of the game.
pub const LMU_GAP_AFTER: Duration = Duration::from_millis(100);

/// The maximum samples that wait for a slow disk: two minutes at 2 Hz.
pub const LMU_CHANNEL_SAMPLES: usize = 256;

/// The interval between requests for the car's setup, and the longest interval after failures.
pub const GAME_API_INTERVAL: Duration = Duration::from_secs(10);
pub const GAME_API_MAX_INTERVAL: Duration = Duration::from_secs(60);

/// The maximum time from a request to its complete response, for the probe whether the API exists
/// and for data.
pub const GAME_API_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
pub const GAME_API_TIMEOUT: Duration = Duration::from_secs(2);

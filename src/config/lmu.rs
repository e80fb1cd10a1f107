//! Settings and limits of the source that reads Le Mans Ultimate and rFactor 2.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

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
        let api = match text.strip_prefix("localhost:") {
            Some(port) => {
                port.parse().ok().filter(|port| *port > 0).map(|port| Self::Localhost { port })
            }
            None if text.is_empty() => Some(Self::Off),
            None => {
                text.parse().ok().filter(|address: &SocketAddr| address.port() > 0).map(Self::At)
            }
        };
        *self = api.ok_or(ParseError("is not the address of an API"))?;
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

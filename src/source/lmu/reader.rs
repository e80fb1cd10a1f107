//! Takes one consistent reading of the game's memory, or reports why it cannot.

use std::io;

use super::memory::Memory;
use super::native::Native;
use super::plugin::Plugin;
use super::snapshot::Snapshot;

/// The result of reading the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GameReading {
    Sample(Box<Snapshot>),
    /// The game runs, but has no valid sample.
    NoSample(Why),
    /// The game or its plugin does not run.
    Unavailable,
}

/// Why the game runs but gives no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The game was writing during every attempt.
    Torn,
    /// The player has no car, or the car is missing from the standings or the telemetry.
    NoPlayer,
    /// An impossible car count: negative, or more than the memory has room for.
    Nonsense,
}

/// The two kinds of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Shared by the game itself.
    Native,
    /// Shared by the rF2 plugin.
    Plugin,
}

impl Way {
    /// The name in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Plugin => "plugin",
        }
    }
}

/// The open regions of one kind of shared memory.
#[derive(Debug)]
pub enum GameReader {
    Native(Native),
    Plugin(Plugin),
}

impl GameReader {
    /// Opens all regions of this kind of shared memory.
    ///
    /// # Errors
    /// If a region does not exist or is too small.
    pub fn open(way: Way, memory: &dyn Memory) -> io::Result<Self> {
        Ok(match way {
            Way::Native => Self::Native(Native::open(memory)?),
            Way::Plugin => Self::Plugin(Plugin::open(memory)?),
        })
    }

    /// Reads once. Blocks for a few milliseconds, 50 at most.
    pub fn read(&self) -> GameReading {
        let reading = match self {
            Self::Native(native) => native.read(),
            Self::Plugin(plugin) => plugin.read(),
        };
        // A read past the end means that the owner has removed the region.
        reading.unwrap_or(GameReading::Unavailable)
    }
}

//! One whole reading of the game's memory, or why there is none.

use std::io;

use super::memory::Memory;
use super::native::Native;
use super::plugin::Plugin;
use super::snapshot::Snapshot;

/// What a reading found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    Sample(Box<Snapshot>),
    /// The game is there, but nothing may be published.
    NoSample(Why),
    /// The game or its plugin is not there.
    Unavailable,
}

/// Why the game is there and a sample is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was written to each time.
    Torn,
    /// The player has no car, or it is not in both lists.
    NoPlayer,
    /// More cars than there is room for, or fewer than none.
    Nonsense,
}

/// The two ways in which the game shares its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The game's own.
    Native,
    /// That of the rF2 plugin.
    Plugin,
}

impl Way {
    /// For the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Plugin => "plugin",
        }
    }
}

/// The open regions of one way.
#[derive(Debug)]
pub enum Reader {
    Native(Native),
    Plugin(Plugin),
}

impl Reader {
    /// Opens what the way needs.
    ///
    /// # Errors
    /// If a region is not there or too small.
    pub fn open(way: Way, memory: &dyn Memory) -> io::Result<Self> {
        Ok(match way {
            Way::Native => Self::Native(Native::open(memory)?),
            Way::Plugin => Self::Plugin(Plugin::open(memory)?),
        })
    }

    /// Reads once. Blocks for some milliseconds, 50 at most.
    pub fn read(&self) -> Reading {
        let reading = match self {
            Self::Native(native) => native.read(),
            Self::Plugin(plugin) => plugin.read(),
        };
        // A region that ends too early was taken back by whoever shared it.
        reading.unwrap_or(Reading::Unavailable)
    }
}

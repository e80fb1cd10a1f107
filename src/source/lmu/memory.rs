//! The game's memory as other programs may see it: four regions that are opened and read, never
//! created, never written, never locked.

use std::fmt::Debug;
use std::io;

#[cfg(unix)]
pub use super::files::Files;
#[cfg(windows)]
pub use super::windows::Session;

/// A piece of memory that the game or its plugin shares under a name of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// All that Le Mans Ultimate itself shares, since its version 1.2.
    Native,
    /// What the rF2 plugin shares of the cars' physics.
    Telemetry,
    /// What it shares of the session and the standings.
    Scoring,
    /// What it shares of itself.
    Extended,
}

impl Region {
    /// The name under which it is shared.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "LMU_Data",
            Self::Telemetry => "$rFactor2SMMP_Telemetry$",
            Self::Scoring => "$rFactor2SMMP_Scoring$",
            Self::Extended => "$rFactor2SMMP_Extended$",
        }
    }

    /// Its size in bytes; what is shared may be larger.
    pub fn size(self) -> usize {
        match self {
            Self::Native => 324_820,
            Self::Telemetry => 241_680,
            Self::Scoring => 75_312,
            Self::Extended => 10_152,
        }
    }
}

/// Where regions are found.
pub trait Memory: Debug + Send {
    /// Opens a region for reading.
    ///
    /// # Errors
    /// If it is not there or smaller than [`Region::size`]. It is never created.
    fn open(&self, region: Region) -> io::Result<Box<dyn Mapping>>;
}

/// An open region. The game writes into it at any time.
pub trait Mapping: Debug + Send {
    /// Copies the bytes from `at` on; some of them may be from before a write, some from after.
    ///
    /// # Errors
    /// If the region ends before the last byte, as when whoever shares it takes it back.
    fn read(&self, at: usize, bytes: &mut [u8]) -> io::Result<()>;

    /// A version counter. Reads before this call do not see what is written after the counter's
    /// value, nor do reads after it miss what was written before.
    ///
    /// # Errors
    /// As [`Mapping::read`].
    fn counter(&self, at: usize) -> io::Result<u32>;
}

/// `length` bytes of a region from `at` on.
pub(super) fn copy(mapping: &dyn Mapping, at: usize, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    mapping.read(at, &mut bytes)?;
    Ok(bytes)
}

/// The first of `count` records that fits.
pub(super) fn find(
    mapping: &dyn Mapping,
    at: usize,
    length: usize,
    count: usize,
    fits: impl Fn(&[u8]) -> bool,
) -> io::Result<Option<Vec<u8>>> {
    for number in 0..count {
        let record = copy(mapping, at + number * length, length)?;
        if fits(&record) {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// Where this system keeps the game's memory. `folder` is for Linux, where a bridge makes files of
/// it.
pub fn here(folder: &std::path::Path) -> Box<dyn Memory> {
    #[cfg(unix)]
    return Box::new(Files::new(folder));
    #[cfg(windows)]
    {
        let _ = folder;
        Box::new(Session)
    }
}

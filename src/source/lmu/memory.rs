//! The game's shared memory: four regions that are opened and read, never created, written or
//! locked.

use std::fmt::Debug;
use std::io;

#[cfg(unix)]
pub use super::files::Files;
#[cfg(windows)]
pub use super::windows::SessionMappings;

/// A named memory region that the game or its plugin shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// Everything that Le Mans Ultimate itself shares, since version 1.2.
    Native,
    /// The rF2 plugin's data on the cars' physics.
    Telemetry,
    /// The rF2 plugin's data on the session and the standings.
    Scoring,
    /// The rF2 plugin's data on itself.
    Extended,
}

impl Region {
    /// The name of the shared region.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "LMU_Data",
            Self::Telemetry => "$rFactor2SMMP_Telemetry$",
            Self::Scoring => "$rFactor2SMMP_Scoring$",
            Self::Extended => "$rFactor2SMMP_Extended$",
        }
    }

    /// The minimum size in bytes; the shared region may be larger.
    pub fn size(self) -> usize {
        match self {
            Self::Native => 324_820,
            Self::Telemetry => 241_680,
            Self::Scoring => 75_312,
            Self::Extended => 10_152,
        }
    }
}

/// Opens the regions that the system provides.
pub trait Memory: Debug + Send {
    /// Opens a region for reading.
    ///
    /// # Errors
    /// If it does not exist or is smaller than [`Region::size`]. It is never created.
    fn open(&self, region: Region) -> io::Result<Box<dyn Mapping>>;
}

/// An open region. The game may write to it at any time.
pub trait Mapping: Debug + Send {
    /// Copies the bytes starting at `at`. If the game writes meanwhile, the copy may be torn.
    ///
    /// # Errors
    /// If the region ends before the last byte, for example because its owner has removed it.
    fn read(&self, at: usize, bytes: &mut [u8]) -> io::Result<()>;

    /// Reads a version counter. Earlier reads do not see writes that follow the counter's value,
    /// and later reads see all writes that precede it.
    ///
    /// # Errors
    /// If the region ends before the counter, as for [`Mapping::read`].
    fn counter(&self, at: usize) -> io::Result<u32>;
}

/// Copies `length` bytes of a region, starting at `at`.
pub(super) fn copy(mapping: &dyn Mapping, at: usize, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    mapping.read(at, &mut bytes)?;
    Ok(bytes)
}

/// Copies the first of `count` records for which `fits` returns true.
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

/// The game's memory on this system. `folder` is used on Linux only, where a bridge exposes the
/// regions as files.
pub fn here(folder: &std::path::Path) -> Box<dyn Memory> {
    #[cfg(unix)]
    return Box::new(Files::new(folder));
    #[cfg(windows)]
    {
        let _ = folder;
        Box::new(SessionMappings)
    }
}

//! The memory that the rF2 plugin shares: separate regions for physics and standings, with version
//! counters that change before and after every write.

use std::io;
use std::thread::sleep;

use super::layout::{byte, integer, session, standing, telemetry, text};
use super::memory::{Mapping, Memory, Region, copy, find};
use super::reader::{GameReading, Why};
use super::snapshot::Snapshot;
use super::{LMU_COPY_PAUSE, LMU_COPY_TRIES};

/// The offset of the counter that is incremented before a write.
const BEGIN: usize = 0;
/// The offset of the counter that is incremented after a write.
const END: usize = 4;

/// Offsets in [`Region::Extended`]: the plugin's version as text, and whether it is 64-bit.
const VERSION: usize = 8;
const VERSION_BYTES: usize = 12;
const IS_64_BIT: usize = 20;
const OLDEST_VERSION: [u32; 4] = [3, 6, 0, 0];

/// The number of cars with telemetry, i32.
const CARS: usize = 12;
const TELEMETRY: usize = 16;
const SESSION: usize = 12;
const STANDINGS: usize = 560;
/// The maximum number of cars.
const ROOM: usize = 128;

/// The plugin's shared memory, opened.
#[derive(Debug)]
pub struct Plugin {
    telemetry: Box<dyn Mapping>,
    scoring: Box<dyn Mapping>,
    extended: Box<dyn Mapping>,
}

impl Plugin {
    pub(super) fn open(memory: &dyn Memory) -> io::Result<Self> {
        Ok(Self {
            telemetry: memory.open(Region::Telemetry)?,
            scoring: memory.open(Region::Scoring)?,
            extended: memory.open(Region::Extended)?,
        })
    }

    pub(super) fn read(&self) -> io::Result<GameReading> {
        if !self.is_live()? {
            return Ok(GameReading::Unavailable);
        }
        for _ in 0..LMU_COPY_TRIES {
            if let Some(reading) = self.read_whole()? {
                return Ok(reading);
            }
            sleep(LMU_COPY_PAUSE);
        }
        Ok(GameReading::NoSample(Why::Torn))
    }

    fn is_live(&self) -> io::Result<bool> {
        let About { version, is_64_bit } = About::read(&*self.extended)?;
        Ok(is_new_enough(&version) && is_64_bit)
    }

    /// Reads the regions; `None` if any of them was written to meanwhile.
    fn read_whole(&self) -> io::Result<Option<GameReading>> {
        let regions = [&*self.telemetry, &*self.scoring];
        let mut versions = [0; 2];
        for (region, version) in regions.iter().zip(&mut versions) {
            let end = region.counter(END)?;
            *version = region.counter(BEGIN)?;
            if *version != end {
                return Ok(None);
            }
        }
        let reading = self.player()?;
        for (region, version) in regions.iter().zip(versions) {
            if region.counter(BEGIN)? != version {
                return Ok(None);
            }
        }
        Ok(Some(reading))
    }

    fn player(&self) -> io::Result<GameReading> {
        let session = copy(&*self.scoring, SESSION, session::BYTES)?;
        let cars = copy(&*self.telemetry, CARS, 4)?;
        let counts = [integer(&session, session::CARS), integer(&cars, 0)];
        let [Some(standings), Some(cars)] = counts.map(car_count) else {
            return Ok(GameReading::NoSample(Why::Nonsense));
        };
        // Records beyond the count are stale, and so are their flags.
        let standing = find(&*self.scoring, STANDINGS, standing::BYTES, standings, |standing| {
            byte(standing, standing::IS_PLAYER) != 0
        });
        let Some(standing) = standing? else { return Ok(GameReading::NoSample(Why::NoPlayer)) };
        let slot = integer(&standing, standing::SLOT);
        let telemetry = find(&*self.telemetry, TELEMETRY, telemetry::BYTES, cars, |telemetry| {
            integer(telemetry, telemetry::SLOT) == slot
        });
        Ok(match telemetry? {
            Some(telemetry) => {
                GameReading::Sample(Box::new(Snapshot { session, standing, telemetry }))
            }
            None => GameReading::NoSample(Why::NoPlayer),
        })
    }
}

/// A number of cars, unless it exceeds [`ROOM`].
fn car_count(cars: i32) -> Option<usize> {
    usize::try_from(cars).ok().filter(|cars| *cars <= ROOM)
}

/// The plugin's version and architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// For example `3.7.15.1`; empty if no plugin has written.
    pub version: String,
    pub is_64_bit: bool,
}

impl About {
    /// Reads the properties of the plugin that shares this memory, even if it is too old.
    ///
    /// # Errors
    /// If the plugin shares no region, or a region that is too small.
    pub fn of(memory: &dyn Memory) -> io::Result<Self> {
        Self::read(&*memory.open(Region::Extended)?)
    }

    fn read(extended: &dyn Mapping) -> io::Result<Self> {
        let about = copy(extended, 0, IS_64_BIT + 1)?;
        let version = text(&about, VERSION, VERSION_BYTES);
        Ok(Self { version, is_64_bit: byte(&about, IS_64_BIT) != 0 })
    }

    /// Whether this version shares all the data that pitwire reads.
    pub(crate) fn is_new_enough(&self) -> bool {
        is_new_enough(&self.version)
    }
}

fn is_new_enough(text: &str) -> bool {
    version(text).is_some_and(|version| version >= OLDEST_VERSION)
}

/// The four numbers of a version such as `3.7.15.1`.
fn version(text: &str) -> Option<[u32; 4]> {
    let numbers: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_compared_as_numbers() {
        for (text, is_new_enough) in [
            ("3.7.15.1", true),
            ("3.6.0.0", true),
            ("3.10.0.0", true),
            ("10.0.0.0", true),
            ("3.5.99.9", false),
            ("3.6.0", false),
            ("3.6.0.0.1", false),
            ("3.6.0.x", false),
            ("3.6.0.-1", false),
            ("", false),
        ] {
            assert_eq!(super::is_new_enough(text), is_new_enough, "{text}");
        }
    }
}

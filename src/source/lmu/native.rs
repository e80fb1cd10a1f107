//! The memory that Le Mans Ultimate itself shares: one region without version counters.
//!
//! A copy counts as consistent if several copies in a row are equal. Two are not enough, because
//! the game's thread may be descheduled in the middle of a write.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::thread::sleep;

use super::layout::{bytes, integer, session, standing, telemetry};
use super::memory::{Mapping, Memory, Region, copy, find};
use super::reader::{GameReading, Why};
use super::snapshot::Snapshot;
use super::{LMU_COPY_PAUSE, LMU_COPY_TRIES};

/// The number of pauses over which memory without version counters must not change to count as
/// consistent. Together they are longer than most writes that the scheduler interrupts, and shorter
/// than the 10 ms between two writes.
const LMU_SAME_PAUSES: usize = 5;

/// Markers that change with each update of the standings and of the physics.
const UPDATE_MARKS: usize = 40;
/// i32; 0 until the game has written.
const GAME_VERSION: usize = 64;
const SESSION: usize = 1632;
const STANDINGS: usize = 2192;
/// The number of cars with telemetry, the index of the player's car, and whether it exists.
const PLAYER: usize = 128_464;
const TELEMETRY: usize = 128_468;
/// The maximum number of cars.
const ROOM: usize = 104;

/// The game's own shared memory, opened.
#[derive(Debug)]
pub struct Native(Box<dyn Mapping>);

/// A version of Le Mans Ultimate; 142 is 1.4.2, for which the game writes 14200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GameVersion(i32);

impl GameVersion {
    /// The newest version whose memory pitwire was checked with.
    pub const NEWEST_CHECKED: Self = Self(142);

    /// Reads the version of the game that shares this memory; `None` if no game has written.
    ///
    /// # Errors
    /// If the game shares no region, or a region that is too small.
    pub fn of(memory: &dyn Memory) -> io::Result<Option<Self>> {
        let version = integer(&copy(&*memory.open(Region::Native)?, GAME_VERSION, 4)?, 0);
        Ok((version != 0).then_some(Self(version / 100)))
    }
}

impl Display for GameVersion {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(number) = self;
        write!(f, "{}.{}.{}", number / 100, number / 10 % 10, number % 10)
    }
}

/// One copy of the memory, with the update markers.
#[derive(PartialEq)]
struct Copied {
    marks: [u8; 8],
    reading: GameReading,
}

impl Native {
    pub(super) fn open(memory: &dyn Memory) -> io::Result<Self> {
        Ok(Self(memory.open(Region::Native)?))
    }

    pub(super) fn read(&self) -> io::Result<GameReading> {
        let mut before = self.look()?;
        let mut same = 0;
        for _ in 0..LMU_COPY_TRIES {
            if before.reading == GameReading::Unavailable || same == LMU_SAME_PAUSES {
                return Ok(before.reading);
            }
            sleep(LMU_COPY_PAUSE);
            let again = self.look()?;
            same = if again == before { same + 1 } else { 0 };
            before = again;
        }
        Ok(GameReading::NoSample(Why::Torn))
    }

    fn look(&self) -> io::Result<Copied> {
        let head = copy(&*self.0, UPDATE_MARKS, GAME_VERSION + 4 - UPDATE_MARKS)?;
        let marks = bytes(&head, 0);
        let reading = match integer(&head, GAME_VERSION - UPDATE_MARKS) {
            0 => GameReading::Unavailable,
            _ => self.player()?,
        };
        Ok(Copied { marks, reading })
    }

    fn player(&self) -> io::Result<GameReading> {
        let memory = &*self.0;
        let [cars, player, has_car] = bytes(&copy(memory, PLAYER, 3)?, 0).map(usize::from);
        let session = copy(memory, SESSION, session::BYTES)?;
        let standings = usize::try_from(integer(&session, session::CARS)).unwrap_or(usize::MAX);
        if has_car == 0 {
            return Ok(GameReading::NoSample(Why::NoPlayer));
        }
        if cars > ROOM || player >= cars || standings > ROOM {
            return Ok(GameReading::NoSample(Why::Nonsense));
        }
        let telemetry = copy(memory, TELEMETRY + player * telemetry::BYTES, telemetry::BYTES)?;
        let slot = integer(&telemetry, telemetry::SLOT);
        let standing = find(memory, STANDINGS, standing::BYTES, standings, |standing| {
            integer(standing, standing::SLOT) == slot
        });
        Ok(match standing? {
            Some(standing) => {
                GameReading::Sample(Box::new(Snapshot { session, standing, telemetry }))
            }
            None => GameReading::NoSample(Why::NoPlayer),
        })
    }
}

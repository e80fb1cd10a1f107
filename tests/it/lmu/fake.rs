//! A game that plays into its memory, as an agent beside it sees it.

#[cfg(unix)]
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use pitwire::source::lmu::memory::Region;
use pitwire::source::lmu::reader::Way;

use super::fixtures::own_buffer;
use super::place::Place;

/// Bytes that are written at once: a reader sees the game's memory in the middle of a write.
const PIECE: usize = 1000;

/// The player's car among the five of the race, in all lists.
const PLAYER: usize = 2;
const CARS: usize = 5;
const TELEMETRY_BYTES: usize = 1888;
const STANDING_BYTES: usize = 584;

/// The regions of one way, and what is in them.
pub struct Fake {
    way: Way,
    regions: Vec<(Region, Place, Vec<u8>)>,
    /// What the next update writes everywhere.
    number: u32,
    /// Between two pieces of one write.
    pause: Duration,
    /// How long the slowest write of the last update took.
    slowest: Duration,
}

impl Fake {
    /// Makes the memory as the game leaves it in a race, in place of what is there. Its first update
    /// writes `first`.
    pub fn appear(way: Way, folder: &Path, first: u32) -> Self {
        let regions = regions(way).iter().map(|&(region, file)| {
            let bytes = own_buffer(file, region);
            (region, Place::appear(folder, region, &bytes), bytes)
        });
        Self {
            way,
            regions: regions.collect(),
            number: first,
            pause: Duration::ZERO,
            slowest: Duration::ZERO,
        }
    }

    /// A game that writes so slowly that whoever reads meets it in the middle.
    #[cfg(unix)]
    pub fn slowly(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// The files go.
    #[cfg(unix)]
    pub fn disappear(self, folder: &Path) {
        for (region, ..) in self.regions {
            fs::remove_file(folder.join(region.name())).unwrap();
        }
    }

    /// How long physics or standings were half written in the last update, at most.
    #[cfg(unix)]
    pub fn slowest(&self) -> Duration {
        self.slowest
    }

    /// One update of physics and standings: every number in them is the number of the update,
    /// which comes back.
    pub fn update(&mut self) -> u32 {
        let number = self.number;
        self.number += 1;
        self.slowest = Duration::ZERO;
        let (telemetry, standings) = (CARS * TELEMETRY_BYTES, CARS * STANDING_BYTES);
        match self.way {
            Way::Native => {
                let bytes = self.bytes(Region::Native);
                fill_telemetry(bytes, 128_468, number);
                fill_scoring(bytes, 1632, 2192, number);
                self.mark(Region::Native, 40, number);
                self.flush(Region::Native, 1632..2192 + standings);
                self.mark(Region::Native, 44, number);
                self.flush(Region::Native, 128_468..128_468 + telemetry);
            }
            Way::Plugin => {
                fill_telemetry(self.bytes(Region::Telemetry), 16, number);
                fill_scoring(self.bytes(Region::Scoring), 12, 560, number);
                for (region, end) in
                    [(Region::Telemetry, 16 + telemetry), (Region::Scoring, 560 + standings)]
                {
                    self.mark(region, 0, number);
                    self.flush(region, 8..end);
                    self.mark(region, 4, number);
                }
            }
        }
        number
    }

    fn bytes(&mut self, region: Region) -> &mut [u8] {
        let found = self.regions.iter_mut().find(|(known, ..)| *known == region);
        &mut found.unwrap().2
    }

    /// Writes a part of the bytes to the region, from its start to its end.
    fn flush(&mut self, region: Region, part: Range<usize>) {
        let (_, place, bytes) = self.regions.iter().find(|(known, ..)| *known == region).unwrap();
        let start = Instant::now();
        for at in part.clone().step_by(PIECE) {
            let end = part.end.min(at + PIECE);
            place.write(at, &bytes[at..end]);
            if !self.pause.is_zero() {
                thread::sleep(self.pause);
            }
        }
        self.slowest = self.slowest.max(start.elapsed());
    }

    /// Writes a version counter or an event mark.
    fn mark(&self, region: Region, at: usize, number: u32) {
        let (_, place, _) = self.regions.iter().find(|(known, ..)| *known == region).unwrap();
        place.write(at, &number.to_le_bytes());
    }
}

fn regions(way: Way) -> &'static [(Region, &'static str)] {
    match way {
        Way::Native => &[(Region::Native, "race_lmu.bin")],
        Way::Plugin => &[
            (Region::Extended, "race_extended.bin"),
            (Region::Scoring, "race_scoring.bin"),
            (Region::Telemetry, "race_telemetry.bin"),
        ],
    }
}

/// Puts the number wherever a sample is made from the player's physics, in the list at `at`.
fn fill_telemetry(bytes: &mut [u8], at: usize, number: u32) {
    let car = at + PLAYER * TELEMETRY_BYTES;
    let mut put = |at: usize| put_float(bytes, car + at, number);
    // Clock, velocity along one axis, speed of the engine, its water, fuel and room for it.
    [12, 184, 356, 364, 524, 608].into_iter().for_each(&mut put);
    for wheel in (0..4).map(|wheel| 848 + 260 * wheel) {
        // Brake, pressure, three temperatures, condition.
        [24, 120, 128, 136, 144, 152].into_iter().for_each(|at| put(wheel + at));
    }
    [192, 200].into_iter().for_each(|at| put_float(bytes, car + at, 0));
    bytes[car + 352..][..4].copy_from_slice(&number.to_le_bytes());
}

/// Puts it wherever a sample is made from the session and the player's standing.
fn fill_scoring(bytes: &mut [u8], session: usize, standings: usize, number: u32) {
    // Clock, air, track.
    [68, 228, 236].into_iter().for_each(|at| put_float(bytes, session + at, number));
    put_float(bytes, standings + PLAYER * STANDING_BYTES + 464, number);
}

fn put_float(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 8].copy_from_slice(&f64::from(number).to_le_bytes());
}

//! A fake game that writes to the memory that the agent reads.

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

/// Bytes written at once; a reader can see the memory between two such pieces.
const PIECE: usize = 1000;

/// The index of the player's car, in all lists, among the five of the race.
const PLAYER: usize = 2;
const CARS: usize = 5;
const TELEMETRY_BYTES: usize = 1888;
const STANDING_BYTES: usize = 584;

/// The regions of one way, and their contents.
pub struct Fake {
    way: Way,
    regions: Vec<(Region, Place, Vec<u8>)>,
    /// The number that the next update writes everywhere.
    number: u32,
    /// The time between two pieces of one write.
    pause: Duration,
    /// The duration of the slowest write of the last update.
    slowest: Duration,
}

impl Fake {
    /// Creates the memory with a recorded race, replacing any that exists. The first update writes
    /// `first`.
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

    /// Slows each write down, so that readers meet it half-way through.
    #[cfg(unix)]
    pub fn slowly(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Removes the files.
    #[cfg(unix)]
    pub fn disappear(self, folder: &Path) {
        for (region, ..) in self.regions {
            fs::remove_file(folder.join(region.name())).unwrap();
        }
    }

    /// The longest time that physics or standings were half written in the last update.
    #[cfg(unix)]
    pub fn slowest(&self) -> Duration {
        self.slowest
    }

    /// Updates physics and standings: every number in them becomes the number of the update, which
    /// is returned.
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

    /// Writes a part of the buffer to the region, front to back.
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

    /// Writes a version counter or an update mark.
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

/// Writes the number to every physics field of the player that a sample uses; the list starts at
/// `at`.
fn fill_telemetry(bytes: &mut [u8], at: usize, number: u32) {
    let car = at + PLAYER * TELEMETRY_BYTES;
    let mut put = |at: usize| put_float(bytes, car + at, number);
    // Clock, velocity along one axis, engine speed, water temperature, fuel, and fuel capacity.
    [12, 184, 356, 364, 524, 608].into_iter().for_each(&mut put);
    for wheel in (0..4).map(|wheel| 848 + 260 * wheel) {
        // Brake, pressure, three temperatures, wear.
        [24, 120, 128, 136, 144, 152].into_iter().for_each(|at| put(wheel + at));
    }
    [192, 200].into_iter().for_each(|at| put_float(bytes, car + at, 0));
    bytes[car + 352..][..4].copy_from_slice(&number.to_le_bytes());
}

/// Writes the number to every field of the session and of the player's standing that a sample uses.
fn fill_scoring(bytes: &mut [u8], session: usize, standings: usize, number: u32) {
    // Clock, air temperature, track temperature.
    [68, 228, 236].into_iter().for_each(|at| put_float(bytes, session + at, number));
    put_float(bytes, standings + PLAYER * STANDING_BYTES + 464, number);
}

fn put_float(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 8].copy_from_slice(&f64::from(number).to_le_bytes());
}

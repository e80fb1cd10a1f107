//! A game that writes continuously while it is read: every sample is consistent or is not returned.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use pitwire::config::Units;
use pitwire::entry::CapturedAt;
use pitwire::source::lmu::memory::{Region, here};
use pitwire::source::lmu::reader::{GameReader, GameReading, Way, Why};
use serde_json::Value;

use super::fake::Fake;

/// Number of samples to read, split among the parallel readers.
const SAMPLES: usize = 10_000;
const READERS: usize = 16;

/// Without version counters, a write that takes longer than this looks complete half-way through. A
/// game needs microseconds for it; the scheduler of an overloaded machine can stretch that.
const SLOW: Duration = Duration::from_millis(5);

#[test]
fn no_sample_of_the_native_memory_is_torn() {
    // At the game's own rate, and faster.
    check(Way::Native, &[10_000, 0, 2_000], Region::Native, 128_468 + 2 * 1888);
}

#[test]
fn no_sample_of_the_plugin_memory_is_torn() {
    // Ten times the game's own rate.
    check(Way::Plugin, &[500], Region::Telemetry, 16 + 2 * 1888);
}

/// Reads while a thread writes, pausing for these times (in µs) between two updates.
fn check(way: Way, pauses: &'static [u64], region: Region, player: usize) {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut game = Fake::appear(way, folder.path(), 1).slowly(Duration::from_micros(20));
    game.update();
    let over = AtomicBool::new(false);
    let is_over = || over.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut slow = Vec::new();
            for pause in pauses.iter().cycle().take_while(|_| !is_over()) {
                let number = game.update();
                if game.slowest() > SLOW {
                    slow.push(number);
                }
                thread::sleep(Duration::from_micros(*pause));
            }
            slow
        });
        let unwary = scope.spawn(|| {
            let file = File::open(folder.path().join(region.name())).unwrap();
            let mut torn = 0;
            while !is_over() {
                torn += usize::from(is_torn(&file, player));
                thread::sleep(Duration::from_micros(20));
            }
            torn
        });
        let readers = [(); READERS].map(|()| scope.spawn(|| read(way, folder.path())));
        // Stop the other threads before a failed reader is reported.
        let read = readers.map(ScopedJoinHandle::join);
        over.store(true, Ordering::Relaxed);
        let samples: Vec<_> = read.into_iter().flat_map(Result::unwrap).collect();
        let (slow, torn) = (writer.join().unwrap(), unwary.join().unwrap());
        assert!(torn > 0, "no read ever overlapped a write");
        assert_eq!(samples.len(), SAMPLES);
        let mut excused = 0;
        for sample in &samples {
            let [physics, standing] = [physics(sample), standing(sample)];
            if physics.len() != 1 || standing.len() != 1 {
                let of = |number| physics.contains(number) || standing.contains(number);
                let was_slow = way == Way::Native && slow.iter().any(of);
                assert!(was_slow, "{physics:?} {standing:?}: {sample}");
                excused += 1;
            }
        }
        eprintln!("{way:?}: {torn} torn unchecked reads, {excused} samples in slow writes");
    });
}

/// Reads one reader's share of the samples.
fn read(way: Way, folder: &Path) -> Vec<Value> {
    let reader = GameReader::open(way, &*here(folder)).unwrap();
    let mut samples = Vec::new();
    while samples.len() < SAMPLES / READERS {
        match reader.read() {
            GameReading::Sample(snapshot) => {
                samples.push(snapshot.sample(Units::Upstream, CapturedAt(0)));
            }
            other => assert_eq!(other, GameReading::NoSample(Why::Torn)),
        }
        // Keeps reading and writing out of step.
        thread::sleep(Duration::from_micros(50));
    }
    samples
}

/// The update numbers found in the physics of a sample.
fn physics(sample: &Value) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::from([whole(sample["speed"].as_f64().unwrap() / 3.6)]);
    for field in ["fuel", "fuel_capacity", "engine_water_temp", "gear", "rpm"] {
        numbers.insert(whole(sample[field].as_f64().unwrap()));
    }
    for wheel in ["fl", "fr", "rl", "rr"] {
        for field in ["tire_pressures", "tire_wear", "brake_temps"] {
            numbers.insert(whole(sample[field][wheel].as_f64().unwrap()));
        }
        // A mean of three values: if they come from two updates, it falls between the two numbers.
        let mean = sample["tire_temps"][wheel].as_f64().unwrap() + 273.15;
        match (mean - mean.round()).abs() < 1e-6 {
            true => drop(numbers.insert(whole(mean))),
            false => numbers.extend([whole(mean.floor()), whole(mean.ceil())]),
        }
    }
    numbers
}

/// The update numbers found in the standing and session of a sample.
fn standing(sample: &Value) -> BTreeSet<u32> {
    let fields = ["lap_time", "track_temp", "ambient_temp"];
    fields.iter().map(|field| whole(sample[field].as_f64().unwrap())).collect()
}

fn whole(number: f64) -> u32 {
    number.round() as u32
}

/// Reads the player's physics without any check: true if the number at the end differs from the one
/// at the start.
fn is_torn(file: &File, player: usize) -> bool {
    let mut car = [0; 1888];
    file.read_exact_at(&mut car, player as u64).unwrap();
    let float = |at: usize| f64::from_le_bytes(car[at..at + 8].try_into().unwrap());
    float(12) != float(1780)
}

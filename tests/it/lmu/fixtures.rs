//! Recorded buffers of the game's memory and the samples expected from them, listed in
//! `tests/data/shm/cases.json`. `PITWIRE_SHM_FIXTURES` names another folder with the same layout.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pitwire::config::Units;
use pitwire::entry::CapturedAt;
use pitwire::fields;
use pitwire::source::lmu::memory::{Mapping, Memory, Region};
use pitwire::source::lmu::reader::{GameReader, GameReading, Way};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The content of `cases.json`.
#[derive(Deserialize)]
struct Cases {
    format: u32,
    tolerance: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    source: String,
    files: BTreeMap<String, String>,
    #[serde(default)]
    patch: Vec<Patch>,
    status: String,
    upstream_units: Option<Map<String, Value>>,
    dashboard_units: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Patch {
    file: String,
    offset: usize,
    hex: String,
}

#[test]
fn shm_fixtures_give_the_expected_frames() {
    let folder = folder();
    let text = fs::read_to_string(folder.join("cases.json")).unwrap();
    let cases: Cases = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.format, 1);
    assert!(!cases.cases.is_empty());
    for case in &cases.cases {
        case.check(&folder, cases.tolerance);
    }
}

#[test]
fn invalid_native_memory_gives_no_sample() {
    let race = Buffers::of(&[(Region::Native, "race_lmu.bin")]);
    let (cars, player, has_car) = (128_464, 128_465, 128_466);
    let slot = race.native_player();
    let standings = 1632 + 104;
    for (patches, expected) in [
        (vec![], "sample"),
        (vec![(64, vec![0; 4])], "unavailable"),
        (vec![(has_car, vec![0])], "NoPlayer"),
        (vec![(slot, vec![0x7F; 4])], "NoPlayer"),
        (vec![(standings, vec![0; 4])], "NoPlayer"),
        (vec![(player, vec![5])], "Nonsense"),
        (vec![(cars, vec![0])], "Nonsense"),
        (vec![(cars, vec![105])], "Nonsense"),
        (vec![(cars, vec![104])], "sample"),
        (vec![(standings, vec![0xFF; 4])], "Nonsense"),
        (vec![(standings, vec![105, 0, 0, 0])], "Nonsense"),
        (vec![(standings, vec![104, 0, 0, 0])], "sample"),
    ] {
        let mut patched = race.clone();
        patches.iter().for_each(|(at, bytes)| patched.patch(Region::Native, *at, bytes));
        assert_eq!(patched.outcome(Way::Native), expected, "{patches:?}");
    }
}

#[test]
fn invalid_plugin_memory_gives_no_sample() {
    let race = Buffers::of(&[
        (Region::Telemetry, "race_telemetry.bin"),
        (Region::Scoring, "race_scoring.bin"),
        (Region::Extended, "race_extended.bin"),
    ]);
    use Region::{Extended, Scoring, Telemetry};
    let standings = 12 + 104;
    for (region, at, bytes, expected) in [
        (Telemetry, 12, &[128, 0, 0, 0][..], "sample"),
        (Telemetry, 12, &[129, 0, 0, 0], "Nonsense"),
        (Telemetry, 12, &[0xFF; 4], "Nonsense"),
        // The player's car has no physics any more, or not yet.
        (Telemetry, 12, &[0; 4], "NoPlayer"),
        (Telemetry, 4, &[0xFF; 4], "Torn"),
        (Scoring, 0, &[0xFF; 4], "Torn"),
        (Scoring, standings, &[128, 0, 0, 0], "sample"),
        (Scoring, standings, &[129, 0, 0, 0], "Nonsense"),
        (Scoring, standings, &[0; 4], "NoPlayer"),
        (Extended, 8, b"3.10.0.0\0", "sample"),
        (Extended, 8, b"3.6.0.0\0", "sample"),
        (Extended, 8, b"3.5.99.99\0", "unavailable"),
        (Extended, 8, b"plugin\0", "unavailable"),
        (Extended, 20, &[0], "unavailable"),
    ] {
        let mut patched = race.clone();
        patched.patch(region, at, bytes);
        assert_eq!(patched.outcome(Way::Plugin), expected, "{region:?} {at} {bytes:?}");
    }
}

#[test]
fn non_finite_and_negative_values_do_not_reach_the_dashboard() {
    let race = Buffers::of(&[(Region::Native, "race_lmu.bin")]);
    let telemetry = race.native_player();
    let field = |at: usize, value: f64, units| {
        let mut patched = race.clone();
        patched.patch(Region::Native, at, &value.to_le_bytes());
        let GameReading::Sample(snapshot) = patched.read(Way::Native) else { panic!("no sample") };
        let sample = snapshot.sample(units, CapturedAt(0));
        let frame = fields::map(&sample, CapturedAt(0)).unwrap();
        serde_json::from_str::<Value>(&frame).unwrap()
    };
    for units in [Units::Label, Units::Upstream] {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let rpm = field(telemetry + 356, value, units);
            assert_eq!((rpm.get("rpm"), rpm["gear"].as_i64()), (None, Some(6)));
            let rear_left = field(telemetry + 1392, value, units);
            let brakes = rear_left["brake_temps"].as_object().unwrap();
            assert_eq!(brakes.keys().collect::<Vec<_>>(), ["fl", "fr", "rr"]);
        }
        // The dashboard's own schema requires both fields, so an invalid value gets the same
        // default as a missing one.
        let fuel = field(telemetry + 524, -0.5, units);
        assert_eq!((fuel["fuel"].as_f64(), fuel["rpm"].as_f64()), (Some(0.0), Some(7421.5)));
        let capacity = field(telemetry + 608, f64::NAN, units);
        assert_eq!(capacity["fuel_capacity"].as_f64(), Some(90.0));
    }
    let lap_time = race.native_standing() + 464;
    assert_eq!(field(lap_time, -2.76, Units::Label)["lap_time"].as_f64(), Some(0.0));
    assert_eq!(field(lap_time, -2.76, Units::Upstream).get("lap_time"), None);
}

#[test]
fn frames_have_the_time_left_in_a_session_that_only_time_ends() {
    const SESSION: usize = 1632;
    let race = Buffers::of(&[(Region::Native, "race_lmu.bin")]);
    let clock = 2710.4625_f64;
    for (end, laps, expected) in [
        (clock + 3600.0, i32::MAX, Some(3600.0)),
        (clock, i32::MAX, Some(0.0)),
        (clock - 1.0, i32::MAX, None),
        (f64::NAN, i32::MAX, None),
        (clock + 3600.0, 80, None),
    ] {
        let mut patched = race.clone();
        patched.patch(Region::Native, SESSION + 76, &end.to_le_bytes());
        patched.patch(Region::Native, SESSION + 84, &laps.to_le_bytes());
        let GameReading::Sample(snapshot) = patched.read(Way::Native) else { panic!("no sample") };
        let frame = fields::map(&snapshot.sample(Units::Label, CapturedAt(0)), CapturedAt(0));
        let frame: Value = serde_json::from_str(&frame.unwrap()).unwrap();
        assert_eq!(
            frame.get("session_time_left").and_then(Value::as_f64),
            expected,
            "{end} {laps}"
        );
    }
}

/// The folder with the buffers.
fn folder() -> PathBuf {
    env::var_os("PITWIRE_SHM_FIXTURES").map_or_else(own_folder, PathBuf::from)
}

/// The project's own buffers. When cargo runs the tests, it sets the project's path at run time:
/// the Windows build of the game may come from a clone that no longer exists.
fn own_folder() -> PathBuf {
    let built = || env!("CARGO_MANIFEST_DIR").into();
    let project: PathBuf = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(built).into();
    project.join("tests/data/shm")
}

/// One of the project's own buffers, with the trailing zeros that the file omits.
pub fn own_buffer(file: &str, region: Region) -> Vec<u8> {
    let mut bytes = fs::read(own_folder().join(file)).unwrap();
    bytes.resize(region.size(), 0);
    bytes
}

impl Case {
    fn check(&self, folder: &Path, tolerance: f64) {
        let way = match &*self.source {
            "rf2" => Way::Plugin,
            "lmu" => Way::Native,
            other => panic!("{}: source {other}", self.name),
        };
        let reader = GameReader::open(way, &self.memory(folder));
        let reading = reader.map_or(GameReading::Unavailable, |reader| reader.read());
        let status = match &reading {
            GameReading::Sample(_) => "sample",
            GameReading::NoSample(_) => "no_sample",
            GameReading::Unavailable => "unavailable",
        };
        assert_eq!(status, self.status, "{}", self.name);
        let GameReading::Sample(snapshot) = reading else { return };
        for (units, expected) in
            [(Units::Upstream, &self.upstream_units), (Units::Label, &self.dashboard_units)]
        {
            let expected = expected.as_ref().unwrap();
            let now = CapturedAt(1_763_821_822_123);
            let sample = snapshot.sample(units, now);
            let mut frame: Value =
                serde_json::from_str(&fields::map(&sample, now).unwrap()).unwrap();
            let timestamp = frame.as_object_mut().unwrap().remove("timestamp");
            assert_eq!(timestamp.unwrap(), "2025-11-22T14:30:22.123Z");
            // Values that no dashboard accepts never leave the agent, in either unit system.
            let before_the_start = expected["lap_time"].as_f64().is_some_and(|time| time < 0.0);
            if before_the_start {
                assert_eq!(frame.get("lap_time"), None);
                frame["lap_time"] = expected["lap_time"].clone();
            }
            let name = &self.name;
            let (seen, listed) = (frame.as_object().unwrap().keys(), expected.keys());
            assert!(seen.eq(listed), "{name}: {units:?}: other fields than in the case: {frame}");
            for (field, expected) in expected {
                let seen = &frame[field];
                assert!(is_near(seen, expected, tolerance), "{name}: {units:?}: {field}: {seen}");
            }
        }
    }

    fn memory(&self, folder: &Path) -> Buffers {
        let mut buffers = HashMap::new();
        for (name, file) in &self.files {
            let region = region(name);
            let mut bytes = match folder {
                own if own == own_folder() => own_buffer(file, region),
                other => fs::read(other.join(file)).unwrap(),
            };
            for patch in self.patch.iter().filter(|patch| patch.file == *name) {
                let new = unhex(&patch.hex);
                bytes[patch.offset..][..new.len()].copy_from_slice(&new);
            }
            buffers.insert(region, bytes);
        }
        Buffers(buffers)
    }
}

/// The region behind a name in `cases.json`.
fn region(name: &str) -> Region {
    match name {
        "data" => Region::Native,
        "telemetry" => Region::Telemetry,
        "scoring" => Region::Scoring,
        "extended" => Region::Extended,
        other => panic!("no region {other}"),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// True if numbers are equal within the tolerance, and everything else exactly.
fn is_near(seen: &Value, expected: &Value, tolerance: f64) -> bool {
    match (seen, expected) {
        (Value::Object(seen), Value::Object(expected)) => {
            let near = |(key, value)| seen.get(key).is_some_and(|s| is_near(s, value, tolerance));
            seen.len() == expected.len() && expected.iter().all(near)
        }
        (Value::Number(seen), Value::Number(expected)) => {
            (seen.as_f64().unwrap() - expected.as_f64().unwrap()).abs() <= tolerance
        }
        _ => seen == expected,
    }
}

/// Regions with constant content.
#[derive(Clone, Debug)]
pub struct Buffers(HashMap<Region, Vec<u8>>);

impl Buffers {
    /// Loads files from the project's own folder.
    pub fn of(files: &[(Region, &str)]) -> Self {
        let buffers = files.iter().map(|&(region, file)| (region, own_buffer(file, region)));
        Self(buffers.collect())
    }

    pub fn patch(&mut self, region: Region, at: usize, bytes: &[u8]) {
        self.0.get_mut(&region).unwrap()[at..][..bytes.len()].copy_from_slice(bytes);
    }

    /// The offset of the player's physics in the native memory.
    fn native_player(&self) -> usize {
        128_468 + 1888 * usize::from(self.0[&Region::Native][128_465])
    }

    /// The offset of the player's standing in the native memory.
    fn native_standing(&self) -> usize {
        let native = &self.0[&Region::Native];
        let slot = &native[self.native_player()..][..4];
        (0..104).map(|number| 2192 + 584 * number).find(|&at| &native[at..][..4] == slot).unwrap()
    }

    pub fn read(&self, way: Way) -> GameReading {
        GameReader::open(way, self).unwrap().read()
    }

    fn outcome(&self, way: Way) -> String {
        match self.read(way) {
            GameReading::Sample(_) => "sample".into(),
            GameReading::NoSample(why) => format!("{why:?}"),
            GameReading::Unavailable => "unavailable".into(),
        }
    }
}

impl Memory for Buffers {
    fn open(&self, region: Region) -> io::Result<Box<dyn Mapping>> {
        let bytes = self.0.get(&region).filter(|bytes| bytes.len() >= region.size());
        let bytes = bytes.ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Buffer(bytes.clone())))
    }
}

#[derive(Debug)]
struct Buffer(Vec<u8>);

impl Mapping for Buffer {
    fn read(&self, at: usize, bytes: &mut [u8]) -> io::Result<()> {
        let found = self.0.get(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    fn counter(&self, at: usize) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

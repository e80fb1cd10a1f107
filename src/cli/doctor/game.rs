//! Checks the game: its shared memory, native and from the rF2 plugin, and its REST API. A game
//! that is not running is not a fault.

use std::io;

use super::{DoctorReport, disk};
use crate::config::{GameApi, LmuConfig};
use crate::source::lmu::memory::{self, Memory, Region};
use crate::source::lmu::reader::{GameReader, GameReading, Way};
use crate::source::lmu::rest::{Rest, RestError};
use crate::source::lmu::{About, GameVersion};

pub(super) const SUBJECT: &str = "game";

pub(super) async fn look(config: &LmuConfig) -> DoctorReport {
    let mut report = DoctorReport::new(SUBJECT);
    if !config.enabled {
        report.ok("it is not read: source.lmu.enabled is false");
        return report;
    }
    let folder = config.folder.clone();
    let is_there = match disk::in_time(move || GameState::look(&*memory::here(&folder))).await {
        Some(seen) => seen.say(&mut report, config),
        None => {
            report.fault(
                format!("{} cannot be read", config.folder.display()),
                "set source.lmu.folder to another folder",
            );
            false
        }
    };
    ask(&mut report, config.rest, is_there).await;
    report
}

/// The game's memory.
struct GameState {
    native: io::Result<GameReading>,
    plugin: io::Result<GameReading>,
    about: io::Result<About>,
    /// `None` if the game itself shares no memory.
    version: Option<GameVersion>,
}

impl GameState {
    fn look(memory: &dyn Memory) -> Self {
        let [native, plugin] = [Way::Native, Way::Plugin]
            .map(|way| GameReader::open(way, memory).map(|reader| reader.read()));
        let version = GameVersion::of(memory).ok().flatten();
        Self { native, plugin, about: About::of(memory), version }
    }

    /// Reports on the game's memory and returns whether the game is running.
    fn say(&self, report: &mut DoctorReport, config: &LmuConfig) -> bool {
        let native = Region::Native.name();
        if is_live(&self.native) {
            report.ok(format!("it shares its own memory ({native})"));
            self.say_version(report);
        }
        self.say_plugin(report, config);
        if let Err(error) = &self.native {
            say_unreadable(report, native, error, config);
        }
        let is_there = is_live(&self.native) || is_live(&self.plugin);
        if !is_there && report.findings.is_empty() {
            let (summary, advice) = match &self.native {
                Ok(_) => ("its memory exists, but no game writes to it", "start the game"),
                Err(_) => (
                    "it does not run, or does not share its memory",
                    "start the game; in Le Mans Ultimate \"Enable Plugins\" must be on, rFactor 2 \
                     needs the rF2 shared memory plugin",
                ),
            };
            report.note(summary, advice);
        }
        is_there
    }

    /// Reports a game that is newer than what pitwire was checked with: an update of the game may
    /// move values in its memory.
    fn say_version(&self, report: &mut DoctorReport) {
        let newest = GameVersion::NEWEST_CHECKED;
        match self.version {
            Some(version) if version > newest => report.note(
                format!("its version is {version}; pitwire was checked with 1.2 to {newest}"),
                "compare the values on the dashboard with the game before a race",
            ),
            Some(version) => report.ok(format!("its version is {version}")),
            None => {}
        }
    }

    /// Reports on the plugin, unless it is not installed.
    fn say_plugin(&self, report: &mut DoctorReport, config: &LmuConfig) {
        match &self.about {
            Ok(about) if is_live(&self.plugin) => {
                report.ok(format!("the rF2 plugin {} shares its memory", about.version));
            }
            Ok(About { version, .. }) if version.is_empty() => {}
            Ok(about) if !about.is_new_enough() => report.warning(
                format!("the rF2 plugin is version {}, which is too old", about.version),
                "install the rF2 shared memory plugin 3.6 or newer",
            ),
            Ok(about) if !about.is_64_bit => report.warning(
                format!("the rF2 plugin {} is the 32-bit version", about.version),
                "install the 64-bit plugin",
            ),
            Ok(about) => report.warning(
                format!("the rF2 plugin {} shares only part of its memory", about.version),
                "remove leftovers of an older bridge or plugin, and restart the game",
            ),
            Err(error) => say_unreadable(report, Region::Extended.name(), error, config),
        }
    }
}

fn is_live(reading: &io::Result<GameReading>) -> bool {
    reading.as_ref().is_ok_and(|reading| *reading != GameReading::Unavailable)
}

/// Reports why a region cannot be read, unless it does not exist.
fn say_unreadable(report: &mut DoctorReport, region: &str, error: &io::Error, config: &LmuConfig) {
    let place = if cfg!(windows) {
        region.to_owned()
    } else {
        config.folder.join(region).display().to_string()
    };
    match error.kind() {
        io::ErrorKind::NotFound => {}
        io::ErrorKind::PermissionDenied => report.fault(
            format!("{place} cannot be read: {error}"),
            "run pitwire as the user who runs the game, with the same rights",
        ),
        _ => report.warning(
            format!("{place} is not the game's memory: {error}"),
            "remove it, and restart the bridge or the game",
        ),
    }
}

async fn ask(report: &mut DoctorReport, api: GameApi, is_there: bool) {
    let place = match api {
        GameApi::Off => return report.ok("its REST API is not used: source.lmu.rest is empty"),
        GameApi::Localhost { port } => format!("localhost:{port}"),
        GameApi::At(address) => address.to_string(),
    };
    match Rest::new(api).find().await {
        Ok(address) => report.ok(format!("its REST API answers at {address}")),
        Err(RestError::Status(status)) => report.warning(
            format!("the server at {place} is not its REST API: it answers {status}"),
            "find the program that has that port, or set source.lmu.rest to the right one",
        ),
        Err(error) if is_there => report.warning(
            format!("it runs, but its REST API at {place} {error}"),
            "set source.lmu.rest to the right port; without it pitwire gets no setups",
        ),
        Err(_) => report.note(
            format!("its REST API does not answer at {place}"),
            "nothing, unless the game is running",
        ),
    }
}

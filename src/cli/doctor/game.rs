//! The game: its memory, by both ways, and its REST API. That it does not run is no fault.

use std::io;

use super::{Report, disk};
use crate::config::{GameApi, LmuConfig};
use crate::source::lmu::About;
use crate::source::lmu::memory::{self, Memory, Region};
use crate::source::lmu::reader::{Reader, Reading, Way};
use crate::source::lmu::rest::{Rest, RestError};

pub(super) const SUBJECT: &str = "game";

pub(super) async fn look(config: &LmuConfig) -> Report {
    let mut report = Report::new(SUBJECT);
    if !config.enabled {
        report.ok("it is not read, as source.lmu.enabled is false");
        return report;
    }
    let folder = config.folder.clone();
    let is_there = match disk::in_time(move || Seen::look(&*memory::here(&folder))).await {
        Some(seen) => seen.say(&mut report, config),
        None => {
            report.fault(
                format!("{} cannot be read", config.folder.display()),
                "name another place in source.lmu.folder",
            );
            false
        }
    };
    ask(&mut report, config.rest, is_there).await;
    report
}

/// The game's memory.
struct Seen {
    native: io::Result<Reading>,
    plugin: io::Result<Reading>,
    about: io::Result<About>,
}

impl Seen {
    fn look(memory: &dyn Memory) -> Self {
        let read = |way| Reader::open(way, memory).map(|reader| reader.read());
        Self { native: read(Way::Native), plugin: read(Way::Plugin), about: About::of(memory) }
    }

    /// Returns whether the game is there.
    fn say(&self, report: &mut Report, config: &LmuConfig) -> bool {
        let is_live = |reading: &io::Result<Reading>| matches!(reading, Ok(reading) if *reading != Reading::Unavailable);
        let (native, plugin) = (Region::Native.name(), Region::Extended.name());
        if is_live(&self.native) {
            report.ok(format!("it shares its own memory ({native})"));
        }
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
                format!("the rF2 plugin {} is the one for 32 bits", about.version),
                "install the plugin for 64 bits",
            ),
            Ok(about) => report.warning(
                format!("the rF2 plugin {} shares a part of its memory only", about.version),
                "see that nothing is left from an older bridge or plugin; start the game anew",
            ),
            Err(error) => say_unreadable(report, plugin, error, config),
        }
        if let Err(error) = &self.native {
            say_unreadable(report, native, error, config);
        }
        let is_there = is_live(&self.native) || is_live(&self.plugin);
        if !is_there && report.findings.is_empty() {
            let (what, advice) = match &self.native {
                Ok(_) => ("its memory is there, and no game writes into it", "start the game"),
                Err(_) => (
                    "it does not run, or does not share its memory",
                    "start the game; in Le Mans Ultimate \"Enable Plugins\" must be on, rFactor 2 \
                     needs the rF2 shared memory plugin",
                ),
            };
            report.note(what, advice);
        }
        is_there
    }
}

/// That a region is not there needs no word.
fn say_unreadable(report: &mut Report, region: &str, error: &io::Error, config: &LmuConfig) {
    let place = match cfg!(windows) {
        true => region.to_owned(),
        false => config.folder.join(region).display().to_string(),
    };
    match error.kind() {
        io::ErrorKind::NotFound => {}
        io::ErrorKind::PermissionDenied => report.fault(
            format!("{place} may not be read: {error}"),
            "run pitwire as the user who runs the game, with no more and no fewer rights",
        ),
        _ => report.warning(
            format!("{place} is not the game's memory: {error}"),
            "remove what is left there, and start the bridge or the game anew",
        ),
    }
}

async fn ask(report: &mut Report, api: GameApi, is_there: bool) {
    let place = match api {
        GameApi::Off => return report.ok("its REST API is left alone, as source.lmu.rest says"),
        GameApi::Localhost { port } => format!("localhost:{port}"),
        GameApi::At(address) => address.to_string(),
    };
    match Rest::new(api).find().await {
        Ok(address) => report.ok(format!("its REST API answers at {address}")),
        Err(RestError::Status(status)) => report.warning(
            format!("what is at {place} is not its REST API: it answers {status}"),
            "see which program has that port, or name the right one in source.lmu.rest",
        ),
        Err(error) if is_there => report.warning(
            format!("it runs, but its REST API at {place} {error}"),
            "name the right port in source.lmu.rest; without it no setup comes from the game",
        ),
        Err(_) => report.note(
            format!("its REST API does not answer at {place}"),
            "nothing, as long as the game does not run",
        ),
    }
}

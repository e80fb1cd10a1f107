//! Loads the configuration. Precedence: defaults < file < environment < command line.
//!
//! Loading does not stop at the first mistake: it reads every place completely and reports all
//! [`Problems`] at once.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;

use super::destination::{self, KeyPath};
use super::key_file;
use super::problem::one_line;
use super::raw_value::{RawValue, shorten};
use super::spelling;
use super::toml_file;
use super::{Config, FileFault, Origin, Problem, Problems, SERVER, Warning, with_keys_of};

/// The prefix of the environment variables that set keys.
const VARIABLE_PREFIX: &str = "PITWIRE_";

/// `PITWIRE_` variables that are not keys: the configuration file, a log filter for developers, and
/// recorded snapshots that replace the game.
const OTHER_VARIABLES: [&str; 3] = ["PITWIRE_CONFIG", "PITWIRE_LOG", "PITWIRE_SHM_FIXTURES"];

/// Keys that the command line sets: dotted key, value, and the flag as typed, such as `--server`.
#[derive(Clone, Debug, Default)]
pub struct Overrides(pub Vec<(String, String, String)>);

impl Overrides {
    /// Adds an override; a later one for the same key wins.
    pub fn set(&mut self, key: &str, value: &str, typed: &str) {
        self.0.push((key.into(), value.into(), typed.into()));
    }
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Settings that work but are probably unintended.
    pub warnings: Vec<Warning>,
    /// The origin of each key that was set; the last one wins.
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Checks the files that keys name, which the agent reads when it uses them. Reads them, which
    /// may block. Warns of files that only a systemd unit has.
    ///
    /// # Errors
    /// If the agent could not use some of them.
    pub fn check_files(&mut self) -> Result<(), Problems> {
        let mut problems = Vec::new();
        for (key, fault) in key_file::faults(&self.config) {
            let origin = self.origins.get(&key).unwrap_or(&Origin::Default).clone();
            let is_elsewhere = fault == FileFault::NoCredentialsDirectory;
            let problem = Problem { origin, key: Some(key), message: fault.to_string() };
            if is_elsewhere { self.warnings.push(problem) } else { problems.push(problem) }
        }
        problems.sort_by(|one, other| one.origin.cmp(&other.origin));
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
    }

    /// The configuration as a TOML file: each value with its origin, secrets as `***`.
    pub fn to_toml(&self) -> String {
        toml_file::to_toml_with_origins(&self.config, &self.origins)
    }
}

/// The environment variables of this process for [`load`], with U+FFFD for invalid UTF-8.
pub(crate) fn process_environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    })
}

/// Reads the configuration.
///
/// A `file` whose name ends in `.json` is read as the `config.json` of the original client, any
/// other as TOML. Only `environment` variables that begin with `PITWIRE_` are read. The error lists
/// all problems of the file, the environment and the command line.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Loaded, Problems> {
    let mut loading = Loading::default();
    if let Some(path) = file {
        loading.file(path);
    }
    loading.environment(environment);
    for (key, value, typed) in &overrides.0 {
        let origin = Origin::Flag(typed.clone());
        match destination::find(key) {
            Some(place) => loading.set(&place, key, &RawValue::Untyped(value), origin),
            None => loading.unknown(key, spelling::nearest_key(key).as_deref(), origin),
        }
    }
    loading.check();
    loading.finish()
}

/// The key that an environment variable sets: `queue.max_age` for `PITWIRE_QUEUE__MAX_AGE`.
fn key_of_variable(name: &str) -> Option<String> {
    let name = name.to_ascii_uppercase();
    if OTHER_VARIABLES.contains(&&*name) {
        return None;
    }
    Some(name.strip_prefix(VARIABLE_PREFIX)?.replace("__", ".").to_ascii_lowercase())
}

/// The environment variable that sets a key.
fn variable_of_key(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The state of loading.
#[derive(Default)]
pub(super) struct Loading {
    pub(super) config: Config,
    /// The origin of each key that was set; the last one wins.
    pub(super) origins: BTreeMap<String, Origin>,
    /// The destination that is swapped into `[server]` while it is checked.
    pub(super) destination: Option<String>,
    problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

impl Loading {
    fn environment(&mut self, environment: impl Iterator<Item = (String, String)>) {
        let mut variables: Vec<_> = environment
            .filter_map(|(name, value)| Some((key_of_variable(&name)?, name, value)))
            .collect();
        // Deterministic if a name occurs in two spellings.
        variables.sort();
        for (key, name, value) in variables {
            let origin = Origin::Variable(name);
            match destination::find(&key) {
                Some(path) => self.set(&path, &key, &RawValue::Untyped(&value), origin),
                None => {
                    let nearest = spelling::nearest_key(&key).as_deref().map(variable_of_key);
                    self.unknown(&key, nearest.as_deref(), origin);
                }
            }
        }
    }

    pub(super) fn set(
        &mut self,
        place: &KeyPath,
        called: &str,
        given: &RawValue<'_>,
        origin: Origin,
    ) {
        let set = place.within(&mut self.config, |config| place.key.set(config, given));
        match set.flatten() {
            Ok(()) => {
                self.origins.insert(place.name(), origin);
            }
            Err(message) => {
                let destination = place.destination.as_deref().unwrap_or(SERVER);
                self.problem(origin, Some(called), with_keys_of(&message, destination));
            }
        }
    }

    pub(super) fn unknown(&mut self, called: &str, near: Option<&str>, origin: Origin) {
        let message = match near {
            Some(near) => format!("is not a key; did you mean {near}?"),
            None => "is not a key; remove it".into(),
        };
        self.problem(origin, Some(called), message);
    }

    pub(super) fn problem(&mut self, origin: Origin, key: Option<&str>, message: String) {
        let key = key.map(|key| shorten(&one_line(key)).into_owned());
        self.problems.push(Problem { origin, key, message });
    }

    pub(super) fn warn(&mut self, key: &str, message: String) {
        let origin = self.origin(&[key]);
        self.warnings.push(Warning { origin, key: Some(key.into()), message });
    }

    /// Whether these keys have no problem, so that their values are the intended ones.
    pub(super) fn sound(&self, keys: &[&str]) -> bool {
        !self
            .problems
            .iter()
            .filter_map(|problem| problem.key.as_deref())
            .any(|key| keys.contains(&key))
    }

    /// The origin of these keys: of several, the one with the highest precedence.
    pub(super) fn origin(&self, keys: &[&str]) -> Origin {
        let origins = keys.iter().filter_map(|key| self.origins.get(*key));
        origins.max().cloned().unwrap_or(Origin::Default)
    }

    fn finish(mut self) -> Result<Loaded, Problems> {
        self.warnings.sort_by(|one, other| one.origin.cmp(&other.origin));
        if self.problems.is_empty() {
            return Ok(Loaded {
                config: self.config,
                warnings: self.warnings,
                origins: self.origins,
            });
        }
        self.problems.sort_by(|one, other| one.origin.cmp(&other.origin));
        Err(Problems(self.problems))
    }
}

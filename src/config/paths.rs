//! Default locations of files and directories on each platform.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::AgentName;

/// Why the platform defines no default directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is not set to a full path")]
pub struct NoDefaultPath {
    /// The environment variable that would define it.
    pub(super) variable: &'static str,
}

/// The default directory of the queue: below the platform's directory for user data.
pub(super) fn queue() -> Result<PathBuf, NoDefaultPath> {
    queue_among(Platform::THIS, &|name| env::var_os(name))
}

/// The configuration file of a command, or why it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigFile {
    /// This file is read. It may be unreadable, which is an error.
    Read(PathBuf),
    /// No file was named, and this default one does not exist.
    Missing(PathBuf),
    /// No file was named, and the platform has no default path.
    NoDefault(NoDefaultPath),
}

impl ConfigFile {
    /// The `given` file, else the default one: `pitwire/pitwire.toml` in the platform's directory
    /// for user settings (`~/.config`, `%LOCALAPPDATA%`).
    pub fn find(given: Option<PathBuf>) -> Self {
        if let Some(given) = given {
            return Self::Read(given);
        }
        let default = match settings() {
            Ok(settings) => settings.join("pitwire").join("pitwire.toml"),
            Err(error) => return Self::NoDefault(error),
        };
        match default.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Missing(default),
            // A file that may not be looked at must not count as missing.
            Ok(_) | Err(_) => Self::Read(default),
        }
    }

    /// The file to read.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Read(path) => Some(path),
            Self::Missing(_) | Self::NoDefault(_) => None,
        }
    }
}

/// Names the file, or the reason for its absence, as one line.
impl fmt::Display for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("configuration file: ")?;
        match self {
            Self::Read(path) => path.display().fmt(f),
            Self::Missing(path) => write!(f, "none; {} does not exist", path.display()),
            Self::NoDefault(error) => write!(f, "none; {error}"),
        }
    }
}

/// The platform's directory for user settings.
pub fn settings() -> Result<PathBuf, NoDefaultPath> {
    settings_among(Platform::THIS, &|name| env::var_os(name))
}

/// The default log file of an agent without a console: next to the queue's directory.
pub fn log_file() -> Result<PathBuf, NoDefaultPath> {
    Ok(queue()?.with_file_name("pitwire.log"))
}

/// The variables of the XDG base directories that are set, but are ignored because they do not
/// contain a full path.
pub(super) fn ignored_variables() -> Vec<(&'static str, OsString)> {
    ignored_among(Platform::THIS, &|name| env::var_os(name))
}

/// The host name, sanitized for a NATS subject.
pub(crate) fn pc_name() -> String {
    let name = AgentName::made_of(&host_name());
    name.map_or_else(|| "pc".into(), |name| name.to_string())
}

#[cfg(target_os = "linux")]
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(target_os = "linux"))]
fn host_name() -> String {
    env::var("COMPUTERNAME").unwrap_or_default()
}

type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The convention for the directories of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Platform {
    /// The XDG base directories.
    Xdg,
    /// The profile of a Windows user.
    Windows,
}

impl Platform {
    const THIS: Self = if cfg!(windows) { Self::Windows } else { Self::Xdg };
}

const DATA: &str = "XDG_DATA_HOME";
const CONFIG: &str = "XDG_CONFIG_HOME";

fn queue_among(platform: Platform, variables: Variables<'_>) -> Result<PathBuf, NoDefaultPath> {
    let data = match platform {
        Platform::Xdg => full_path(variables, DATA)
            .or_else(|_| Ok(full_path(variables, "HOME")?.join(".local").join("share"))),
        Platform::Windows => local_app_data(variables),
    };
    Ok(data?.join("pitwire").join("queue"))
}

fn settings_among(platform: Platform, variables: Variables<'_>) -> Result<PathBuf, NoDefaultPath> {
    match platform {
        Platform::Xdg => full_path(variables, CONFIG)
            .or_else(|_| Ok(full_path(variables, "HOME")?.join(".config"))),
        Platform::Windows => local_app_data(variables),
    }
}

fn local_app_data(variables: Variables<'_>) -> Result<PathBuf, NoDefaultPath> {
    full_path(variables, "LOCALAPPDATA").or_else(|unset| {
        let profile = full_path(variables, "USERPROFILE").map_err(|_| unset)?;
        Ok(profile.join("AppData").join("Local"))
    })
}

fn ignored_among(platform: Platform, variables: Variables<'_>) -> Vec<(&'static str, OsString)> {
    if platform == Platform::Windows {
        return Vec::new();
    }
    let set = [DATA, CONFIG].into_iter().filter_map(|name| Some((name, variables(name)?)));
    set.filter(|(_, value)| !value.is_empty() && !Path::new(value).is_absolute()).collect()
}

/// The full path in a variable. A relative one is ignored, because its meaning would depend on the
/// working directory.
fn full_path(variables: Variables<'_>, name: &'static str) -> Result<PathBuf, NoDefaultPath> {
    let path = variables(name).map(PathBuf::from).filter(|path| path.is_absolute());
    path.ok_or(NoDefaultPath { variable: name })
}

#[cfg(all(test, not(windows)))]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn default_paths_are_full_paths_or_an_error() {
        use Platform::{Windows, Xdg};
        let home = ("HOME", "/home/ana");
        let below_home = Ok(("/home/ana/.local/share/pitwire/queue", "/home/ana/.config"));
        let profile = ("USERPROFILE", "/c/ana");
        for (platform, variables, expected) in [
            (Xdg, vec![home], below_home),
            (Xdg, vec![home, (DATA, "x"), (CONFIG, "x")], below_home),
            (Xdg, vec![home, (DATA, ""), (CONFIG, "")], below_home),
            (
                Xdg,
                vec![(DATA, "/data"), (CONFIG, "/etc/ana")],
                Ok(("/data/pitwire/queue", "/etc/ana")),
            ),
            (Xdg, vec![], Err("HOME")),
            (Xdg, vec![("HOME", "")], Err("HOME")),
            (Xdg, vec![("HOME", "ana"), (DATA, "x"), (CONFIG, "y")], Err("HOME")),
            (
                Windows,
                vec![("LOCALAPPDATA", "/c/local")],
                Ok(("/c/local/pitwire/queue", "/c/local")),
            ),
            (
                Windows,
                vec![profile],
                Ok(("/c/ana/AppData/Local/pitwire/queue", "/c/ana/AppData/Local")),
            ),
            (Windows, vec![("LOCALAPPDATA", "local"), ("USERPROFILE", "")], Err("LOCALAPPDATA")),
            (Windows, vec![home], Err("LOCALAPPDATA")),
        ] {
            let variables: HashMap<&str, &str> = variables.into_iter().collect();
            let given: Variables<'_> = &|name| variables.get(name).map(OsString::from);
            let found = queue_among(platform, given);
            let found = found.and_then(|queue| Ok((queue, settings_among(platform, given)?)));
            let expected = expected.map(|(queue, settings)| (queue.into(), settings.into()));
            assert_eq!(
                found,
                expected.map_err(|variable| NoDefaultPath { variable }),
                "{platform:?} {variables:?}"
            );
        }
    }

    #[test]
    fn a_relative_base_directory_is_reported_as_ignored() {
        let given: Variables<'_> = &|name| match name {
            DATA => Some("data".into()),
            CONFIG => Some("/etc/ana".into()),
            _ => None,
        };
        assert_eq!(ignored_among(Platform::Xdg, given), [(DATA, "data".into())]);
        assert_eq!(ignored_among(Platform::Windows, given), []);
    }
}

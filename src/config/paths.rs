//! Default locations of files and directories on each platform.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use super::AgentName;

/// The default directory of the queue: below the platform's directory for user data, or below the
/// working directory if the platform defines none.
pub(super) fn queue() -> PathBuf {
    queue_among(&|name| env::var_os(name))
}

/// The configuration file to read: the `given` one, else `pitwire/pitwire.toml` in the platform's
/// directory for user settings (`~/.config`, `%LOCALAPPDATA%`), if it exists.
pub fn file(given: Option<PathBuf>) -> Option<PathBuf> {
    given.or_else(|| {
        let usual = settings()?.join("pitwire").join("pitwire.toml");
        usual.exists().then_some(usual)
    })
}

/// The platform's directory for user settings; `None` if it defines none.
pub fn settings() -> Option<PathBuf> {
    settings_among(&|name| env::var_os(name))
}

/// The default log file when there is no console to log to: next to the queue's directory.
pub fn log_file() -> PathBuf {
    queue().with_file_name("pitwire.log")
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

fn queue_among(variables: Variables<'_>) -> PathBuf {
    let data = if cfg!(windows) {
        base(variables, "LOCALAPPDATA")
    } else {
        base(variables, "XDG_DATA_HOME")
            .or_else(|| Some(base(variables, "HOME")?.join(".local").join("share")))
    };
    data.unwrap_or_else(|| PathBuf::from(".")).join("pitwire").join("queue")
}

fn settings_among(variables: Variables<'_>) -> Option<PathBuf> {
    if cfg!(windows) {
        base(variables, "LOCALAPPDATA")
    } else {
        base(variables, "XDG_CONFIG_HOME")
            .or_else(|| Some(base(variables, "HOME")?.join(".config")))
    }
}

/// The absolute path in a variable; a relative one is ignored, because its meaning would depend on
/// the working directory.
fn base(variables: Variables<'_>, name: &str) -> Option<PathBuf> {
    variables(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(all(test, not(windows)))]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;

    #[test]
    fn default_paths_follow_the_xdg_base_directories() {
        let home = ("HOME", "/home/ana");
        let below_home = ("/home/ana/.local/share/pitwire/queue", "/home/ana/.config");
        for (variables, (queue, settings)) in [
            (vec![home], below_home),
            (vec![home, ("XDG_DATA_HOME", "x"), ("XDG_CONFIG_HOME", "x")], below_home),
            (
                vec![home, ("XDG_DATA_HOME", "/data"), ("XDG_CONFIG_HOME", "/etc/ana")],
                ("/data/pitwire/queue", "/etc/ana"),
            ),
            (vec![], ("./pitwire/queue", "")),
        ] {
            let variables: HashMap<&str, &str> = variables.into_iter().collect();
            let variables: Variables<'_> = &|name| variables.get(name).map(OsString::from);
            assert_eq!(queue_among(variables), Path::new(queue));
            assert_eq!(settings_among(variables).unwrap_or_default(), Path::new(settings));
        }
    }
}

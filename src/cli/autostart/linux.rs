//! Autostart on Linux: a systemd user unit or, without systemd, an entry in the desktop's autostart
//! directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Registered, Start, text};
use crate::config;

/// The unit in `deploy/`, which can also be installed by hand.
const UNIT: &str = include_str!("../../../deploy/pitwire.service");
const SERVICE: &str = "pitwire.service";

/// Paths of the files that start the agent at log-on; each may be missing.
struct Entries {
    unit: PathBuf,
    /// The symbolic link that makes systemd start the unit at log-on.
    wanted: PathBuf,
    desktop: PathBuf,
}

impl Entries {
    fn find() -> io::Result<Self> {
        let settings = config::settings().map_err(|error| {
            io::Error::new(io::ErrorKind::NotFound, format!("{error}; run this as your own user"))
        })?;
        let units = settings.join("systemd").join("user");
        Ok(Self {
            wanted: units.join("default.target.wants").join(SERVICE),
            unit: units.join(SERVICE),
            desktop: settings.join("autostart").join("pitwire.desktop"),
        })
    }
}

pub(super) fn enable(start: Start) -> io::Result<()> {
    let entries = Entries::find()?;
    if is_systemd() {
        write(&entries.unit, &unit(&start)?)?;
        remove(&entries.wanted)?;
        remove(&entries.desktop)?;
        create_folder(&entries.wanted)?;
        std::os::unix::fs::symlink(&entries.unit, &entries.wanted)?;
        reload();
        return Ok(());
    }
    write(&entries.desktop, &desktop(&start)?)
}

pub(super) fn disable() -> io::Result<()> {
    let entries = Entries::find()?;
    for path in [&entries.wanted, &entries.unit, &entries.desktop] {
        remove(path)?;
    }
    reload();
    Ok(())
}

/// Finds the entry that starts the agent, if there is one.
pub(super) fn registered() -> io::Result<Option<Registered>> {
    let entries = Entries::find()?;
    Ok(registered_by(&entries.wanted, "ExecStart=")
        .or_else(|| registered_by(&entries.desktop, "Exec=")))
}

/// The command of a file that starts the agent, if the file exists.
fn registered_by(path: &Path, key: &str) -> Option<Registered> {
    fs::symlink_metadata(path).ok()?;
    let text = fs::read_to_string(path).unwrap_or_default();
    Some(match text.lines().find_map(|line| line.strip_prefix(key)) {
        Some(line) => {
            Registered { entry: format!("{line} ({})", path.display()), program: program(line) }
        }
        None => Registered {
            entry: format!("{}, a broken link or without a command", path.display()),
            program: None,
        },
    })
}

/// The program in a command line, without the quotes and escapes that [`command`] adds.
fn program(command: &str) -> Option<PathBuf> {
    let word = match command.strip_prefix('"') {
        Some(rest) => rest.split_once("\" ").map_or(rest.trim_end_matches('"'), |(word, _)| word),
        None => command.split_whitespace().next()?,
    };
    let (directory, path) = match word.strip_prefix("%h/") {
        Some(rest) => (std::env::home_dir()?, rest),
        None => (PathBuf::new(), word),
    };
    // A desktop entry doubles each backslash that escapes a character.
    Some(directory.join(path.replace("%%", "%").replace(r"\\", "")))
}

/// Whether the system was booted with systemd; the check of `sd_booted`.
fn is_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Asks systemd to reload its units. If this fails, systemd reads them at the next log-on.
fn reload() {
    let _ = Command::new("systemctl")
        .args(["--user", "daemon-reload"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

fn unit(start: &Start) -> io::Result<String> {
    if text(&start.program)?.contains(['"', '\'', '\\']) {
        let text = format!(
            "{}: systemd cannot start a program whose path has a quote or a backslash; move it",
            start.program.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // systemd expands variables in arguments only, not in the path of the program.
    let command = command(start, escape_for_unit, |word| escape_for_unit(word).replace('$', "$$"))?;
    // The comment before the first section explains how to install the unit by hand.
    let from = UNIT.find("[Unit]").unwrap_or_default();
    let mut unit = String::new();
    for line in UNIT[from..].lines() {
        if line.starts_with("ExecStart=") {
            unit.push_str("ExecStart=");
            unit.push_str(&command);
        } else {
            unit.push_str(line);
        }
        unit.push('\n');
    }
    Ok(unit)
}

fn escape_for_unit(word: &str) -> String {
    word.replace('\\', r"\\").replace('"', r#"\""#).replace('%', "%%")
}

fn escape_for_desktop(word: &str) -> String {
    let quoted = ['\\', '"', '`', '$']
        .iter()
        .fold(word.to_owned(), |word, reserved| word.replace(*reserved, &format!("\\{reserved}")));
    // Escape again: the whole value is itself a string with escapes.
    quoted.replace('\\', r"\\").replace('%', "%%")
}

fn desktop(start: &Start) -> io::Result<String> {
    let command = command(start, escape_for_desktop, escape_for_desktop)?;
    Ok(format!(
        "[Desktop Entry]\nType=Application\nName=pitwire\nComment=Telemetry agent for sim racing\n\
         Exec={command}\nTerminal=false\n"
    ))
}

/// Joins the program and its arguments to a command line: each word quoted, special characters
/// escaped.
fn command(
    start: &Start,
    program: impl Fn(&str) -> String,
    argument: impl Fn(&str) -> String,
) -> io::Result<String> {
    let path = text(&start.program)?;
    let arguments = start.arguments.iter().map(|word| argument(word));
    let words: Vec<_> = std::iter::once(program(&path)).chain(arguments).collect();
    if words.iter().any(|word| word.contains(char::is_control)) {
        let text = format!("{words:?}: a path with a line break cannot be started at log-on");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" "))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    create_folder(path)?;
    fs::write(path, text)
}

/// Creates the directory that will contain the file.
fn create_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program_of(entry: &str, key: &str) -> Option<PathBuf> {
        program(entry.lines().find_map(|line| line.strip_prefix(key)).unwrap())
    }

    /// Creates a link to this program.
    fn link_program(home: &Path, name: &str) -> PathBuf {
        let program = home.join(name);
        create_folder(&program).unwrap();
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &program).unwrap();
        program
    }

    #[test]
    fn paths_with_special_characters_are_quoted_for_each_file_format() {
        let start = Start {
            program: "/opt/J. Ö & 100%/pit$wire".into(),
            arguments: vec!["run".into(), r#""$x""#.into()],
        };
        let unit = unit(&start).unwrap();
        let expected = r#"ExecStart="/opt/J. Ö & 100%%/pit$wire" "run" "\"$$x\"""#;
        assert_eq!(unit.lines().find(|line| line.starts_with("ExecStart=")), Some(expected));
        assert!(unit.starts_with("[Unit]") && unit.contains("NoNewPrivileges"));
        assert_eq!(program_of(&unit, "ExecStart="), Some(start.program.clone()));
        let by_hand = program_of(UNIT, "ExecStart=").unwrap();
        assert!(by_hand.is_absolute() && by_hand.ends_with(".local/bin/pitwire"), "{by_hand:?}");
        let desktop = desktop(&start).unwrap();
        assert_eq!(program_of(&desktop, "Exec="), Some(start.program.clone()));
        let expected = r#"Exec="/opt/J. Ö & 100%%/pit\\$wire" "run" "\\"\\$x\\"""#;
        assert_eq!(desktop.lines().find(|line| line.starts_with("Exec=")), Some(expected));
        for refused in ["/opt/two\nlines", "/opt/a\"quote"] {
            let start = Start { program: refused.into(), arguments: Vec::new() };
            assert!(super::unit(&start).is_err(), "{refused}");
        }
    }

    /// Runs `systemd-analyze`, which `tests/setup.sh` installs, and expects no complaint.
    fn systemd_analyze(args: &[&str], unit: &Path) {
        let home = unit.parent().unwrap();
        let mut command = Command::new("systemd-analyze");
        command.args(args).arg(unit).env("HOME", home).env("XDG_RUNTIME_DIR", home);
        let output = command.output().expect("systemd-analyze is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{args:?}: {output:?}");
    }

    #[test]
    fn systemd_analyze_accepts_all_units() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(SERVICE);
        let of_the_user = ["verify", "--user", "--man=no"];
        link_program(home.path(), ".local/bin/pitwire");
        fs::write(&file, UNIT).unwrap();
        systemd_analyze(&of_the_user, &file);
        let start = Start {
            program: link_program(home.path(), "J. Ö 100% $x"),
            arguments: vec!["run".into()],
        };
        fs::write(&file, unit(&start).unwrap()).unwrap();
        systemd_analyze(&of_the_user, &file);

        let system = include_str!("../../../deploy/system/pitwire.service");
        let program = link_program(home.path(), "pitwire");
        fs::write(&file, system.replace("/usr/local/bin/pitwire", program.to_str().unwrap()))
            .unwrap();
        systemd_analyze(&["verify", "--man=no"], &file);
        // The threshold is in tenths; other versions of systemd check more.
        systemd_analyze(&["security", "--offline=true", "--threshold=20"], &file);
    }
}

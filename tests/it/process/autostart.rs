//! The start at log-on, and the configuration and log of an agent started that way.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::agent::{Process, eventually, pitwire};

/// Runs `pitwire autostart`, which must succeed, and returns its output.
fn autostart(home: &Path, args: &[&str]) -> String {
    let args: Vec<_> = std::iter::once("autostart").chain(args.iter().copied()).collect();
    let output = pitwire(&args).env("XDG_CONFIG_HOME", home).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// In a folder whose name contains a space and an accented letter.
#[test]
fn autostart_shows_its_command_and_is_disabled_without_a_trace() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("Frédéric G");
    let config = home.join("mine.toml");
    assert_eq!(autostart(&home, &["status"]), "The agent does not start at log-on.\n");
    fs::create_dir(&home).unwrap();
    fs::write(&config, "").unwrap();
    for _ in 0..2 {
        autostart(&home, &["enable", "--config", config.to_str().unwrap()]);
        let status = autostart(&home, &["status"]);
        let command = format!(
            "\"{}\" \"run\" \"--config\" \"{}\"",
            env!("CARGO_BIN_EXE_pitwire"),
            config.display()
        );
        assert!(status.contains(&command), "{status}");
    }
    for _ in 0..2 {
        autostart(&home, &["disable"]);
        assert_eq!(autostart(&home, &["status"]), "The agent does not start at log-on.\n");
    }
    let left = walk(&home);
    assert_eq!(left, [config]);
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let items = fs::read_dir(folder).unwrap().map(|item| item.unwrap().path());
    items.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn autostart_refuses_a_configuration_with_which_the_agent_does_not_start() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("pitwire");
    fs::create_dir(&folder).unwrap();
    let (default, invalid) = (folder.join("pitwire.toml"), home.path().join("invalid.toml"));
    fs::write(&default, "update_rate_hz = \"fast\"\n").unwrap();
    fs::write(&invalid, "[server]\nurll = \"http://pit\"\n").unwrap();
    let missing_ca = home.path().join("ca.toml");
    fs::write(&missing_ca, "server.ca_file = \"/no/such.pem\"\n").unwrap();
    for (file, said) in [
        (Some("nowhere.toml"), "nowhere.toml: does not exist"),
        (Some(folder.to_str().unwrap()), "pitwire: cannot be read"),
        (Some(invalid.to_str().unwrap()), "invalid.toml:2: server.urll: is not a key"),
        (Some(missing_ca.to_str().unwrap()), "ca.toml:1: server.ca_file: no such file"),
        (None, "pitwire.toml:1: update_rate_hz: \"fast\" is text and not a number"),
    ] {
        let mut command = pitwire(&["autostart", "enable"]);
        command.args(file.map(|file| ["--config", file]).into_iter().flatten());
        let output = command.env("XDG_CONFIG_HOME", home.path()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{file:?}: {errors}");
        assert!(errors.contains(said), "{file:?}: {errors}");
        assert!(errors.contains("nothing was changed"), "{file:?}: {errors}");
        let mut left = walk(home.path());
        left.sort();
        assert_eq!(left, [&*missing_ca, &*invalid, &*default], "{file:?}");
    }
}

#[tokio::test]
async fn the_agent_finds_its_configuration_and_uses_its_log_file() {
    let home = tempfile::tempdir().unwrap();
    let (folder, log) = (home.path().join("pitwire"), home.path().join("new").join("log.txt"));
    fs::create_dir(&folder).unwrap();
    let text = format!(
        "[queue]\npath = '{}'\n[log]\nfile = '{}'\n[metrics]\nlisten = '127.0.0.1:0'\n\
         [source.http]\nenabled = false\n[source.lmu]\nenabled = false\n",
        home.path().join("queue").display(),
        log.display()
    );
    fs::write(folder.join("pitwire.toml"), text).unwrap();
    let mut command = pitwire(&["run", "--server", "http://127.0.0.1:9"]);
    command.env("XDG_CONFIG_HOME", home.path()).stdin(Stdio::null());
    let mut agent = Process::start(&mut command);
    eventually("the log", async || {
        let text = fs::read_to_string(&log).ok()?;
        text.contains("Offline: nothing listens at").then_some(())
    })
    .await;
    agent.signal("-TERM");
    assert_eq!(agent.exit_code(Duration::from_secs(5)).await, Some(0));
    assert_eq!(agent.stderr(), Vec::<String>::new());
    assert!(!fs::read_to_string(&log).unwrap().contains('\u{1b}'), "a log file has no colors");
}

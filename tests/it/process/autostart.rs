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
fn autostart_refuses_a_missing_configuration_file() {
    let home = tempfile::tempdir().unwrap();
    let output = pitwire(&["autostart", "enable", "--config", "nowhere.toml"])
        .env("XDG_CONFIG_HOME", home.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("nowhere.toml: there is no such file"), "{errors}");
    assert!(walk(home.path()).is_empty());
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
        text.contains("INFO").then_some(())
    })
    .await;
    agent.signal("-TERM");
    assert_eq!(agent.exit_code(Duration::from_secs(5)).await, Some(0));
    assert_eq!(agent.stderr(), Vec::<String>::new());
    assert!(!fs::read_to_string(&log).unwrap().contains('\u{1b}'), "a log file has no colors");
}

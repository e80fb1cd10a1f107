//! The files in `deploy/` are ones that the programs they are for accept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use pitwire::cli::Cli;
use pitwire::config::{Config, Overrides, load, to_toml};

use crate::{peers, readme};

const EXAMPLE_HEAD: &str = "\
# pitwire's configuration: every setting with its default. Delete what you do not change; a setting
# that is not here has its default. Start the agent with: pitwire run --config pitwire.toml

";

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(deployed(name)).unwrap()
}

#[test]
fn the_example_configuration_holds_the_defaults() {
    let loaded = load(Some(&deployed("pitwire.toml")), std::iter::empty(), &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn the_example_configuration_has_every_setting_and_what_it_means() {
    // The default is another one for each user, so it stands there as a comment.
    let mut config = Config::default();
    config.queue.path = "<data directory>/pitwire/queue".into();
    let expected =
        EXAMPLE_HEAD.to_owned() + &to_toml(&config).replace("\npath = \"<", "\n# path = \"<");
    readme::bless("deploy/pitwire.toml", &text("pitwire.toml"), &expected);
}

#[test]
fn prometheus_accepts_the_scrape_configuration_and_asks_where_the_agent_listens() {
    let path = deployed("prometheus.yml");
    let mut promtool = Command::new(peers::home().join("bin").join("promtool"));
    let checked = promtool.args(["check", "config"]).arg(&path).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let target = format!("[\"{}\"]", Config::default().metrics.listen);
    assert!(text("prometheus.yml").contains(&target), "{target}");
}

#[test]
fn the_unit_starts_a_command_that_there_is() {
    let unit = text("pitwire.service");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    Cli::try_parse_from(command.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
}

/// Does nothing where there is no systemd to ask.
#[test]
#[cfg(target_os = "linux")]
fn systemd_has_nothing_to_say_about_the_unit() {
    let home = tempfile::tempdir().unwrap();
    let programs = home.path().join(".local").join("bin");
    fs::create_dir_all(&programs).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pitwire"), programs.join("pitwire")).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--user", "--man=no"])
        .arg(deployed("pitwire.service"))
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path())
        .output();
    match verified {
        Ok(verified) => {
            let said = String::from_utf8_lossy(&verified.stderr);
            assert!(verified.status.success() && said.is_empty(), "{said}");
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
    }
}

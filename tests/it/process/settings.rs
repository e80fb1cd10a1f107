//! `pitwire check` and `pitwire config`.

use std::fs;

use pitwire::config::{Config, Overrides, load, to_toml, values};

use crate::agent::pitwire;

/// Exit code, standard output, standard error.
fn said(args: &[&str]) -> (i32, String, String) {
    let output = pitwire(args).env("PITWIRE_QUEUE__MAX_AGE", "2d").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn config_prints_each_value_with_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("race.toml");
    fs::write(&file, "[server]\nurl = \"http://pit.example\"\ntoken = \"wh1sper\"\n").unwrap();
    let path = file.to_str().unwrap();
    let (code, text, errors) = said(&["config", "--config", path, "--set", "log.level=debug"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    for line in [
        format!("url = \"http://pit.example\" # {path}:2"),
        format!("token = \"***\" # {path}:3"),
        "auth = \"\" # default".into(),
        "max_age = \"2d\" # PITWIRE_QUEUE__MAX_AGE".into(),
        "level = \"debug\" # --set".into(),
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("wh1sper"));

    // Loading the printed configuration gives the same configuration.
    fs::write(&file, text.replace("token = \"***\"", "token = \"wh1sper\"")).unwrap();
    let again = load(Some(&file), std::iter::empty(), &Overrides::default()).unwrap().config;
    let mut expected = Config::default();
    expected.queue.path = again.queue.path.clone();
    let differ: Vec<_> = values(&again)
        .into_iter()
        .zip(values(&expected))
        .filter_map(|(is, default)| (is != default).then_some(is.0))
        .collect();
    assert_eq!(differ, ["server.url", "server.token", "queue.max_age", "log.level"]);
}

#[test]
fn the_printed_example_holds_the_defaults() {
    let (code, text, _) = said(&["config", "--example"]);
    assert_eq!(code, 0);
    let same = |text: &str| {
        let lines = text.trim().lines().filter(|line| !line.starts_with("path = \"/"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(same(&text), same(&to_toml(&Config::default())));
}

#[test]
fn check_reports_every_mistake_and_starts_nothing() {
    let place = tempfile::tempdir().unwrap();
    let queue = place.path().join("queue");
    let set = format!("queue.path={}", queue.display());
    let (code, out, warnings) =
        said(&["check", "--set", &set, "--server", "http://pit", "--set", "server.token=hush"]);
    assert_eq!((code, out.as_str()), (0, "The configuration is good.\n"));
    assert!(warnings.contains("server.url") && warnings.contains("unencrypted"), "{warnings}");
    let (code, out, errors) =
        said(&["check", "--server", "ftp://x", "--set", "queue.max_entries=0", "--set", &set]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(errors.contains("server.url") && errors.contains("queue.max_entries"), "{errors}");
    let (code, _, errors) = said(&["config", "--server", "ftp://x"]);
    assert!(code == 2 && errors.contains("server.url"), "{errors}");
    assert!(!queue.exists());
}

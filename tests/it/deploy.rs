//! Checks that the files in `deploy/` are accepted by the programs that read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use pitwire::cli::Cli;
use pitwire::config::{Config, Overrides, load, to_toml};
use pitwire::metrics::{Row, TABLE, Type};
use serde_json::{Value, json};

#[cfg(target_os = "linux")]
use crate::agent::{Agent, eventually};
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
fn the_example_configuration_lists_every_setting() {
    // The default path differs by user, so the example has it as a comment.
    let mut config = Config::default();
    config.queue.path = "<data directory>/pitwire/queue".into();
    let expected =
        EXAMPLE_HEAD.to_owned() + &to_toml(&config).replace("\npath = \"<", "\n# path = \"<");
    readme::bless("deploy/pitwire.toml", &text("pitwire.toml"), &expected);
}

#[test]
fn the_example_hub_configuration_is_valid() {
    let loaded = load(Some(&deployed("hub.toml")), std::iter::empty(), &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert!(loaded.config.source.nats.enabled);
}

#[test]
fn the_example_cluster_configurations_are_valid() {
    for file in ["cluster/rig.toml", "cluster/hub.toml"] {
        let loaded = load(Some(&deployed(file)), std::iter::empty(), &Overrides::default())
            .unwrap_or_else(|problems| panic!("{problems}"));
        // Expected: the example has its token in the file and sends it unencrypted over the
        // league's own network.
        let is_expected = |text: &str| text.contains("chmod 600") || text.contains("unencrypted");
        let mut warnings = loaded.warnings.iter();
        assert!(
            warnings.all(|warning| is_expected(&warning.message)),
            "{file}: {:?}",
            loaded.warnings
        );
    }
}

#[test]
fn the_scrape_configuration_is_valid_and_targets_the_agent() {
    promtool(&["check", "config", "prometheus.yml"]);
    let target = format!("[\"{}\"]", Config::default().metrics.listen);
    assert!(text("prometheus.yml").contains(&target), "{target}");
}

/// Runs promtool in `deploy/`.
fn promtool(args: &[&str]) {
    let mut promtool = Command::new(peers::home().join("bin").join("promtool"));
    let checked = promtool.args(args).current_dir(deployed("")).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

/// Words in a text that look like names of pitwire's metrics.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("pitwire_")).collect()
}

fn all_are_metrics(text: &str) {
    let found = metrics_in(text);
    assert!(found.len() > 10, "{found:?}");
    for name in found {
        let histogram = name.strip_suffix("_bucket");
        let is_it = |(known, kind, ..): &Row| match (kind, histogram) {
            (Type::Histogram, Some(name)) => name == *known,
            (Type::Histogram, None) => false,
            _ => name == *known,
        };
        assert!(TABLE.iter().any(is_it), "{name} is not a metric");
    }
}

#[test]
fn each_alert_is_tested_and_uses_existing_metrics() {
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);
    let (alerts, tests) = (text("alerts.yml"), text("alerts_test.yml"));
    all_are_metrics(&alerts);
    let names = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let mut count = 0;
    for name in names {
        let fires = format!("alertname=\"{name}\", alertstate=\"firing\"");
        assert!(tests.contains(&fires), "{name} is not tested");
        count += 1;
    }
    assert!(count > 10, "{count}");
}

/// An alert that matches no series of an agent never fires.
#[test]
fn the_series_of_the_alert_tests_have_the_labels_that_an_agent_exposes() {
    let mut count = 0;
    for series in text("alerts_test.yml").lines().filter_map(|line| line.split('\'').nth(1)) {
        let Some((name, labels)) = series.trim_end_matches('}').split_once('{') else { continue };
        let is_it = |row: &&Row| row.0 == name.trim_end_matches("_bucket");
        let Some((.., own, _)) = TABLE.iter().find(is_it) else { continue };
        let of_prometheus = ["instance", "job", "le"];
        let keys = labels.split(',').map(|label| label.split('=').next().unwrap());
        let keys: BTreeSet<_> = keys.filter(|key| !of_prometheus.contains(key)).collect();
        assert_eq!(keys, own.iter().map(|(label, _)| *label).collect(), "{series}");
        count += 1;
    }
    assert!(count > 40, "{count}");
}

/// In each alert test, another instance and another destination have no problem.
#[test]
fn each_alert_is_tested_with_two_instances_and_two_destinations() {
    let tests = text("alerts_test.yml");
    let mut count = 0;
    for test in tests.split("- name: ").skip(1) {
        let name = test.lines().next().unwrap();
        let series = test.lines().filter_map(|line| {
            let (name, labels) = line.trim().strip_prefix("- { series: '")?.split_once('{')?;
            Some((name.trim_end_matches("_bucket"), labels))
        });
        let mut places: BTreeMap<&str, BTreeSet<_>> = BTreeMap::new();
        for (metric, labels) in series {
            let label = |key: &str| labels.split_once(key).and_then(|(_, at)| at.split('"').nth(1));
            places.entry(metric).or_default().insert((label("instance="), label("destination=")));
        }
        for (metric, places) in places {
            let instances = ["pc:9184", "rig:9184"].map(Some);
            let row = TABLE.iter().find(|row| row.0 == metric);
            let has_destination = row.is_some_and(|(.., labels, _)| {
                labels.iter().any(|(label, _)| *label == "destination")
            });
            let destinations =
                if has_destination { vec![Some("league"), Some("server")] } else { vec![None] };
            let expected = instances.into_iter().flat_map(|instance| {
                destinations.iter().map(move |destination| (instance, *destination))
            });
            assert_eq!(places, expected.collect(), "{name}: {metric}");
        }
        count += 1;
    }
    assert!(count >= text("alerts.yml").matches("- alert: ").count(), "{count}");
}

/// Each problem has a troubleshooting page, which names its alerts, and which they and the index
/// link to.
#[test]
fn each_alert_has_a_complete_troubleshooting_page() {
    let (alerts, index) = (text("alerts.yml"), text("docs/troubleshooting/README.md"));
    let mut led_to = BTreeSet::new();
    for alert in alerts.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let url = alert.lines().find_map(|line| line.trim().strip_prefix("runbook_url: "));
        let url = url.unwrap_or_else(|| panic!("{name} has no runbook_url"));
        let (path, anchor) = url.split_once('#').unwrap_or_else(|| panic!("{name}: {url}"));
        let page = text(path);
        let anchors: Vec<_> =
            page.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor_of).collect();
        assert!(anchors.iter().any(|known| known == anchor), "{name}: {url}");
        assert!(
            page.contains(&format!("`{name}`")),
            "{name} leads to {url}, which is not about it"
        );
        led_to.insert(path.strip_prefix("docs/troubleshooting/").unwrap().to_owned());
    }
    let files = fs::read_dir(deployed("docs/troubleshooting")).unwrap();
    let mut pages: BTreeSet<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(pages.remove("README.md"), "no index");
    assert_eq!(pages, led_to);
    for page in pages {
        assert!(index.contains(&format!("({page})")), "index: {page}");
        let text = text(&format!("docs/troubleshooting/{page}"));
        let headings: Vec<_> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(headings, ["## What you see", "## Why", "## What to do"], "{page}");
        for name in metrics_in(&text) {
            assert!(TABLE.iter().any(|(known, ..)| *known == name), "{page}: {name} is unknown");
        }
    }
}

/// The anchor of a heading as Markdown renderers name it.
fn anchor_of(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}

#[test]
fn alerts_about_the_disk_lead_to_its_page() {
    let alerts = text("alerts.yml");
    for alert in alerts.split("- alert: ").skip(1) {
        let expression = alert.split("labels:").next().unwrap();
        let is_about_the_disk = ["storage", "corrupt", "fsync"]
            .iter()
            .any(|word| expression.contains(word) && !expression.contains("reason!~"));
        assert!(!is_about_the_disk || alert.contains("/disk.md#"), "{alert}");
    }
}

/// Otherwise the curves of two cars have the same name.
#[test]
fn the_legends_name_the_instance_and_the_destination() {
    let dashboard: Value = serde_json::from_str(&text("grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut count = 0;
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
    {
        let query = target["expr"].as_str().unwrap();
        let legend = target["legendFormat"].as_str().unwrap();
        for label in ["instance", "destination"] {
            let is_in_query = label == "instance" || query.contains("destination=~");
            let is_in_legend = legend.contains(&format!("{{{{{label}}}}}"));
            assert_eq!(is_in_query, is_in_legend, "{legend}: {query}");
            for sum in query.split("sum by (").skip(1) {
                let labels = sum.split(')').next().unwrap();
                let is_kept = labels.split(", ").any(|kept| kept == label);
                assert_eq!(is_kept, is_in_legend, "{legend}: {query}");
            }
        }
        count += 1;
    }
    assert!(count > 20, "{count}");
}

#[test]
fn the_panels_use_existing_metrics_in_valid_queries() {
    let text = text("grafana.json");
    all_are_metrics(&text);
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let notes = dashboard["annotations"]["list"].as_array().unwrap();
    let queries: Vec<_> =
        targets.chain(notes).map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 20, "{}", queries.len());
    let rules: Vec<_> =
        queries.iter().map(|expr| json!({"record": "a_query", "expr": expr})).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.yml");
    fs::write(&file, json!({"groups": [{"name": "queries", "rules": rules}]}).to_string()).unwrap();
    promtool(&["check", "rules", "--lint=none", file.to_str().unwrap()]);
}

#[test]
fn the_systemd_units_limit_memory_and_open_files() {
    for unit in ["pitwire.service", "system/pitwire.service"] {
        let text = text(unit);
        for key in ["MemoryMax=", "LimitNOFILE="] {
            assert!(text.lines().any(|line| line.starts_with(key)), "{unit}: {key}");
        }
    }
}

/// Systemd reads the tokens from files that only root can read, and starts the unit without them
/// too.
#[test]
fn the_system_unit_passes_each_token_as_a_systemd_credential() {
    let unit = text("system/pitwire.service");
    let (mut overrides, mut tokens) = (Overrides::default(), 0);
    for line in unit.lines().filter_map(|line| line.strip_prefix("LoadCredential=")) {
        let (name, path) = line.split_once(':').unwrap();
        assert_eq!(path, format!("/etc/pitwire/{name}"));
        assert!(unit.contains(&format!("\nSetCredential={name}:\\n\n")), "{name} has no default");
        let file = format!("$CREDENTIALS_DIRECTORY/{name}");
        let key = unit.lines().find_map(|line| {
            let (before, _) = line.split_once(&format!("token_file = \"{file}\""))?;
            before.split(['[', ']']).rev().nth(1).map(|table| format!("{table}.token_file"))
        });
        let key = key.unwrap_or_else(|| panic!("the unit does not explain the use of {name}"));
        overrides.set(&key, &file, "--set");
        tokens += 1;
    }
    assert_eq!(tokens, 2);
    load(None, std::iter::empty(), &overrides).unwrap_or_else(|problems| panic!("{problems}"));
}

/// The workflows build in the same image.
#[test]
fn every_container_base_image_is_the_one_that_is_pinned_by_digest() {
    let text = text("Containerfile");
    let base = text.lines().find_map(|line| line.strip_prefix("ARG BASE=")).unwrap();
    let (tag, digest) = base.split_once("@sha256:").unwrap();
    assert!(tag.contains(":12.") && digest.len() == 64, "{base}");
    assert!(digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{base}");
    let stages = text.lines().filter(|line| line.starts_with("FROM "));
    assert!(stages.clone().count() == 2 && stages.clone().all(|line| line.contains("FROM $BASE")));
    for workflow in ["ci.yml", "release.yml"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/workflows").join(workflow);
        let text = fs::read_to_string(file).unwrap();
        let images = text.lines().filter_map(|line| line.trim().strip_prefix("image: "));
        let images: Vec<_> = images.collect();
        assert!(!images.is_empty() && images.iter().all(|image| *image == base), "{images:?}");
    }
}

/// In a container, a job runs as another user than the one that owns the checkout.
#[test]
fn every_job_in_a_container_may_use_git() {
    let repository = tempfile::tempdir().unwrap();
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(repository.path()).args(args);
        git
    };
    assert!(git(&["init", "--quiet"]).status().unwrap().success());
    let mut jobs_in_containers = 0;
    for workflow in ["ci.yml", "release.yml"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/workflows").join(workflow);
        let text = fs::read_to_string(file).unwrap();
        let (_, jobs) = text.split_once("\njobs:\n").unwrap();
        for job in jobs.split("\n\n").filter(|job| job.contains("\n    container:\n")) {
            let mut status = git(&["status"]);
            for line in job.lines().filter(|line| line.starts_with("      GIT_")) {
                let (name, value) = line.trim().split_once(": ").unwrap();
                status.env(name, value.trim_matches('"'));
            }
            // Git's own tests use this variable.
            let output = status.env("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1").output().unwrap();
            assert!(output.status.success(), "{workflow}: {job}: {output:?}");
            jobs_in_containers += 1;
        }
    }
    assert_eq!(jobs_in_containers, 3);
}

/// Git for Windows would otherwise add carriage returns, and bash would run no script.
#[test]
fn a_checkout_has_the_same_bytes_on_every_system() {
    let attributes = Path::new(env!("CARGO_MANIFEST_DIR")).join(".gitattributes");
    let attributes = fs::read_to_string(attributes).unwrap();
    assert!(attributes.lines().any(|line| line == "* -text"), "{attributes}");
}

/// The command of `HEALTHCHECK` with another port.
#[cfg(target_os = "linux")]
fn healthcheck(port: u16) -> Command {
    let text = text("Containerfile");
    let line = text.lines().find(|line| line.starts_with("HEALTHCHECK ")).unwrap();
    let (_, command) = line.split_once(" CMD ").unwrap();
    assert_eq!(command.matches("9184").count(), 2);
    let command = command.replace("9184", &port.to_string());
    let words: Vec<String> = serde_json::from_str(&command).unwrap();
    let mut check = Command::new(&words[0]);
    check.args(&words[1..]);
    check
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_container_health_check_fails_when_the_agent_is_dead() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&folder.path().join("queue"), "http://127.0.0.1:9", &[]);
    let port = agent.admin().await.rsplit_once(':').unwrap().1.parse().unwrap();
    // The agent may still be opening its queue.
    let is_healthy = async || healthcheck(port).output().unwrap().status.success().then_some(());
    eventually("the agent is healthy", is_healthy).await;
    agent.process.kill();
    assert!(!healthcheck(port).output().unwrap().status.success());
}

#[test]
fn the_systemd_units_start_an_existing_command() {
    for unit in ["pitwire.service", "system/pitwire.service"] {
        let unit = text(unit);
        let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        Cli::try_parse_from(command.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
    }
}

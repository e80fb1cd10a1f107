//! The messages for a driver: what the agent waits for, what is saved and what happens next.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::numbered_samples;
use crate::agent::{Agent, Process, pitwire};
use crate::peers::{Kind, Peer};

/// An address that refuses connections.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";
/// The longest time from a signal to the exit of the process.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The first log line with this text.
fn line_with(lines: &[String], text: &str) -> String {
    let line = lines.iter().find(|line| line.contains(text));
    line.unwrap_or_else(|| panic!("no {text} in {lines:#?}")).clone()
}

#[tokio::test]
async fn an_offline_agent_names_the_address_the_cause_and_the_next_try() {
    let queue = tempfile::tempdir().unwrap();
    let settings = ["delivery.backoff_min=600ms", "delivery.backoff_max=600ms"];
    let agent = Agent::start(queue.path(), CLOSED_ADDRESS, &settings);
    agent.process.says("Offline: ").await;
    let line = line_with(&agent.process.stderr(), "Offline: ");
    let offline = "WARN Offline: nothing listens at http://127.0.0.1:9: connection refused; ";
    assert!(line.contains(offline), "{line}");
    assert!(line.ends_with("; frames are saved, next try in 0.6 s"), "{line}");
}

#[tokio::test]
async fn a_stopped_agent_logs_what_is_saved_and_when_it_is_sent() {
    let queue = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(queue.path(), CLOSED_ADDRESS, &[]);
    agent.feed(&numbered_samples(1, 3));
    agent.stored(3).await;
    agent.process.signal("-INT");
    assert_eq!(agent.process.exit_code(SHUTDOWN).await, Some(0));
    let folder = queue.path().display();
    let saved =
        format!("Stopped; 3 frames are saved in {folder} and will be sent when pitwire runs again");
    line_with(&agent.process.stderr(), &saved);

    let server = Peer::start(Kind::Embedded, &[]);
    let mut agent = Agent::start(queue.path(), &server.url(), &[]);
    agent.process.says("Online: the dashboard confirms each frame").await;
    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    agent.stop().await;
    line_with(&agent.process.stderr(), "Stopped; nothing is waiting to be sent");
}

#[tokio::test]
async fn the_agent_logs_which_game_it_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let game = format!("source.lmu.folder={}", folder.path().join("shm").display());
    let queue = folder.path().join("queue");
    let settings = ["source.lmu.enabled=true", &game];
    let agent = Agent::start(&queue, CLOSED_ADDRESS, &settings);
    agent.process.says("Waiting for Le Mans Ultimate or rFactor 2 (not running)").await;
}

/// A recording of `frames` frames.
fn recording(folder: &Path, frames: usize) -> String {
    let file = folder.join("laps.ndjson");
    fs::write(&file, numbered_samples(1, frames).join("\n") + "\n").unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_replay_ends_with_a_summary_of_what_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let file = recording(folder.path(), 40);
    let server = Peer::start(Kind::Embedded, &[]);
    let replay = ["replay", &file, "--server", &server.url(), "--speed", "0"];
    let output = pitwire(&replay).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let summary = errors.lines().last().unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(
        summary.starts_with("pitwire: sent 40 frames in ") && summary.ends_with(" s"),
        "{errors}"
    );
}

#[tokio::test]
async fn a_stopped_replay_names_what_was_not_sent_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = recording(folder.path(), 40);
    let queue = folder.path().join("queue").to_str().unwrap().to_owned();
    for (options, advice) in [
        (&[][..], "is deleted: run the same command to send the whole recording again"),
        (&["--queue", &queue], "the rest is saved: the next replay with this --queue sends it"),
    ] {
        let mut replay = pitwire(&["replay", &file, "--server", CLOSED_ADDRESS, "--speed", "0"]);
        let mut replay = Process::start(replay.args(options).stdin(Stdio::null()));
        replay.says("has ended after 40 lines").await;
        replay.signal("-INT");
        assert_eq!(replay.exit_code(SHUTDOWN).await, Some(0), "{options:?}");
        let lines = replay.stderr();
        line_with(&lines, "pitwire: sent 0 frames in ");
        line_with(&lines, ", 40 not sent");
        line_with(&lines, advice);
    }
}

#[tokio::test]
async fn a_simulation_stopped_by_a_signal_exits_with_0_and_complete_lines() {
    for (signal, speed) in [("-INT", "1"), ("-TERM", "0.001"), ("-INT", "0")] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("samples");
        let simulate = pitwire(&["simulate", "--speed", speed]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" > \"$OUT\""]).arg(simulate.get_program());
        shell.args(simulate.get_args()).env("OUT", &file).stdin(Stdio::null());
        let mut process = Process::start(&mut shell);
        let has_begun = async || fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(());
        crate::agent::eventually("a sample", has_begun).await;
        process.signal(signal);
        assert_eq!(process.exit_code(SHUTDOWN).await, Some(0), "{signal} {speed}");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.ends_with("}\n"), "{signal} {speed}");
        assert!(process.stderr().is_empty(), "{:?}", process.stderr());
    }
}

#[tokio::test]
async fn check_names_the_file_that_it_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pitwire.toml");
    fs::write(&file, "update_rate_hz = 3\n").unwrap();
    let path = file.to_str().unwrap();
    let output = pitwire(&["check", "--config", path]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let expected = format!(
        "configuration file: {path}\nThe configuration is good. pitwire doctor tests the server, the disk and the game.\n"
    );
    assert_eq!((output.status.code(), said), (Some(0), expected));
}

#[tokio::test]
async fn a_reload_with_a_broken_configuration_reports_it_and_asks_no_agent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pitwire.toml");
    fs::write(&file, "update_rate_hz = 2000\n").unwrap();
    let path = file.to_str().unwrap();
    let output = pitwire(&["reload", "--config", path]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(&format!("{path}:1: update_rate_hz: ")), "{errors}");
    assert!(errors.contains("the agent keeps its configuration"), "{errors}");
    assert!(!errors.contains("no agent answers"), "{errors}");
}

#[tokio::test]
async fn a_lost_or_refused_connection_is_described_without_names_of_the_library() {
    let queue = tempfile::tempdir().unwrap();
    let mut server = Peer::start(Kind::Flask, &[]);
    let agent = Agent::start(queue.path(), &server.url(), &["log.level=debug"]);
    agent.link(1).await;
    server.kill();
    agent.process.says("Offline: ").await;
    agent.process.says("Still offline: ").await;
    for line in agent.process.stderr() {
        for name in ["EngineIO", "Engine.IO", "ConnectError", "rust_socketio", "tungstenite"] {
            assert!(!line.contains(name), "{line}");
        }
    }
}

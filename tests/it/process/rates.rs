//! `update_rate_hz`: a source whose average is within the rate loses nothing, however its samples
//! arrive.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::agent::{Agent, Process, eventually, pitwire};

const NOWHERE: &str = "http://127.0.0.1:1";

/// Prints a sample 20 times a second. Its standard output is a pipe, so Python hands the samples on
/// in blocks of 8 KiB.
const READER: &str = r#"
import json, time
for lap in range(200):
    print(json.dumps({"lap": lap, "speed": 200.5, "fuel": 60.25, "gear": 4, "rpm": 7000, "lap_time": 61.5,
        "tyre_temp": {"fl": 81.5, "fr": 82.5, "rl": 80.1, "rr": 79.9}, "player_name": "Ana"}))
    time.sleep(0.05)
"#;

#[tokio::test]
async fn a_reader_with_a_buffered_output_loses_nothing() {
    let queue = tempfile::tempdir().unwrap();
    let mut python = Command::new("python3");
    let python = python.args(["-c", READER]).env_remove("PYTHONUNBUFFERED").stdout(Stdio::piped());
    let mut reader = python.spawn().unwrap();
    let mut agent = pitwire(&["run", "--server", NOWHERE, "--set", "update_rate_hz=20"]);
    for setting in
        ["source.lmu.enabled=false", "source.http.enabled=false", "metrics.enabled=false"]
    {
        agent.args(["--set", setting]);
    }
    agent.args(["--set", "source.stdin.receipts=true", "--queue"]).arg(queue.path());
    let mut agent = Process::start(agent.stdin(reader.stdout.take().unwrap()));
    let all = async || (agent.stdout().len() >= 200).then_some(());
    eventually("a receipt for each sample", all).await;
    let receipts = agent.stdout();
    assert!(receipts.iter().all(|receipt| receipt.contains("\"seq\":")), "{receipts:?}");
    reader.wait().unwrap();
    agent.signal("-TERM");
    agent.ended().await;
}

#[tokio::test]
async fn a_flood_is_limited_and_the_log_says_so() {
    let queue = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(queue.path(), NOWHERE, &["update_rate_hz=2"]);
    let lines: Vec<_> = (0..600).map(|lap| format!(r#"{{"lap":{lap}}}"#)).collect();
    agent.feed(&lines);
    agent.has_taken(600).await;
    let stored = agent.receipts().len();
    assert!((120..=140).contains(&stored), "{stored}");
    agent.stop().await;
    let left_out = format!("left_out={}", 600 - stored);
    let log = agent.process.stderr().join("\n");
    let line = log.lines().find(|line| line.contains("update_rate_hz = 2"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    for part in ["source=\"stdin\"", &left_out, "samples=600", "set it to 0 to keep every sample"] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn an_array_of_20_samples_is_stored_at_the_default_rate() {
    let queue = tempfile::tempdir().unwrap();
    let agent = Agent::start(queue.path(), NOWHERE, &["update_rate_hz=2"]);
    let samples: Vec<_> = (0..20).map(|lap| format!(r#"{{"lap":{lap}}}"#)).collect();
    let response = agent.post("/v1/telemetry", format!("[{}]", samples.join(","))).await;
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["seqs"].as_array().unwrap().len(), 20, "{answer}");
    assert_eq!(answer["rate_limited"], 0, "{answer}");
}

//! Signals, arguments and requests, and how the process exits.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{numbered_samples, numbers};
use crate::agent::{Agent, Process, pitwire};
use crate::peers::{Kind, Peer};

/// An address that refuses connections.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";
/// The longest time from a signal to the exit of the process.
const SHUTDOWN: Duration = Duration::from_secs(5);

#[test]
fn the_version_names_the_target_of_the_build() {
    let output = pitwire(&["--version"]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let start = concat!("pitwire ", env!("CARGO_PKG_VERSION"), " (");
    let target = format!("{}-unknown-linux-gnu)\n", std::env::consts::ARCH);
    assert!(printed.starts_with(start), "{printed}");
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        assert!(printed.ends_with(&target), "{printed}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_agent_runs_at_low_priority() {
    let queue = tempfile::tempdir().unwrap();
    let agent = Agent::start(queue.path(), CLOSED_ADDRESS, &[]);
    agent.metrics().await;
    let threads = fs::read_dir(format!("/proc/{}/task", agent.process.id())).unwrap();
    for thread in threads {
        let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        // Field 19, counted after the process name in parentheses, which may contain spaces.
        let nice = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap();
        assert_eq!(nice.parse(), Ok(pitwire::cli::NICENESS), "{stat}");
    }
}

#[tokio::test]
async fn a_signal_stops_the_agent_in_time_and_the_queue_keeps_the_rest() {
    let signals = ["-TERM", "-INT"].map(|signal| async move {
        let server = Peer::start(Kind::Embedded, &[]);
        let queues = [(); 3].map(|()| tempfile::tempdir().unwrap());

        // Without a server, stdin open and silent.
        let mut offline = Agent::start(queues[0].path(), CLOSED_ADDRESS, &[]);
        offline.feed(&numbered_samples(1, 50));
        offline.stored(50).await;
        // Idle, with the connection of its HTTP client still open.
        let mut idle = Agent::start(queues[1].path(), &server.url(), &[]);
        assert_eq!(idle.post("/v1/telemetry", r#"{"lap": 1}"#).await.status(), 200);
        idle.link(1).await;
        // With a batch in flight that the server never acknowledges.
        let mut waiting = Agent::start(queues[2].path(), &server.url(), &[]);
        waiting.link(1).await;
        server.pause();
        waiting.feed(&numbered_samples(1, 500));
        waiting.stored(500).await;

        for agent in [&mut offline, &mut idle, &mut waiting] {
            agent.process.signal(signal);
            assert_eq!(agent.process.exit_code(SHUTDOWN).await, Some(0), "{signal}");
            let errors = agent.process.stderr();
            assert!(!errors.iter().any(|line| line.contains("ERROR")), "{errors:?}");
        }

        server.resume();
        let agent = Agent::start(queues[2].path(), &server.url(), &[]);
        agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
        let link = agent.link(1).await;
        let session = link.rsplit_once('/').unwrap().1;
        let came = BTreeSet::from_iter(numbers(&server.frames(session).await));
        assert!(came.iter().copied().eq(1..=500), "{came:?}");
    });
    join_all(signals).await;
}

#[tokio::test]
async fn a_second_agent_on_a_queue_is_refused_and_told_the_owner() {
    let queue = tempfile::tempdir().unwrap();
    let mut first = Agent::start(queue.path(), CLOSED_ADDRESS, &[]);
    first.page("/healthz").await;
    let mut second = Agent::start(queue.path(), CLOSED_ADDRESS, &[]);
    assert_eq!(second.process.ended().await, 1);
    let said = format!("is in use by another pitwire (process {})", first.process.id());
    second.process.says(&said).await;

    first.process.kill();
    let third = Agent::start(queue.path(), CLOSED_ADDRESS, &[]);
    assert_eq!(third.page("/healthz").await.0, 200);
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_lists_every_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pitwire.toml");
    fs::write(&file, "update_rate_hz = \"fast\"\n[server]\nurll = 1\n[queue]\nmax_entries = 0\n")
        .unwrap();
    let file = file.to_str().unwrap();
    let problems: &[&str] = &[
        "pitwire.toml:1: update_rate_hz: ",
        "pitwire.toml:3: server.urll: is not a key; did you mean",
        "pitwire.toml:5: queue.max_entries: ",
        "--server: server.url: ",
        "--set: log.level: ",
    ];
    let wrong: [(&[&str], &[&str]); 7] = [
        (&["run", "--config", file, "--server", "nowhere", "--set", "log.level=loud"], problems),
        (&["run", "--set", "log.level"], &["--set log.level: write it as KEY=VALUE"]),
        (&["run", "--config", "missing.toml"], &["missing.toml: "]),
        (&["replay", file, "--server", "nowhere"], &["--server: server.url: "]),
        (
            &["replay", "missing", "--server", CLOSED_ADDRESS, "--rate-hz=-1"],
            &["--rate-hz: source.file.rate_hz: "],
        ),
        (&["run", "--nonsense"], &["unexpected argument '--nonsense'"]),
        (&[], &["Usage: pitwire <COMMAND>"]),
    ];
    for (args, expected) in wrong {
        let mut process = Process::start(pitwire(args).stdin(Stdio::null()));
        assert_eq!(process.ended().await, 2, "{args:?}");
        for expected in expected {
            process.says(expected).await;
        }
        assert!(process.stdout().is_empty(), "{args:?}: {:?}", process.stdout());
    }
}

#[tokio::test]
async fn the_log_is_json_when_requested() {
    let queue = tempfile::tempdir().unwrap();
    let mut command = pitwire(&["run", "--server", CLOSED_ADDRESS, "--log-format", "json"]);
    command.arg("--queue").arg(queue.path()).stdin(Stdio::null());
    for setting in ["source.http.listen=127.0.0.1:0", "metrics.listen=127.0.0.1:0"] {
        command.args(["--set", setting]);
    }
    let agent = Process::start(&mut command);
    agent.says("Offline: ").await;
    let lines = agent.stderr();
    assert!(lines.len() > 2, "{lines:?}");
    for line in lines {
        let line: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
    }
}

#[test]
fn a_replay_with_a_queue_needs_no_temporary_folder() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["replay", "missing.ndjson", "--server", CLOSED_ADDRESS, "--queue"];
    let mut replay = pitwire(&args);
    replay.arg(folder.path()).env("TMPDIR", folder.path().join("missing"));
    let error = String::from_utf8(replay.output().unwrap().stderr).unwrap();
    assert!(error.starts_with("pitwire: missing.ndjson: "), "{error}");
}

#[tokio::test]
async fn a_replay_of_a_missing_recording_exits_with_1() {
    let args = ["replay", "missing.ndjson", "--server", CLOSED_ADDRESS];
    let mut replay = Process::start(pitwire(&args).stdin(Stdio::null()));
    assert_eq!(replay.ended().await, 1);
    replay.says("missing.ndjson: ").await;
}

#[tokio::test]
async fn the_end_of_standard_input_is_logged_with_its_line_counts() {
    let queue = tempfile::tempdir().unwrap();
    for (text, expected) in [
        (
            vec![r#"{"lap":1}"#.to_owned()],
            "standard input has ended after 1 line: 1 taken, 0 refused",
        ),
        (
            ["{\"lap\":1}", "", "nonsense", "{\"lap\":2}"].map(str::to_owned).to_vec(),
            "standard input has ended after 3 lines: 2 taken, 1 refused",
        ),
    ] {
        let mut agent = Agent::start(queue.path(), CLOSED_ADDRESS, &[]);
        agent.feed(&text);
        agent.hang_up();
        agent.process.says(expected).await;
        agent.stop().await;
    }
}

#[tokio::test]
async fn an_agent_with_closed_output_pipes_keeps_running() {
    let server = Peer::start(Kind::Embedded, &[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    fs::write(&file, numbered_samples(1, 100).join("\n") + "\nnonsense\n").unwrap();
    let mut command = pitwire(&["run", "--until-drained", "--server", &server.url()]);
    command.arg("--queue").arg(folder.path().join("queue")).stdin(fs::File::open(&file).unwrap());
    for setting in [
        "update_rate_hz=0",
        "source.stdin.receipts=true",
        "source.http.enabled=false",
        "metrics.enabled=false",
    ] {
        command.args(["--set", setting]);
    }
    let mut agent = Process::with_closed_output(&mut command);
    assert_eq!(agent.ended().await, 0);
    assert!(numbers(&server.all_frames().await).into_iter().eq(1..=100));
}

#[tokio::test]
async fn the_http_source_reports_the_outcome_of_each_sample() {
    let queue = tempfile::tempdir().unwrap();
    let agent = Agent::start(queue.path(), CLOSED_ADDRESS, &[]);
    let large = format!(r#"{{"player_name": "{}"}}"#, "x".repeat(900_000));
    let nothing = json!([]);
    for (path, body, status, seqs, reason) in [
        ("/v1/telemetry", r#"{"lap": 1}"#, 200, json!([1]), None),
        ("/v1/telemetry", r#"[{"lap": 2}, {"lap": 3}]"#, 200, json!([2, 3]), None),
        ("/v1/telemetry", "{\"lap\": 4}\n{\"lap\": 5}\n", 200, json!([4, 5]), None),
        ("/v1/setup", r#"{"wing": 7}"#, 200, json!([6]), None),
        ("/v1/setup", r#"{"wing": 7}"#, 200, nothing.clone(), None),
        ("/v1/setup", "7", 400, nothing.clone(), Some("not_object")),
        ("/v1/telemetry", r#"{"Lap": 1}"#, 400, nothing.clone(), Some("no_known_field")),
        ("/v1/telemetry", r#"{"lap": "one"}"#, 400, nothing.clone(), Some("wrong_type")),
        ("/v1/telemetry", "{\"lap\": 6}\nnonsense\n", 400, json!([7]), Some("not_json")),
        ("/v1/telemetry", "", 400, nothing.clone(), Some("not_json")),
        ("/v1/telemetry", &large, 413, nothing.clone(), Some("too_large")),
    ] {
        let response = agent.post(path, body.to_owned()).await;
        let body = &body[..body.len().min(40)];
        assert_eq!(response.status(), status, "{body}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["seqs"], seqs, "{body}: {answer}");
        assert_eq!(answer["refused"][0]["reason"].as_str(), reason, "{body}: {answer}");
        let message = answer["refused"][0]["message"].as_str();
        assert_eq!(message.is_some_and(|text| !text.is_empty()), reason.is_some(), "{answer}");
    }
    let body = "{\"lap\": 1}\n".repeat(1 << 20);
    assert_eq!(agent.post("/v1/telemetry", body).await.status(), 413);
    assert_eq!(agent.metric("pitwire_queue_entries").await, 7.0);
}

#[tokio::test]
async fn the_http_source_refuses_foreign_origins() {
    let queue = tempfile::tempdir().unwrap();
    let agent = Agent::start(queue.path(), CLOSED_ADDRESS, &[]);
    for (origin, status) in [
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("http://localhost:3000", 200),
    ] {
        let request = agent.request("/v1/telemetry").await.header("Origin", origin);
        assert_eq!(
            request.body(r#"{"lap": 1}"#).send().await.unwrap().status(),
            status,
            "{origin}"
        );
    }
    assert_eq!(agent.metric("pitwire_queue_entries").await, 1.0);
}

#[tokio::test]
async fn a_source_above_the_update_rate_is_rate_limited() {
    let queue = tempfile::tempdir().unwrap();
    let agent = Agent::start(queue.path(), CLOSED_ADDRESS, &["update_rate_hz=2"]);
    let burst = numbered_samples(1, 100).join("\n");
    let response = agent.post("/v1/telemetry", burst.clone()).await;
    assert_eq!(response.status(), 200);
    // The rate is averaged over a minute.
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["rate_limited"], 0, "{answer}");
    let answer: Value = agent.post("/v1/telemetry", burst.clone()).await.json().await.unwrap();
    let left_out = answer["rate_limited"].as_u64().unwrap();
    assert!((50..=80).contains(&left_out), "{answer}");
    let metric = r#"pitwire_source_rate_limited_total{source="http"}"#;
    assert_eq!(agent.metric(metric).await, left_out as f64);
}

#[tokio::test]
async fn a_full_queue_answers_503_with_retry_after() {
    let queue = tempfile::tempdir().unwrap();
    let settings = ["queue.max_entries=2", "queue.when_full=drop_newest"];
    let agent = Agent::start(queue.path(), CLOSED_ADDRESS, &settings);
    let three = agent.post("/v1/telemetry", "{\"lap\": 1}\n{\"lap\": 2}\n{\"lap\": 3}").await;
    assert_eq!(three.status(), 200);
    let answer: Value = three.json().await.unwrap();
    assert_eq!((&answer["seqs"], &answer["dropped"]), (&json!([1, 2]), &json!(1)));
    let more = agent.post("/v1/telemetry", r#"{"lap": 1}"#).await;
    assert_eq!(more.status(), 503);
    let wait: u64 = more.headers()["Retry-After"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait} s");
    assert_eq!(agent.metric("pitwire_ledger_imbalance_entries").await, 0.0);
}

#[tokio::test]
async fn the_demo_loses_nothing_and_reports_it_in_json() {
    let args = ["demo", "--seconds", "20", "--outage", "5:5", "--json"];
    let mut demo = Process::start(pitwire(&args).stdin(Stdio::null()));
    assert_eq!(demo.ended().await, 0, "{:?}", demo.stderr());
    for said in [
        "dashboard: http://",
        "mark the late frames as \"replayed\"",
        "    5 s: the network fails for 5 s; the page stops and the queue grows",
        "s: the network is back; the agent sends the queued frames",
        "s: the page has every frame; look for \"replayed\" in its plots",
    ] {
        demo.says(said).await;
    }
    for line in demo.stderr() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line}");
    }
    let report: Value = serde_json::from_str(demo.stdout().last().unwrap()).unwrap();
    assert!(report["produced"].as_u64().unwrap() >= 35, "{report}");
    for same in ["delivered", "seen"] {
        assert_eq!(report[same], report["produced"], "{report}");
    }
    for none in ["lost", "out_of_order", "duplicated"] {
        assert_eq!(report[none], 0, "{report}");
    }
}

#[tokio::test]
async fn demo_chaos_causes_every_fault_and_loses_nothing() {
    // With this seed every kind of fault occurs within half a minute.
    let args = ["demo", "--chaos", "--seconds", "30", "--seed", "3", "--json"];
    let mut chaos = Process::start(pitwire(&args).stdin(Stdio::null()));
    assert_eq!(chaos.ended().await, 0, "{:?}", chaos.stderr());
    for said in [
        "the link is cut",
        "the link stalls",
        "the server and all its sessions are gone",
        "the agent is stopped",
    ] {
        chaos.says(said).await;
    }
    let report: Value = serde_json::from_str(chaos.stdout().last().unwrap()).unwrap();
    for fault in ["link_cut", "link_stalled", "server_replaced", "agent_stopped"] {
        assert!(report["faults"][fault].as_u64() >= Some(1), "{report}");
    }
    assert!(report["produced"].as_u64() > Some(300), "{report}");
    for same in ["delivered", "seen"] {
        assert_eq!(report[same], report["produced"], "{report}");
    }
    for none in ["lost", "out_of_order"] {
        assert_eq!(report[none], 0, "{report}");
    }
    // The setup counts as an entry too.
    assert_eq!(report["ledger"]["delivered"].as_u64(), report["produced"].as_u64().map(|n| n + 1));
}

#[tokio::test]
async fn demo_chaos_stopped_during_a_fault_still_delivers_every_frame() {
    let mut chaos = Process::start(pitwire(&["demo", "--chaos", "--json"]).stdin(Stdio::null()));
    // The first fault of the default seed.
    chaos.says(" s: the ").await;
    chaos.signal("-INT");
    assert_eq!(chaos.ended().await, 0, "{:?}", chaos.stderr());
    let report: Value = serde_json::from_str(chaos.stdout().last().unwrap()).unwrap();
    assert!(report["produced"].as_u64() > Some(10), "{report}");
    assert_eq!((&report["seen"], &report["lost"]), (&report["produced"], &json!(0)), "{report}");
}

//! The metrics, health and readiness of the process.

use std::io::Write;
use std::process::{Command, Stdio};

use pitwire::metrics::TABLE;

use super::numbered_samples;
use crate::agent::{Agent, eventually};
use crate::peers::{self, Kind, Peer};

/// An address that refuses connections.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";

#[tokio::test]
async fn every_documented_series_exists_from_the_start() {
    let queue = tempfile::tempdir().unwrap();
    let agent = Agent::start(queue.path(), CLOSED_ADDRESS, &[]);
    let text = agent.metrics().await;
    for (name, _, labels, meaning) in TABLE {
        assert!(text.contains(&format!("# HELP {name} {meaning}\n")), "what {name} means");
        let series: Vec<&str> = text.lines().filter(|line| line.starts_with(name)).collect();
        assert!(!series.is_empty(), "{name} in\n{text}");
        for &(label, values) in *labels {
            let values = if label == "destination" { &["server"] } else { values };
            for value in values {
                let label = format!("{label}=\"{value}\"");
                assert!(series.iter().any(|line| line.contains(&label)), "{name}{{{label}}}");
            }
        }
    }
    let known = |line: &&str| TABLE.iter().any(|(name, ..)| line.starts_with(name));
    let mut own = text.lines().filter(|line| line.starts_with("pitwire_"));
    assert_eq!(own.find(|line| !known(line)), None, "the table lists it");
    promtool_accepts(&text);
}

#[tokio::test]
async fn queue_depth_rises_in_an_outage_and_returns_to_0() {
    let queue = tempfile::tempdir().unwrap();
    let server = Peer::start(Kind::Embedded, &[]);
    let agent = Agent::start(queue.path(), &server.url(), &[]);
    agent.feed(&numbered_samples(1, 20));
    agent.metric_becomes(r#"pitwire_ledger_entries{state="delivered"}"#, |n| n == 20.0).await;
    assert_eq!(agent.metric("pitwire_queue_entries").await, 0.0);

    server.pause();
    agent.feed(&numbered_samples(21, 30));
    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 30.0).await;
    assert!(agent.metric("pitwire_queue_bytes").await > 30.0 * 300.0);
    assert!(agent.metric("pitwire_queue_oldest_timestamp_seconds").await > 1.7e9);
    agent.metric_becomes("pitwire_connected", |connected| connected == 0.0).await;
    promtool_accepts(&agent.metrics().await);

    server.resume();
    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    for (series, value) in [
        ("pitwire_queue_bytes", 0.0),
        ("pitwire_queue_oldest_timestamp_seconds", 0.0),
        ("pitwire_connected", 1.0),
        ("pitwire_session_bound", 1.0),
        ("pitwire_entries_appended_total", 50.0),
        (r#"pitwire_source_samples_total{source="stdin"}"#, 50.0),
        (r#"pitwire_ledger_entries{state="appended"}"#, 50.0),
        (r#"pitwire_ledger_entries{state="delivered"}"#, 50.0),
        (r#"pitwire_ledger_entries{state="dropped"}"#, 0.0),
        (r#"pitwire_ledger_entries{state="queued"}"#, 0.0),
        ("pitwire_ledger_imbalance_entries", 0.0),
    ] {
        assert_eq!(agent.metric(series).await, value, "{series}");
    }
    // By proof and by age: how many count as live depends on the length of the outage.
    let text = agent.metrics().await;
    let series = text.lines().filter(|line| line.starts_with("pitwire_entries_delivered_total{"));
    let counts = series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    assert_eq!(counts.sum::<f64>(), 50.0, "{text}");
    promtool_accepts(&agent.metrics().await);
}

#[tokio::test]
async fn the_agent_is_healthy_offline_and_ready_once_a_session_is_bound() {
    let queue = tempfile::tempdir().unwrap();
    let mut server = Peer::start(Kind::Embedded, &[]);
    server.kill();
    let agent = Agent::start(queue.path(), &server.url(), &[]);
    assert_eq!(agent.page("/healthz").await, (200, "ok\n".into()));
    let refused = async || {
        let (status, reasons) = agent.page("/readyz").await;
        assert_eq!(status, 503, "{reasons}");
        let says = |what| reasons.lines().any(|reason| reason.starts_with(what));
        (says("server: not connected to the server") && says("server: nothing listens at http://"))
            .then_some(())
    };
    eventually("both reasons", refused).await;

    server.restart();
    let ready = async || (agent.page("/readyz").await == (200, "ok\n".into())).then_some(());
    eventually("ready", ready).await;
    assert_eq!(agent.page("/healthz").await.0, 200);
    assert_eq!(agent.page("/nothing").await.0, 404);
}

/// Checks that Prometheus' own linter accepts a metrics page.
fn promtool_accepts(metrics: &str) {
    let mut promtool = Command::new(peers::home().join("bin/promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "");
    assert!(output.status.success());
}

#[tokio::test]
async fn a_reconnect_is_logged_and_the_wait_before_it_is_counted_down() {
    let queue = tempfile::tempdir().unwrap();
    let mut server = Peer::start(Kind::Embedded, &[]);
    server.kill();
    let settings = ["delivery.backoff_min=4s", "delivery.backoff_max=4s"];
    let agent = Agent::start(queue.path(), &server.url(), &settings);
    agent.feed(&numbered_samples(1, 20));
    agent.stored(20).await;
    let retry_in = async || {
        let status: serde_json::Value =
            serde_json::from_str(&agent.page("/status").await.1).unwrap();
        status["destinations"][0]["retry_in"].as_f64()
    };
    let first = eventually("a wait", &retry_in).await;
    assert!(first <= 4.0, "{first}");
    let is_less = async || retry_in().await.filter(|left| *left < first - 0.2);
    eventually("less of it", is_less).await;
    server.restart();
    agent.process.says("Reconnected after ").await;
    let lines = agent.process.stderr();
    let line = lines.iter().find(|line| line.contains("Reconnected after ")).unwrap();
    assert!(line.ends_with("; sending what was saved: 20"), "{line}");
}

#[tokio::test]
async fn a_mistyped_session_id_is_named_in_the_log_the_page_and_readyz_and_is_not_linked() {
    let queue = tempfile::tempdir().unwrap();
    let server = Peer::start(Kind::Flask, &[]);
    let settings = ["server.session_id=no-such-session"];
    let agent = Agent::start(queue.path(), &server.url(), &settings);
    agent.feed(&numbered_samples(1, 20));
    let text = "does not know the session in server.session_id";
    agent.process.says(text).await;
    let (code, ready) = agent.page("/readyz").await;
    assert!(code == 503 && ready.contains(text), "{ready}");
    let status: serde_json::Value = serde_json::from_str(&agent.page("/status").await.1).unwrap();
    let wrong = status["destinations"][0]["wrong"].to_string();
    assert!(wrong.contains("does not know the session in server.session_id"), "{status}");
    assert_eq!(status["destinations"][0]["page"], serde_json::Value::Null);
    assert_eq!(agent.links(), [""; 0], "no dead link");
    assert_eq!(agent.metric("pitwire_queue_entries").await, 20.0);
}

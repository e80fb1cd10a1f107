//! `pitwire reload` and SIGHUP: a configuration change while the agent runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::numbered_samples;
use crate::agent::{Agent, eventually, pitwire};
use crate::peers::{Kind, Peer};

/// A server that is never there.
const UNREACHABLE: &str = "[server]\nurl = \"http://127.0.0.1:1\"";

/// An agent, its queue folder, and its configuration.
struct Trial {
    folder: tempfile::TempDir,
    agent: Agent,
}

impl Trial {
    fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), settings);
        let agent = Agent::configured(&file(folder.path()));
        Self { folder, agent }
    }

    fn write(&self, settings: &str) {
        write(self.folder.path(), settings);
    }

    /// Exit code, standard output, standard error.
    async fn reload(&self) -> (i32, String, String) {
        let admin = self.agent.admin().await;
        let output = pitwire(&["reload", "--admin", &admin]).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("pitwire.toml")
}

fn write(folder: &Path, settings: &str) {
    let queue = folder.join("queue");
    // Without a server in it, the configuration would name the default address.
    let server = if settings.contains("[server]") { "" } else { UNREACHABLE };
    let text = format!("{settings}\n{server}\n[queue]\npath = {:?}\n", queue.to_str().unwrap());
    // Write and rename, as editors do; otherwise a reload could read half a file.
    let new = folder.join("pitwire.toml.new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file(folder)).unwrap();
}

fn server(peer: &Peer) -> String {
    format!("[server]\nurl = \"{}\"", peer.url())
}

/// Switches between two servers while driving.
#[tokio::test]
async fn switching_servers_while_driving_loses_no_frame() {
    let peers = [Peer::start(Kind::Flask, &[]), Peer::start(Kind::Asgi, &[])];
    let every = |peer: &Peer| format!("update_rate_hz = 0\n{}", server(peer));
    let trial = Trial::start(&every(&peers[0]));
    let mut sent = 0;
    for turn in 0..6 {
        trial.agent.feed(&numbered_samples(sent as u64 + 1, 300));
        sent += 300;
        sleep(Duration::from_millis(150)).await;
        trial.write(&every(&peers[(turn + 1) % 2]));
        let (code, said, errors) = trial.reload().await;
        assert_eq!((code, errors.as_str()), (0, ""), "{said}");
        let expected = format!(
            "server.url: {:?} -> {:?}\n",
            peers[turn % 2].url(),
            peers[(turn + 1) % 2].url()
        );
        assert_eq!(said, expected);
    }
    trial.agent.stored(sent).await;
    trial.agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    let mut seen = BTreeSet::new();
    for peer in &peers {
        let laps = |frames: Vec<Value>| -> Vec<u64> {
            frames.iter().map(|frame| frame["lap"].as_u64().unwrap()).collect()
        };
        let came = laps(peer.all_frames().await);
        assert!(came.is_sorted(), "out of order: {came:?}");
        assert!(!came.is_empty(), "this server got no frames");
        seen.extend(came);
    }
    assert!(seen.into_iter().eq(1..=sent as u64), "frames were lost");
}

#[tokio::test]
async fn each_destination_can_be_reconfigured_while_the_agent_runs() {
    let peers = [Peer::start(Kind::Embedded, &[]), Peer::start(Kind::Embedded, &[])];
    let league =
        |peer: &Peer| format!("{UNREACHABLE}\n[destination.league]\nurl = \"{}\"\n", peer.url());
    let trial = Trial::start(&league(&peers[0]));
    let connected = r#"pitwire_connected{destination="league"}"#;
    trial.agent.metric_becomes(connected, |connected| connected == 1.0).await;
    trial.agent.feed(&numbered_samples(1, 1));
    eventually("the frame", async || (peers[0].all_frames().await.len() == 1).then_some(())).await;
    let added = "[destination.club]\nurl = \"http://127.0.0.1:9/club\"\n";
    trial.write(&(league(&peers[1]) + added));
    let (code, said, errors) = trial.reload().await;
    let expected = format!(
        "destination.club.url: \"\" -> \"http://127.0.0.1:9/club\" needs a restart\n\
         destination.league.url: {:?} -> {:?}\n",
        peers[0].url(),
        peers[1].url()
    );
    assert_eq!((code, said, errors.as_str()), (0, expected, ""));
    sleep(Duration::from_secs(1)).await;
    trial.agent.feed(&numbered_samples(2, 1));
    eventually("the frame", async || (peers[1].all_frames().await.len() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_reload_applies_settings_and_names_those_needing_a_restart() {
    let trial = Trial::start("update_rate_hz = 0.001\n[log]\nlevel = \"info\"");
    let post = async |lap: u64| {
        let sample = format!(r#"{{"lap": {lap}}}"#);
        trial.agent.post("/v1/telemetry", sample).await.json::<Value>().await.unwrap()
    };
    post(1).await;
    assert_eq!(post(2).await["rate_limited"], 1);
    trial.write(&format!(
        "update_rate_hz = 0\n[log]\nlevel = \"debug\"\nformat = \"json\"\n[source.http]\nenabled = false\n\
         {UNREACHABLE}\ntoken = \"wh1sper\"",
    ));
    let (code, said, errors) = trial.reload().await;
    let expected = "update_rate_hz: \"0.001\" -> \"0.0\"\n\
                    server.token: \"\" -> \"***\"\n\
                    source.http.enabled: \"true\" -> \"false\" needs a restart\n\
                    log.level: \"info\" -> \"debug\"\n\
                    log.format: \"text\" -> \"json\" needs a restart\n";
    assert_eq!((code, said.as_str(), errors.as_str()), (0, expected, ""));
    for lap in 3..6 {
        assert_eq!(post(lap).await["seqs"].as_array().unwrap().len(), 1);
    }
    // Debug lines appear now, without any secret.
    let (code, said, _) = trial.reload().await;
    // Settings that need a restart are still reported.
    assert_eq!((code, said.lines().count()), (0, 2), "{said}");
    trial.agent.process.says("Still offline: ").await;
    assert!(!trial.agent.process.stderr().join("\n").contains("wh1sper"));
}

#[tokio::test]
async fn a_lowered_queue_limit_applies_at_once() {
    let trial = Trial::start("update_rate_hz = 0");
    trial.agent.feed(&numbered_samples(1, 500));
    trial.agent.stored(500).await;
    let folder = trial.folder.path();
    let bounded = format!(
        "update_rate_hz = 0\n{UNREACHABLE}\n[queue]\npath = {:?}\nmax_entries = 100\n\
         when_full = \"drop_oldest\"\n",
        folder.join("queue").to_str().unwrap()
    );
    fs::write(file(folder), bounded).unwrap();
    // SIGHUP, as systemd sends it.
    trial.agent.process.signal("-HUP");
    trial.agent.metric_becomes("pitwire_queue_entries", |entries| entries == 100.0).await;
    trial.agent.metric_becomes("pitwire_queue_max_entries", |entries| entries == 100.0).await;
    trial.agent.metric_becomes("pitwire_ledger_imbalance_entries", |off| off == 0.0).await;
}

#[tokio::test]
async fn an_invalid_configuration_is_rejected_and_reported() {
    let trial = Trial::start("update_rate_hz = 3");
    trial.write("update_rate_hz = 2000\n[delivery]\nprof = \"echo\"");
    let (code, said, errors) = trial.reload().await;
    assert_eq!((code, said.as_str()), (1, ""));
    assert!(errors.contains("update_rate_hz") && errors.contains("delivery.prof"), "{errors}");
    trial.agent.process.signal("-HUP");
    let twice = async || {
        let said = trial.agent.process.stderr();
        let kept = said.iter().filter(|line| line.contains("the new configuration is rejected"));
        (kept.count() == 2).then_some(())
    };
    eventually("both are refused", twice).await;
    trial.write("update_rate_hz = 3");
    let (code, said, _) = trial.reload().await;
    assert_eq!((code, said.as_str()), (0, "The configuration is unchanged.\n"));
}

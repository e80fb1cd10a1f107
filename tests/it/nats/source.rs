//! A hub: entries that agents publish reach the dashboards, each stint on its own page, once and in
//! order.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_nats::HeaderMap;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tokio::time::sleep;

use super::NatsServer;
use crate::abuse::json::{MAX_WAIT, hostile_objects};
use crate::abuse::{MAX_AGENT_RSS_KIB, PeakUsage, beside_live_source};
use crate::agent::{Agent, eventually};
#[cfg(target_os = "linux")]
use crate::fake_clock::FakeClock;
use crate::numbered::Numbered;
use crate::peers::{Kind, Peer, plain};
use crate::proxy::{Network, Proxy};

const REJECTED: &str = r#"pitwire_source_rejected_total{source="nats",reason="wrong_type"}"#;
const CONNECTED: &str = r#"pitwire_source_connected{source="nats"}"#;

/// Starts a hub that subscribes to the NATS server at `nats`.
pub(super) fn hub(queue: &Path, dashboard: &str, nats: &str, settings: &[&str]) -> Agent {
    let url = format!("source.nats.url={nats}");
    let hub = ["source.nats.enabled=true", &url, "source.stdin.enabled=false"];
    Agent::start(queue, dashboard, &[&hub, settings].concat())
}

/// A league: agents that publish to one NATS server.
pub(super) struct League {
    pub(super) server: NatsServer,
    queues: TempDir,
    pub(super) agents: Vec<(String, Agent)>,
    samples: Numbered,
}

impl League {
    pub(super) fn of(names: &[&str]) -> Self {
        Self::with(names, &[])
    }

    /// Starts agents with these names and settings.
    pub(super) fn with(names: &[&str], settings: &[&str]) -> Self {
        let (server, queues) = (NatsServer::start(), tempdir().unwrap());
        let start = |name: &&str| {
            let queue = queues.path().join(name);
            let name = format!("agent.name={name}");
            Agent::start(&queue, &server.url(), &[&[name.as_str()], settings].concat())
        };
        let start = |name: &&str| ((*name).to_owned(), start(name));
        let agents = names.iter().map(start).collect();
        Self { server, queues, agents, samples: Numbered::from(1) }
    }

    /// Starts another agent, which uses this clock.
    #[cfg(target_os = "linux")]
    pub(super) fn add_with_clock(&mut self, name: &str, clock: &FakeClock) {
        let (queue, setting) = (self.queues.path().join(name), format!("agent.name={name}"));
        let url = self.server.url();
        let agent = Agent::in_environment(&clock.environment(), &queue, &url, &[&setting]);
        self.agents.push((name.to_owned(), agent));
    }

    /// Each agent drives this many frames; their numbers are unique across the league.
    pub(super) fn drive(&mut self, frames: usize) {
        for (_, agent) in &self.agents {
            let lines: Vec<String> = (0..frames).map(|_| self.samples.next()).collect();
            agent.feed(&lines);
        }
    }

    /// Waits until every driven frame is in the streams.
    pub(super) async fn has_published(&self, frames: usize) {
        for (_, agent) in &self.agents {
            agent.stored(frames).await;
            agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
        }
    }

    /// The frames in the streams, by stint.
    pub(super) async fn frames(&self) -> BTreeMap<String, Vec<Value>> {
        let mut frames = BTreeMap::new();
        for (name, _) in &self.agents {
            for entry in self.server.kept(name).await {
                if entry.kind == "telemetry" {
                    let stint: &mut Vec<Value> =
                        frames.entry(format!("{name}.{}", entry.stint)).or_default();
                    stint.push(plain(entry.json));
                }
            }
        }
        frames
    }

    /// Checks that a dashboard has a page for each stint, with all its frames unchanged, once and
    /// in order.
    pub(super) async fn is_shown_by(&self, dashboard: &Peer) {
        let expected: Vec<_> = self.frames().await.into_values().collect();
        let all: usize = expected.iter().map(Vec::len).sum();
        let arrived = async || (dashboard.all_frames().await.len() >= all).then_some(());
        eventually("all frames are on the dashboard", arrived).await;
        let mut pages = Vec::new();
        for session in dashboard.sessions().await {
            pages.push(dashboard.frames(&session).await);
        }
        // A page may have been requested just before the hub was killed, and stay empty.
        pages.retain(|frames| !frames.is_empty());
        let numbers = |frames: &Vec<Value>| -> Vec<u64> {
            frames.iter().map(|frame| frame["lap"].as_u64().unwrap()).collect()
        };
        let (mut shown, mut wanted): (Vec<_>, Vec<_>) =
            (pages.iter().map(numbers).collect(), expected.iter().map(numbers).collect());
        shown.sort();
        wanted.sort();
        assert_eq!(shown, wanted, "numbers, page by page");
        for frames in &expected {
            assert!(pages.contains(frames), "a page differs from its stint");
        }
    }
}

#[tokio::test]
async fn a_killed_hub_shows_each_stint_once_and_in_order() {
    let mut league = League::of(&["pc-1", "pc-2", "pc-3"]);
    let dashboard = Peer::start(Kind::Embedded, &[]);
    let queue = tempdir().unwrap();
    let mut chance = SmallRng::seed_from_u64(1);
    let start = || hub(queue.path(), &dashboard.url(), &league.server.url(), &[]);
    let mut hub = start();
    let mut driven = 0;
    let mut killed_with = 0.0;
    for _ in 0..8 {
        for (_, agent) in &league.agents {
            let lines: Vec<String> = (0..150).map(|_| league.samples.next()).collect();
            agent.feed(&lines);
        }
        driven += 150;
        let some = dashboard.all_frames().await.len() as f64;
        hub.metric_becomes("pitwire_entries_appended_total", |entries| entries > some).await;
        sleep(Duration::from_millis(chance.random_range(0..400))).await;
        killed_with += hub.metric("pitwire_queue_entries").await;
        hub.process.kill();
        hub = start();
    }
    league.has_published(driven).await;
    league.is_shown_by(&dashboard).await;
    eprintln!("killed with {killed_with} entries queued in all");
}

#[tokio::test]
async fn a_hub_misses_nothing_when_the_server_or_the_network_fails() {
    let mut league = League::of(&["pc-1", "pc-2"]);
    let dashboard = Peer::start(Kind::Embedded, &[]);
    let queue = tempdir().unwrap();
    let proxy = Proxy::start(league.server.port());
    let url = proxy.url().replace("http://", "nats://");
    let hub = hub(queue.path(), &dashboard.url(), &url, &[]);
    let mut driven = 0;
    for network in [Network::Down, Network::Mute, Network::Stalled] {
        league.drive(300);
        driven += 300;
        hub.metric_becomes(CONNECTED, |connected| connected == 1.0).await;
        sleep(Duration::from_millis(200)).await;
        proxy.set(network);
        sleep(Duration::from_millis(500)).await;
        proxy.set(Network::UP);
        proxy.reset();
    }
    league.drive(300);
    driven += 300;
    league.server.kill();
    sleep(Duration::from_millis(500)).await;
    league.server.restart();
    league.has_published(driven).await;
    league.is_shown_by(&dashboard).await;
}

/// Frames that one PC drove without Wi-Fi reach the hub hours after the others' frames from that
/// time.
#[tokio::test]
async fn late_frames_keep_their_original_capture_time() {
    let mut league = League::of(&["pc-1"]);
    league.server.kill();
    league.drive(100);
    league.agents[0].1.stored(100).await;
    league.server.restart();
    // Another agent is live meanwhile and reaches the hub first.
    let live = Agent::start(
        &league.queues.path().join("live"),
        &league.server.url(),
        &["agent.name=pc-2"],
    );
    let lines: Vec<String> = (0..50).map(|_| league.samples.next()).collect();
    live.feed(&lines);
    live.stored(50).await;
    live.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    league.agents.push(("pc-2".into(), live));
    let dashboard = Peer::start(Kind::Embedded, &[]);
    let queue = tempdir().unwrap();
    let only = ["source.nats.agents=pc-2"];
    let mut hub = self::hub(queue.path(), &dashboard.url(), &league.server.url(), &only);
    let live = async || (dashboard.all_frames().await.len() == 50).then_some(());
    eventually("the live agent is shown", live).await;
    hub.stop().await;
    league.agents[0].1.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    let _hub = self::hub(queue.path(), &dashboard.url(), &league.server.url(), &[]);
    league.is_shown_by(&dashboard).await;
}

#[tokio::test]
async fn a_full_hub_leaves_the_remaining_entries_in_the_stream() {
    let mut league = League::of(&["pc-1", "pc-2"]);
    let mut dashboard = Peer::start(Kind::Embedded, &[]);
    dashboard.kill();
    let queue = tempdir().unwrap();
    let small = ["queue.max_entries=400", "queue.when_full=block"];
    let hub = hub(queue.path(), &dashboard.url(), &league.server.url(), &small);
    league.drive(1000);
    league.has_published(1000).await;
    hub.metric_becomes("pitwire_queue_entries", |entries| entries > 250.0).await;
    sleep(Duration::from_secs(2)).await;
    assert!(hub.metric("pitwire_queue_entries").await <= 400.0);
    dashboard.restart();
    league.is_shown_by(&dashboard).await;
    assert_eq!(hub.metric(r#"pitwire_ledger_entries{state="downsampled"}"#).await, 0.0);
    assert_eq!(hub.metric(r#"pitwire_ledger_entries{state="dropped"}"#).await, 0.0);
}

/// `deploy/hub.toml`, with the addresses replaced.
#[tokio::test]
async fn the_example_hub_configuration_feeds_a_dashboard() {
    let mut league = League::of(&["pc-1", "pc-2"]);
    let dashboard = Peer::start(Kind::Flask, &[]);
    let folder = tempdir().unwrap();
    let example = include_str!("../../../deploy/hub.toml")
        .replace("http://localhost:5000", &dashboard.url())
        .replace("nats://localhost:4222", &league.server.url())
        .replace("[queue]", &format!("[queue]\npath = {:?}", folder.path().join("queue")));
    let file = folder.path().join("hub.toml");
    std::fs::write(&file, example).unwrap();
    let _hub = Agent::configured(&file);
    league.drive(100);
    for (_, agent) in &league.agents {
        agent.post("/v1/setup", r#"{"wing": 7}"#).await;
    }
    league.has_published(100).await;
    league.is_shown_by(&dashboard).await;
    for session in dashboard.sessions().await {
        let setups = async || {
            let setups = dashboard.setups(&session).await;
            (setups.len() == 1).then(|| setups[0]["setup"].clone())
        };
        assert_eq!(eventually("the setup is shown", setups).await, json!({"wing": 7}));
    }
}

#[tokio::test]
async fn an_invalid_message_is_refused_without_delaying_others() {
    let mut league = League::of(&["pc-1"]);
    league.drive(10);
    league.has_published(10).await;
    let jetstream = league.server.jetstream().await;
    for (subject, payload) in [
        ("pitwire.pc-1.race.telemetry", "{}"),
        ("pitwire.pc-1.race.telemetry", "\u{7}"),
        ("pitwire.pc-1.race.setup", "{}"),
        ("pitwire.pc-1.notes", "{}"),
    ] {
        let sent = jetstream.publish_with_headers(subject, HeaderMap::new(), payload.into()).await;
        sent.unwrap().await.unwrap();
    }
    let dashboard = Peer::start(Kind::Embedded, &[]);
    let queue = tempdir().unwrap();
    let hub = hub(queue.path(), &dashboard.url(), &league.server.url(), &[]);
    hub.metric_becomes(REJECTED, |refused| refused == 3.0).await;
    let shown = async || (dashboard.all_frames().await.len() == 10).then_some(());
    eventually("the frames are shown", shown).await;
    // Rejected entries are not redelivered: a retry would fail again.
    for _ in 0..7 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(hub.metric(REJECTED).await, 3.0);
    }
    hub.process.says("only agents may publish").await;
}

/// A setup from one rig must not stop the hub for the others.
#[tokio::test]
async fn messages_with_80_000_keys_do_not_delay_other_sources() {
    let mut league = League::of(&["pc-1"]);
    league.drive(1);
    league.has_published(1).await;
    let jetstream = league.server.jetstream().await;
    let queue = tempdir().unwrap();
    let stdin = ["source.stdin.enabled=true"];
    let hub = hub(queue.path(), "http://127.0.0.1:1", &league.server.url(), &stdin);
    hub.metric_becomes(CONNECTED, |connected| connected == 1.0).await;
    let objects = hostile_objects();
    let attack = tokio::spawn(async move {
        let mut headers = HeaderMap::new();
        headers.insert("Pitwire-Captured-At", "2025-11-22T14:30:22.123Z");
        for object in objects {
            for kind in ["setup", "telemetry"] {
                let (subject, headers) = (format!("pitwire.pc-1.race.{kind}"), headers.clone());
                let payload = object.clone().into();
                let sent = jetstream.publish_with_headers(subject, headers, payload).await;
                sent.unwrap().await.unwrap();
            }
        }
    });
    let refused = r#"pitwire_source_rejected_total{source="nats",reason="too_large"}"#;
    let attack = async {
        attack.await.unwrap();
        hub.metric_becomes(refused, |refused| refused == 8.0).await;
    };
    let ((), observed) = beside_live_source(&hub, attack).await;
    assert!(observed.longest_wait < MAX_WAIT, "{observed:?}");
    assert!(observed.peak_rss_kib < MAX_AGENT_RSS_KIB, "{observed:?}");
}

/// The bound counts bytes, not messages: 60 setups of 900 kB fit into one fetch of 128 entries.
#[tokio::test]
async fn a_backlog_of_the_largest_setups_does_not_fill_the_memory_of_a_hub() {
    let league = League::of(&["pc-1"]);
    let jetstream = league.server.jetstream().await;
    for number in 0..60 {
        let mut headers = HeaderMap::new();
        headers
            .insert("Pitwire-Captured-At", format!("2025-11-22T14:30:{number:02}.123Z").as_str());
        headers.insert("Pitwire-Seq", (number + 1).to_string().as_str());
        let setup = json!({"number": number, "notes": "x".repeat(880_000)});
        let setup = json!({"timestamp": number, "setup": setup}).to_string();
        let sent = jetstream.publish_with_headers("pitwire.pc-1.race.setup", headers, setup.into());
        sent.await.unwrap().await.unwrap();
    }
    let queue = tempdir().unwrap();
    let hub = hub(queue.path(), "http://127.0.0.1:1", &league.server.url(), &[]);
    let usage = PeakUsage::of(hub.process.id());
    hub.metric_becomes("pitwire_entries_appended_total", |entries| entries == 60.0).await;
    let (peak_rss_kib, _) = usage.end();
    assert!(peak_rss_kib < MAX_AGENT_RSS_KIB, "{peak_rss_kib} KiB");
}

#[tokio::test]
async fn a_hub_reports_refused_access_to_its_nats_server() {
    let server = NatsServer::configured("nats", "authorization { token: pit-lane }");
    let queue = tempdir().unwrap();
    let url = server.url();
    let stranger = hub(&queue.path().join("a"), "http://127.0.0.1:1", &url, &[]);
    stranger.process.says("NATS hub failed").await;
    stranger.process.says("authorization violation").await;
    stranger.metric_becomes(CONNECTED, |connected| connected == 0.0).await;
    let token = ["source.nats.token=pit-lane"];
    let friend = hub(&queue.path().join("b"), "http://127.0.0.1:1", &url, &token);
    friend.metric_becomes(CONNECTED, |connected| connected == 1.0).await;
}

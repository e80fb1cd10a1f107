//! Hubs with one name share the agents and take over from each other. Whatever fails, each stint
//! has one page, with each frame once and in order.

use std::time::Duration;

use serde_json::json;
use tempfile::{TempDir, tempdir};
use tokio::time::sleep;

use super::NatsServer;
use super::source::{League, hub};
use crate::agent::{Agent, eventually};
use crate::peers::{Kind, Peer};
use crate::proxy::{Network, Proxy};

const AGENTS: &str = r#"pitwire_source_agents{source="nats"}"#;

/// A hub, and its queue across all restarts.
struct Hub {
    queue: TempDir,
    agent: Agent,
}

impl Hub {
    fn start(league: &League, dashboard: &Peer) -> Self {
        let queue = tempdir().unwrap();
        let agent = hub(queue.path(), &dashboard.url(), &league.server.url(), &[]);
        Self { queue, agent }
    }

    fn start_again(&mut self, league: &League, dashboard: &Peer) {
        self.agent = hub(self.queue.path(), &dashboard.url(), &league.server.url(), &[]);
    }

    async fn takes_from(&self, agents: usize) {
        self.agent.metric_becomes(AGENTS, |count| count == agents as f64).await;
    }
}

/// Starts two hubs that share the agents, drives `frames` frames, and waits until the hubs have
/// recorded the pages.
async fn two_hubs(league: &mut League, dashboard: &Peer, frames: usize) -> [Hub; 2] {
    let hubs = [(); 2].map(|()| Hub::start(league, dashboard));
    league.drive(frames);
    for hub in &hubs {
        hub.takes_from(league.agents.len() / 2).await;
    }
    league.has_published(frames).await;
    league.is_shown_by(dashboard).await;
    sleep(Duration::from_secs(3)).await;
    hubs
}

#[tokio::test]
async fn hubs_share_the_agents_and_a_restarted_hub_keeps_its_own() {
    let mut league = League::of(&["pc-1", "pc-2", "pc-3", "pc-4"]);
    league.drive(1);
    league.has_published(1).await;
    let dashboard = Peer::start(Kind::Embedded, &[]);
    let [mut one, other] = [(); 2].map(|()| Hub::start(&league, &dashboard));
    one.takes_from(2).await;
    other.takes_from(2).await;
    let mut driven = 1;
    for _ in 0..4 {
        league.drive(150);
        driven += 150;
        sleep(Duration::from_millis(300)).await;
        one.agent.process.kill();
        league.drive(150);
        driven += 150;
        one.start_again(&league, &dashboard);
    }
    league.has_published(driven).await;
    league.is_shown_by(&dashboard).await;
    one.takes_from(2).await;
    other.takes_from(2).await;
}

/// The surviving hub fetches the entries on the dead hub's disk from NATS again.
#[tokio::test]
async fn a_dead_hub_is_replaced_on_the_same_pages_without_loss() {
    let mut league = League::of(&["pc-1", "pc-2", "pc-3", "pc-4"]);
    let folder = tempdir().unwrap();
    let file = folder.path().join("sessions.json");
    let mut dashboard = Peer::start(Kind::Flask, &["--persist", file.to_str().unwrap()]);
    for (_, agent) in &league.agents {
        agent.post("/v1/setup", r#"{"wing": 7}"#).await;
    }
    let [mut one, other] = two_hubs(&mut league, &dashboard, 200).await;
    dashboard.kill();
    league.drive(100);
    league.has_published(300).await;
    one.agent.metric_becomes("pitwire_queue_entries", |entries| entries >= 200.0).await;
    // Wait until its delivery position is recorded too.
    sleep(Duration::from_secs(3)).await;
    one.agent.process.kill();
    dashboard.restart();
    other.takes_from(4).await;
    league.drive(100);
    league.has_published(400).await;
    league.is_shown_by(&dashboard).await;
    one.start_again(&league, &dashboard);
    one.agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    league.drive(100);
    league.has_published(500).await;
    league.is_shown_by(&dashboard).await;
    sleep(Duration::from_secs(2)).await;
    league.is_shown_by(&dashboard).await;
    // A new page also gets the setup that the stint was driven with.
    dashboard.kill();
    std::fs::remove_file(&file).unwrap();
    dashboard.restart();
    league.drive(10);
    let has_setup = async || {
        for session in dashboard.sessions().await {
            let setups = dashboard.setups(&session).await;
            if setups.first().is_some_and(|setup| setup["setup"] == json!({"wing": 7})) {
                return Some(());
            }
        }
        None
    };
    eventually("the new page has the setup", has_setup).await;
}

/// The hub that takes over cannot reach the dashboard yet, and its own backlog has no page yet
/// either.
#[tokio::test]
async fn a_hub_that_dies_during_a_dashboard_outage_is_replaced() {
    let mut league = League::of(&["pc-1", "pc-2"]);
    let folder = tempdir().unwrap();
    let file = folder.path().join("sessions.json");
    let mut dashboard = Peer::start(Kind::Flask, &["--persist", file.to_str().unwrap()]);
    let [mut one, other] = two_hubs(&mut league, &dashboard, 100).await;
    dashboard.kill();
    league.drive(100);
    league.has_published(200).await;
    one.agent.metric_becomes("pitwire_queue_entries", |entries| entries >= 100.0).await;
    one.agent.process.kill();
    other.takes_from(2).await;
    league.drive(50);
    league.has_published(250).await;
    other.agent.metric_becomes("pitwire_queue_entries", |entries| entries >= 250.0).await;
    dashboard.restart();
    league.is_shown_by(&dashboard).await;
    one.start_again(&league, &dashboard);
    one.agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    league.drive(10);
    league.has_published(260).await;
    league.is_shown_by(&dashboard).await;
    sleep(Duration::from_secs(2)).await;
    league.is_shown_by(&dashboard).await;
}

/// A hub that is cut off looks the same to the others as a dead one.
#[tokio::test]
async fn a_disconnected_hub_is_replaced_and_returns_without_duplicates() {
    let mut league = League::of(&["pc-1", "pc-2"]);
    league.drive(50);
    let dashboard = Peer::start(Kind::Embedded, &[]);
    let proxy = Proxy::start(league.server.port());
    let url = proxy.url().replace("http://", "nats://");
    let queue = tempdir().unwrap();
    let one = hub(queue.path(), &dashboard.url(), &url, &[]);
    one.metric_becomes(AGENTS, |count| count >= 1.0).await;
    let other = Hub::start(&league, &dashboard);
    league.has_published(50).await;
    league.is_shown_by(&dashboard).await;
    sleep(Duration::from_secs(3)).await;
    for round in 1..=10 {
        proxy.set(if round < 9 { Network::Stalled } else { Network::UP });
        league.drive(20);
        sleep(Duration::from_millis(3500)).await;
    }
    proxy.reset();
    other.takes_from(2).await;
    one.metric_becomes(r#"pitwire_source_connected{source="nats"}"#, |is| is == 1.0).await;
    league.drive(20);
    league.has_published(270).await;
    league.is_shown_by(&dashboard).await;
    sleep(Duration::from_secs(2)).await;
    league.is_shown_by(&dashboard).await;
}

#[tokio::test]
async fn two_hubs_with_the_same_identity_are_reported() {
    let mut league = League::of(&["pc-1"]);
    league.drive(10);
    let dashboard = Peer::start(Kind::Embedded, &[]);
    let one = Hub::start(&league, &dashboard);
    one.takes_from(1).await;
    let copy = tempdir().unwrap();
    std::fs::copy(one.queue.path().join("hub"), copy.path().join("hub")).unwrap();
    let copy = hub(copy.path(), &dashboard.url(), &league.server.url(), &[]);
    let told = async || {
        let said =
            |agent: &Agent| agent.process.stderr().join("").contains("another hub has the name");
        (said(&one.agent) || said(&copy)).then_some(())
    };
    eventually("one of the two hubs logs it", told).await;
}

#[tokio::test]
async fn a_hub_without_permission_to_create_the_bucket_reports_it() {
    let server = NatsServer::configured(
        "nats",
        r#"
        no_auth_user: league
        authorization { users: [ { user: league, password: "x", permissions: { publish: {
            allow: ">", deny: "$JS.API.STREAM.CREATE.KV_pitwire-hubs-pitwire"
        } } } ] }"#,
    );
    let folder = tempdir().unwrap();
    let agent = Agent::start(&folder.path().join("a"), &server.url(), &["agent.name=pc-1"]);
    agent.metric_becomes(r#"pitwire_connects_total{outcome="ok"}"#, |count| count == 1.0).await;
    let hub = hub(&folder.path().join("h"), "http://127.0.0.1:1", &server.url(), &[]);
    hub.process.says("the bucket pitwire-hubs-pitwire, which hubs need, does not exist").await;
    hub.process.says("nats kv add pitwire-hubs-pitwire").await;
}

#[tokio::test]
async fn an_added_hub_takes_over_agents_when_new_stints_begin() {
    let mut league = League::with(&["pc-1", "pc-2", "pc-3", "pc-4"], &["stint.resume_after=2s"]);
    let dashboard = Peer::start(Kind::Embedded, &[]);
    let one = Hub::start(&league, &dashboard);
    league.drive(50);
    one.takes_from(4).await;
    let other = Hub::start(&league, &dashboard);
    league.has_published(50).await;
    sleep(Duration::from_millis(1500)).await;
    league.drive(50);
    league.has_published(100).await;
    sleep(Duration::from_secs(5)).await;
    one.takes_from(4).await;
    other.takes_from(0).await;
    league.drive(50);
    other.takes_from(2).await;
    one.takes_from(2).await;
    league.has_published(150).await;
    league.is_shown_by(&dashboard).await;
}

//! Two destinations, a dashboard and a NATS server: while one is down, the other receives every
//! frame live.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::sleep;

use crate::agent::Agent;
use crate::nats::{NatsServer, check};
use crate::numbered::Numbered;
use crate::peers::{Kind, Peer};
use crate::proxy::{Network, Proxy};

/// Longest delay of a frame to a working destination, on two cores that also run other tests.
const LIVE: Duration = Duration::from_secs(5);
const BATCH: usize = 20;
const ELSEWHERE: &str = "destination=\"league\"";

#[tokio::test]
async fn the_league_stays_live_while_the_dashboard_is_away() {
    let mut pair = Pair::start().await;
    pair.drives(5).await;
    pair.dashboard_has_all().await;
    pair.network.set(Network::Down);
    pair.agent.metric_becomes("pitwire_connected", |connected| connected == 0.0).await;
    for _ in 0..10 {
        pair.drives(1).await;
        pair.league_has_all().await;
    }
    let waiting = (10 * BATCH) as f64;
    assert_eq!(pair.agent.metric(r#"pitwire_ledger_entries{state="queued"}"#).await, waiting);
    assert_eq!(pair.agent.metric("pitwire_queue_entries").await, waiting);
    pair.kill_agent().await;
    pair.drives(1).await;
    pair.league_has_all().await;
    pair.network.set(Network::UP);
    pair.ends_well().await;
}

#[tokio::test]
async fn the_dashboard_stays_live_while_the_league_is_away() {
    let mut pair = Pair::start().await;
    pair.drives(5).await;
    pair.league_has_all().await;
    pair.league.kill();
    let connected = format!("pitwire_connected{{{ELSEWHERE}}}");
    pair.agent.metric_becomes(&connected, |connected| connected == 0.0).await;
    for _ in 0..10 {
        pair.drives(1).await;
        pair.dashboard_has_all().await;
    }
    let queued = format!(r#"pitwire_ledger_entries{{{ELSEWHERE},state="queued"}}"#);
    assert_eq!(pair.agent.metric(&queued).await, (10 * BATCH) as f64);
    let (_, status) = pair.agent.page("/status").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["pill"]["text"], "Live");
    assert_eq!(status["others"][0]["name"], "league");
    assert_eq!(status["others"][0]["pill"]["text"], "Offline, 200 saved");
    pair.kill_agent().await;
    pair.drives(1).await;
    pair.dashboard_has_all().await;
    pair.league.restart();
    pair.ends_well().await;
}

/// An agent, a dashboard server behind a proxy, and a NATS server.
struct Pair {
    dashboard: Peer,
    network: Proxy,
    league: NatsServer,
    queue: TempDir,
    agent: Agent,
    samples: Numbered,
    /// Number of the current agent's first frame.
    first: u64,
    /// Number of lines fed to the current agent.
    lines: usize,
    /// Frame number by queue position.
    stored: BTreeMap<u64, u64>,
}

impl Pair {
    async fn start() -> Self {
        let dashboard = Peer::start(Kind::Embedded, &[]);
        let network = Proxy::start(dashboard.port());
        let league = NatsServer::start();
        let queue = tempfile::tempdir().unwrap();
        let agent = agent(&queue, &network, &league);
        let samples = Numbered::from(1);
        let (first, lines, stored) = (1, 0, BTreeMap::new());
        Self { dashboard, network, league, queue, agent, samples, first, lines, stored }
    }

    /// Feeds `times` batches of frames and waits until each is stored.
    async fn drives(&mut self, times: usize) {
        for _ in 0..times {
            let lines: Vec<String> = (0..BATCH).map(|_| self.samples.next()).collect();
            self.agent.feed(&lines);
            self.lines += lines.len();
            self.agent.stored(self.lines).await;
            sleep(Duration::from_millis(50)).await;
        }
        self.note_receipts();
    }

    fn note_receipts(&mut self) {
        for (line, seq) in self.agent.receipts() {
            self.stored.insert(seq, self.first + line as u64 - 1);
        }
    }

    async fn kill_agent(&mut self) {
        self.agent.process.kill();
        self.note_receipts();
        (self.first, self.lines) = (self.samples.number(), 0);
        self.agent = agent(&self.queue, &self.network, &self.league);
    }

    async fn dashboard_has_all(&self) {
        self.live(async || self.dashboard.all_frames().await.len()).await;
    }

    async fn league_has_all(&self) {
        self.live(async || self.league.kept("pc-7").await.len()).await;
    }

    /// Checks that all stored frames arrive at a live destination within [`LIVE`].
    async fn live(&self, there: impl AsyncFn() -> usize) {
        let start = Instant::now();
        while there().await < self.stored.len() {
            assert!(start.elapsed() < LIVE, "{} of {}", there().await, self.stored.len());
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ends_well(&mut self) {
        self.drives(5).await;
        self.agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
        check(&self.league.kept("pc-7").await, &self.stored);
        let frames = self.dashboard.all_frames().await;
        let laps: Vec<_> = frames.iter().filter_map(|frame| frame["lap"].as_u64()).collect();
        assert!(laps.is_sorted(), "out of order");
        let lost = self.stored.values().filter(|number| !laps.contains(number)).count();
        assert_eq!(lost, 0, "of {}", self.stored.len());
        // Frames that were in flight when the agent was killed may arrive twice.
        assert!(laps.len() <= self.stored.len() + BATCH, "{} of {}", laps.len(), self.stored.len());
        for destination in ["", ELSEWHERE] {
            let comma = if destination.is_empty() { "" } else { "," };
            let state =
                |state| format!("pitwire_ledger_entries{{{destination}{comma}state=\"{state}\"}}");
            let delivered = self.agent.metric(&state("delivered")).await;
            assert_eq!(delivered, self.agent.metric(&state("appended")).await);
            assert_eq!(delivered as usize, self.stored.len());
            let braces =
                if destination.is_empty() { String::new() } else { format!("{{{destination}}}") };
            let imbalance = format!("pitwire_ledger_imbalance_entries{braces}");
            assert_eq!(self.agent.metric(&imbalance).await, 0.0);
        }
    }
}

fn agent(queue: &TempDir, network: &Proxy, league: &NatsServer) -> Agent {
    let url = format!("destination.league.url={}", league.url());
    Agent::start(queue.path(), &network.url(), &["agent.name=pc-7", &url])
}

//! Two destinations, a dashboard and a NATS server: while one is down, the other receives every
//! frame live.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::sleep;

use crate::agent::{Agent, pitwire};
use crate::nats::{NatsServer, check};
use crate::numbered::Numbered;
use crate::peers::{Kind, Peer};
use crate::proxy::{Network, Proxy};

/// Longest delay of a frame to a working destination, on two cores that also run other tests.
const LIVE: Duration = Duration::from_secs(5);
const BATCH: usize = 20;

#[tokio::test]
async fn the_league_stays_live_while_the_dashboard_is_unreachable() {
    let mut pair = Pair::start().await;
    pair.drives(5).await;
    pair.dashboard_has_all().await;
    pair.network.set(Network::Down);
    pair.disconnects("server").await;
    for _ in 0..10 {
        pair.drives(1).await;
        pair.league_has_all().await;
    }
    pair.shows_offline("server", "league").await;
    pair.kill_agent().await;
    pair.drives(1).await;
    pair.league_has_all().await;
    pair.network.set(Network::UP);
    pair.ends_well().await;
}

#[tokio::test]
async fn the_dashboard_stays_live_while_the_league_is_unreachable() {
    let mut pair = Pair::start().await;
    pair.drives(5).await;
    pair.league_has_all().await;
    pair.league.kill();
    pair.disconnects("league").await;
    for _ in 0..10 {
        pair.drives(1).await;
        pair.dashboard_has_all().await;
    }
    pair.shows_offline("league", "server").await;
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

    async fn disconnects(&self, destination: &str) {
        let connected = format!("pitwire_connected{{destination=\"{destination}\"}}");
        self.agent.metric_becomes(&connected, |connected| connected == 0.0).await;
    }

    /// Checks that each view of the agent shows the frames that wait for `away`, while `live` is up
    /// to date.
    async fn shows_offline(&self, away: &str, live: &str) {
        let waiting = 10 * BATCH;
        for (destination, entries) in [(away, waiting), (live, 0)] {
            let of = format!("destination=\"{destination}\"");
            let queued = format!("pitwire_ledger_entries{{{of},state=\"queued\"}}");
            self.agent.metric_becomes(&queued, |queued| queued as usize == entries).await;
            let newest = format!("pitwire_delivered_newest_timestamp_seconds{{{of}}}");
            let behind = self.agent.metric("pitwire_queue_newest_timestamp_seconds").await
                - self.agent.metric(&newest).await;
            assert_eq!(behind > 0.0, entries > 0, "{destination} is {behind} s behind");
        }
        assert_eq!(self.agent.metric("pitwire_queue_entries").await as usize, waiting);
        let (_, status) = self.agent.page("/status").await;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["badge"]["text"], format!("{away}: Offline, {waiting} saved"));
        let named = |list: &serde_json::Value, name: &str| {
            list.as_array().unwrap().iter().find(|one| one["name"] == *name).unwrap().clone()
        };
        assert_eq!(named(&status["destinations"], live)["badge"]["text"], "Live");
        let badge = format!("Offline, {waiting} saved");
        assert_eq!(named(&status["destinations"], away)["badge"]["text"], badge);
        assert_eq!(named(&status["queue"]["destinations"], live)["queued"], 0);
        let ledger = named(&status["queue"]["destinations"], away);
        assert_eq!((&ledger["queued"], &ledger["imbalance"]), (&waiting.into(), &0.into()));
        let (code, reasons) = self.agent.page("/readyz").await;
        assert_eq!(code, 503);
        assert!(reasons.lines().all(|line| line.starts_with(&format!("{away}: "))), "{reasons}");
        let admin = self.agent.admin().await;
        let printed = pitwire(&["queue", "status", "--admin", &admin]).output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        let (_, own) = printed.split_once(&format!("destination         {away}\n")).unwrap();
        let own = own.split("\ndestination").next().unwrap();
        assert!(own.contains(&format!("queued              {waiting}\n")), "{printed}");
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
        for destination in ["server", "league"] {
            let of = format!("destination=\"{destination}\"");
            let state = |state| format!("pitwire_ledger_entries{{{of},state=\"{state}\"}}");
            let delivered = self.agent.metric(&state("delivered")).await;
            assert_eq!(delivered, self.agent.metric(&state("appended")).await);
            assert_eq!(delivered as usize, self.stored.len());
            let imbalance = format!("pitwire_ledger_imbalance_entries{{{of}}}");
            assert_eq!(self.agent.metric(&imbalance).await, 0.0);
        }
    }
}

fn agent(queue: &TempDir, network: &Proxy, league: &NatsServer) -> Agent {
    let url = format!("destination.league.url={}", league.url());
    Agent::start(queue.path(), &network.url(), &["agent.name=pc-7", &url])
}

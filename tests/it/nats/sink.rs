//! The sink: the contents of a stream after the agent, the server or the network between them
//! failed.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{NatsServer, check};
use crate::agent::{Agent, eventually};
use crate::numbered::Numbered;
use crate::proxy::{Network, Proxy};

const CONNECTS: &str = r#"pitwire_connects_total{outcome="ok"}"#;
const CONNECTED: &str = "pitwire_connected";
/// The deduplication window of the forgetful server, which is the shortest that NATS accepts.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);
/// Frames fed between two faults.
const ROUND: usize = 300;

#[tokio::test]
async fn a_stream_holds_each_entry_once_in_order_when_the_agent_is_killed() {
    holds_each_entry_once_in_order(1, async |trial| trial.kill_agent().await).await;
}

#[tokio::test]
async fn a_stream_holds_each_entry_once_in_order_when_the_server_is_killed() {
    holds_each_entry_once_in_order(2, async |trial| {
        trial.server.kill();
        trial.pause(600).await;
        trial.server.restart();
    })
    .await;
}

#[tokio::test]
async fn a_stream_holds_each_entry_once_in_order_when_both_are_killed() {
    holds_each_entry_once_in_order(3, async |trial| {
        trial.server.kill();
        trial.pause(100).await;
        trial.kill_agent().await;
        trial.pause(300).await;
        trial.server.restart();
    })
    .await;
}

#[tokio::test]
async fn a_stream_holds_each_entry_once_in_order_when_the_network_fails() {
    holds_each_entry_once_in_order(4, async |trial| {
        let faults = [
            Network::Down,
            Network::Stalled,
            Network::Mute,
            Network::Sliced,
            Network::Slow { bytes_per_second: 50_000 },
            Network::Jittery { most: Duration::from_millis(100) },
        ];
        let fault = faults[trial.chance.random_range(0..faults.len())];
        trial.proxy.set(fault);
        // Sometimes longer than a batch waits for its proof.
        trial.pause(3000).await;
        trial.proxy.set(Network::UP);
        if trial.chance.random() {
            trial.proxy.reset();
        }
    })
    .await;
}

/// The server itself only recognizes duplicates for two minutes. An outage may last longer.
#[tokio::test]
async fn no_entry_is_stored_twice_after_the_deduplication_window() {
    let trial = Trial::at(forgetful().await, 5);
    deliver_under_faults(trial, async |trial| {
        // Sent entries arrive, but no acknowledgement comes back.
        trial.proxy.set(Network::Mute);
        trial.feed(100);
        trial.pause(300).await;
        trial.kill_agent().await;
        sleep(Duration::from_millis(200)).await;
        trial.proxy.set(Network::UP);
    })
    .await;
}

/// An abandoned connection may have sent entries that are still in transit.
#[tokio::test]
async fn late_entries_of_an_earlier_connection_are_not_stored_twice() {
    /// More bytes than all requests of a connection that do not publish entries.
    const ENTRIES_SENT: u64 = 600;
    let mut trial = Trial::at(forgetful().await, 7);
    trial.feed(1);
    trial.drained().await;
    // When the latency begins, the agent may be asking for the stream's state; it then sends no
    // entry before it abandons that connection. In this case the next connection is delayed.
    while trial.proxy.delayed() < ENTRIES_SENT {
        trial.proxy.release();
        trial.proxy.set(Network::Up { latency: Duration::from_hours(1) });
        sleep(Duration::from_millis(100)).await;
        let connects = trial.agent.metric(CONNECTS).await;
        trial.feed(100);
        let given_up = async || {
            let is_sent = trial.proxy.delayed() >= ENTRIES_SENT;
            (is_sent || trial.agent.metric(CONNECTED).await == 0.0).then_some(())
        };
        eventually("entries are in transit, or the connection is abandoned", given_up).await;
        let lost = async || (trial.agent.metric(CONNECTED).await == 0.0).then_some(());
        eventually("the connection is abandoned", lost).await;
        trial.proxy.set(Network::UP);
        trial.agent.metric_becomes(CONNECTS, |count| count > connects).await;
        trial.agent.has_taken(trial.lines).await;
        trial.drained().await;
    }
    // By now the server's own deduplication has expired.
    sleep(DUPLICATE_WINDOW * 3).await;
    trial.proxy.release();
    eventually("all bytes have arrived", async || (trial.proxy.delayed() == 0).then_some(())).await;
    trial.feed(100);
    trial.agent.has_taken(trial.lines).await;
    trial.drained().await;
    trial.note_receipts();
    check(&trial.server.kept("pc-7").await, &trial.stored);
}

/// A server whose deduplication window expires almost at once.
async fn forgetful() -> NatsServer {
    let server = NatsServer::start();
    let config = Config {
        name: "PITWIRE_pc-7".into(),
        subjects: vec!["pitwire.pc-7.>".into()],
        duplicate_window: DUPLICATE_WINDOW,
        ..Config::default()
    };
    server.jetstream().await.create_stream(config).await.unwrap();
    server
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_closed_connection_leaves_no_thread_behind() {
    let mut trial = Trial::new(6);
    trial.feed(1);
    trial.drained().await;
    let threads = |trial: &Trial| {
        let tasks = format!("/proc/{}/task", trial.agent.process.id());
        std::fs::read_dir(tasks).unwrap().count()
    };
    let before = threads(&trial);
    for connects in 2..20 {
        trial.proxy.reset();
        trial.agent.metric_becomes(CONNECTS, |count| count >= f64::from(connects)).await;
    }
    trial.proxy.set(Network::Stalled);
    sleep(Duration::from_secs(5)).await;
    trial.proxy.set(Network::UP);
    trial.feed(1);
    trial.drained().await;
    // One of tokio's threads may be about to exit.
    let settled = async || (threads(&trial) <= before + 1).then_some(());
    eventually("no more threads than before", settled).await;
}

async fn holds_each_entry_once_in_order(seed: u64, fault: impl AsyncFnMut(&mut Trial)) {
    deliver_under_faults(Trial::new(seed), fault).await;
}

/// Feeds frames and injects the same kind of fault repeatedly while they are sent.
async fn deliver_under_faults(mut trial: Trial, mut fault: impl AsyncFnMut(&mut Trial)) {
    for round in 0..10 {
        trial.feed(ROUND);
        match round % 2 {
            // In the middle of a batch, or of the first connection.
            0 => trial.pause(150).await,
            // While the connection is live.
            _ => trial.drained().await,
        }
        trial.feed(ROUND / 3);
        trial.pause(50).await;
        fault(&mut trial).await;
    }
    trial.feed(ROUND);
    trial.agent.has_taken(trial.lines).await;
    trial.drained().await;
    let connects = trial.connects + trial.agent.metric(CONNECTS).await as u64;
    assert!(connects >= 4, "only {connects} connections: the faults had no effect");
    trial.note_receipts();
    let kept = trial.server.kept("pc-7").await;
    let stints = check(&kept, &trial.stored);
    assert_eq!(stints.len(), 1, "one race: {stints:?}");
    assert!(trial.stored.len() > 1000, "{} entries", trial.stored.len());
    let unreported = kept.len() - trial.stored.len();
    eprintln!("{} entries, {unreported} of them unreported, {connects} connections", kept.len());
}

/// A queue across all restarts of its agent, and a server behind a fault proxy.
struct Trial {
    server: NatsServer,
    proxy: Proxy,
    queue: TempDir,
    agent: Agent,
    samples: Numbered,
    chance: SmallRng,
    /// The number of the first line fed to the current agent.
    first: u64,
    /// Lines fed to the current agent.
    lines: u64,
    /// Connections of the previous agents.
    connects: u64,
    /// The number in each stored frame, by position.
    stored: BTreeMap<u64, u64>,
}

impl Trial {
    fn new(seed: u64) -> Self {
        Self::at(NatsServer::start(), seed)
    }

    fn at(server: NatsServer, seed: u64) -> Self {
        let proxy = Proxy::start(server.port());
        let queue = tempfile::tempdir().unwrap();
        let agent = agent(&queue, &proxy);
        Self {
            server,
            proxy,
            queue,
            agent,
            samples: Numbered::from(1),
            chance: SmallRng::seed_from_u64(seed),
            first: 1,
            lines: 0,
            connects: 0,
            stored: BTreeMap::new(),
        }
    }

    fn feed(&mut self, count: usize) {
        let lines: Vec<String> = (0..count).map(|_| self.samples.next()).collect();
        self.agent.feed(&lines);
        self.lines += count as u64;
    }

    /// Waits for a random time of at most `most` milliseconds.
    async fn pause(&mut self, most: u64) {
        let pause = self.chance.random_range(0..=most);
        sleep(Duration::from_millis(pause)).await;
    }

    async fn drained(&self) {
        self.agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    }

    async fn kill_agent(&mut self) {
        self.connects += self.agent.metric(CONNECTS).await as u64;
        self.agent.process.kill();
        self.note_receipts();
        self.first = self.samples.number();
        self.lines = 0;
        self.agent = agent(&self.queue, &self.proxy);
    }

    fn note_receipts(&mut self) {
        for (line, seq) in self.agent.receipts() {
            let number = self.first + line as u64 - 1;
            let before = self.stored.insert(seq, number);
            assert!(before.is_none_or(|before| before == number), "position {seq} assigned twice");
        }
    }
}

fn agent(queue: &TempDir, proxy: &Proxy) -> Agent {
    let url = proxy.url().replace("http://", "nats://");
    Agent::start(queue.path(), &url, &["agent.name=pc-7", "delivery.batch_max_entries=64"])
}

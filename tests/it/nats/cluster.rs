//! A cluster of three servers: the example in `deploy/cluster`. Whichever server dies, the stream
//! holds each entry once and in order.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Child;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use tempfile::{TempDir, tempdir};
use tokio::time::sleep;

use super::{Kept, check, kept, spawn};
use crate::agent::{Agent, eventually};
use crate::numbered::Numbered;

const NODES: usize = 3;
const TOKEN: &str = "a long one";

/// The servers of `deploy/cluster/nats.conf`, on local ports.
pub(super) struct Cluster {
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    folder: TempDir,
    port: u16,
    /// `None` while it is dead.
    child: Option<Child>,
}

impl Node {
    fn start(&mut self) {
        let settings = [("NODE", self.name.clone()), ("TOKEN", format!("{TOKEN:?}"))];
        self.child = Some(spawn(&self.folder, i32::from(self.port), &settings).0);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have exited already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Cluster {
    pub(super) fn start() -> Self {
        let (ports, routes) = (free_ports(), free_ports());
        let node = |number: usize| {
            let folder = tempdir().unwrap();
            let mut config = include_str!("../../../deploy/cluster/nats.conf")
                .replace("/var/lib/nats", folder.path().join("store").to_str().unwrap())
                .replace("0.0.0.0:6222", &format!("127.0.0.1:{}", routes[number]));
            for (number, port) in (1..).zip(routes) {
                let route = format!("pit-{number}.example.org:6222");
                config = config.replace(&route, &format!("127.0.0.1:{port}"));
            }
            std::fs::write(folder.path().join("server.conf"), config).unwrap();
            Node { name: format!("pit-{}", number + 1), folder, port: ports[number], child: None }
        };
        let mut nodes: Vec<Node> = (0..NODES).map(node).collect();
        nodes.iter_mut().for_each(Node::start);
        Self { nodes }
    }

    /// A configuration from `deploy/cluster` with this cluster's addresses.
    pub(super) fn settings(&self, example: &str) -> String {
        (1..).zip(&self.nodes).fold(example.to_owned(), |text, (number, node)| {
            let address = format!("pit-{number}.example.org:4222");
            text.replace(&address, &format!("127.0.0.1:{}", node.port))
        })
    }

    pub(super) fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node].child.take().expect("the node runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(super) fn start_again(&mut self, node: usize) {
        self.nodes[node].start();
    }

    /// The ids of the running processes.
    pub(super) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| Some(node.child.as_ref()?.id())).collect()
    }

    pub(super) async fn jetstream(&self) -> jetstream::Context {
        let alive = self.nodes.iter().filter(|node| node.child.is_some());
        let urls: Vec<String> =
            alive.map(|node| format!("nats://127.0.0.1:{}", node.port)).collect();
        let options = async_nats::ConnectOptions::new().token(TOKEN.into());
        jetstream::new(options.connect(urls).await.expect("the cluster accepts the connection"))
    }

    /// The node that leads an agent's stream.
    async fn leader(&self, agent: &str) -> usize {
        let jetstream = self.jetstream().await;
        let name = eventually("the stream has a leader", async || {
            let stream = jetstream.get_stream(format!("PITWIRE_{agent}")).await.ok()?;
            stream.cached_info().cluster.clone()?.leader
        })
        .await;
        self.nodes.iter().position(|node| node.name == name).expect("one of the three")
    }

    pub(super) async fn kept(&self, agent: &str) -> Vec<Kept> {
        kept(&self.jetstream().await, agent).await
    }
}

/// Free ports outside the ephemeral range, so that the system does not assign them to another
/// process: the servers bind them later, and again after each kill.
fn free_ports() -> [u16; NODES] {
    [(); NODES].map(|()| {
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        std::iter::repeat_with(|| rand::random_range(10_000..32_000)).find(is_free).unwrap()
    })
}

/// An agent that publishes to a cluster, across all its restarts.
struct Rig {
    folder: TempDir,
    agent: Agent,
    samples: Numbered,
    /// The number of the first frame since the last restart.
    first: u64,
    stored: BTreeMap<u64, u64>,
}

impl Rig {
    fn start(cluster: &Cluster) -> Self {
        let folder = tempdir().unwrap();
        let settings = cluster
            .settings(include_str!("../../../deploy/cluster/rig.toml"))
            .replace("# name = \"rig-17\"", "name = \"rig-17\"");
        let queue = folder.path().join("queue");
        // Turn rate limiting off: the frames arrive faster than the default rate.
        let settings = "update_rate_hz = 0.0\n".to_owned() + &settings;
        let settings =
            format!("{settings}[queue]\npath = {queue:?}\n[source.lmu]\nenabled = false\n");
        std::fs::write(folder.path().join("rig.toml"), settings).unwrap();
        let agent = Self::agent(&folder);
        Self { folder, agent, samples: Numbered::from(1), first: 1, stored: BTreeMap::new() }
    }

    fn agent(folder: &TempDir) -> Agent {
        Agent::configured(&folder.path().join("rig.toml"))
    }

    async fn drive(&mut self, frames: usize) {
        let lines: Vec<String> = (0..frames).map(|_| self.samples.next()).collect();
        self.agent.feed(&lines);
        self.agent.has_taken(self.samples.number() - self.first).await;
    }

    async fn has_published(&self) {
        self.agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    }

    fn kill(&mut self) {
        self.agent.process.kill();
        self.note_receipts();
    }

    fn start_again(&mut self) {
        self.agent = Self::agent(&self.folder);
        self.first = self.samples.number();
    }

    fn note_receipts(&mut self) {
        let first = self.first - 1;
        self.stored
            .extend(self.agent.receipts().into_iter().map(|(n, seq)| (seq, first + n as u64)));
    }
}

#[tokio::test]
async fn a_cluster_stream_holds_each_entry_once_in_order_when_servers_die() {
    let mut cluster = Cluster::start();
    let mut rig = Rig::start(&cluster);
    rig.drive(200).await;
    rig.has_published().await;
    let stream = cluster.jetstream().await.get_stream("PITWIRE_rig-17").await.unwrap();
    assert_eq!(stream.cached_info().config.num_replicas, NODES);
    for round in 0..4 {
        let leader = cluster.leader("rig-17").await;
        let node = if round % 2 == 0 { leader } else { (leader + 1) % NODES };
        rig.drive(200).await;
        cluster.kill(node);
        rig.drive(200).await;
        // The remaining two may or may not have elected a leader by now.
        sleep(Duration::from_secs([0, 3, 8, 1][round])).await;
        rig.drive(200).await;
        cluster.start_again(node);
        rig.drive(200).await;
        rig.has_published().await;
    }
    rig.note_receipts();
    let kept = cluster.kept("rig-17").await;
    assert_eq!(check(&kept, &rig.stored).len(), 1, "one race");
    assert_eq!(kept.len(), rig.stored.len());
    assert_eq!(kept.len(), 200 + 4 * 800);
}

#[tokio::test]
async fn an_agent_starts_while_one_cluster_node_is_down() {
    let mut cluster = Cluster::start();
    let mut rig = Rig::start(&cluster);
    rig.drive(10).await;
    rig.has_published().await;
    for node in 0..NODES {
        rig.kill();
        cluster.kill(node);
        rig.start_again();
        rig.drive(10).await;
        rig.has_published().await;
        cluster.start_again(node);
        // Wait until the restarted server has caught up.
        let jetstream = cluster.jetstream().await;
        let all_current = async || {
            let stream = jetstream.get_stream("PITWIRE_rig-17").await.ok()?;
            let cluster = stream.cached_info().cluster.clone()?;
            cluster.replicas.iter().all(|replica| replica.current).then_some(())
        };
        eventually("the server is back", all_current).await;
    }
    rig.note_receipts();
    check(&cluster.kept("rig-17").await, &rig.stored);
}

/// A cluster checks an entry's message id before its expected position, as a single server does.
/// The sink copes with either order.
#[tokio::test]
async fn a_cluster_rejects_duplicate_and_misplaced_entries() {
    let cluster = Cluster::start();
    let mut rig = Rig::start(&cluster);
    rig.drive(3).await;
    rig.has_published().await;
    let jetstream = cluster.jetstream().await;
    let kept = kept(&jetstream, "rig-17").await;
    assert_eq!(kept.len(), 3);
    let last = kept.last().unwrap();
    let publish = async |id: String, follows: u64| {
        let message = PublishMessage::build()
            .payload("{}".into())
            .message_id(id)
            .expected_last_sequence(follows);
        let subject = format!("pitwire.rig-17.{}.telemetry", last.stint);
        jetstream.send_publish(subject, message).await.unwrap().await
    };
    let id = |seq: u64| format!("rig-17.{}.{seq}", last.stint);
    let at = kept.len() as u64;
    for follows in [at - 1, at] {
        let again = publish(id(last.seq), follows).await.expect("the message id is checked first");
        assert!(again.duplicate, "after {follows}");
    }
    let misplaced = publish(id(last.seq + 1), at - 1).await.unwrap_err();
    assert_eq!(misplaced.kind(), PublishErrorKind::WrongLastSequence);
    assert_eq!(super::kept(&jetstream, "rig-17").await, kept);
}

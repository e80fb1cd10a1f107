//! Entries that were reported stored reach the server, in order, whatever crashes in between.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{numbered_samples, numbers};
use crate::agent::Agent;
use crate::peers::{Kind, Peer};

/// The most entries that a cut connection or process may duplicate: the one batch in flight.
const BATCH: usize = 256;
/// Posted samples are numbered from here; those on stdin from 1.
const POSTED: u64 = 1_000_000;
const DELIVERED: &str = r#"pitwire_ledger_entries{state="delivered"}"#;

#[tokio::test]
async fn stored_entries_reach_pitwire_serve_despite_crashes_and_an_outage() {
    survives_crashes_and_an_outage(Kind::Embedded, "entry").await;
}

#[tokio::test]
async fn entries_stored_before_their_fsync_survive_a_killed_process() {
    survives_crashes_and_an_outage(Kind::Embedded, "200ms").await;
}

#[tokio::test]
async fn stored_entries_reach_flask_despite_crashes_and_an_outage() {
    survives_crashes_and_an_outage(Kind::Flask, "entry").await;
}

#[tokio::test]
async fn stored_entries_reach_asgi_despite_crashes_and_an_outage() {
    survives_crashes_and_an_outage(Kind::Asgi, "200ms").await;
}

#[tokio::test]
async fn stored_entries_reach_node_despite_crashes_and_an_outage() {
    survives_crashes_and_an_outage(Kind::Node, "entry").await;
}

async fn survives_crashes_and_an_outage(kind: Kind, durability: &'static str) {
    let server = Peer::start(kind, &[]);
    let mut drive = Drive::new(&server, durability);

    // Killed in the middle of its input, with a batch in flight to a stopped server.
    let mut life = drive.begin();
    life.feed(400);
    life.post(200).await;
    life.agent.metric_becomes(DELIVERED, |entries| entries >= 100.0).await;
    server.pause();
    life.feed(400);
    life.agent.stored(500).await;
    life.has_queued().await;
    drive.crash(life).await;

    // Killed without a server: only the durability guarantee makes it write.
    let mut life = drive.begin();
    life.post(200).await;
    life.feed(300);
    life.agent.stored(100).await;
    life.has_queued().await;
    drive.crash(life).await;

    // Killed while it catches up, with a batch in flight.
    let mut life = drive.begin();
    life.feed(3000);
    life.agent.stored(3000).await;
    let before = life.agent.metric(DELIVERED).await;
    server.resume();
    life.agent.metric_becomes(DELIVERED, |entries| entries >= before + 300.0).await;
    server.pause();
    life.has_queued().await;
    drive.crash(life).await;
    server.resume();

    let mut life = drive.begin();
    life.feed(200);
    life.agent.stored(200).await;
    life.drained().await;
    let links = life.agent.links();
    drive.crash(life).await;

    let sessions = server.sessions().await;
    assert_eq!(links, [page(&server, &sessions[0])], "{kind:?}");
    // Three crashes, and the connection lost when the server stopped.
    drive.check(&numbers(&server.all_frames().await), 4);
}

#[tokio::test]
async fn a_server_that_persists_sessions_keeps_its_link_across_restarts() {
    for kind in Kind::ALL {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions");
        let mut server = Peer::start(kind, &["--persist", file.to_str().unwrap()]);
        let mut drive = Drive::new(&server, "entry");

        let mut life = drive.begin();
        life.feed(200);
        life.agent.metric_becomes(DELIVERED, |entries| entries >= 50.0).await;
        server.kill();
        life.feed(100);
        life.agent.stored(300).await;
        server.restart();
        life.drained().await;
        let mut links = life.agent.links();

        server.kill();
        life.feed(100);
        life.agent.stored(400).await;
        life.has_queued().await;
        drive.crash(life).await;
        server.restart();
        let life = drive.begin();
        life.drained().await;
        links.extend(life.agent.links());
        drive.crash(life).await;

        let sessions = server.sessions().await;
        assert_eq!(sessions.len(), 1, "{kind:?}: {sessions:?}");
        let page = page(&server, &sessions[0]);
        assert_eq!(links, [page.clone(), page], "{kind:?}: once for each start");
        drive.check(&numbers(&server.all_frames().await), 3);
    }
}

#[tokio::test]
async fn a_server_that_forgot_gets_setup_and_new_frames_under_a_new_link() {
    for kind in Kind::ALL.into_iter().chain([Kind::Embedded]) {
        let mut server = Peer::start(kind, &[]);
        let mut drive = Drive::new(&server, "entry");
        let mut life = drive.begin();
        life.agent.post("/v1/setup", r#"{"wing": 7}"#).await;
        life.feed(100);
        life.agent.stored(100).await;
        life.drained().await;
        let mut history = numbers(&server.all_frames().await);

        server.kill();
        life.feed(100);
        life.agent.stored(200).await;
        server.restart();
        life.drained().await;

        let links = [life.agent.link(1).await, life.agent.link(2).await];
        let sessions = server.sessions().await;
        assert_eq!(sessions.len(), 1, "{kind:?}: {sessions:?}");
        assert_eq!(links[1], page(&server, &sessions[0]), "{kind:?}");
        assert_ne!(links[0], links[1], "{kind:?}");
        let setups = server.setups(&sessions[0]).await;
        let setups: Vec<_> = setups.iter().map(|setup| &setup["setup"]).collect();
        assert_eq!(setups, [&json!({"wing": 7})], "{kind:?}");

        let later = numbers(&server.all_frames().await);
        assert!(later.iter().copied().eq(101..=200), "{kind:?}: {later:?}");
        history.extend(later);
        drive.crash(life).await;
        drive.check(&history, 0);
    }
}

fn page(server: &Peer, session: &str) -> String {
    format!("{}/dashboard/{session}", server.url())
}

/// One queue across all restarts of its agent, and the entries reported stored.
struct Drive {
    queue: TempDir,
    server: String,
    durability: String,
    /// Samples fed so far on stdin, and posted by HTTP.
    fed: u64,
    posted: u64,
    /// The number in each stored frame, by position.
    stored: BTreeMap<u64, u64>,
}

/// One run of the agent, from start to crash.
struct Life {
    agent: Agent,
    /// The number of the first line on stdin.
    first_fed: u64,
    fed: u64,
    posted: u64,
    poster: Option<JoinHandle<Vec<(u64, u64)>>>,
}

impl Drive {
    fn new(server: &Peer, durability: &str) -> Self {
        Self {
            queue: tempfile::tempdir().unwrap(),
            server: server.url(),
            durability: format!("queue.durability={durability}"),
            fed: 0,
            posted: 0,
            stored: BTreeMap::new(),
        }
    }

    fn begin(&self) -> Life {
        let batch = format!("delivery.batch_max_entries={BATCH}");
        let agent = Agent::start(self.queue.path(), &self.server, &[&self.durability, &batch]);
        let (fed, posted) = (self.fed, self.posted);
        Life { agent, first_fed: fed + 1, fed, posted, poster: None }
    }

    /// Kills the agent wherever it is, and records what it had reported stored.
    async fn crash(&mut self, life: Life) {
        let Life { mut agent, first_fed, fed, posted, poster } = life;
        agent.process.kill();
        let receipts = agent.receipts();
        self.note(receipts.iter().map(|&(line, seq)| (seq, first_fed + line as u64 - 1)));
        if let Some(poster) = poster {
            self.note(poster.await.unwrap().into_iter());
        }
        (self.fed, self.posted) = (fed, posted);
    }

    fn note(&mut self, stored: impl Iterator<Item = (u64, u64)>) {
        for (seq, number) in stored {
            let before = self.stored.insert(seq, number);
            assert_eq!(
                before, None,
                "position {seq} was assigned to two entries; the second is {number}"
            );
        }
    }

    /// Checks that a history holds every entry that was reported stored, in order, with few
    /// duplicates.
    ///
    /// Entries that a crash left unreported may or may not be there, but in order too.
    fn check(&self, history: &[u64], cuts: usize) {
        let mut seen = BTreeSet::new();
        let first_seen: Vec<u64> =
            history.iter().copied().filter(|number| seen.insert(*number)).collect();

        let lost: Vec<_> =
            self.stored.iter().filter(|(_, number)| !seen.contains(number)).collect();
        assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), self.stored.len());

        let reported: BTreeSet<u64> = self.stored.values().copied().collect();
        let in_order = self.stored.values();
        let came = first_seen.iter().filter(|number| reported.contains(number));
        let swapped = came.zip(in_order).find(|(came, stored)| came != stored);
        assert_eq!(swapped, None, "the delivered entry, the one stored at its position");

        let (posted, fed): (Vec<_>, Vec<_>) = first_seen.iter().partition(|n| **n >= POSTED);
        for (way, came, last) in [("stdin", fed, self.fed), ("HTTP", posted, POSTED + self.posted)]
        {
            assert!(came.is_sorted(), "{way} out of order: {came:?}");
            assert!(came.last() <= Some(&&last), "{:?} was never sent by {way}", came.last());
        }

        let twice = history.len() - first_seen.len();
        assert!(twice <= cuts * BATCH, "{twice} duplicates in {cuts} cuts");
    }
}

impl Life {
    /// Feeds the next samples through stdin.
    fn feed(&mut self, count: usize) {
        self.agent.feed(&numbered_samples(self.fed + 1, count));
        self.fed += count as u64;
    }

    /// Posts the next samples by HTTP, ten at a time, in the background.
    async fn post(&mut self, count: usize) {
        let first = POSTED + self.posted + 1;
        let samples = numbered_samples(first, count);
        self.posted += count as u64;
        let request = self.agent.request("/v1/telemetry").await;
        self.poster = Some(tokio::spawn(async move {
            let mut stored = Vec::new();
            for (body, first) in samples.chunks(10).zip((first..).step_by(10)) {
                let request = request.try_clone().unwrap().body(body.join("\n"));
                // No response: the agent was killed.
                let Ok(response) = request.send().await else { return stored };
                assert_eq!(response.status(), 200);
                let Ok(answer) = response.json::<Value>().await else { return stored };
                let seqs: Vec<u64> = serde_json::from_value(answer["seqs"].clone()).unwrap();
                assert_eq!(seqs.len(), body.len());
                stored.extend(seqs.into_iter().zip(first..));
            }
            stored
        }));
    }

    /// Waits until entries are queued, so that a crash now comes before everything is delivered.
    async fn has_queued(&self) {
        self.agent.metric_becomes("pitwire_queue_entries", |entries| entries > 0.0).await;
    }

    /// Waits until every accepted entry has left the queue.
    async fn drained(&self) {
        let receipts = self.agent.receipts();
        let last = receipts.iter().map(|(_, seq)| *seq).max().unwrap_or(0) as f64;
        // The metrics may lag behind the receipts.
        self.agent
            .metric_becomes(r#"pitwire_ledger_entries{state="appended"}"#, |n| n >= last)
            .await;
        self.agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    }
}

//! A league under load: agents that drive at 2 Hz publish through three NATS servers to two hubs
//! that share them and feed two dashboard servers each. A NATS server and a hub are killed during
//! the run.
//!
//! Every frame that an agent has stored must be on both dashboards: on one page, once, and in the
//! order of its stint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use super::cluster::Cluster;
use super::{Kept, check};
use crate::agent::{Agent, eventually};
use crate::long::size;
use crate::peers::{Kind, Peer, plain};

const QUEUED: &str = "pitwire_queue_entries";
const DELIVERED: &str = r#"pitwire_ledger_entries{state="delivered"}"#;
const AGENTS: &str = r#"pitwire_source_agents{source="nats"}"#;

/// Clock ticks a second, the unit of CPU time in Linux's /proc.
const TICKS: f64 = 100.0;

#[tokio::test]
async fn a_league_loses_nothing_when_a_server_and_a_hub_are_killed() {
    let (count, seconds) = (size(8, 60), size(20, 180));
    let part = Duration::from_secs(seconds as u64) / 5;
    let mut cluster = Cluster::start();
    let dashboards = [(); 2].map(|()| Peer::start(Kind::Embedded, &[]));
    let folder = tempfile::tempdir().unwrap();
    let mut hubs: Vec<Agent> =
        (0..2).map(|number| hub(&cluster, &folder, number, &dashboards)).collect();
    let names: Vec<String> = (1..=count).map(|number| format!("rig-{number}")).collect();
    let mut rigs: Vec<Agent> =
        (1..).zip(&names).map(|(seed, name)| rig(&cluster, &folder, name, Some(seed))).collect();
    let all_taken = async || {
        let taken = hubs[0].metric(AGENTS).await + hubs[1].metric(AGENTS).await;
        (taken == count as f64).then_some(())
    };
    eventually("all agents are taken", all_taken).await;
    let start = Instant::now();
    sleep(part).await;
    let mut costs = Costs::default();
    cluster.kill(1);
    sleep(part).await;
    cluster.start_again(1);
    sleep(part).await;
    costs.note("hubs", hubs[0].process.id());
    hubs[0].process.kill();
    sleep(part.min(Duration::from_secs(8))).await;
    hubs[0] = hub(&cluster, &folder, 0, &dashboards);
    sleep(part * 2).await;
    let driven = start.elapsed();
    hubs.iter().for_each(|hub| costs.note("hubs", hub.process.id()));
    rigs.iter().for_each(|rig| costs.note("agents", rig.process.id()));
    cluster.processes().into_iter().for_each(|node| costs.note("NATS servers", node));
    for rig in &mut rigs {
        rig.stop().await;
    }
    let mut streams = BTreeMap::new();
    for name in &names {
        // The restarted agent publishes the rest of its queue.
        let mut rig = rig(&cluster, &folder, name, None);
        rig.metric_becomes(QUEUED, |queued| queued == 0.0).await;
        let delivered = rig.metric(DELIVERED).await;
        rig.stop().await;
        let kept = cluster.kept(name).await;
        check(&kept, &BTreeMap::new());
        assert_eq!(kept.len() as f64, delivered, "{name}: entries in the stream, delivered");
        streams.insert(name.clone(), kept);
    }
    let shown = Shown::of(&streams);
    let all_shown = async || (shown.look(&dashboards).await.missing == 0).then_some(());
    eventually("every frame is on both dashboards", all_shown).await;
    let found = shown.look(&dashboards).await;
    let frames = shown.by_frame.len();
    assert_eq!(found.repeated, 0, "of {frames} frames are on two pages of one dashboard");
    eprintln!("{count} agents, {driven:.0?}: {frames} frames, on each dashboard once and in order");
    costs.print();
}

fn rig(cluster: &Cluster, folder: &TempDir, name: &str, seed: Option<u64>) -> Agent {
    let example = include_str!("../../../deploy/cluster/rig.toml");
    let settings =
        cluster.settings(example).replace("# name = \"rig-17\"", &format!("name = {name:?}"));
    let simulator = match seed {
        Some(seed) => format!("[source.simulator]\nenabled = true\nseed = {seed}\n"),
        None => String::new(),
    };
    configured(folder, name, &format!("{settings}{simulator}[source.lmu]\nenabled = false\n"))
}

fn hub(cluster: &Cluster, folder: &TempDir, number: usize, dashboards: &[Peer; 2]) -> Agent {
    let example = include_str!("../../../deploy/cluster/hub.toml");
    let settings = cluster
        .settings(example)
        .replace("http://dashboard.example.org:5000", &dashboards[0].url());
    let second = format!("[destination.second]\nurl = {:?}\n", dashboards[1].url());
    configured(folder, &format!("hub-{number}"), &(settings + &second))
}

/// Starts an agent with this configuration and its own queue.
fn configured(folder: &TempDir, name: &str, settings: &str) -> Agent {
    let path = format!("path = {:?}", folder.path().join(name));
    let settings = match settings.contains("[queue]") {
        true => settings.replace("[queue]", &format!("[queue]\n{path}")),
        false => format!("{settings}[queue]\n{path}\n"),
    };
    let file = folder.path().join(format!("{name}.toml"));
    std::fs::write(&file, settings).unwrap();
    Agent::configured(&file)
}

/// The frames expected on the dashboards: each as text, with its stint and its index there.
struct Shown {
    by_frame: BTreeMap<String, (String, usize)>,
}

/// The differences between the expected frames and those on the dashboards.
struct Found {
    missing: usize,
    /// Frames on more than one page of a dashboard.
    repeated: usize,
}

impl Shown {
    fn of(streams: &BTreeMap<String, Vec<Kept>>) -> Self {
        let mut by_frame = BTreeMap::new();
        for (agent, kept) in streams {
            for (place, entry) in kept.iter().filter(|entry| entry.kind == "telemetry").enumerate()
            {
                let stint = format!("{agent}.{}", entry.stint);
                by_frame.insert(plain(entry.json.clone()).to_string(), (stint, place));
            }
        }
        Self { by_frame }
    }

    /// Reads all pages and checks that each has frames of one stint, once and in order.
    async fn look(&self, dashboards: &[Peer]) -> Found {
        let (mut missing, mut repeated) = (0, 0);
        for dashboard in dashboards {
            let mut found = BTreeSet::new();
            for session in dashboard.sessions().await {
                let frames = dashboard.frames(&session).await;
                let places: Vec<_> = frames.iter().map(|frame| self.place(frame)).collect();
                for pair in places.windows(2) {
                    assert_eq!(pair[0].0, pair[1].0, "one stint a page");
                    assert!(pair[0].1 < pair[1].1, "once and in order: {pair:?}");
                }
                repeated += places.into_iter().filter(|place| !found.insert(*place)).count();
            }
            missing += self.by_frame.len() - found.len();
        }
        Found { missing, repeated }
    }

    fn place(&self, frame: &Value) -> &(String, usize) {
        self.by_frame.get(&frame.to_string()).expect("a frame that was driven")
    }
}

/// Resource use of processes when last sampled: seconds of CPU time, and memory in MiB.
#[derive(Default)]
struct Costs(BTreeMap<&'static str, Vec<(f64, f64)>>);

impl Costs {
    fn note(&mut self, what: &'static str, process: u32) {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
        let stat = read("stat");
        // Skip the process name, which may contain spaces and parentheses.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
        let status = read("status");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let rss: f64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
        self.0.entry(what).or_default().push((ticks / TICKS, rss / 1024.0));
    }

    fn print(&self) {
        for (what, costs) in &self.0 {
            let cpu: f64 = costs.iter().map(|(cpu, _)| cpu).sum();
            let rss: Vec<f64> = costs.iter().map(|(_, rss)| *rss).collect();
            let most = rss.iter().copied().fold(0.0, f64::max);
            let mean = rss.iter().sum::<f64>() / rss.len() as f64;
            eprintln!(
                "{what}: {} processes, {cpu:.1} s of CPU in all, memory {mean:.0} MiB, at most {most:.0}",
                costs.len()
            );
        }
    }
}

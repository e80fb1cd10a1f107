//! A race with faults: feeds the agent, injects faults, and checks that each had an effect.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until};

use super::audit::AuditRecord;
use super::fault::Fault;
use crate::agent::{Agent, PATIENCE, within};
use crate::full_disk::{fill, free};
use crate::numbered::Numbered;
use crate::peers::{Kind, Peer};
use crate::proxy::{Network, Proxy};
use crate::viewer::Viewer;
use crate::vitals::{Look, Vitals, slope_per_hour, tenths};

const LINKS: &str = r#"pitwire_connects_total{outcome="ok"}"#;
const QUEUED: &str = "pitwire_queue_entries";
const BUFFERED: &str = "pitwire_queue_buffered_entries";
/// Longest time until a fault has an effect.
const EFFECT: Duration = Duration::from_secs(15);
/// Warm-up during which the memory of a process still grows.
const YOUTH: Duration = Duration::from_secs(60);
/// How long an agent must run before its growth is judged.
const OLD_AGE: Duration = Duration::from_mins(4);
/// Largest difference in memory between tenths of a run, in KiB.
const FLAT_KIB: u64 = 2 << 10;
/// Largest difference in open files and sockets between tenths of a run.
const FILES: u64 = 8;
/// Largest size of the queue on the disk: two segments and a backlog of seconds, in KiB.
const DISK_KIB: u64 = 16 << 10;
/// Number of frames per session that the server shows to a viewer who joins late.
const KEPT: &str = "5000";

/// All processes of a race and their state.
pub struct Race {
    chance: SmallRng,
    rate_hz: u32,
    samples: Numbered,
    due: Instant,
    /// A small disk for the queue only.
    disk: PathBuf,
    /// Directory for the server's record and sessions.
    paper: TempDir,
    agent: Agent,
    /// Number of the first frame that was fed to the current agent.
    first_fed: u64,
    proxy: Proxy,
    server: Peer,
    viewer: Viewer,
    audit: AuditRecord,
    /// Measurements of the current agent.
    vitals: Vitals,
    next_look: Instant,
    fired: BTreeMap<Fault, usize>,
}

impl Race {
    /// Starts all processes, without faults.
    pub fn start(disk: PathBuf, rate_hz: u32, seed: u64) -> Self {
        let paper = tempfile::tempdir().unwrap();
        let audit = AuditRecord::new(paper.path().join("record"));
        let sessions = paper.path().join("sessions");
        let persist = ["--persist", sessions.to_str().unwrap(), "--record", audit.record()];
        let server = Peer::start(Kind::Flask, &[&persist[..], &["--keep", KEPT]].concat());
        let proxy = Proxy::start(server.port());
        let viewer = Viewer::start(&server.url());
        let now = Instant::now();
        Self {
            chance: SmallRng::seed_from_u64(seed),
            rate_hz,
            samples: Numbered::from(1),
            due: now,
            agent: agent(&disk, &proxy, rate_hz),
            disk,
            paper,
            first_fed: 1,
            proxy,
            server,
            viewer,
            audit,
            vitals: Vitals::start(),
            next_look: now,
            fired: BTreeMap::new(),
        }
    }

    /// Injects these kinds of faults in random order until the time is over, occasionally two at
    /// once.
    pub async fn go_on(&mut self, time: Duration, faults: &[Fault]) {
        let end = Instant::now() + time;
        self.drive(Duration::from_secs(1)).await;
        loop {
            let mut round = faults.to_vec();
            round.shuffle(&mut self.chance);
            for fault in round {
                let (network, other) = self.pick(fault, faults);
                self.suffer(network, other).await;
            }
            if Instant::now() >= end {
                return;
            }
        }
    }

    /// Chooses a network fault, another fault, or both.
    fn pick(&mut self, fault: Fault, faults: &[Fault]) -> (Option<Fault>, Option<Fault>) {
        if fault.network(&mut self.chance).is_none() {
            return (None, Some(fault));
        }
        let other = faults[self.chance.random_range(0..faults.len())];
        let is_other = other.network(&mut self.chance).is_none();
        let both = is_other && self.chance.random_ratio(1, 3);
        (Some(fault), both.then_some(other))
    }

    async fn suffer(&mut self, network: Option<Fault>, other: Option<Fault>) {
        if let Some(fault) = network {
            self.harm_network(fault).await;
        }
        if let Some(fault) = other {
            self.harm(fault).await;
        }
        self.proxy.set(Network::UP);
        let rest = self.chance.random_range(300..1500);
        self.drive(Duration::from_millis(rest)).await;
    }

    async fn harm_network(&mut self, fault: Fault) {
        let network = fault.network(&mut self.chance).unwrap();
        let (hampered, links) = (self.proxy.hampered(), self.links().await);
        self.proxy.set(network);
        if fault == Fault::Reset {
            self.proxy.reset();
        }
        match fault {
            Fault::Reset => self.drive_until(fault, async |race| race.links().await > links).await,
            Fault::Cut | Fault::Stall | Fault::HalfOpen => self.drive_until_queued(fault).await,
            _ => self.drive_until(fault, async |race| race.proxy.hampered() > hampered + 5).await,
        }
        self.endure(fault).await;
    }

    async fn harm(&mut self, fault: Fault) {
        match fault {
            Fault::AgentKilled => {
                self.kill_agent().await;
                self.endure(fault).await;
            }
            Fault::DiskFull => {
                let filler = self.disk.join("filler");
                let is_full = async |race: &mut Self| {
                    // Refill on each poll: delivery frees space.
                    fill(&filler);
                    race.agent.metric(BUFFERED).await > 0.0
                };
                self.drive_until(fault, is_full).await;
                self.endure(fault).await;
                free(&filler, 0);
            }
            Fault::ServerStops => {
                self.server.pause();
                self.drive_until_queued(fault).await;
                self.endure(fault).await;
                self.server.resume();
            }
            Fault::ServerKilled => {
                self.server.kill();
                self.audit.note_killed();
                self.drive_until_queued(fault).await;
                self.endure(fault).await;
                self.server.restart();
            }
            Fault::ServerForgets => {
                let pages = self.viewer.pages();
                self.server.kill();
                self.audit.note_killed();
                fs::remove_file(self.paper.path().join("sessions")).unwrap();
                self.endure(fault).await;
                self.proxy.set(Network::UP);
                self.server.restart();
                let new_page = async |race: &mut Self| race.viewer.pages() > pages;
                self.drive_until(fault, new_page).await;
            }
            _ => unreachable!("{fault:?} is a network fault"),
        }
    }

    /// Drives until frames are queued, which this fault must cause.
    async fn drive_until_queued(&mut self, fault: Fault) {
        self.drive_until(fault, async |race| race.agent.metric(QUEUED).await > 0.0).await;
    }

    /// Counts the fault and drives for a while during it.
    async fn endure(&mut self, fault: Fault) {
        *self.fired.entry(fault).or_default() += 1;
        // Occasionally longer than the proof timeout.
        let most = if self.chance.random_ratio(1, 6) { 6000 } else { 1500 };
        let time = self.chance.random_range(100..most);
        self.drive(Duration::from_millis(time)).await;
    }

    async fn kill_agent(&mut self) {
        self.audit.links += self.links().await;
        self.agent.process.kill();
        self.note_life();
        self.first_fed = self.samples.number();
        self.agent = agent(&self.disk, &self.proxy, self.rate_hz);
        self.vitals = Vitals::start();
    }

    /// Records the links and receipts of an agent that has exited.
    fn note_life(&mut self) {
        self.follow_links();
        self.audit.note_stored(&self.agent.receipts(), self.first_fed);
    }

    /// Number of connections that the current agent has made so far.
    async fn links(&self) -> usize {
        self.agent.metric(LINKS).await as usize
    }

    fn follow_links(&mut self) {
        self.agent.links().iter().for_each(|link| self.viewer.open(link));
    }

    /// Drives until `is_so` returns true.
    async fn drive_until(&mut self, fault: Fault, is_so: impl AsyncFn(&mut Self) -> bool) {
        let start = Instant::now();
        while !is_so(self).await {
            assert!(start.elapsed() < EFFECT, "{fault:?} has no effect");
            self.drive(Duration::from_millis(100)).await;
        }
    }

    async fn drive(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while self.due < end {
            sleep_until(self.due).await;
            self.agent.feed(&[self.samples.next()]);
            // If feeding fell behind, skip the missed samples.
            self.due = self.due.max(Instant::now() - time) + Duration::from_secs(1) / self.rate_hz;
            if self.next_look <= Instant::now() {
                self.next_look = Instant::now() + Duration::from_secs(1);
                self.follow_links();
                self.vitals.look(self.agent.process.id(), &self.disk.join("queue"));
            }
        }
        sleep_until(end).await;
    }

    /// Waits without faults until everything stored is delivered and seen, then checks all records.
    pub async fn finish(mut self) {
        self.agent.has_taken(self.samples.number() - self.first_fed).await;
        for series in [BUFFERED, QUEUED] {
            self.agent.metric_becomes(series, |entries| entries == 0.0).await;
        }
        let imbalance = self.agent.metric("pitwire_ledger_imbalance_entries").await;
        assert_eq!(imbalance, 0.0, "the ledger balances");
        self.audit.links += self.links().await;
        self.agent.stop().await;
        self.note_life();
        let all_seen = async || {
            let unseen = self.audit.unseen(&self.viewer.seen());
            if unseen.is_empty() {
                return Some(());
            }
            sleep(Duration::from_secs(1)).await;
            None
        };
        // Frames that are still unseen are reported by `AuditRecord::check`.
        let _ = within(PATIENCE, all_seen).await;
        println!("chaos: {} faults: {:?}", self.fired.values().sum::<usize>(), self.fired);
        println!("chaos: {}", self.audit.check(&self.viewer.seen()));
        self.is_flat();
        for fault in Fault::ALL {
            assert!(self.fired.contains_key(&fault), "{fault:?} was never injected");
        }
        let fed = self.samples.number() - 1;
        let share = self.audit.stored() as f64 / fed as f64;
        assert!(share > 0.5, "only {} of {fed} frames were stored", self.audit.stored());
    }

    /// Checks that memory and open files do not grow, if the current agent has run long enough.
    fn is_flat(&self) {
        if self.vitals.after(OLD_AGE).is_empty() {
            return;
        }
        let looks = self.vitals.after(YOUTH);
        let memory = tenths(looks, |look| look.rss_kib);
        let files = tenths(looks, |look| look.files);
        let disk = tenths(looks, |look| look.disk_kib);
        let slope = |value: fn(&Look) -> u64| slope_per_hour(looks, value);
        println!(
            "chaos: last agent, {} samples in tenths: memory {memory:?} KiB, {:+.0} an hour; \
             files {files:?}, {:+.1}; disk {disk:?} KiB, {:+.0}",
            looks.len(),
            slope(|look| look.rss_kib),
            slope(|look| look.files),
            slope(|look| look.disk_kib),
        );
        let spread = |values: &[u64]| values.iter().max().unwrap() - values.iter().min().unwrap();
        assert!(spread(&memory) <= FLAT_KIB, "{memory:?} KiB");
        assert!(spread(&files) <= FILES, "{files:?} files");
        assert!(looks.iter().all(|look| look.disk_kib <= DISK_KIB), "{disk:?} KiB");
    }
}

fn agent(disk: &Path, proxy: &Proxy, rate_hz: u32) -> Agent {
    let rate = format!("update_rate_hz={rate_hz}");
    let settings = [rate.as_str(), "delivery.open_timeout=3s"];
    Agent::start(&disk.join("queue"), &proxy.url(), &settings)
}

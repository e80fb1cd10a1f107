//! Hostile clients and servers: each attack is a test with a bound on memory, time and open files.
//!
//! [`beside_live_source`] runs an attack while a car sends 20 frames a second to the agent, and
//! fails if one of those frames is lost. [`Observed`] holds the peak resource use of the process.

mod access;
mod connections;
pub mod json;
mod memory;
mod raw;
mod server;
mod server_text;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::{interval, sleep};

use crate::agent::Agent;

/// Upper bound of the agent's memory under any attack.
pub const MAX_AGENT_RSS_KIB: u64 = 64 << 10;
/// Time between two frames of the live source.
const FRAME_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two measurements of a process.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// Peak resource use of a process, and the longest wait of its live source.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    pub peak_rss_kib: u64,
    pub peak_open_files: u64,
    /// The longest time from a frame to its receipt, to within one frame interval.
    pub longest_wait: Duration,
}

/// Runs `attack` on an agent that a live source feeds at 20 Hz, for at least two seconds.
///
/// # Panics
/// If a frame of the live source gets no receipt within [`PATIENCE`](crate::agent::PATIENCE).
pub async fn beside_live_source<T>(
    agent: &Agent,
    attack: impl Future<Output = T>,
) -> (T, Observed) {
    let peak = PeakUsage::of(agent.process.id());
    let is_over = AtomicBool::new(false);
    let live = async {
        let mut fed_at: Vec<Instant> = Vec::new();
        let (mut stored, mut longest_wait) = (0, Duration::ZERO);
        let mut due = interval(FRAME_INTERVAL);
        while !is_over.load(Ordering::Relaxed) || fed_at.len() < 40 {
            due.tick().await;
            agent.feed(&[json!({"lap": 1, "speed": fed_at.len()}).to_string()]);
            fed_at.push(Instant::now());
            let receipts = agent.receipts().len();
            for fed_at in &fed_at[stored..receipts] {
                longest_wait = longest_wait.max(fed_at.elapsed());
            }
            stored = receipts;
            if let Some(oldest) = fed_at.get(stored) {
                longest_wait = longest_wait.max(oldest.elapsed());
            }
        }
        agent.stored(fed_at.len()).await;
        longest_wait
    };
    let attack = async {
        // Let the live source get going before the attack begins.
        sleep(Duration::from_millis(500)).await;
        let result = attack.await;
        is_over.store(true, Ordering::Relaxed);
        result
    };
    let (result, longest_wait) = tokio::join!(attack, live);
    let (peak_rss_kib, peak_open_files) = peak.end();
    (result, Observed { peak_rss_kib, peak_open_files, longest_wait })
}

/// Measures a process from a background thread until [`PeakUsage::end`].
pub struct PeakUsage {
    is_over: Arc<AtomicBool>,
    rss_kib: Arc<AtomicU64>,
    open_files: Arc<AtomicU64>,
    sampler: JoinHandle<()>,
}

impl PeakUsage {
    pub fn of(process: u32) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let (rss_kib, open_files) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (over, rss, files) = (is_over.clone(), rss_kib.clone(), open_files.clone());
        let sampler = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                rss.fetch_max(rss_kib_of(process).unwrap_or_default(), Ordering::Relaxed);
                let open = fs::read_dir(format!("/proc/{process}/fd")).map(Iterator::count);
                files.fetch_max(open.unwrap_or_default() as u64, Ordering::Relaxed);
                thread::sleep(SAMPLE_INTERVAL);
            }
        });
        Self { is_over, rss_kib, open_files, sampler }
    }

    /// Stops measuring; returns the peak memory in KiB and the peak number of open files.
    pub fn end(self) -> (u64, u64) {
        self.is_over.store(true, Ordering::Relaxed);
        self.sampler.join().unwrap();
        (self.rss_kib.load(Ordering::Relaxed), self.open_files.load(Ordering::Relaxed))
    }
}

/// Resident memory of a process; `None` once it has ended.
fn rss_kib_of(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    rss.trim().trim_end_matches(" kB").parse().ok()
}

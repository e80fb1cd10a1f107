//! CPU, memory and wake-ups of a process, as the kernel counts them.

use std::fs;
use std::path::Path;
use std::time::Instant;

/// Unit of the kernel's CPU times: a hundredth of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// One reading of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    at: Instant,
    cpu_seconds: f64,
    /// Voluntary context switches of all threads: each is followed by a wake-up.
    wake_ups: u64,
    written_bytes: u64,
    pub(crate) rss_bytes: u64,
}

/// The resources that a process used between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) cpu_seconds_a_minute: f64,
    pub(crate) wake_ups_a_second: f64,
    pub(crate) written_bytes: u64,
}

impl Look {
    /// Reads a running process.
    pub(crate) fn at(process: u32) -> Self {
        let folder = Path::new("/proc").join(process.to_string());
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let threads = fs::read_dir(folder.join("task")).into_iter().flatten().flatten();
        let sleeps = threads.map(|thread| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            number(&status, "voluntary_ctxt_switches:")
        });
        let io = fs::read_to_string(folder.join("io")).unwrap_or_default();
        Self {
            at: Instant::now(),
            cpu_seconds: cpu_seconds(process),
            wake_ups: sleeps.sum(),
            written_bytes: number(&io, "write_bytes:"),
            rss_bytes: number(&status, "VmRSS:") * 1024,
        }
    }

    /// What it used since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self) -> Took {
        let seconds = (self.at - earlier.at).as_secs_f64();
        Took {
            cpu_seconds_a_minute: (self.cpu_seconds - earlier.cpu_seconds) / seconds * 60.0,
            wake_ups_a_second: self.wake_ups.saturating_sub(earlier.wake_ups) as f64 / seconds,
            written_bytes: self.written_bytes - earlier.written_bytes,
        }
    }
}

/// User and system CPU time of a process so far.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name can contain anything up to the last parenthesis; user and system time are the
    // 12th and 13th field after it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / TICKS_PER_SECOND
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

//! A process's memory, open files and disk use over time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// One measurement of a process.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Time since the first measurement.
    at: Duration,
    pub rss_kib: u64,
    pub files: u64,
    /// Disk use of the queue's folder.
    pub disk_kib: u64,
}

/// All measurements of a process.
#[derive(Debug)]
pub struct Vitals {
    start: Instant,
    looks: Vec<Look>,
}

impl Vitals {
    pub fn start() -> Self {
        Self { start: Instant::now(), looks: Vec::new() }
    }

    /// Takes a measurement; a process that has just exited is skipped.
    pub fn look(&mut self, process: u32, folder: &Path) {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|rss| rss.trim().trim_end_matches(" kB").parse().ok());
        let files = fs::read_dir(format!("/proc/{process}/fd")).map(Iterator::count);
        if let (Some(rss_kib), Ok(files)) = (rss, files) {
            let (at, disk_kib) = (self.start.elapsed(), disk_bytes(folder) >> 10);
            self.looks.push(Look { at, rss_kib, files: files as u64, disk_kib });
        }
    }

    /// The measurements from this moment on.
    pub fn after(&self, warm_up: Duration) -> &[Look] {
        &self.looks[self.looks.partition_point(|look| look.at < warm_up)..]
    }
}

/// The growth of a value per hour, by least squares.
pub fn slope_per_hour(looks: &[Look], value: impl Fn(&Look) -> u64) -> f64 {
    let hours = |look: &Look| look.at.as_secs_f64() / 3600.0;
    let count = looks.len() as f64;
    let mean_at = looks.iter().map(hours).sum::<f64>() / count;
    let mean = looks.iter().map(|look| value(look) as f64).sum::<f64>() / count;
    let (mut along, mut across) = (0.0, 0.0);
    for look in looks {
        let off = hours(look) - mean_at;
        along += off * (value(look) as f64 - mean);
        across += off * off;
    }
    along / across
}

/// The median of each tenth of the measurements.
pub fn tenths(looks: &[Look], value: impl Fn(&Look) -> u64 + Copy) -> Vec<u64> {
    looks.chunks(looks.len().div_ceil(10)).map(|looks| median(looks, value)).collect()
}

fn median(looks: &[Look], value: impl Fn(&Look) -> u64) -> u64 {
    let mut values: Vec<u64> = looks.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Disk use as `du` reports it, for a folder that changes meanwhile.
fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;

    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

#[test]
fn the_slope_of_a_straight_line_is_its_rise_per_hour() {
    let look = |minute: u64| Look {
        at: Duration::from_mins(minute),
        rss_kib: 100 + minute,
        files: 7,
        disk_kib: 0,
    };
    let looks: Vec<Look> = (0..10).map(look).collect();
    assert!((slope_per_hour(&looks, |look| look.rss_kib) - 60.0).abs() < 1e-9);
    assert_eq!(slope_per_hour(&looks, |look| look.files), 0.0);
    assert_eq!(tenths(&looks, |look| look.rss_kib), (100..110).collect::<Vec<_>>());
    assert_eq!(median(&looks, |look| look.rss_kib), 105);
}

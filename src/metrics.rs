//! All metrics: [`TABLE`] with names and meanings, and a function for each counted event.
//!
//! Counters and histograms are updated where events happen. Gauges are computed by [`crate::admin`]
//! from the status of the queue and the session, on each request for `/metrics`. Label values are a
//! closed set, and every series starts at 0. Without an installed recorder, for example in a
//! program that embeds the library, all calls here do nothing.

mod table;

use std::time::Duration;

use metrics::{
    Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::sleep;

use self::table::MODES;
pub use self::table::{DESTINATION, Row, TABLE, Type};
use crate::entry::{CapturedAt, Entry};

/// How often recorded values are folded into the histograms; until then each takes 8 bytes, a few
/// per frame.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// An entry younger than this is live; an older one is part of a backlog.
const LIVE_WITHIN: Duration = Duration::from_secs(5);

/// Bucket boundaries from 1 ms to 30 s.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bucket boundaries for latencies that may include an outage of a day.
const UP_TO_A_DAY: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86_400.0,
];

/// Installs the recorder and creates every series of the table.
///
/// Fails if the process already has a recorder.
pub fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let delivery = Matcher::Full("pitwire_delivery_latency_seconds".into());
    let handle = PrometheusBuilder::new()
        .set_buckets(SECONDS)?
        .set_buckets_for_metric(delivery, UP_TO_A_DAY)?
        .install_recorder()?;
    for row @ &(name, kind, _, meaning) in TABLE {
        match kind {
            Type::Counter => describe_counter!(name, meaning),
            Type::Gauge => describe_gauge!(name, meaning),
            Type::Histogram => describe_histogram!(name, meaning),
        }
        create(row, &[]);
    }
    let build = [("version", env!("CARGO_PKG_VERSION")), ("os", std::env::consts::OS)];
    gauge!("pitwire_build_info", &build).set(1.0);
    metrics_process::Collector::default().describe();
    Ok(handle)
}

/// Periodically folds recorded values into the histograms. Without it, each value would stay in
/// memory until the next request for `/metrics`, which may never come.
pub(crate) async fn keep_up(handle: PrometheusHandle) {
    loop {
        sleep(METRICS_UPKEEP_INTERVAL).await;
        handle.run_upkeep();
    }
}

/// Creates every series of a row at 0. `destinations` are the values of that label.
fn create(&(name, kind, labels, _): &Row, destinations: &[&str]) {
    let mut series = vec![Vec::new()];
    for &(label, values) in labels {
        let values = if label == DESTINATION.0 { destinations } else { values };
        let mut extended = Vec::new();
        for labels in &series {
            for &value in values {
                let mut labels: Vec<Label> = labels.clone();
                labels.push(Label::new(label, value.to_owned()));
                extended.push(labels);
            }
        }
        series = extended;
    }
    for labels in series {
        match kind {
            Type::Counter => counter!(name, labels).absolute(0),
            Type::Gauge => gauge!(name, labels).set(0.0),
            Type::Histogram => drop(histogram!(name, labels)),
        }
    }
}

/// The labels with the destination's name added.
pub(crate) fn labels_of(destination: &str, labels: &[(&'static str, &'static str)]) -> Vec<Label> {
    let of = Label::new(DESTINATION.0, destination.to_owned());
    [of].into_iter().chain(labels.iter().map(|&(name, value)| Label::new(name, value))).collect()
}

/// Updates the `process_*` metrics from the operating system.
pub(crate) fn observe_process() {
    metrics_process::Collector::default().collect();
}

/// Counts the events of one destination, with its name as a label.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    destination: String,
}

impl Meter {
    pub(crate) fn new(destination: &str) -> Self {
        for row in TABLE.iter().filter(|(.., labels, _)| labels.contains(&DESTINATION)) {
            create(row, &[destination]);
        }
        Self { destination: destination.to_owned() }
    }

    fn with(&self, labels: &[(&'static str, &'static str)]) -> Vec<Label> {
        labels_of(&self.destination, labels)
    }

    pub(crate) fn delivered(&self, proof: &'static str, now: CapturedAt, entries: &[Entry]) {
        for mode in MODES {
            let mut latencies = entries
                .iter()
                .map(|entry| entry.captured_at.age(now))
                .filter(|latency| (*latency <= LIVE_WITHIN) == (*mode == "live"))
                .peekable();
            if latencies.peek().is_none() {
                continue;
            }
            let latency =
                histogram!("pitwire_delivery_latency_seconds", self.with(&[("mode", mode)]));
            let count = latencies.map(|seconds| latency.record(seconds)).count();
            let labels = self.with(&[("proof", proof), ("mode", mode)]);
            counter!("pitwire_entries_delivered_total", labels).increment(count as u64);
        }
        if let Some(newest) = entries.last() {
            gauge!("pitwire_delivered_newest_timestamp_seconds", self.with(&[]))
                .set(newest.captured_at.0 as f64 / 1000.0);
        }
    }

    pub(crate) fn resent(&self, entries: u64) {
        counter!("pitwire_entries_resent_total", self.with(&[])).increment(entries);
    }

    pub(crate) fn connect(&self, outcome: &'static str) {
        counter!("pitwire_connects_total", self.with(&[("outcome", outcome)])).increment(1);
    }

    pub(crate) fn rebound(&self, cause: &'static str) {
        counter!("pitwire_session_rebinds_total", self.with(&[("cause", cause)])).increment(1);
    }

    pub(crate) fn inversions(&self, entries: u64) {
        counter!("pitwire_order_inversions_total", self.with(&[])).increment(entries);
    }

    pub(crate) fn proof_latency(&self, latency: Duration) {
        histogram!("pitwire_proof_latency_seconds", self.with(&[])).record(latency);
    }
}

pub(crate) fn catch_up(destination: &str, seconds: f64) {
    gauge!("pitwire_catch_up_seconds", labels_of(destination, &[])).set(seconds);
}

pub(crate) fn storage_error(op: &'static str) {
    counter!("pitwire_storage_errors_total", "op" => op).increment(1);
}

pub(crate) fn fsync(duration: Duration) {
    histogram!("pitwire_storage_fsync_duration_seconds").record(duration);
}

pub(crate) fn sampled(source: &'static str) {
    counter!("pitwire_source_samples_total", "source" => source).increment(1);
}

pub(crate) fn rejected(source: &'static str, reason: &'static str) {
    counter!("pitwire_source_rejected_total", "source" => source, "reason" => reason).increment(1);
}

/// Counts values that are missing from entries; `reason` is `not_finite` or `out_of_range`.
pub(crate) fn values_omitted(source: &'static str, reason: &'static str, values: u64) {
    counter!("pitwire_source_values_omitted_total", "source" => source, "reason" => reason)
        .increment(values);
}

pub(crate) fn rate_limited(source: &'static str) {
    counter!("pitwire_source_rate_limited_total", "source" => source).increment(1);
}

pub(crate) fn source_up(source: &'static str, up: bool) {
    gauge!("pitwire_source_up", "source" => source).set(f64::from(u8::from(up)));
}

pub(crate) fn source_connected(source: &'static str, connected: bool) {
    gauge!("pitwire_source_connected", "source" => source).set(f64::from(u8::from(connected)));
}

pub(crate) fn source_agents(source: &'static str, agents: usize) {
    gauge!("pitwire_source_agents", "source" => source).set(agents as f64);
}

pub(crate) fn source_behind(source: &'static str, entries: u64) {
    gauge!("pitwire_source_behind_entries", "source" => source).set(entries as f64);
}

/// Counts samples that are missing from a source; `cause` is `game` or `agent`.
pub(crate) fn gaps(source: &'static str, cause: &'static str, samples: u64) {
    counter!("pitwire_source_gaps_total", "source" => source, "cause" => cause).increment(samples);
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    fn memory_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Regression: each value stayed in memory until a request for `/metrics`, 39 bytes per frame.
    #[test]
    fn unscraped_metrics_do_not_grow_memory() {
        // In a separate process, because other tests allocate memory too.
        let alone = ["--exact", "--ignored", "metrics::tests::record_metrics_without_scraping"];
        let test = std::env::current_exe().unwrap();
        let ran = std::process::Command::new(test).args(alone).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "unscraped_metrics_do_not_grow_memory runs it"]
    async fn record_metrics_without_scraping() {
        let recorder = PrometheusBuilder::new().set_buckets(SECONDS).unwrap().build_recorder();
        tokio::spawn(keep_up(recorder.handle()));
        let latency = metrics::with_local_recorder(&recorder, || histogram!("latency"));
        let mut memory = Vec::new();
        for _ in 0..50 {
            (0..100_000).for_each(|_| latency.record(0.1));
            sleep(METRICS_UPKEEP_INTERVAL * 2).await;
            memory.push(memory_kib());
        }
        // All values together would take 40 MB.
        let grown = memory[49].saturating_sub(memory[4]);
        assert!(grown < 16 << 10, "{grown} KiB");
        let text = recorder.handle().render();
        assert!(text.contains("latency_count 5000000"), "{text}");
    }
}

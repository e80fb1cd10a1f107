//! `pitwire replay`: sends a recording through the same path as live telemetry.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::agent::{AgentReport, Until};
use crate::cli::progress::{Rate, how_far, span};
use crate::cli::terminal::colored;
use crate::cli::{self, Exit, eprint_line, log, run, set_all};
use crate::config::{self, Config, Overrides};
use crate::queue::QueueStatus;
use crate::source::recording;
use crate::status::{StatusSnapshot, count};

/// Send a recording to the dashboard server.
///
/// The recording takes the same path as live telemetry, but update_rate_hz does not apply: every
/// sample is kept. Samples are sent as far apart as they were recorded; pauses of more than 5 minutes
/// are skipped. The command ends when everything is delivered; while the server cannot be reached,
/// it waits. A terminal shows the progress. At the end, the numbers of lines and of sent frames and the
/// first invalid lines are printed on standard error.
///
/// Exits with 1 if no line is a sample or the file cannot be read to its end.
#[derive(Debug, clap::Args)]
pub struct Replay {
    /// The recording: one JSON sample or dashboard frame per line, plain or compressed with gzip.
    pub file: PathBuf,
    /// Address of the dashboard server, such as http://localhost:5000.
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// Speed relative to the recorded one; 0 is as fast as possible.
    #[arg(long, value_name = "FACTOR", default_value = "1")]
    pub speed: String,
    /// Lines per second, times the speed, if the recording has no timestamps.
    #[arg(long, value_name = "HZ", default_value = "2")]
    pub rate_hz: String,
    /// Folder of the queue; with a permanent one, the next replay sends what a killed replay has
    /// stored [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    pub queue: Option<PathBuf>,
    /// Any other setting, such as delivery.max_rate=100; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Replays the file, or fails if it is not a recording.
pub async fn replay(args: Replay, shutdown: impl Future<Output = ()>) -> Exit {
    let (queue, _temporary) = match &args.queue {
        Some(queue) => (queue.clone(), None),
        None => match tempfile::Builder::new().prefix("pitwire-replay-").tempdir() {
            Ok(folder) => (folder.path().to_owned(), Some(folder)),
            Err(error) => {
                return Exit::Failed.because(format_args!(
                    "pitwire: cannot create a temporary folder: {error}; use --queue"
                ));
            }
        },
    };
    let config = match configure(&args, &queue) {
        Ok(config) => config,
        Err(text) => return Exit::WrongUse.because(text),
    };
    let bytes = match recording::check(&args.file) {
        Ok(bytes) => bytes,
        Err(error) => {
            return Exit::Failed.because(format_args!("pitwire: {}: {error}", args.file.display()));
        }
    };
    log::start(&config.log);
    let words = progress(&args.file, bytes);
    let start = Instant::now();
    match run::start(config, Until::Drained, None, shutdown, words, |_| {}).await {
        Ok(Some(AgentReport { recording, queue_before, queue })) => {
            let exit = recording.map_or(Exit::Good, |recording| run::report(&recording));
            if exit != Exit::Good {
                return exit;
            }
            let took = start.elapsed();
            eprint_line(format_args!("pitwire: {}", summary(&queue_before, &queue, took)));
            if queue.entries > 0 {
                eprint_line(match &args.queue {
                    Some(_) => {
                        "pitwire: the rest is saved: the next replay with this --queue sends it"
                    }
                    None => {
                        "pitwire: the rest was in a temporary queue, which is deleted: run the same \
                         command to send the whole recording again"
                    }
                });
            }
            exit
        }
        Ok(None) => Exit::Good,
        Err(error) => Exit::Failed.because(format_args!("pitwire: {error}")),
    }
}

/// Formats the outcome: "sent 60 frames in 3 s", and the entries that were not sent, if any.
fn summary(before: &QueueStatus, after: &QueueStatus, took: Duration) -> String {
    let ledger = |queue: &QueueStatus| {
        queue.destinations.first().map(|server| server.ledger).unwrap_or_default()
    };
    let (before, now) = (ledger(before), ledger(after));
    let sent = cli::queue::count(now.delivered.saturating_sub(before.delivered), "frame");
    let mut summary = format!("sent {sent} in {}", span(took.as_secs_f64()));
    for (entries, outcome) in [
        (after.entries, "not sent"),
        (now.dropped_in_all().saturating_sub(before.dropped_in_all()), "dropped"),
        (now.downsampled.saturating_sub(before.downsampled), "downsampled"),
        (now.dead_letters.saturating_sub(before.dead_letters), "refused by the server"),
    ] {
        if entries > 0 {
            summary.push_str(&format!(", {entries} {outcome}"));
        }
    }
    summary
}

fn configure(args: &Replay, queue: &Path) -> Result<Config, String> {
    let mut overrides = Overrides::default();
    overrides.set("server.url", &args.server, "--server");
    overrides.set("source.file.path", &args.file.to_string_lossy(), "FILE");
    overrides.set("source.file.speed", &args.speed, "--speed");
    overrides.set("source.file.rate_hz", &args.rate_hz, "--rate-hz");
    overrides.set("queue.path", &queue.to_string_lossy(), "--queue");
    for (key, value) in [
        ("source.lmu.enabled", "false"),
        ("source.stdin.enabled", "false"),
        ("source.http.enabled", "false"),
        ("metrics.enabled", "false"),
    ] {
        overrides.set(key, value, "replay");
    }
    set_all(&mut overrides, &args.set)?;
    let loaded = config::load(None, config::process_environment(), &overrides)
        .map_err(|problems| problems.to_string())?;
    Ok(loaded.config)
}

/// Formats the progress of the replay for the status line.
fn progress(
    path: &Path,
    bytes: Option<u64>,
) -> impl FnMut(&StatusSnapshot) -> String + Send + 'static {
    let name = path.file_name().unwrap_or(path.as_os_str()).display().to_string();
    let (mut start, mut rate) = (None, Rate::default());
    move |snapshot| {
        let start = start.get_or_insert_with(|| snapshot.clone());
        let badge = colored(&snapshot.badge);
        let Some(bytes) = bytes else {
            return format!("{badge} | {name} | queued {}", count(snapshot.queued));
        };
        let done = done(start, snapshot, bytes);
        let rate = rate.look(Instant::now(), done);
        format!("{badge} | {name}: {}", how_far(done, 1.0, rate))
    }
}

/// Estimates the delivered fraction, from 0 to 1, from the bytes read so far. Entries that an
/// earlier replay left in the queue are part of the whole.
fn done(start: &StatusSnapshot, now: &StatusSnapshot, bytes: u64) -> f64 {
    let read = (now.recording_bytes as f64 / bytes.max(1) as f64).min(1.0);
    let (left, accepted) = (start.queued as f64, (now.appended - start.appended) as f64);
    if left + accepted == 0.0 {
        return read;
    }
    let all = if read > 0.0 { left + accepted / read } else { f64::INFINITY };
    (left + accepted - now.queued as f64) / all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Badge, Severity};

    fn snapshot(appended: u64, queued: u64, recording_bytes: u64) -> StatusSnapshot {
        StatusSnapshot {
            badge: Badge { severity: Severity::Good, text: "Live".into() },
            queued,
            appended,
            delivered: 0,
            recording_bytes,
        }
    }

    #[test]
    fn replay_progress_counts_samples_read_and_delivered() {
        let (anew, continued) = (snapshot(0, 0, 0), snapshot(70, 20, 0));
        for (start, now, fraction) in [
            (&anew, snapshot(0, 0, 0), 0.0),
            (&anew, snapshot(5, 5, 0), 0.0),
            (&anew, snapshot(50, 50, 500), 0.0),
            (&anew, snapshot(50, 10, 500), 0.4),
            (&anew, snapshot(100, 1, 1000), 0.99),
            (&anew, snapshot(100, 0, 1000), 1.0),
            (&anew, snapshot(100, 0, 1001), 1.0),
            // No line is a sample.
            (&anew, snapshot(0, 0, 300), 0.3),
            (&continued, snapshot(70, 20, 0), 0.0),
            (&continued, snapshot(110, 50, 500), 0.1),
            (&continued, snapshot(150, 0, 1000), 1.0),
        ] {
            assert_eq!(done(start, &now, 1000), fraction, "{now:?}");
        }
        assert_eq!(done(&anew, &anew, 0), 0.0, "an empty file");
    }
}

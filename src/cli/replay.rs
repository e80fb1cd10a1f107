//! `pitwire replay`: a recorded file through the same path as live telemetry.

use std::path::PathBuf;

use crate::agent::Until;
use crate::cli::{Exit, complain, log, run, set_all};
use crate::config::{self, Overrides};

/// Send a recording to the dashboard server.
///
/// It goes the same way as live telemetry, and every sample of it is kept, whatever update_rate_hz
/// says. The command ends when all of it is delivered; a server that is away is waited for.
#[derive(Debug, clap::Args)]
pub struct Replay {
    /// The recording: one JSON sample or dashboard frame a line.
    pub file: PathBuf,
    /// Address of the dashboard server, such as http://localhost:5000.
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// How many times faster than a live car's 2 samples a second; 0 is as fast as it goes.
    #[arg(long, value_name = "FACTOR", default_value = "1")]
    pub speed: String,
    /// Folder of the queue; in one of your own, what a killed replay has stored is still there
    /// for the next [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    pub queue: Option<PathBuf>,
    /// Any other setting, such as delivery.max_rate=100; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Replays the file, or fails if it cannot be read.
pub async fn replay(args: Replay, shutdown: impl Future<Output = ()>) -> Exit {
    if let Err(error) = std::fs::File::open(&args.file) {
        complain(format_args!("pitwire: {}: {error}", args.file.display()));
        return Exit::Failed;
    }
    let temporary = match tempfile::Builder::new().prefix("pitwire-replay-").tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            complain(format_args!("pitwire: no temporary folder: {error}; name one with --queue"));
            return Exit::Failed;
        }
    };
    let queue = args.queue.clone().unwrap_or_else(|| temporary.path().to_owned());
    let mut overrides = Overrides::default();
    overrides.set("server.url", &args.server, "--server");
    overrides.set("source.file.path", &args.file.to_string_lossy(), "FILE");
    overrides.set("source.file.speed", &args.speed, "--speed");
    overrides.set("queue.path", &queue.to_string_lossy(), "--queue");
    for (key, value) in [
        ("source.lmu.enabled", "false"),
        ("source.stdin.enabled", "false"),
        ("source.http.enabled", "false"),
        ("metrics.enabled", "false"),
    ] {
        overrides.set(key, value, "replay");
    }
    if let Err(text) = set_all(&mut overrides, &args.set) {
        complain(text);
        return Exit::WrongUse;
    }
    let config = match config::load(None, config::process_environment(), &overrides) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            complain(problems);
            return Exit::WrongUse;
        }
    };
    log::start(&config.log);
    run::start(config, Until::Drained, None, shutdown).await
}

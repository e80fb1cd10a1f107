//! `pitwire run`: runs the agent.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(unix)]
use crate::admin::ReloadHandle;
use crate::agent::reload::Reload;
use crate::agent::{self, AgentOutput, AgentReport, SnapshotCallback, Until};
use crate::cli::progress::Rate;
use crate::cli::settings::Settings;
use crate::cli::terminal::{self, StatusLine, colored};
use crate::cli::{Exit, eprint_line, log, print, priority, queue};
use crate::config::Config;
use crate::metrics;
use crate::queue::OpenError;
use crate::source::recording::Report;
use crate::status::{StatusSnapshot, count};

/// How long the agent waits for a stopped terminal when it ends.
const TERMINAL_PATIENCE: Duration = Duration::from_secs(2);

/// Run the agent: read samples, store them, send them to the dashboard server.
///
/// The agent reads Le Mans Ultimate and rFactor 2 while they run on this PC. Other samples arrive
/// as lines on standard input and by HTTP POST to http://127.0.0.1:9185/v1/telemetry. The dashboard
/// link is printed on standard output, the log on standard error; in a terminal, a line below them
/// shows the status. http://127.0.0.1:9184 has a status page, /metrics, /healthz and /readyz.
///
/// Every setting has a default. Settings are read from the configuration file, from the environment
/// (PITWIRE_SERVER__URL for server.url) and from the options here; the later ones win.
///
/// Stop the agent with Ctrl-C: unsent entries stay queued and are sent the next time.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    pub settings: Settings,
    /// Exit when standard input and the file have ended and everything queued is delivered.
    #[arg(long)]
    pub until_drained: bool,
}

/// Runs the agent until `shutdown` resolves.
pub async fn run(args: Run, shutdown: impl Future<Output = ()>) -> Exit {
    let loaded = match args.settings.load() {
        Ok(loaded) => loaded,
        Err(text) => return Exit::WrongUse.because(text),
    };
    log::start(&loaded.config.log);
    tracing::info!("{}", args.settings.file());
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let until = if args.until_drained { Until::Drained } else { Until::Shutdown };
    let settings = args.settings;
    let reload = Reload::new(
        move || settings.load().map(|loaded| loaded.config),
        |config| {
            log::set_level(config.log.level);
        },
    );
    #[cfg(unix)]
    tokio::spawn(reload_at_hangup(reload.handle()));
    let folder = loaded.config.queue.path.clone();
    let ended = move |report: &AgentReport| log_what_is_saved(report.queue.entries, &folder);
    match start(loaded.config, until, Some(reload), shutdown, standing(), ended).await {
        Ok(Some(AgentReport { recording, .. })) => {
            match recording.filter(|_| until == Until::Drained) {
                Some(recording) => report(&recording),
                None => Exit::Good,
            }
        }
        Ok(None) => Exit::Good,
        Err(error) => Exit::Failed.because(format_args!("pitwire: {error}")),
    }
}

/// Logs how many entries stay queued, and when they are sent.
fn log_what_is_saved(entries: u64, queue: &Path) {
    if entries == 0 {
        tracing::info!("Stopped; nothing is waiting to be sent");
        return;
    }
    let verb = if entries == 1 { "is" } else { "are" };
    tracing::info!(
        "Stopped; {} {verb} saved in {} and will be sent when pitwire runs again",
        queue::count(entries, "frame"),
        queue.display()
    );
}

/// Reloads the configuration on SIGHUP, which `systemctl reload` sends. The outcome is logged.
#[cfg(unix)]
async fn reload_at_hangup(handle: ReloadHandle) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        let _ = handle.request().await;
    }
}

/// Formats the status of the agent for the status line.
fn standing() -> impl FnMut(&StatusSnapshot) -> String + Send + 'static {
    let (mut into, mut out) = (Rate::default(), Rate::default());
    move |snapshot| {
        let now = Instant::now();
        let [appended, delivered] =
            [into.look(now, snapshot.appended as f64), out.look(now, snapshot.delivered as f64)]
                .map(|rate| rate.map_or("-".into(), |rate| format!("{rate:.1}/s")));
        let (badge, queued) = (colored(&snapshot.badge), count(snapshot.queued));
        format!("{badge} | queued {queued} | in {appended} | out {delivered}")
    }
}

/// Runs the agent with a configuration, printing each new dashboard link on stdout. `words` formats
/// the status line of the terminal; `ended` is called while there still is one, so that logging cannot
/// block on a stopped terminal. Returns `None` if the agent was stopped before the queue was open.
pub(super) async fn start(
    config: Config,
    until: Until,
    reload: Option<Reload>,
    shutdown: impl Future<Output = ()>,
    mut words: impl FnMut(&StatusSnapshot) -> String + Send + 'static,
    ended: impl FnOnce(&AgentReport),
) -> Result<Option<AgentReport>, OpenError> {
    priority::lower();
    let recorder = match metrics::install() {
        Ok(handle) => Some(handle),
        Err(error) => {
            tracing::error!(%error, "cannot install the metrics recorder; running without metrics");
            None
        }
    };
    // If the terminal shows receipts, they would mix with the status line.
    let has_receipts = config.source.stdin.receipts && io::stdout().is_terminal();
    let line = if has_receipts { None } else { StatusLine::begin(TERMINAL_PATIENCE) };
    let line = line.map(Arc::new);
    let look = line
        .clone()
        .map(|line| -> SnapshotCallback { Box::new(move |snapshot| line.show(words(snapshot))) });
    let output = AgentOutput { announce: |line| print(line), receipt: print_receipt, look };
    let report = agent::run(config, until, recorder, reload, shutdown, output).await?;
    if let Some(report) = &report {
        ended(report);
    }
    drop(line);
    Ok(report)
}

/// Prints a receipt on stdout, without the writer thread of the status line: a stopped terminal must
/// not block the agent, and no status line is shown if the receipts go to the terminal.
fn print_receipt(receipt: &str) {
    let mut out = io::stdout().lock();
    terminal::note_output(writeln!(out, "{receipt}").and_then(|()| out.flush()));
}

/// Prints the counts of a recording. The replay failed if no line was a sample, or if the file was
/// not read to its end although the user did not stop it.
pub(super) fn report(Report { path, counts, end, .. }: &Report) -> Exit {
    let path = path.display();
    let is_stopped = if end.is_none() { "stopped after " } else { "" };
    eprint_line(format_args!("pitwire: {path}: {is_stopped}{counts}"));
    for (line, why) in &counts.first_refused {
        eprint_line(format_args!("pitwire: {path}:{line}: {why}"));
    }
    match end {
        Some(Err(error)) => Exit::Failed.because(format_args!("pitwire: {path}: {error}")),
        Some(Ok(())) | None => Exit::Good,
    }
}

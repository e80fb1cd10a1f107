//! `pitwire demo`: delivery through faults, without any setup. Runs a dashboard server, a simulated
//! car and the agent in one process, and counts the frames that a viewer sees.

mod fault_proxy;
mod faults;
mod harness;
mod viewer;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::faults::{Fault, Faults, Outage, outage};
use self::harness::{FrameCounts, Harness};
use crate::cli::terminal::{HANGING_INDENT, StatusLine};
use crate::cli::{Exit, PROSE_INDENT, eprint_line, log, print, print_folded};
use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::queue::ledger::Ledger;
use crate::source::simulator::SIMULATOR_RATE_HZ;

/// The sample rate of the car with `--chaos`: enough frames in flight for every fault to hit some.
const CHAOS_RATE_HZ: f64 = 20.0;

/// Maximum length of the bar that shows the queue.
const MAX_BAR_COLUMNS: usize = 12;

/// Indentation of the continuation lines of the report: the width of `frames: `.
const REPORT_INDENT: usize = 8;

/// How long a stopped terminal may delay the end of the demo.
const TERMINAL_PATIENCE: Duration = Duration::from_secs(1);

/// Show how telemetry survives faults, without any setup.
///
/// A dashboard server, a simulated car and the agent run in one process; open the link that the
/// demo prints. After 10 s the network fails for 10 s, and the queue grows. When the network is
/// back, the queue drains, and the page receives every frame and marks the late ones as replayed.
///
/// With --chaos, random faults follow each other until the demo ends: the network is cut and
/// stalled, the server is replaced by an empty one, the agent is stopped and restarted. The link
/// keeps working.
///
/// At the end the demo prints what happened to the frames. It fails if one was lost or out of
/// order.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Number of seconds to run [default: run until Ctrl-C].
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Start and length of a network outage, in seconds; may be given several times.
    #[arg(long, value_name = "START:LENGTH", value_parser = outage, default_value = "10:10")]
    pub outage: Vec<Outage>,
    /// Inject random faults of every kind instead of the outages.
    #[arg(long, conflicts_with = "outage")]
    pub chaos: bool,
    /// Print the result as one JSON object on the last line of stdout, the rest on stderr.
    #[arg(long)]
    pub json: bool,
    /// Seed for the car, the driver, the race and the faults; the same seed gives the same ones.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
}

/// The outcome.
#[derive(Debug, Serialize)]
struct DemoReport {
    #[serde(flatten)]
    frames: FrameCounts,
    /// How often each kind of fault occurred.
    faults: BTreeMap<Fault, u64>,
    ledger: Ledger,
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ledger { delivered, downsampled, dead_letters, .. } = self.ledger;
        let (faults, dropped) = (self.faults.values().sum::<u64>(), self.ledger.dropped_in_all());
        let verdict = if self.frames.is_good() {
            "Every frame reached the page, in order."
        } else {
            "The demo failed: a frame was lost or out of order. Please report it."
        };
        write!(
            f,
            "faults: {faults}\n\
             frames: {}\n\
             ledger: {delivered} delivered, {dropped} dropped, {downsampled} downsampled, \
             {dead_letters} dead letters\n\
             {verdict}",
            self.frames
        )
    }
}

/// Runs the demo until it is over or `shutdown` resolves.
pub async fn demo(args: Demo, shutdown: impl Future<Output = ()>) -> Exit {
    log::start(&LogConfig { level: LogLevel::Error, format: LogFormat::Text, file: None });
    match play(&args, shutdown).await {
        Ok(report) => {
            say(args.json, &report.to_string(), REPORT_INDENT);
            if args.json {
                print(serde_json::to_string(&report).unwrap_or_default());
            }
            if report.frames.is_good() { Exit::Good } else { Exit::Failed }
        }
        Err(error) => Exit::Failed.because(format_args!("pitwire: the demo cannot run: {error}")),
    }
}

async fn play(
    args: &Demo,
    shutdown: impl Future<Output = ()>,
) -> Result<DemoReport, Box<dyn Error>> {
    let mut harness = Harness::start(args.seed).await?;
    say(args.json, &introduction(args, &harness.page()), PROSE_INDENT);
    let mut faults =
        if args.chaos { Faults::random(args.seed) } else { Faults::outages(args.outage.clone()) };
    let line = if args.chaos { None } else { StatusLine::begin(TERMINAL_PATIENCE) };
    drive(args, &mut harness, &mut faults, line.as_ref(), shutdown).await?;
    faults.end(&mut harness)?;
    let draining = |harness: &Harness| {
        if let Some(line) = &line {
            line.show(status("draining", harness));
        }
    };
    let (frames, ledger) = harness.finish(draining).await;
    Ok(DemoReport { frames, faults: faults.counts(), ledger })
}

/// The link and the advice to watch it, in lines of at most 80 columns.
fn introduction(args: &Demo, page: &str) -> String {
    let watch = if args.chaos {
        "Open this link in a browser: it keeps working through all faults."
    } else {
        "Open this link in a browser before the network fails.\n\
         After the outage, its plots mark the late frames as \"replayed\"."
    };
    format!(
        "dashboard: {page}\n{watch}\nCtrl-C ends the demo and prints what happened to the frames."
    )
}

/// Drives the car and injects the faults until the demo is over.
async fn drive(
    args: &Demo,
    harness: &mut Harness,
    faults: &mut Faults,
    line: Option<&StatusLine>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error>> {
    let rate_hz = if args.chaos { CHAOS_RATE_HZ } else { SIMULATOR_RATE_HZ };
    let period = Duration::from_secs_f64(1.0 / rate_hz);
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let start = Instant::now();
    let end = args.seconds.map(|seconds| start + Duration::from_secs(seconds));
    let mut is_filling_a_gap = false;
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            _ = tick.tick() => {}
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
        let mut news = faults.advance(harness, start.elapsed()).await?;
        if faults.is_active() {
            is_filling_a_gap = !args.chaos;
        } else if is_filling_a_gap && harness.queued() == 0 && harness.is_live() {
            is_filling_a_gap = false;
            news = Some("the page has every frame; look for \"replayed\" in its plots".into());
        }
        if let Some(news) = news {
            let at = start.elapsed().as_secs();
            say(args.json, &format!("{at:>5} s: {news}"), HANGING_INDENT);
        }
        harness.step(period).await;
        if args.chaos {
            continue;
        }
        let state = if faults.is_active() {
            "net down"
        } else if harness.is_live() {
            "live"
        } else {
            "offline"
        };
        let status = status(state, harness);
        match line {
            Some(line) => line.show(status),
            None => say(args.json, &status, PROSE_INDENT),
        }
    }
}

/// The status line, of at most 57 columns for up to 99,999 frames. A narrow terminal cuts it off at
/// the right, so the bar is last.
fn status(state: &str, harness: &Harness) -> String {
    let (produced, queued, seen) = (harness.produced(), harness.queued(), harness.seen());
    let bar = "#".repeat((queued as usize).min(MAX_BAR_COLUMNS));
    format!("{state:<8} page {seen:>3} of {produced:>3}, queued {queued:>2} {bar}")
}

/// Prints lines for the user, on stderr if stdout is reserved for the JSON result. A terminal breaks
/// them between words.
fn say(json: bool, text: &str, indent: usize) {
    if json { eprint_line(text) } else { print_folded(text, indent) }
}

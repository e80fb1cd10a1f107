//! `pitwire chaos`: injects random faults on this PC and prints what happened to the frames.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::stage::{Books, Link, Stage, say};
use crate::cli::{Exit, complain, log, print};
use crate::config::{
    CHAOS_CALM, CHAOS_FAULT, CHAOS_RATE_HZ, LogConfig, LogFormat, LogLevel, MAX_CHAOS_MINUTES,
};
use crate::queue::ledger::Ledger;

/// Inject random faults and count the lost frames.
///
/// A dashboard server, a simulated car and the agent run in one process; open the link that the
/// command prints. The network between them is cut and stalled, the server is replaced by an empty
/// one, the agent is stopped and restarted. Each fault is printed when it begins.
///
/// At the end all faults are ended, and the command prints what happened to the frames. It fails if
/// one was lost or out of order.
#[derive(Debug, clap::Args)]
pub struct Chaos {
    /// Number of minutes to run; 0.5 is half a minute.
    #[arg(long, value_name = "N", value_parser = minutes, default_value = "5")]
    pub minutes: Minutes,
    /// Print the result as one JSON object on the last line of stdout, the rest on stderr.
    #[arg(long)]
    pub json: bool,
    /// Seed for the car and the faults; the same seed gives the same ones.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
}

/// A duration given in minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minutes(Duration);

fn minutes(text: &str) -> Result<Minutes, String> {
    let minutes = text.parse::<f64>().ok().filter(|n| (0.1..=MAX_CHAOS_MINUTES).contains(n));
    let error = || format!("{text:?} is not a number of minutes from 0.1 to {MAX_CHAOS_MINUTES}");
    Ok(Minutes(Duration::from_secs_f64(minutes.ok_or_else(error)? * 60.0)))
}

/// A fault that is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fault {
    LinkCut,
    LinkStalled,
    ServerReplaced,
    AgentStopped,
}

impl Fault {
    const ALL: [Self; 4] =
        [Self::LinkCut, Self::LinkStalled, Self::ServerReplaced, Self::AgentStopped];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkCut => "the link is cut",
            Self::LinkStalled => "the link stalls",
            Self::ServerReplaced => "the server is gone, with all its sessions,",
            Self::AgentStopped => "the agent is stopped",
        })
    }
}

/// The injected faults and the outcome.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    books: Books,
    faults: BTreeMap<Fault, u64>,
    ledger: Ledger,
}

/// Runs until the time has passed or `shutdown` resolves.
pub async fn chaos(args: Chaos, shutdown: impl Future<Output = ()>) -> Exit {
    log::start(&LogConfig { level: LogLevel::Error, format: LogFormat::Text, file: None });
    match play(&args, shutdown).await {
        Ok(report) => {
            tell(&args, &report);
            if report.books.is_good() { Exit::Good } else { Exit::Failed }
        }
        Err(error) => {
            complain(format_args!("pitwire: cannot run chaos: {error}"));
            Exit::Failed
        }
    }
}

async fn play(args: &Chaos, shutdown: impl Future<Output = ()>) -> Result<Report, Box<dyn Error>> {
    let mut stage = Stage::start(args.seed).await?;
    say(args.json, &format!("dashboard: {}", stage.page().unwrap_or_default()));
    let over = async {
        let _ = timeout(args.minutes.0, shutdown).await;
    };
    let mut over = Box::pin(over.fuse());
    let faults = break_things(args, &mut stage, &mut over).await?;
    say(args.json, "all faults ended");
    let (books, ledger) = stage.finish(|_| {}).await;
    Ok(Report { books, faults, ledger })
}

/// Injects one fault after the other, with calm periods between them, until `over` resolves.
async fn break_things(
    args: &Chaos,
    stage: &mut Stage,
    over: &mut (impl FusedFuture<Output = ()> + Unpin),
) -> Result<BTreeMap<Fault, u64>, Box<dyn Error>> {
    let mut chance = SmallRng::seed_from_u64(args.seed);
    let (start, mut faults) = (Instant::now(), BTreeMap::new());
    loop {
        // Each round has every kind of fault once, so that a short run has all of them.
        let mut round = Fault::ALL;
        round.shuffle(&mut chance);
        for fault in round {
            drive(stage, chance.random_range(CHAOS_CALM), over).await;
            if over.is_terminated() {
                return Ok(faults);
            }
            let length = chance.random_range(CHAOS_FAULT);
            let at = start.elapsed().as_secs();
            say(args.json, &format!("{at:>5} s: {fault} for {:.1} s", length.as_secs_f64()));
            begin(stage, fault).await;
            drive(stage, length, over).await;
            end(stage, fault)?;
            *faults.entry(fault).or_default() += 1;
        }
    }
}

async fn begin(stage: &mut Stage, fault: Fault) {
    match fault {
        Fault::LinkCut => stage.plug.set(Link::Out),
        Fault::LinkStalled => stage.plug.set(Link::Stalled),
        Fault::ServerReplaced => stage.stop_server(),
        Fault::AgentStopped => stage.stop_agent().await,
    }
}

fn end(stage: &mut Stage, fault: Fault) -> Result<(), Box<dyn Error>> {
    match fault {
        Fault::LinkCut | Fault::LinkStalled => stage.plug.set(Link::In),
        Fault::ServerReplaced => stage.start_server()?,
        Fault::AgentStopped => stage.start_agent()?,
    }
    Ok(())
}

/// Drives the car for `time`, or until `over` resolves.
async fn drive(
    stage: &mut Stage,
    time: Duration,
    over: &mut (impl FusedFuture<Output = ()> + Unpin),
) {
    let period = Duration::from_secs_f64(1.0 / CHAOS_RATE_HZ);
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let end = Instant::now() + time;
    while !over.is_terminated() && Instant::now() < end {
        tokio::select! {
            biased;
            () = &mut *over => {}
            _ = tick.tick() => stage.step(period).await,
        }
    }
}

fn tell(args: &Chaos, report: &Report) {
    let Ledger { delivered, thinned, quarantined, .. } = report.ledger;
    let dropped = report.ledger.dropped_in_all();
    let faults: u64 = report.faults.values().sum();
    say(
        args.json,
        &format!(
            "{faults} faults; the queue's ledger: delivered {delivered}, dropped {dropped}, \
             downsampled {thinned}, set aside {quarantined}\n{}",
            report.books
        ),
    );
    if args.json {
        print(serde_json::to_string(report).unwrap_or_default());
    }
}

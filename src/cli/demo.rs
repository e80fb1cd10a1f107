//! `pitwire demo`: delivery across a network outage, without any setup. Runs a dashboard server, a
//! simulated car and the agent in one process, with a kill switch for the network between them and
//! a viewer that counts the frames.

use std::io::Write;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::stage::{Books, Link, Stage, say};
use crate::cli::{Exit, complain, log, print};
use crate::config::{LogConfig, LogFormat, LogLevel, SIMULATOR_RATE_HZ};

/// Show how telemetry survives a network outage, without any setup.
///
/// A dashboard server, a simulated car and the agent run in one process; open the link that the
/// demo prints. After 10 s the network fails for 10 s, and the queue grows. When the network is
/// back, the queue drains and the page receives every frame.
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
    /// Print the result as one JSON object on the last line of stdout, the rest on stderr.
    #[arg(long)]
    pub json: bool,
    /// Seed for the car, the driver and the race; the same seed gives the same samples.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
}

/// A network outage: its start, as time since the start of the demo, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    start: Duration,
    length: Duration,
}

impl Outage {
    fn is_on(&self, at: Duration) -> bool {
        (self.start..self.start + self.length).contains(&at)
    }
}

fn outage(text: &str) -> Result<Outage, String> {
    let error = || format!("{text:?} is not START:LENGTH in whole seconds, such as 10:15");
    let (start, length) = text.split_once(':').ok_or_else(error)?;
    let seconds = |text: &str| text.parse::<u32>().map(|s| Duration::from_secs(s.into()));
    match (seconds(start), seconds(length)) {
        (Ok(start), Ok(length)) => Ok(Outage { start, length }),
        _ => Err(error()),
    }
}

/// Runs the demo until it is over or `shutdown` resolves.
pub async fn demo(args: Demo, shutdown: impl Future<Output = ()>) -> Exit {
    log::start(&LogConfig { level: LogLevel::Error, format: LogFormat::Text, file: None });
    match play(&args, shutdown).await {
        Ok(books) => {
            report(&args, &books);
            if books.is_good() { Exit::Good } else { Exit::Failed }
        }
        Err(error) => {
            complain(format_args!("pitwire: the demo cannot run: {error}"));
            Exit::Failed
        }
    }
}

async fn play(
    args: &Demo,
    shutdown: impl Future<Output = ()>,
) -> Result<Books, Box<dyn std::error::Error>> {
    let mut stage = Stage::start(args.seed).await?;
    say(args.json, &format!("dashboard: {}", stage.page().unwrap_or_default()));
    drive(args, &mut stage, shutdown).await;
    let (books, _) = stage.finish(|stage| show(args, "draining", stage)).await;
    Ok(books)
}

/// Drives the car and cuts the network during the outages.
async fn drive(args: &Demo, stage: &mut Stage, shutdown: impl Future<Output = ()>) {
    let period = Duration::from_secs_f64(1.0 / SIMULATOR_RATE_HZ);
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let start = Instant::now();
    let end = args.seconds.map(|seconds| start + Duration::from_secs(seconds));
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return,
            _ = tick.tick() => {}
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return;
        }
        let out = args.outage.iter().any(|outage| outage.is_on(start.elapsed()));
        stage.plug.set(if out { Link::Out } else { Link::In });
        stage.step(period).await;
        show(args, if out { "net down" } else { "net up" }, stage);
    }
}

/// Prints the status line; a terminal overwrites the previous one.
fn show(args: &Demo, plug: &str, stage: &Stage) {
    let link = if stage.is_live() { "live" } else { "offline" };
    let (produced, queued, seen) = (stage.produced(), stage.queued(), stage.seen());
    let bar = "#".repeat((queued as usize).min(40));
    let line = format!(
        "{plug:<8} | {link:<7} | produced {produced:>5} | queued {queued:>4} {bar:<40} | seen {seen:>5}"
    );
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    if terminal {
        let mut terminal = std::io::stderr();
        let _ = write!(terminal, "\r{line}").and_then(|()| terminal.flush());
    } else if plug != "draining" {
        say(args.json, &line);
    }
}

fn report(args: &Demo, books: &Books) {
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        complain("");
    }
    say(args.json, &books.to_string());
    if args.json {
        print(serde_json::to_string(books).unwrap_or_default());
    }
}

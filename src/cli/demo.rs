//! `pitwire demo`: the main job with nothing to set up. A dashboard server, a simulated car and
//! the agent in one process, a network plug that is pulled, and a viewer that counts.

mod plug;
mod viewer;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use self::plug::Plug;
use self::viewer::Viewer;
use crate::cli::{Exit, complain, log, print};
use crate::config::{
    Config, DEMO_DRAIN_TIMEOUT, LogConfig, LogFormat, LogLevel, SIMULATOR_RATE_HZ,
};
use crate::dashboard::{Behaviour, Server};
use crate::publisher::DashboardPublisher;
use crate::source::simulator::Car;
use crate::source::{Sample, Taken};

/// Show the main job with nothing to set up.
///
/// A dashboard server, a simulated car and the agent run in one process; open the link that it
/// prints. The network plug is pulled after 10 s for 10 s, and the queue fills. When the plug is
/// back in, the queue drains and the page gets every frame.
///
/// At the end it prints what became of every frame, and fails if one was lost or out of order.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// End after so many seconds [default: run until Ctrl-C].
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// When to pull the plug and for how long, in seconds; may be given several times.
    #[arg(long, value_name = "START:LENGTH", value_parser = outage, default_value = "10:10")]
    pub outage: Vec<Outage>,
    /// Print the result as one JSON object on the last line of stdout, the rest on stderr.
    #[arg(long)]
    pub json: bool,
    /// Which car, driver and race; the same seed gives the same samples.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
}

/// A time without network.
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

/// What became of the frames.
#[derive(Clone, Copy, Debug, Serialize)]
struct Books {
    produced: u64,
    delivered: u64,
    seen: u64,
    lost: u64,
    out_of_order: u64,
    duplicated: u64,
}

/// Runs the demo until it is over or `shutdown` resolves.
pub async fn demo(args: Demo, shutdown: impl Future<Output = ()>) -> Exit {
    log::start(&LogConfig { level: LogLevel::Error, format: LogFormat::Text, file: None });
    match play(&args, shutdown).await {
        Ok(books) => {
            report(&args, &books);
            let good = books.lost == 0 && books.out_of_order == 0;
            if good { Exit::Good } else { Exit::Failed }
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
    let folder = tempfile::Builder::new().prefix("pitwire-demo-").tempdir()?;
    let server = Server::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Behaviour::default())?;
    let plug = Plug::start(server.addr()).await?;
    let mut config = Config::default();
    config.server.url = plug.url().parse()?;
    config.queue.path = folder.path().join("queue");
    // Nobody watches a demo for a minute to see the next attempt.
    config.delivery.backoff_max = Duration::from_secs(3);
    let publisher = DashboardPublisher::open(config)?;
    publisher.connect().await?;
    let session = bound_session(&publisher).await?;
    let viewer = Viewer::start(&server.url(), &session).await?;
    say(args, &format!("dashboard: {}/dashboard/{session}", server.url()));

    let produced = drive(args, &publisher, &plug, &viewer, shutdown).await;
    plug.push();
    let drained = async {
        while publisher.queue_status().entries > 0 || viewer.seen() < produced {
            sleep(Duration::from_millis(50)).await;
            show(args, "draining", &publisher, &viewer, produced);
        }
    };
    // What is not there by then counts as lost.
    let _ = timeout(DEMO_DRAIN_TIMEOUT, drained).await;
    let status = publisher.queue_status();
    publisher.close().await;
    let seen = viewer.stop().await;
    Ok(Books {
        produced,
        // The setup is the first entry of the queue and no frame.
        delivered: status.ledger.delivered.saturating_sub(1),
        seen: seen.frames,
        lost: produced.saturating_sub(seen.frames),
        out_of_order: seen.out_of_order,
        duplicated: seen.duplicated,
    })
}

async fn bound_session(publisher: &DashboardPublisher) -> Result<String, String> {
    let mut status = publisher.watch_session();
    let bound = status.wait_for(|status| status.session.is_some());
    let status = timeout(DEMO_DRAIN_TIMEOUT, bound).await.map_err(|_| "no session in time")?;
    let status = status.map_err(|_| "the session's task is gone")?;
    status.session.clone().ok_or_else(|| "no session".into())
}

/// Drives the car, pulls the plug when it is time; gives the number of frames produced.
async fn drive(
    args: &Demo,
    publisher: &DashboardPublisher,
    plug: &Plug,
    viewer: &Viewer,
    shutdown: impl Future<Output = ()>,
) -> u64 {
    let intake = publisher.intake("simulator", 0.0);
    let period = Duration::from_secs_f64(1.0 / SIMULATOR_RATE_HZ);
    let mut car = Car::new(args.seed);
    let mut samples = vec![Ok(Sample::setup(car.setup()))];
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let start = Instant::now();
    let end = args.seconds.map(|seconds| start + Duration::from_secs(seconds));
    let mut produced = 0;
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return produced,
            _ = tick.tick() => {}
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return produced;
        }
        let out = args.outage.iter().any(|outage| outage.is_on(start.elapsed()));
        if out {
            plug.pull()
        } else {
            plug.push()
        }
        car.step(period);
        samples.push(Ok(Sample::Telemetry(car.sample())));
        let taken = intake.take(std::mem::take(&mut samples)).await.unwrap_or_default();
        let frames = taken.iter().filter(|taken| matches!(taken, Taken::Stored(_))).count() as u64;
        produced += if produced == 0 { frames.saturating_sub(1) } else { frames };
        show(args, if out { "plug out" } else { "plug in" }, publisher, viewer, produced);
    }
}

/// One status line that is written over in a terminal.
fn show(args: &Demo, plug: &str, publisher: &DashboardPublisher, viewer: &Viewer, produced: u64) {
    let link = if publisher.is_ready() { "live" } else { "offline" };
    let queued = publisher.queue_status().entries;
    let bar = "#".repeat((queued as usize).min(40));
    let line = format!(
        "{plug:<8} | {link:<7} | produced {produced:>5} | queued {queued:>4} {bar:<40} | seen {:>5}",
        viewer.seen()
    );
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    if terminal {
        let mut terminal = std::io::stderr();
        let _ = write!(terminal, "\r{line}").and_then(|()| terminal.flush());
    } else if plug != "draining" {
        say(args, &line);
    }
}

fn report(args: &Demo, books: &Books) {
    let Books { produced, delivered, seen, lost, out_of_order, duplicated } = books;
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        complain("");
    }
    say(
        args,
        &format!(
            "produced {produced}, delivered {delivered}, seen by the viewer {seen}\n\
             lost {lost}, out of order {out_of_order}, duplicated {duplicated}"
        ),
    );
    if args.json {
        print(serde_json::to_string(books).unwrap_or_default());
    }
}

fn say(args: &Demo, text: &str) {
    if args.json { complain(text) } else { print(text) }
}

//! Starts the sources that read samples: standard input, a recording, the game, a NATS stream and
//! the simulator. The sources that listen for connections are [services](super::services).

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::stdin;
use crate::publisher::DashboardPublisher;
use crate::source::lines::Pace;
use crate::source::nats::DeliveryGate;
use crate::source::recording::{self, Report};
use crate::source::simulator::{Car, SIMULATOR_RATE_HZ};
use crate::source::{Intake, Sample, lmu, nats};

/// The tasks of the sources. Standard input and the file end; the others run until this is dropped.
pub(super) struct Sources {
    finite: JoinSet<()>,
    /// The counts of the recording; `None` without a recording.
    pub(super) recording: Option<watch::Receiver<Report>>,
    _endless: JoinSet<()>,
}

impl Sources {
    /// Starts the enabled sources. The NATS source controls delivery through `gate`; `receipt` gets
    /// the receipts of standard input, if they are enabled.
    pub(super) fn start(
        publisher: &DashboardPublisher,
        gate: DeliveryGate,
        receipt: fn(&str),
    ) -> Self {
        let config = publisher.config();
        let (mut finite, mut endless) = (JoinSet::new(), JoinSet::new());
        let mut recording = None;
        let rate = config.update_rate_hz;
        if config.source.stdin.enabled && !io::IsTerminal::is_terminal(&io::stdin()) {
            let intake = publisher.intake("stdin", rate).following(publisher.watch_rate());
            let receipt = config.source.stdin.receipts.then_some(receipt);
            let reading = stdin::read(intake, receipt);
            let activity = publisher.activity();
            activity.add("stdin", "Reading standard input", "Waiting for standard input");
            finite.spawn(async move {
                reading.await;
                activity.remove_unused("stdin");
                activity.end("stdin", "Standard input has ended");
            });
        }
        if let Some(path) = config.source.file.path.clone() {
            let pace = Pace::recorded(config.source.file.speed, config.source.file.rate_hz);
            let (report, reported) = watch::channel(Report { path, ..Report::default() });
            recording = Some(reported);
            let activity = publisher.activity();
            let file = report.borrow().path.display().to_string();
            activity.add("file", format!("Replaying {file}"), format!("Waiting for {file}"));
            let intake = publisher.intake("file", 0.0).patient();
            finite.spawn(async move {
                recording::play(intake, pace, report).await;
                activity.end("file", &format!("The recording {file} has ended"));
            });
        }
        if config.source.lmu.enabled {
            let (writer, lmu) = (publisher.writer(), config.source.lmu.clone());
            let activity = publisher.activity();
            activity.add(lmu::NAME, lmu::READING, lmu::NOT_RUNNING);
            endless.spawn(at_each_rate(publisher.watch_rate(), move |rate| {
                // The source polls the game at the given rate, so its intake needs no rate limit.
                let intake = Intake::new(writer.clone(), lmu::NAME, 0.0);
                lmu::run(intake.reporting(activity.clone()), lmu.clone(), rate)
            }));
        }
        if config.source.nats.enabled {
            let activity = publisher.activity();
            activity.add(nats::NAME, "Relaying agents from NATS", "Waiting for agents on NATS");
            endless.spawn(nats::run(nats::Parts {
                intake: publisher.intake(nats::NAME, 0.0),
                writer: publisher.writer(),
                config: config.source.nats.clone(),
                agent: &config.agent.name(),
                folder: &config.queue.path,
                gate,
                elsewhere: publisher.delivered_elsewhere(),
            }));
        }
        if config.source.simulator.enabled {
            let (writer, seed) = (publisher.writer(), config.source.simulator.seed);
            let activity = publisher.activity();
            activity.add(
                "simulator",
                "A simulated car is driving",
                "Waiting for the simulated car",
            );
            endless.spawn(at_each_rate(publisher.watch_rate(), move |rate| {
                let intake = Intake::new(writer.clone(), "simulator", rate);
                drive(intake.reporting(activity.clone()), rate, seed)
            }));
        }
        Self { finite, recording, _endless: endless }
    }

    /// Returns when standard input and the file are read to the end.
    pub(super) async fn ended(&mut self) {
        while self.finite.join_next().await.is_some() {}
    }
}

/// Runs a source that paces itself, and restarts it whenever the rate changes.
async fn at_each_rate<F: Future<Output = ()>>(
    mut rate: watch::Receiver<f64>,
    source: impl Fn(f64) -> F,
) {
    loop {
        let now = *rate.borrow_and_update();
        tokio::select! {
            () = source(now) => return,
            changed = rate.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

/// Runs the simulated car of `source.simulator`.
async fn drive(intake: Intake, rate_hz: f64, seed: u64) {
    let rate = if rate_hz > 0.0 { rate_hz } else { SIMULATOR_RATE_HZ };
    let period = Duration::from_secs_f64(1.0 / rate);
    let mut car = Car::new(seed);
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut samples = vec![Sample::setup(&car.setup())];
    loop {
        tick.tick().await;
        car.step(period);
        samples.push(Sample::telemetry(&car.sample()));
        if let Err(error) = intake.take(std::mem::take(&mut samples)).await {
            tracing::warn!(%error, "cannot store a simulated sample; it is lost");
        }
    }
}

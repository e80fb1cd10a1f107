//! Starts the sources that read samples: standard input, a recording, the game, a NATS stream and
//! the simulator. The sources that listen for connections are [services](super::services).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::stdin;
use crate::publisher::DashboardPublisher;
use crate::source::lines::{self, Pace};
use crate::source::nats::DeliveryGate;
use crate::source::simulator::{Car, SIMULATOR_RATE_HZ};
use crate::source::{Intake, Sample, lmu, nats};

/// The tasks of the sources. Standard input and the file end; the others run until this is dropped.
pub(super) struct Sources {
    finite: JoinSet<()>,
    /// Bytes of the file that were read and stored.
    pub(super) recording_bytes: Arc<AtomicU64>,
    _endless: JoinSet<()>,
}

impl Sources {
    /// Starts the enabled sources. The NATS source controls delivery through `gate`.
    pub(super) fn start(publisher: &DashboardPublisher, gate: DeliveryGate) -> Self {
        let config = publisher.config();
        let (mut finite, mut endless) = (JoinSet::new(), JoinSet::new());
        let recording_bytes = Arc::<AtomicU64>::default();
        let rate = config.update_rate_hz;
        if config.source.stdin.enabled && !io::IsTerminal::is_terminal(&io::stdin()) {
            let intake = publisher.intake("stdin", rate).following(publisher.watch_rate());
            finite.spawn(stdin::read(intake, config.source.stdin.receipts));
        }
        if let Some(path) = config.source.file.path.clone() {
            let recorded = if rate > 0.0 { rate } else { SIMULATOR_RATE_HZ };
            let pace = Pace::per_second(recorded * config.source.file.speed);
            let intake = publisher.intake("file", 0.0).patient();
            finite.spawn(read_file(intake, path, pace, Arc::clone(&recording_bytes)));
        }
        if config.source.lmu.enabled {
            let (writer, lmu) = (publisher.writer(), config.source.lmu.clone());
            endless.spawn(at_each_rate(publisher.watch_rate(), move |rate| {
                // The source polls the game at the given rate, so its intake needs no rate limit.
                lmu::run(Intake::new(writer.clone(), lmu::NAME, 0.0), lmu.clone(), rate)
            }));
        }
        if config.source.nats.enabled {
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
            endless.spawn(at_each_rate(publisher.watch_rate(), move |rate| {
                drive(Intake::new(writer.clone(), "simulator", rate), rate, seed)
            }));
        }
        Self { finite, recording_bytes, _endless: endless }
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

/// Replays a recording, and counts the bytes that were read and stored in `bytes`.
async fn read_file(intake: Intake, path: PathBuf, pace: Pace, bytes: Arc<AtomicU64>) {
    let end = match tokio::fs::File::open(&path).await {
        Ok(file) => {
            lines::run(file, &intake, pace, |place, _| bytes.store(place.end, Ordering::Relaxed))
                .await
        }
        Err(error) => Err(error),
    };
    match end {
        Ok(end) => bytes.store(end.end, Ordering::Relaxed),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot read the recording");
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

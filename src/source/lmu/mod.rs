//! The source for Le Mans Ultimate and rFactor 2 on the same PC: reads the car from the game's
//! shared memory and its setup from the game's REST API.
//!
//! The driver configures nothing, and the game is not disturbed: its memory is only read, without
//! taking its locks or waiting for its events. While the game is not running, the source checks for
//! it once a second.
//!
//! ```text
//! memory    regions by name: files (Linux), windows (mappings)
//! reader    native or plugin: a consistent Snapshot of the player's car, or the reason for its absence
//! game      which of the two to read, and whether the sample is new
//! rest      the REST API: three paths, one request at a time
//! setup     when to request the setup, and when to store it
//! ```

#[cfg(unix)]
mod files;
pub mod game;
mod gaps;
mod layout;
pub mod memory;
mod native;
mod plugin;
pub mod reader;
pub mod rest;
pub mod setup;
mod snapshot;
#[cfg(windows)]
mod windows;

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval, interval_at, sleep};

use self::game::{Game, Look, Presence};
use self::gaps::Gaps;
pub use self::native::{GameVersion, Native};
pub use self::plugin::{About, Plugin};
pub use self::snapshot::Snapshot;
use super::{Intake, Sample, SourceActivity};
use crate::config::{LmuConfig, Units};
use crate::entry::CapturedAt;
use crate::metrics;
use crate::platform::clock;
use crate::queue::{QueueError, STORAGE_RETRY_INTERVAL};

/// How often to check for a game that is not running, paused or in its menus.
pub(super) const LMU_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum poll rate while the car is driven, also if `update_rate_hz` is 0: twice the game's
/// own 100 updates per second.
const LMU_MAX_RATE_HZ: f64 = 200.0;

/// The number of attempts to copy the game's memory while the game writes to it, and the pause
/// between them.
pub(super) const LMU_COPY_TRIES: usize = 40;
pub(super) const LMU_COPY_PAUSE: Duration = Duration::from_millis(1);

/// The maximum samples that wait for a slow disk: two minutes at 2 Hz.
const LMU_CHANNEL_SAMPLES: usize = 256;

/// The label of this source in metrics.
pub const NAME: &str = "lmu";

/// The texts for a driver, one for each [`Presence`].
pub(crate) const READING: &str = "Reading Le Mans Ultimate or rFactor 2";
pub(crate) const NOT_RUNNING: &str = "Waiting for Le Mans Ultimate or rFactor 2 (not running)";
const NOT_DRIVING: &str = "Waiting for you to drive: Le Mans Ultimate or rFactor 2 is running";

/// Reads the game for ever, `rate_hz` times a second; 0 reads every update of the game.
///
/// While the disk is slow, samples wait in memory, at 2 Hz for up to two minutes.
pub async fn run(intake: Intake, config: LmuConfig, rate_hz: f64) {
    let game = Game::new(memory::here(&config.folder));
    let (samples, stored) = mpsc::channel(LMU_CHANNEL_SAMPLES);
    let (presence, seen) = watch::channel(Presence::Away);
    let rate = if rate_hz > 0.0 { rate_hz.min(LMU_MAX_RATE_HZ) } else { LMU_MAX_RATE_HZ };
    let period = Duration::from_secs_f64(1.0 / rate);
    let activity = intake.activity();
    activity.set_waiting(NAME, NOT_RUNNING);
    let (units, gaps) = (config.units, Gaps::new(period));
    let output = GameOutput { units, samples, presence, activity, gaps, logged: None };
    tokio::join!(
        watch_game(game, period, output),
        store(&intake, stored),
        setup::follow(&intake, config.rest, setup::RequestPace::default(), seen),
    );
}

/// Reads the game once per period while its memory is open, otherwise once a second.
async fn watch_game(mut game: Game, period: Duration, mut output: GameOutput) {
    let mut ticks = interval(LMU_LOOK_INTERVAL);
    loop {
        let due = ticks.tick().await.into_std();
        let was_open = game.is_open();
        let look = spawn_blocking(move || {
            let look = game.look(Instant::now());
            (game, look, clock::now())
        });
        // An error means that the runtime is shutting down.
        let Ok((back, look, now)) = look.await else { return };
        game = back;
        output.hand_out(look, due, now);
        if game.is_open() != was_open {
            ticks = every(if was_open { LMU_LOOK_INTERVAL } else { period });
        }
    }
}

/// Ticks without drift, the first after one period. Missed ticks are skipped.
fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Distributes the results of reading the game.
struct GameOutput {
    units: Units,
    samples: mpsc::Sender<Value>,
    presence: watch::Sender<Presence>,
    activity: SourceActivity,
    gaps: Gaps,
    /// The state of the game in the last log line about it; `None` before the first look.
    logged: Option<Presence>,
}

impl GameOutput {
    fn hand_out(&mut self, look: Look, due: Instant, now: CapturedAt) {
        self.show(look.presence);
        let Presence::Driven(_) = look.presence else { return self.gaps.end() };
        let mut missing = self.gaps.look(due, look.sample.is_some());
        if let Some(sample) = look.sample {
            let sample = self.samples.try_send(sample.sample(self.units, now));
            // The channel is full because the disk is too slow.
            missing.by_agent += u64::from(sample.is_err());
        }
        metrics::gaps(NAME, "game", missing.by_game);
        metrics::gaps(NAME, "agent", missing.by_agent);
    }

    fn show(&mut self, presence: Presence) {
        self.presence.send_replace(presence);
        let before = self.logged.replace(presence);
        if before == Some(presence) {
            return;
        }
        metrics::source_up(NAME, presence != Presence::Away);
        match presence {
            Presence::Away if before.is_none() => tracing::info!("{NOT_RUNNING}"),
            Presence::Away => tracing::info!("The game has stopped. {NOT_RUNNING}"),
            Presence::Waiting => tracing::info!("The game runs; the player is not driving"),
            Presence::Driven(way) => tracing::info!(memory = way.as_str(), "The player is driving"),
        }
        self.activity.set_waiting(
            NAME,
            match presence {
                Presence::Away => NOT_RUNNING,
                Presence::Waiting | Presence::Driven(_) => NOT_DRIVING,
            },
        );
    }
}

/// Stores the samples in order; retries while the disk fails.
async fn store(intake: &Intake, mut samples: mpsc::Receiver<Value>) {
    let mut batch = Vec::new();
    while samples.recv_many(&mut batch, LMU_CHANNEL_SAMPLES).await > 0 {
        let telemetry: Vec<_> = batch.drain(..).map(|s| Sample::telemetry(&s)).collect();
        while let Err(error) = intake.take(telemetry.clone()).await {
            match error {
                QueueError::Closed => return,
                QueueError::Storage(_) => sleep(STORAGE_RETRY_INTERVAL).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_read_does_not_shift_later_reads() {
        const fn ms(number: u64) -> Duration {
            Duration::from_millis(number)
        }
        let start = Instant::now();
        let mut ticks = every(ms(500));
        // How long each read takes, and when the next one is due.
        for (takes, next) in [(0, 500), (7, 1000), (499, 1500), (700, 2000), (1900, 2500)] {
            advance(ms(takes)).await;
            assert_eq!(ticks.tick().await - start, ms(next));
        }
        // The read ended after 4,100 ms, so the three ticks before that are skipped.
        assert_eq!(ticks.tick().await - start, ms(4500));
    }
}

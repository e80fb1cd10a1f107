//! Decides when to request the car's setup and when to store it.
//!
//! The game provides the setup while the car is in the garage, but not on the track. It is
//! therefore requested whenever the game runs, and the last one is kept. It is passed to the queue
//! when its settings change, and again when a drive starts; the queue stores the repeated one only
//! in a new stint.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::game::Presence;
use super::rest::{Rest, SetupResponse};
use crate::backoff::Backoff;
use crate::config::GameApi;
use crate::fields::Setup;
use crate::source::{Intake, Sample};

/// The interval between requests for the car's setup, and the longest interval after failures.
const GAME_API_INTERVAL: Duration = Duration::from_secs(10);
const GAME_API_MAX_INTERVAL: Duration = Duration::from_secs(60);

/// How often to request the setup.
#[derive(Clone, Copy, Debug)]
pub struct RequestPace {
    /// The pause between an answer and the next request.
    pub interval: Duration,
    /// The longest pause after a failure; the shortest is `interval`.
    pub max_interval: Duration,
}

impl Default for RequestPace {
    fn default() -> Self {
        Self { interval: GAME_API_INTERVAL, max_interval: GAME_API_MAX_INTERVAL }
    }
}

/// Follows the setup until the sender of `game` is dropped. It retries an unavailable API without a
/// limit, and sends no requests while the game is not running.
pub async fn follow(
    intake: &Intake,
    api: GameApi,
    pace: RequestPace,
    mut game: watch::Receiver<Presence>,
) {
    if api == GameApi::Off {
        return;
    }
    while game.wait_for(|presence| *presence != Presence::Away).await.is_ok() {
        follow_game(intake, Rest::new(api), pace, &mut game).await;
    }
}

/// Follows the setup for one run of the game.
async fn follow_game(
    intake: &Intake,
    mut rest: Rest,
    pace: RequestPace,
    game: &mut watch::Receiver<Presence>,
) {
    let mut backoff = Backoff::new(pace.interval, pace.max_interval, SmallRng::from_os_rng());
    let mut kept = Kept { intake, setup: None, fingerprint: None };
    let mut was_driven = false;
    let mut due = Instant::now();
    loop {
        tokio::select! {
            biased;
            changed = game.changed() => {
                let presence = *game.borrow_and_update();
                if changed.is_err() || presence == Presence::Away {
                    return;
                }
                let is_driven = matches!(presence, Presence::Driven(_));
                if is_driven && !was_driven {
                    kept.hand_in().await;
                }
                was_driven = is_driven;
            }
            () = sleep_until(due) => {
                due = match rest.setup().await {
                    Ok(answer) => {
                        kept.take(answer).await;
                        backoff.reset();
                        Instant::now() + pace.interval
                    }
                    Err(error) => {
                        let pause = backoff.next_delay();
                        tracing::debug!(?pause, "the game's REST API {error}");
                        Instant::now() + pause
                    }
                };
            }
        }
    }
}

/// The last setup that the game provided.
struct Kept<'a> {
    intake: &'a Intake,
    setup: Option<Setup>,
    /// The fingerprint of the last setup that the queue accepted.
    fingerprint: Option<u64>,
}

impl Kept<'_> {
    async fn take(&mut self, answer: SetupResponse) {
        let SetupResponse::Setup(setup) = answer else { return };
        let fingerprint = setup.fingerprint();
        self.setup = Some(setup);
        if self.fingerprint != Some(fingerprint) && self.hand_in().await {
            tracing::info!("received a new car setup");
            self.fingerprint = Some(fingerprint);
        }
    }

    /// Passes the setup to the queue; returns whether it was accepted. If not, the next answer
    /// retries.
    async fn hand_in(&self) -> bool {
        let Some(setup) = self.setup.clone() else { return false };
        self.intake.take(vec![Ok(Sample::Setup(setup))]).await.is_ok()
    }
}

//! When to ask for the car's setup, and when to hand it in.
//!
//! The game has it while the car is in the garage, and not on the track. So it is asked for as long
//! as the game is there, and the last one is kept. It is handed in when its settings are other ones,
//! and again when a drive begins: the queue stores it then only if it is a new stint.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::game::Presence;
use super::rest::{Answer, Rest};
use crate::backoff::Backoff;
use crate::config::{GAME_API_INTERVAL, GAME_API_MAX_INTERVAL, GameApi};
use crate::fields::Setup;
use crate::source::{Intake, Sample};

/// How often to ask.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between an answer and the next question.
    pub interval: Duration,
    /// The longest pause after a failure; the shortest is `interval`.
    pub max_interval: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: GAME_API_INTERVAL, max_interval: GAME_API_MAX_INTERVAL }
    }
}

/// Follows the setup until whoever watches the game is gone. It never gives up on an API that is
/// not there yet, and asks nothing while the game is away.
pub async fn follow(
    intake: &Intake,
    api: GameApi,
    pace: Pace,
    mut game: watch::Receiver<Presence>,
) {
    if api == GameApi::Off {
        return;
    }
    while game.wait_for(|presence| *presence != Presence::Away).await.is_ok() {
        follow_game(intake, Rest::new(api), pace, &mut game).await;
    }
}

/// Follows the setup from the game's start to its end.
async fn follow_game(
    intake: &Intake,
    mut rest: Rest,
    pace: Pace,
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
                let pause = match rest.setup().await {
                    Ok(answer) => {
                        if let Answer::Setup(setup) = answer {
                            kept.take(setup).await;
                        }
                        backoff.reset();
                        pace.interval
                    }
                    Err(error) => {
                        let pause = backoff.next_delay();
                        tracing::debug!(?pause, "the game's REST API {error}");
                        pause
                    }
                };
                due = Instant::now() + pause;
            }
        }
    }
}

/// The last setup, which holds until there is another.
struct Kept<'a> {
    intake: &'a Intake,
    setup: Option<Setup>,
    /// Of the setup that is handed in.
    fingerprint: Option<u64>,
}

impl Kept<'_> {
    async fn take(&mut self, setup: Setup) {
        let fingerprint = setup.fingerprint();
        self.setup = Some(setup);
        if self.fingerprint != Some(fingerprint) && self.hand_in().await {
            tracing::info!("the car's setup is there");
            self.fingerprint = Some(fingerprint);
        }
    }

    /// Whether the queue took it; one that it did not comes again with the next answer.
    async fn hand_in(&self) -> bool {
        let Some(setup) = self.setup.clone() else { return false };
        self.intake.take(vec![Ok(Sample::Setup(setup, None))]).await.is_ok()
    }
}

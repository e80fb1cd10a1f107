//! Chaos tests with real processes: the agent, a network that is cut, stalled, slowed and
//! fragmented, and a real Flask-SocketIO server that is killed, paused and made to lose its
//! sessions.
//!
//! A seed determines which faults occur and when. At the end all faults are repaired, and three
//! records are compared: the frames that the agent reported stored, the frames that the server kept
//! over all its restarts, and the frames that a viewer saw. The viewer shares no code with the
//! agent.
//!
//! Each test takes half a minute; with `LONG=1`, half an hour. `CHAOS_MINUTES` and `CHAOS_SEED`
//! override the duration and the seed.

mod audit;
mod fault;
mod race;

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use self::fault::Fault;
use self::race::Race;
use crate::full_disk::{ROLE, on_a_small_disk};
use crate::long::is_long;

#[test]
fn stored_frames_at_2_hz_are_seen_in_order_under_random_faults() {
    race_on_a_small_disk(2);
}

#[test]
fn stored_frames_at_200_hz_are_seen_in_order_under_random_faults() {
    race_on_a_small_disk(200);
}

/// Runs a race in a separate mount namespace, on a small disk that can be filled completely.
fn race_on_a_small_disk(rate_hz: u32) {
    let seed = env::var("CHAOS_SEED").unwrap_or(rate_hz.to_string());
    let out = on_a_small_disk("chaos::child", &format!("{rate_hz} {seed}"));
    let said = out.lines().filter_map(|line| line.strip_prefix("chaos: "));
    said.for_each(|line| eprintln!("{rate_hz} Hz, seed {seed}: {line}"));
}

#[tokio::test]
#[ignore = "run by a test above"]
async fn child() {
    let Ok(role) = env::var(ROLE) else { return };
    let mut words = role.splitn(3, ' ');
    let mut word = || words.next().unwrap();
    let (rate_hz, seed, folder) = (word().parse().unwrap(), word().parse().unwrap(), word());
    let minutes = env::var("CHAOS_MINUTES").map(|text| text.parse().expect("minutes"));
    let minutes = minutes.unwrap_or(if is_long() { 30.0 } else { 0.0 });
    let time = Duration::from_secs_f64(minutes * 60.0);
    let mut race = Race::start(PathBuf::from(folder), rate_hz, seed);
    race.go_on(time.mul_f64(0.6), &Fault::ALL).await;
    if !time.is_zero() {
        // No kills: whether memory grows shows only in an agent that runs for long.
        let lasting: Vec<Fault> =
            Fault::ALL.into_iter().filter(|fault| *fault != Fault::AgentKilled).collect();
        race.go_on(time.mul_f64(0.4), &lasting).await;
    }
    race.finish().await;
}

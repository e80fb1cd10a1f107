//! Chaos with real parts: the agent itself, a network that is cut, stalled, slowed and torn into
//! pieces, and a real Flask-SocketIO server that is killed, stopped and made to forget.
//!
//! Which faults come, and when, is drawn from a seed. At the end all is healed, and the books are
//! compared: what the agent had reported stored, what the server kept over all its lives, and what
//! a viewer saw who shares no code with the agent.
//!
//! Half a minute each as a rule; `LONG=1` takes half an hour, `CHAOS_MINUTES` and `CHAOS_SEED` say
//! otherwise.

mod books;
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
fn at_2_hz_each_stored_frame_is_seen_in_order_whatever_fails() {
    race_on_a_small_disk(2);
}

#[test]
fn at_200_hz_each_stored_frame_is_seen_in_order_whatever_fails() {
    race_on_a_small_disk(200);
}

/// In a name space of its own, where the disk can be filled to the brim.
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
        // Whether it grows only a life shows that lasts.
        let lasting: Vec<Fault> =
            Fault::ALL.into_iter().filter(|fault| *fault != Fault::AgentKilled).collect();
        race.go_on(time.mul_f64(0.4), &lasting).await;
    }
    race.finish().await;
}

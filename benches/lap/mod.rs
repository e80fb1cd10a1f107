//! What the benches feed in: a simulated car at 2 Hz, so that every frame has the sizes, the
//! digits and the small changes of a real one.

#![allow(dead_code, reason = "each bench needs some of it")]

use std::time::Duration;

use pitwire::clock;
use pitwire::entry::CapturedAt;
use pitwire::fields;
use pitwire::source::simulator::Car;
use serde_json::Value;

/// The first samples of a race, each with its moment of capture.
pub(crate) fn samples(count: usize) -> Vec<(CapturedAt, Value)> {
    let period = Duration::from_millis(500);
    let mut car = Car::new(1);
    let mut at = clock::now();
    let mut next = || {
        car.step(period);
        at.0 += period.as_millis() as i64;
        (at, car.sample())
    };
    (0..count).map(|_| next()).collect()
}

/// So many of the dashboard's frames, as JSON text.
pub(crate) fn frames(count: usize) -> Vec<String> {
    samples(count).into_iter().map(|(at, sample)| fields::map(&sample, at).unwrap()).collect()
}

/// So many samples as a source sends them, one a line.
pub(crate) fn lines(count: usize) -> Vec<String> {
    samples(count).into_iter().map(|(_, sample)| sample.to_string() + "\n").collect()
}

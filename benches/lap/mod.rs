//! Input of the benches: a simulated car at 2 Hz, whose frames have the sizes, digits and small
//! changes of real ones.

#![allow(dead_code, reason = "each bench needs some of it")]

use std::time::Duration;

use pitwire::entry::CapturedAt;
use pitwire::fields;
use pitwire::platform::clock;
use pitwire::source::simulator::Car;
use serde_json::Value;

/// The first samples of a race, each with its capture time.
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

/// This many dashboard frames, as JSON text.
pub(crate) fn frames(count: usize) -> Vec<String> {
    samples(count).into_iter().map(|(at, sample)| fields::map(&sample, at).unwrap()).collect()
}

/// This many samples as a source sends them, one a line.
pub(crate) fn lines(count: usize) -> Vec<String> {
    samples(count).into_iter().map(|(_, sample)| sample.to_string() + "\n").collect()
}

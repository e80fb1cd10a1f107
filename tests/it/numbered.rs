//! An endless sequence of samples, numbered by their lap.

use serde_json::Value;

use crate::process::numbered_samples;

/// The number of distinct samples of the simulated car, which repeat in a loop.
const ROUND: usize = 500;

/// A simulated car whose samples carry their number as the lap.
#[derive(Debug)]
pub struct Numbered {
    samples: Vec<Value>,
    next: u64,
}

impl Numbered {
    /// Creates a sequence whose first sample has this number.
    pub fn from(first: u64) -> Self {
        let samples = numbered_samples(1, ROUND);
        let samples = samples.iter().map(|sample| serde_json::from_str(sample).unwrap()).collect();
        Self { samples, next: first }
    }

    /// The next sample as a line.
    pub fn next(&mut self) -> String {
        let sample = &mut self.samples[self.next as usize % ROUND];
        sample["lap"] = self.next.into();
        self.next += 1;
        sample.to_string()
    }

    /// The number of the next sample.
    pub fn number(&self) -> u64 {
        self.next
    }
}

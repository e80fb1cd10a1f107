//! The track: the speed of a good driver at each point.

pub(super) const NAME: &str = "Autódromo da Serra Verde";

/// The deceleration of full braking, in m/s².
pub(super) const BRAKING: f64 = 15.0;

/// The resolution of the speed profile.
const STEP_M: f64 = 5.0;

/// The speed limit of straights in km/h: more than any car reaches.
const FLAT: f64 = 999.0;

/// The sections of the lap from the line: length in metres, speed of the corner in km/h, and bend.
/// A bend of 1 is the sharpest left that the tyres hold, -1 the sharpest right, 0 straight ahead.
const SECTIONS: [(f64, f64, f64); 21] = [
    (600.0, FLAT, 0.0),
    (120.0, 85.0, -1.0), // hairpin
    (310.0, FLAT, 0.0),
    (200.0, 235.0, 0.9),
    (180.0, 205.0, -0.95),
    (900.0, FLAT, 0.0),
    (100.0, 145.0, -1.0),
    (100.0, 140.0, 1.0),
    (250.0, FLAT, 0.0),
    (260.0, 165.0, -0.95), // long, downhill
    (110.0, 125.0, 1.0),
    (400.0, FLAT, 0.0),
    (350.0, 215.0, 0.95),
    (350.0, FLAT, 0.0),
    (150.0, 155.0, -0.9),
    (150.0, 170.0, -0.9),
    (500.0, FLAT, 0.0),
    (300.0, 275.0, 0.6), // flat out for the brave
    (700.0, FLAT, 0.0),
    (120.0, 95.0, -1.0), // last chicane
    (850.0, FLAT, 0.0),
];

/// The speed profile of one lap, by `STEP_M`.
#[derive(Clone, Debug)]
pub(super) struct Track {
    /// m/s, braking for the next corner included.
    speeds: Vec<f64>,
    bends: Vec<f64>,
}

impl Track {
    pub(super) fn new() -> Self {
        let mut speeds = Vec::new();
        let mut bends = Vec::new();
        for (length, kmh, bend) in SECTIONS {
            let steps = (length / STEP_M) as usize;
            speeds.extend(std::iter::repeat_n(kmh / 3.6, steps));
            bends.extend(std::iter::repeat_n(bend, steps));
        }
        // Go backwards, so that each step knows the speed that it must brake to. The line is on a
        // straight, so braking never extends across it.
        let mut next = FLAT;
        for speed in speeds.iter_mut().rev() {
            *speed = speed.min((next * next + 2.0 * BRAKING * STEP_M).sqrt());
            next = *speed;
        }
        Self { speeds, bends }
    }

    /// The length of a lap in metres.
    pub(super) fn length(&self) -> f64 {
        self.speeds.len() as f64 * STEP_M
    }

    /// The highest possible speed in m/s at this distance from the line.
    pub(super) fn speed_at(&self, distance: f64) -> f64 {
        at(&self.speeds, distance)
    }

    /// The bend: 1 is the sharpest left that the tyres hold, -1 the sharpest right.
    pub(super) fn bend_at(&self, distance: f64) -> f64 {
        at(&self.bends, distance)
    }
}

fn at(profile: &[f64], distance: f64) -> f64 {
    let step = (distance / STEP_M) as usize % profile.len().max(1);
    profile.get(step).copied().unwrap_or_default()
}

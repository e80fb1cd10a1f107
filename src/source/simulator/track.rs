//! The road: how fast a good driver goes where.

pub(super) const NAME: &str = "Autódromo da Serra Verde";

/// What a driver's brakes take off the speed, in m/s².
pub(super) const BRAKING: f64 = 15.0;

/// The resolution of the speed profile.
const STEP_M: f64 = 5.0;

/// Straights have a speed that no car reaches.
const FLAT: f64 = 999.0;

/// From the line on: metres, the speed of the corner in km/h, and how it bends: 1 is as much to
/// the left as the tyres hold, -1 to the right, 0 straight on.
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
        // Backwards, so that each step knows what it has to brake for. The lap ends on a straight
        // that the next begins with, so the line needs no care.
        let mut next = FLAT;
        for speed in speeds.iter_mut().rev() {
            *speed = speed.min((next * next + 2.0 * BRAKING * STEP_M).sqrt());
            next = *speed;
        }
        Self { speeds, bends }
    }

    /// In metres.
    pub(super) fn length(&self) -> f64 {
        self.speeds.len() as f64 * STEP_M
    }

    /// The speed in m/s that the road allows at this distance from the line.
    pub(super) fn speed_at(&self, distance: f64) -> f64 {
        at(&self.speeds, distance)
    }

    /// How the road bends: 1 is as much to the left as the tyres hold, -1 to the right.
    pub(super) fn bend_at(&self, distance: f64) -> f64 {
        at(&self.bends, distance)
    }
}

fn at(profile: &[f64], distance: f64) -> f64 {
    let step = (distance / STEP_M) as usize % profile.len().max(1);
    profile.get(step).copied().unwrap_or_default()
}

//! A snapshot of the player's car in the game's format, and its conversion to a sample.

use serde_json::{Value, json};

use super::layout::{
    DRIVER_NAME_BYTES, NAME_BYTES, byte, float, integer, session, short, standing, telemetry, text,
};
use crate::config::Units;
use crate::entry::CapturedAt;

const KPA_PER_PSI: f64 = 6.894_757_293_168_361;
const ZERO_CELSIUS_IN_KELVIN: f64 = 273.15;

/// The three records of a sample, each consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) session: Vec<u8>,
    pub(super) standing: Vec<u8>,
    pub(super) telemetry: Vec<u8>,
}

impl Snapshot {
    /// A number that changes with each update of the car's physics.
    pub fn clock(&self) -> u64 {
        float(&self.telemetry, telemetry::CLOCK).to_bits()
    }

    /// The dashboard's 20 fields and the time left in the session, without values that are not
    /// finite or that no dashboard accepts.
    pub fn sample(&self, units: Units, captured_at: CapturedAt) -> Value {
        let Self { session, standing, telemetry } = self;
        let mut car = text(telemetry, telemetry::CAR_NAME, NAME_BYTES);
        if car.is_empty() {
            car = text(standing, standing::CAR_NAME, NAME_BYTES);
        }
        let mut track = text(telemetry, telemetry::TRACK_NAME, NAME_BYTES);
        if track.is_empty() {
            track = text(session, session::TRACK_NAME, NAME_BYTES);
        }
        let mut sample = json!({
            "timestamp": captured_at.to_string(),
            "lap": short(standing, standing::LAPS).max(1),
            "position": byte(standing, standing::PLACE),
            "lap_time": lap_time(units, float(standing, standing::LAP_TIME)),
            "fuel": not_negative(float(telemetry, telemetry::FUEL)),
            "fuel_capacity": not_negative(float(telemetry, telemetry::FUEL_CAPACITY)),
            "tire_pressures": self.by_wheel(|wheel| pressure(units, wheel)),
            "tire_temps": self.by_wheel(tyre_temp),
            "tire_wear": self.by_wheel(|wheel| wear(units, wheel)),
            "brake_temps": self.by_wheel(|wheel| brake_temp(units, wheel)),
            "engine_water_temp": float(telemetry, telemetry::WATER_TEMP),
            "track_temp": float(session, session::TRACK_TEMP),
            "ambient_temp": float(session, session::AIR_TEMP),
            "speed": speed(telemetry),
            "gear": integer(telemetry, telemetry::GEAR),
            "rpm": float(telemetry, telemetry::RPM),
            "player_name": text(standing, standing::DRIVER_NAME, DRIVER_NAME_BYTES),
            "car_name": car,
            "track_name": track,
            "session_type": session_type(integer(session, session::KIND)),
            "session_time_left": time_left(session),
        });
        remove_nulls(&mut sample);
        sample
    }

    fn by_wheel(&self, value: impl Fn(&[u8]) -> f64) -> Value {
        let [fl, fr, rl, rr] = [0, 1, 2, 3].map(|number| {
            let at = telemetry::WHEELS + number * telemetry::WHEEL_BYTES;
            value(self.telemetry.get(at..).unwrap_or_default())
        });
        json!({"fl": fl, "fr": fr, "rl": rl, "rr": rr})
    }
}

/// Removes the members of an object and of the objects in it that are null: numbers that are not
/// finite become null in JSON.
fn remove_nulls(sample: &mut Value) {
    if let Value::Object(members) = sample {
        members.retain(|_, value| !value.is_null());
        members.values_mut().for_each(remove_nulls);
    }
}

/// Before the first lap, the game counts up from a negative time.
fn lap_time(units: Units, seconds: f64) -> Option<f64> {
    match units {
        Units::Label if seconds < 0.0 => Some(0.0),
        Units::Label | Units::Upstream => not_negative(seconds),
    }
}

/// The seconds to the end of the session, to a millisecond; `None` if laps may end it first.
fn time_left(session: &[u8]) -> Option<f64> {
    let left = float(session, session::END) - float(session, session::CLOCK);
    let left = (left * 1000.0).round() / 1000.0;
    (integer(session, session::MAX_LAPS) == i32::MAX).then_some(left).and_then(not_negative)
}

fn not_negative(number: f64) -> Option<f64> {
    (number >= 0.0).then_some(number)
}

fn pressure(units: Units, wheel: &[u8]) -> f64 {
    let kpa = float(wheel, telemetry::wheel::PRESSURE);
    match units {
        Units::Label => kpa / KPA_PER_PSI,
        Units::Upstream => kpa,
    }
}

/// The mean temperature across the tread, in °C.
fn tyre_temp(wheel: &[u8]) -> f64 {
    let [inner, middle, outer] =
        [0, 8, 16].map(|offset| float(wheel, telemetry::wheel::SURFACE_TEMP + offset));
    (inner + middle + outer) / 3.0 - ZERO_CELSIUS_IN_KELVIN
}

fn wear(units: Units, wheel: &[u8]) -> f64 {
    let left = float(wheel, telemetry::wheel::CONDITION);
    match units {
        Units::Label => (1.0 - left) * 100.0,
        Units::Upstream => left,
    }
}

fn brake_temp(units: Units, wheel: &[u8]) -> f64 {
    let kelvin = float(wheel, telemetry::wheel::BRAKE_TEMP);
    match units {
        Units::Label => kelvin - ZERO_CELSIUS_IN_KELVIN,
        Units::Upstream => kelvin,
    }
}

/// The speed in km/h.
fn speed(telemetry: &[u8]) -> f64 {
    let [x, y, z] = [0, 8, 16].map(|offset| float(telemetry, telemetry::VELOCITY + offset));
    (x * x + y * y + z * z).sqrt() * 3.6
}

fn session_type(kind: i32) -> &'static str {
    match kind {
        0 => "TestDay",
        5..=8 => "Qualifying",
        9 => "Warmup",
        10..=13 => "Race",
        _ => "Practice",
    }
}

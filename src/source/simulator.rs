//! A simulated car on a simulated track: plausible telemetry without a game.
//!
//! A [`Car`] uses neither the clock nor I/O: [`Car::step`] moves it, and [`Car::sample`] reads it.
//! The same seed and the same steps give a bit-for-bit identical history on one platform and one
//! version of the program; `SmallRng` and the system's floating-point functions guarantee no more.
//!
//! The samples use a source's field names (`race_position`, `tyre_pressure`), not the dashboard's,
//! and the units of the dashboard's labels.

mod garage;
mod track;

use std::f64::consts::TAU;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use self::garage::Garage;
use self::track::{BRAKING, Track};

/// The rate of the simulated car, and of a recording, when `update_rate_hz` is 0.
pub(crate) const SIMULATOR_RATE_HZ: f64 = 2.0;

/// Longer steps are cut to this, so that a step takes at most some milliseconds of work.
pub const MAX_STEP: Duration = Duration::from_secs(3600);

/// The model's time step: short enough for a car that brakes from 300 km/h.
const TICK_S: f64 = 0.1;

const DRIVERS: [&str; 4] = ["Zoë Lindqvist", "Marek Havel", "Inês Carvalho", "Tom Abara"];
const CARS: [&str; 3] = ["Falcão Racing #27", "Nordlicht Motorsport #8", "Team Kestrel #51"];
const FUEL_CAPACITY_L: f64 = 75.0;
/// Two laps and a margin. With less fuel at the line, the car pits at the end of the lap.
const FUEL_RESERVE_L: f64 = 7.0;
/// The tyre wear above which the car pits at the end of the lap.
const WEAR_LIMIT_PERCENT: f64 = 80.0;
const FUEL_FLOW_L_PER_S: f64 = 2.5;
const TYRE_CHANGE_S: f64 = 14.0;
/// The number of cars, and therefore the last position.
const GRID: u64 = 20;

/// In m/s, like every speed in this module.
const TOP_SPEED: f64 = 88.0;
const PIT_SPEED: f64 = 60.0 / 3.6;
/// Where the pit lane starts and where the pit box is, in metres before the line.
const PIT_ENTRY_M: f64 = 420.0;
const PIT_BOX_M: f64 = 90.0;
/// Where the pit lane ends, in metres after the line.
const PIT_EXIT_M: f64 = 330.0;
/// In m/s².
const PIT_BRAKING: f64 = 6.0;

const IDLE_RPM: f64 = 1_900.0;
const MAX_RPM: f64 = 8_200.0;
/// The speed in m/s at which each forward gear reaches `MAX_RPM`.
const GEARS: [f64; 7] = [23.0, 34.0, 45.0, 56.0, 67.0, 79.0, 92.0];

/// A simulated car in a race that never ends.
#[derive(Clone, Debug)]
pub struct Car {
    rng: SmallRng,
    track: Track,
    garage: Garage,
    driver: &'static str,
    name: &'static str,
    weather: Weather,
    /// The session time, in seconds.
    time: f64,
    lap: u64,
    position: u64,
    lap_time: f64,
    last_lap_time: f64,
    /// The distance from the line, in metres.
    distance: f64,
    total_distance: f64,
    road: Road,
    /// In m/s.
    speed: f64,
    /// The driver's pace in this lap as a factor, close to 1.
    form: f64,
    throttle: f64,
    brake: f64,
    /// Forward gear, 1 to 7.
    gear: usize,
    fuel: f64,
    engine_temp: f64,
    /// In the order fl, fr, rl, rr.
    wheels: [Wheel; 4],
}

/// Where the car is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Road {
    Circuit,
    /// On the circuit, pitting at the end of this lap.
    InLap,
    PitEntry,
    PitBox {
        remaining_s: f64,
    },
    PitExit,
}

#[derive(Clone, Copy, Debug)]
struct Wheel {
    /// The tyre temperature, °C.
    temp: f64,
    /// The tyre wear, %.
    wear: f64,
    /// °C.
    brake_temp: f64,
}

impl Wheel {
    /// A new, preheated tyre on a brake of this temperature.
    fn fresh(brake_temp: f64) -> Self {
        Self { temp: 70.0, wear: 0.0, brake_temp }
    }
}

#[derive(Clone, Copy, Debug)]
struct Weather {
    /// The mean temperature of the day, °C.
    base: f64,
    /// How far the temperature has drifted from the day's curve, °C.
    drift: f64,
    /// The time of day at which the session starts, 0 to 1.
    day: f64,
}

impl Car {
    /// A car on the grid with a full tank, before the start of lap 1.
    pub fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let weather = Weather {
            base: rng.random_range(16.0..25.0),
            drift: 0.0,
            day: rng.random_range(0.25..0.55),
        };
        Self {
            track: Track::new(),
            garage: Garage::new(&mut rng),
            driver: DRIVERS[rng.random_range(0..DRIVERS.len())],
            name: CARS[rng.random_range(0..CARS.len())],
            weather,
            time: 0.0,
            lap: 1,
            position: rng.random_range(1..=GRID),
            lap_time: 0.0,
            last_lap_time: 0.0,
            distance: 0.0,
            total_distance: 0.0,
            road: Road::Circuit,
            speed: 0.0,
            form: 1.0,
            throttle: 0.0,
            brake: 0.0,
            gear: 1,
            fuel: FUEL_CAPACITY_L,
            engine_temp: 80.0,
            wheels: [Wheel::fresh(150.0); 4],
            rng,
        }
    }

    /// Advances the simulation by `dt`, at most [`MAX_STEP`].
    pub fn step(&mut self, dt: Duration) {
        let dt = dt.min(MAX_STEP).as_secs_f64();
        let ticks = (dt / TICK_S).ceil();
        for _ in 0..ticks as u32 {
            self.tick(dt / ticks);
        }
    }

    /// The current state as a telemetry sample.
    pub fn sample(&self) -> Value {
        let in_pits = !matches!(self.road, Road::Circuit | Road::InLap);
        let is_standing = matches!(self.road, Road::PitBox { .. });
        json!({
            "player_name": self.driver,
            "track_name": track::NAME,
            "car_name": self.name,
            "session_type": "Race",
            "lap": self.lap,
            "race_position": self.position,
            "lap_time": self.lap_time,
            "last_lap_time": self.last_lap_time,
            "lap_distance": self.distance,
            "total_distance": self.total_distance,
            "track_length": self.track.length(),
            "in_pits": in_pits,
            "speed": self.speed * 3.6,
            "gear": if is_standing { 0 } else { self.gear },
            "rpm": self.rpm(),
            "throttle": self.throttle,
            "brake": self.brake,
            "fuel": self.fuel,
            "fuel_capacity": FUEL_CAPACITY_L,
            "tyre_pressure": by_wheel(|i| self.pressure(i)),
            "tyre_temp": by_wheel(|i| self.wheels[i].temp),
            "tyre_wear": by_wheel(|i| self.wheels[i].wear),
            "brake_temp": by_wheel(|i| self.wheels[i].brake_temp),
            "engine_temp": self.engine_temp,
            "track_temp": self.weather.track_temp(self.time),
            "ambient_temp": self.weather.ambient_temp(self.time),
        })
    }

    /// The car's setup in the game's format. The settings never change; the weather, the position
    /// and the time that the game adds to them do.
    pub fn setup(&self) -> Value {
        json!({
            "carPresetSetups": {
                "presets": [{"translated": "balanced", "unTranslated": "balanced"}],
            },
            "carSetup": {"garageValues": self.garage.values()},
            "currentWeather": {
                "ambientTempKelvin": self.weather.ambient_temp(self.time) + 273.15,
                "trackTempKelvin": self.weather.track_temp(self.time) + 273.15,
                "raining": 0.0,
            },
            "racePosition": self.position,
            "sessionTime": self.time,
            "teamInfo": {"teamName": self.name},
        })
    }

    fn tick(&mut self, dt: f64) {
        self.time += dt;
        self.weather.drift(&mut self.rng, dt);
        self.drive(dt);
        self.shift();
        self.burn(dt);
        self.heat(dt);
        self.advance(dt);
    }

    /// Sets the pedals and updates the speed.
    fn drive(&mut self, dt: f64) {
        let target = self.target_speed();
        let power = 9.5 * (1.0 - (self.speed / TOP_SPEED).powi(2)).max(0.0);
        self.throttle = ((target - self.speed) / (power * dt).max(1e-9)).clamp(0.0, 1.0);
        self.brake = ((self.speed - target) / (BRAKING * dt)).clamp(0.0, 1.0);
        self.speed += (self.throttle * power - self.brake * BRAKING) * dt;
        self.speed = self.speed.clamp(0.0, TOP_SPEED);
    }

    fn target_speed(&self) -> f64 {
        let wear = self.wheels.iter().map(|wheel| wheel.wear).sum::<f64>() / 4.0;
        let pace = self.form - 0.0004 * wear - 0.0002 * self.fuel;
        let free = self.track.speed_at(self.distance) * pace;
        let before_line = self.track.length() - self.distance;
        match self.road {
            Road::Circuit => free,
            Road::InLap => free.min(brake_in_time(PIT_SPEED, before_line - PIT_ENTRY_M)),
            Road::PitEntry => PIT_SPEED.min(brake_in_time(0.0, before_line - PIT_BOX_M)),
            Road::PitBox { .. } => 0.0,
            Road::PitExit => PIT_SPEED,
        }
    }

    fn shift(&mut self) {
        while self.gear < GEARS.len() && self.speed > 0.96 * GEARS[self.gear - 1] {
            self.gear += 1;
        }
        while self.gear > 1 && self.speed < 0.86 * GEARS[self.gear - 2] {
            self.gear -= 1;
        }
    }

    fn rpm(&self) -> f64 {
        (self.speed / GEARS[self.gear - 1] * MAX_RPM).max(IDLE_RPM)
    }

    fn burn(&mut self, dt: f64) {
        let flow = 0.002 + 0.0495 * self.throttle * self.rpm() / MAX_RPM;
        self.fuel = (self.fuel - flow * dt).max(0.0);
        let target = self.weather.ambient_temp(self.time) * 0.4 + 76.0 + 10.0 * self.throttle;
        approach(&mut self.engine_temp, target, dt / 60.0);
    }

    /// Updates tyres and brakes from load and friction.
    fn heat(&mut self, dt: f64) {
        let free = self.track.speed_at(self.distance).max(1.0);
        let grip = (self.speed / free).min(1.0).powi(2);
        // Positive in left-hand bends, which load the wheels on the right.
        let lateral = self.track.bend_at(self.distance) * grip;
        let air = self.weather.ambient_temp(self.time);
        let ground = self.weather.track_temp(self.time);
        let rolling = self.speed / TOP_SPEED;
        for (index, wheel) in self.wheels.iter_mut().enumerate() {
            let side = if index % 2 == 0 { -1.0 } else { 1.0 };
            let (front, driven) = if index < 2 { (1.0, 0.0) } else { (0.0, 1.0) };
            let load = 1.0 + 0.4 * side * lateral + (front - 0.5) * 0.4 * self.brake;
            let slip = lateral.abs()
                + (0.4 + 0.3 * front) * self.brake
                + 0.35 * driven * self.throttle * (1.0 - rolling);
            let target = ground + 28.0 + 18.0 * rolling + 62.0 * load * slip;
            approach(&mut wheel.temp, target, dt / 25.0);
            wheel.wear = (wheel.wear + 0.03 * load * slip * dt).min(100.0);

            let friction = (0.6 + 0.4 * front) * self.brake * self.speed * 3.4;
            let cooling = (wheel.brake_temp - air) * (0.012 + 0.06 * rolling);
            wheel.brake_temp += (friction - cooling) * dt;
        }
    }

    fn advance(&mut self, dt: f64) {
        self.lap_time += dt;
        self.distance += self.speed * dt;
        self.total_distance += self.speed * dt;
        let over_the_line = self.distance - self.track.length();
        if over_the_line >= 0.0 {
            self.begin_lap(over_the_line);
        }
        let before_line = self.track.length() - self.distance;
        match &mut self.road {
            Road::InLap if before_line < PIT_ENTRY_M => self.road = Road::PitEntry,
            Road::PitEntry if before_line < PIT_BOX_M + 1.0 => self.begin_stop(),
            Road::PitBox { remaining_s } if *remaining_s > 0.0 => {
                *remaining_s -= dt;
                self.fuel = (self.fuel + FUEL_FLOW_L_PER_S * dt).min(FUEL_CAPACITY_L);
            }
            Road::PitBox { .. } => self.end_stop(),
            // The pit lane starts before the line, where `distance` still belongs to the old lap.
            Road::PitExit if (PIT_EXIT_M..before_line).contains(&self.distance) => {
                self.road = Road::Circuit;
            }
            Road::Circuit | Road::InLap | Road::PitEntry | Road::PitExit => {}
        }
    }

    fn begin_stop(&mut self) {
        self.speed = 0.0;
        let refuelling_s = (FUEL_CAPACITY_L - self.fuel) / FUEL_FLOW_L_PER_S;
        self.road = Road::PitBox { remaining_s: refuelling_s.max(TYRE_CHANGE_S) };
    }

    fn end_stop(&mut self) {
        self.wheels = self.wheels.map(|wheel| Wheel::fresh(wheel.brake_temp));
        self.position = (self.position + self.rng.random_range(1..=3)).min(GRID);
        self.road = Road::PitExit;
    }

    fn begin_lap(&mut self, over_the_line: f64) {
        let since = over_the_line / self.speed.max(1.0);
        self.last_lap_time = self.lap_time - since;
        self.lap_time = since;
        self.distance = over_the_line;
        self.lap += 1;
        self.form = self.rng.random_range(0.985..1.0);
        match self.rng.random_range(0..12) {
            0 | 1 => self.position = (self.position - 1).max(1),
            2 => self.position = (self.position + 1).min(GRID),
            _ => {}
        }
        let is_worn = self.wheels.iter().any(|wheel| wheel.wear > WEAR_LIMIT_PERCENT);
        if self.fuel < FUEL_RESERVE_L || is_worn {
            self.road = Road::InLap;
        }
    }

    /// The pressure in PSI: an ideal gas in a tyre that was filled at 25 °C.
    fn pressure(&self, index: usize) -> f64 {
        const ATMOSPHERE: f64 = 14.7;
        let cold = if index < 2 { 20.0 } else { 19.2 };
        let kelvin = self.wheels[index].temp + 273.15;
        (cold + ATMOSPHERE) * kelvin / 298.15 - ATMOSPHERE
    }
}

impl Weather {
    /// Lets the temperature wander around the day's curve, to which it returns within an hour.
    fn drift(&mut self, rng: &mut SmallRng, dt: f64) {
        self.drift += 0.05 * dt.sqrt() * rng.random_range(-1.0..1.0) - self.drift * dt / 3_600.0;
        self.drift = self.drift.clamp(-5.0, 5.0);
    }

    /// The air temperature, °C.
    fn ambient_temp(&self, time: f64) -> f64 {
        self.base + 4.0 * self.sun(time) + self.drift
    }

    /// The track temperature, °C: the sun warms the ground more than the air.
    fn track_temp(&self, time: f64) -> f64 {
        self.base + 7.0 + 9.0 * self.sun(time) + self.drift
    }

    /// The height of the sun: -1 at midnight, 1 at noon.
    fn sun(&self, time: f64) -> f64 {
        -((time / 86_400.0 + self.day) * TAU).cos()
    }
}

/// The highest speed from which gentle braking still reaches `speed` within `distance` metres.
fn brake_in_time(speed: f64, distance: f64) -> f64 {
    (speed.powi(2) + 2.0 * PIT_BRAKING * distance.max(0.0)).sqrt()
}

/// Moves a value towards its target with a first-order lag; `part` is the elapsed time in time
/// constants.
fn approach(value: &mut f64, target: f64, part: f64) {
    *value += (target - *value) * (1.0 - (-part).exp());
}

fn by_wheel(value: impl Fn(usize) -> f64) -> Value {
    json!({"fl": value(0), "fr": value(1), "rl": value(2), "rr": value(3)})
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::CapturedAt;
    use crate::fields::{self, Setup};

    const HALF_SECOND: Duration = Duration::from_millis(500);

    /// The samples of a drive at 2 Hz.
    fn drive(seed: u64, hours: usize) -> impl Iterator<Item = Value> {
        let mut car = Car::new(seed);
        (0..hours * 7_200).map(move |_| {
            car.step(HALF_SECOND);
            car.sample()
        })
    }

    fn number(sample: &Value, key: &str) -> f64 {
        sample[key].as_f64().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_same_seed_and_steps_give_the_same_history(
            seed: u64,
            steps in prop::collection::vec(0_u64..20_000, 1..40),
        ) {
            let (mut one, mut other) = (Car::new(seed), Car::new(seed));
            for ms in steps {
                one.step(Duration::from_millis(ms));
                other.step(Duration::from_millis(ms));
                prop_assert_eq!(one.sample(), other.sample());
            }
            prop_assert_eq!(one.setup(), other.setup());
        }
    }

    #[test]
    fn different_seeds_give_different_histories() {
        assert_ne!(drive(1, 1).last(), drive(2, 1).last());
        let [one, other] =
            [1, 2].map(|seed| Setup::of(&Car::new(seed).setup()).unwrap().fingerprint());
        assert_ne!(one, other);
    }

    #[test]
    fn a_simulated_day_stays_within_plausible_values() {
        #[rustfmt::skip]
        let plausible = [
            ("race_position", 1.0, 20.0), ("lap_time", 0.0, 200.0), ("fuel", 0.5, 75.0),
            ("lap_distance", 0.0, 7_000.0), ("speed", 0.0, 320.0), ("gear", 0.0, 7.0),
            ("rpm", 1_900.0, 8_200.0), ("throttle", 0.0, 1.0), ("brake", 0.0, 1.0),
            ("engine_temp", 75.0, 110.0), ("ambient_temp", 5.0, 36.0), ("track_temp", 8.0, 48.0),
            ("tyre_pressure", 20.0, 34.0), ("tyre_temp", 35.0, 130.0), ("tyre_wear", 0.0, 85.0),
            ("brake_temp", 40.0, 1_000.0),
        ];
        let mut before = Car::new(7).sample();
        for sample in drive(7, 24) {
            for (key, least, most) in plausible {
                let values = match &sample[key] {
                    Value::Object(wheels) => wheels.values().collect(),
                    value => vec![value],
                };
                for value in values.into_iter().map(|value| value.as_f64().unwrap()) {
                    assert!((least..=most).contains(&value), "{key} {value}: {sample}");
                }
            }
            let faster = number(&sample, "speed") - number(&before, "speed");
            assert!((-30.0..20.0).contains(&faster), "{faster} km/h in half a second: {sample}");
            let laps = number(&sample, "lap") - number(&before, "lap");
            assert!(laps == 0.0 || laps == 1.0 && number(&sample, "lap_time") < 0.5, "{sample}");
            before = sample;
        }
        assert!((600.0..720.0).contains(&number(&before, "lap")), "{before}");
    }

    #[test]
    fn a_lap_takes_about_two_minutes_and_three_litres() {
        let mut car = Car::new(3);
        let mut fuel = car.fuel;
        while car.lap < 20 {
            let lap = car.lap;
            car.step(HALF_SECOND);
            if car.lap > lap {
                let burnt = fuel - car.fuel;
                fuel = car.fuel;
                assert!((118.0..130.0).contains(&car.last_lap_time), "{car:?}");
                assert!((2.8..3.3).contains(&burnt), "{burnt} litres");
            }
        }
    }

    #[test]
    fn a_pit_stop_refuels_changes_tyres_and_costs_positions() {
        let mut car = Car::new(5);
        let mut stop_by_stop = Vec::new();
        for _ in 0..4 * 7_200 {
            let before = car.clone();
            car.step(HALF_SECOND);
            if before.road != Road::PitExit && car.road == Road::PitExit {
                stop_by_stop.push(car.fuel);
                assert!(car.fuel > 74.9, "{car:?}");
                assert!(car.wheels.iter().all(|wheel| wheel.wear < 0.1), "{car:?}");
                assert!(car.position > before.position || car.position == GRID, "{car:?}");
            }
        }
        assert!((4..=6).contains(&stop_by_stop.len()), "{stop_by_stop:?}");
    }

    #[test]
    fn every_sample_maps_to_a_frame_and_the_setup_fingerprint_is_stable() {
        let mut car = Car::new(11);
        let (setup, print) = (car.setup(), Setup::of(&car.setup()).unwrap().fingerprint());
        for _ in 0..600 {
            car.step(Duration::from_secs(7));
            let frame = fields::map(&car.sample(), CapturedAt(0)).unwrap();
            assert!(frame.contains("Autódromo da Serra Verde"), "{frame}");
        }
        assert_ne!(car.setup(), setup);
        assert_eq!(Setup::of(&car.setup()).unwrap().fingerprint(), print);
    }

    #[test]
    fn a_simulation_step_is_bounded() {
        let (mut endless, mut hour) = (Car::new(1), Car::new(1));
        endless.step(Duration::MAX);
        hour.step(MAX_STEP);
        assert_eq!(endless.sample(), hour.sample());
        endless.step(Duration::ZERO);
        assert_eq!(endless.sample(), hour.sample());
    }
}

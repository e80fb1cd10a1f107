//! The car's setup in the game's format: the index of each setting and the text that the driver
//! sees.

use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Map, Value, json};

/// How the game displays a setting.
#[derive(Clone, Copy, Debug)]
enum DisplayFormat {
    /// The index itself.
    Index,
    /// First value, step and unit: index 3 of (130, 2, "kPa") is "136 kPa".
    Scale(f64, f64, &'static str),
    /// First value and step of the front's percentage, followed by the rear's: "54.5:45.5".
    Balance(f64, f64),
}

/// Key, number of values, display format.
#[rustfmt::skip]
const CAR_SETTINGS: [(&str, u32, DisplayFormat); 17] = [
    ("VM_ANTILOCKBRAKESYSTEMMAP", 12, DisplayFormat::Index),
    ("VM_BRAKE_BALANCE", 40, DisplayFormat::Balance(60.0, -0.5)),
    ("VM_BRAKE_DUCTS", 5, DisplayFormat::Scale(0.0, 25.0, "%")),
    ("VM_BRAKE_PRESSURE", 6, DisplayFormat::Scale(95.0, 1.0, "%")),
    ("VM_DIFF_PRELOAD", 20, DisplayFormat::Scale(20.0, 5.0, " Nm")),
    ("VM_ENGINE_MIXTURE", 3, DisplayFormat::Index),
    ("VM_FRONT_ANTISWAY", 8, DisplayFormat::Index),
    ("VM_FRONT_TOE", 30, DisplayFormat::Scale(-0.15, 0.01, " deg")),
    ("VM_FRONT_WING", 6, DisplayFormat::Index),
    ("VM_FUEL_LEVEL", 75, DisplayFormat::Scale(1.0, 1.0, " L")),
    ("VM_RADIATOR", 4, DisplayFormat::Scale(0.0, 20.0, "%")),
    ("VM_REAR_ANTISWAY", 8, DisplayFormat::Index),
    ("VM_REAR_TOE", 30, DisplayFormat::Scale(-0.05, 0.01, " deg")),
    ("VM_REAR_WING", 14, DisplayFormat::Scale(3.0, 0.5, " deg")),
    ("VM_REVLIMITSETTING", 5, DisplayFormat::Scale(7_800.0, 100.0, " rpm")),
    ("VM_STEER_LOCK", 12, DisplayFormat::Scale(10.0, 0.5, " deg")),
    ("VM_TRACTIONCONTROLMAP", 12, DisplayFormat::Index),
];

const WHEEL_SETTINGS: [(&str, u32, DisplayFormat); 4] = [
    ("WM_CAMBER", 40, DisplayFormat::Scale(-4.0, 0.1, " deg")),
    ("WM_PRESSURE", 30, DisplayFormat::Scale(130.0, 1.0, " kPa")),
    ("WM_RIDE_HEIGHT", 30, DisplayFormat::Scale(4.5, 0.1, " cm")),
    ("WM_SPRING", 20, DisplayFormat::Scale(110.0, 5.0, " N/mm")),
];

/// A setup with a random value for each setting.
#[derive(Clone, Debug)]
pub(super) struct Garage(Vec<Setting>);

#[derive(Clone, Debug)]
struct Setting {
    key: String,
    count: u32,
    shown: DisplayFormat,
    /// From 0 to `count - 1`.
    index: u32,
}

impl Garage {
    pub(super) fn new(rng: &mut SmallRng) -> Self {
        let car = CAR_SETTINGS.map(|(key, count, shown)| (key.to_string(), count, shown));
        let wheels = WHEEL_SETTINGS.iter().flat_map(|(key, count, shown)| {
            ["FL", "FR", "RL", "RR"].map(|wheel| (format!("{key}-W_{wheel}"), *count, *shown))
        });
        let settings = car.into_iter().chain(wheels).map(|(key, count, shown)| {
            let index = rng.random_range(0..count);
            Setting { key, count, shown, index }
        });
        Self(settings.collect())
    }

    /// The game's `garageValues`, including two that are not settings.
    pub(super) fn values(&self) -> Value {
        let mut values: Map<String, Value> =
            self.0.iter().map(|setting| (setting.key.clone(), setting.value())).collect();
        let gears = json!({"numForwardGears": 7, "topSpeed": [83, 122, 162, 202, 241, 284, 331],
            "kiloRPM": [8.2, 8.2, 8.2, 8.2, 8.2, 8.2, 8.2], "unit": "km/h"});
        values.insert("gearGraph".to_string(), gears);
        values.insert("symmetric".to_string(), json!(true));
        Value::Object(values)
    }
}

impl Setting {
    fn value(&self) -> Value {
        let text = self.text();
        json!({
            "key": self.key,
            "value": self.index,
            "minValue": 0,
            "maxValue": self.count,
            "stringValue": text,
            "lastSavedStringValue": text,
            "available": true,
            "isFreeSetting": true,
            "diffComparisonValue": 0,
            "numChangesValue": 0,
        })
    }

    fn text(&self) -> String {
        let index = f64::from(self.index);
        match self.shown {
            DisplayFormat::Index => self.index.to_string(),
            DisplayFormat::Scale(first, step, unit) => {
                let decimals = if step < 0.1 { 2 } else { usize::from(step < 1.0) };
                format!("{:.decimals$}{unit}", first + step * index)
            }
            DisplayFormat::Balance(first, step) => {
                let front = first + step * index;
                format!("{front:.1}:{:.1}", 100.0 - front)
            }
        }
    }
}

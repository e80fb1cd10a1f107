//! Laps, stints and fuel of one car, computed from its frames.
//!
//! Frames arrive late when an agent replays its queue, and some are missing when a full queue was
//! downsampled. The tables depend only on which frames were received, not on their order: a frame
//! that is newer than all others advances the tables, and after a late one the next read computes
//! them again. A lap with a gap between its frames is marked as estimated.
//!
//! Memory is bounded: a frame leaves a point of [`POINT_BYTES`], which is removed together with the
//! frame, and the tables keep the newest [`LAPS_KEPT`] laps and [`STINTS_KEPT`] stints.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::entry::CapturedAt;

/// Memory of the point of a frame, which counts towards the limit of the history.
pub(super) const POINT_BYTES: usize = size_of::<(u64, CarPoint)>();

/// The maximum laps of a session: two days of laps of 90 seconds. Older ones are forgotten.
const LAPS_KEPT: usize = 2_000;

/// The maximum stints of a session: two days of stints of 15 minutes. Older ones are forgotten.
const STINTS_KEPT: usize = 200;

/// The maximum different names of drivers and session types of a session; further ones are empty.
const NAMES_KEPT: usize = 100;

/// The maximum length of a name, in characters; the rest is cut off.
const NAME_CHARS: usize = 100;

/// The longest time between two frames without a gap, in milliseconds. A stop for fuel or tyres
/// takes longer, so no gapless lap hides one.
const GAP_MS: i64 = 5_000;

/// The start of a lap is computed from its running time. If the results differ by more
/// milliseconds than this, the running time does not advance with the clock: the game was paused,
/// or the source sends a different time.
const STEADY_MS: f64 = 1_000.0;

/// A rise of the fuel by more litres than this is refuelling; less is noise.
const REFUELLED_L: f32 = 0.2;

/// A drop of the mean tyre wear by more percent than this is a change of tyres.
const TYRES_CHANGED_PERCENT: f32 = 5.0;

/// The longest stop that counts as one, in milliseconds: refuelling, new tyres and a new driver.
const STOP_MS: i64 = 120_000;

/// The longest series, in milliseconds: a day, like the plots of the page.
const SERIES_MS: i64 = 24 * 3_600_000;

/// The number of laps in the averages.
const AVERAGED_LAPS: usize = 5;

/// The values of a frame that the tables are computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CarPoint {
    at: i64,
    /// When the server received the frame.
    received_at: i64,
    /// The running time of the lap in seconds; NaN if unknown, like all numbers of this type.
    lap_time: f64,
    lap: u32,
    fuel: f32,
    /// The mean of the tyres, in percent.
    wear: f32,
    /// The temperatures of the tyres fl, fr, rl, rr in °C.
    temps: [f32; 4],
    driver: u16,
    session_type: u16,
}

/// The tables of one session.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct TimingTables {
    #[serde(flatten)]
    pub(super) summary: CarSummary,
    /// The completed laps, the newest one last.
    pub(super) laps: Vec<LapRow>,
    /// The stints, the current one last.
    pub(super) stints: Vec<StintRow>,
}

/// The state of a car in its newest frame, and the results of its laps.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct CarSummary {
    pub(super) driver: String,
    pub(super) car: String,
    pub(super) track: String,
    pub(super) session_type: String,
    /// When the newest frame was captured, in milliseconds since 1970.
    pub(super) captured_at: Option<i64>,
    /// When the first frame of the oldest known stint was captured, in milliseconds since 1970.
    pub(super) started_at: Option<i64>,
    /// The current lap.
    pub(super) lap: Option<u32>,
    pub(super) position: Option<u32>,
    /// Lap times of the current session type, in seconds.
    pub(super) last_lap: Option<f64>,
    pub(super) best_lap: Option<f64>,
    /// The average of the last five laps without a stop.
    pub(super) average_lap: Option<f64>,
    pub(super) fuel: FuelOutlook,
}

/// The fuel in the tank and how far it lasts, in litres, laps and seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct FuelOutlook {
    pub(super) litres: Option<f64>,
    pub(super) last_lap: Option<f64>,
    /// The average of the last five laps without a stop.
    pub(super) average_lap: Option<f64>,
    pub(super) laps_left: Option<f64>,
    pub(super) seconds_left: Option<f64>,
    /// The fuel to the end of the lap in which the time of the session ends; `None` if the frames
    /// lack `session_time_left`.
    pub(super) needed: Option<f64>,
    /// What is left in the tank then; negative if fuel is missing.
    pub(super) spare: Option<f64>,
}

/// A completed lap.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct LapRow {
    pub(super) lap: u32,
    pub(super) session_type: String,
    pub(super) driver: String,
    /// When it ended, in milliseconds since 1970.
    pub(super) ended_at: i64,
    /// In seconds; `None` if its end was not received.
    pub(super) time: Option<f64>,
    /// In litres; `None` if its start or end was not received.
    pub(super) fuel_used: Option<f64>,
    /// The mean of the tyres in percent; `None` if its start or end was not received.
    pub(super) wear_used: Option<f64>,
    pub(super) pit: PitVisit,
    /// Frames are missing, or its running time did not advance with the clock.
    pub(super) is_estimated: bool,
}

/// A stretch of the history: its newest frame, and the range of each tyre temperature, so that no
/// peak is lost. NaN is null in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct SeriesStretch<'a> {
    at: i64,
    received_at: i64,
    session_type: &'a str,
    lap: u32,
    lap_time: f64,
    fuel: f32,
    temps: [f32; 4],
    lowest: [f32; 4],
    highest: [f32; 4],
}

impl<'a> SeriesStretch<'a> {
    fn of(point: &CarPoint, session_type: &'a str) -> Self {
        let CarPoint { at, received_at, lap_time, lap, fuel, temps, .. } = *point;
        Self {
            at,
            received_at,
            session_type,
            lap,
            lap_time,
            fuel,
            temps,
            lowest: temps,
            highest: temps,
        }
    }

    fn merge(&mut self, other: &Self) {
        // `f32::min` and `f32::max` prefer a number to NaN.
        let lowest = std::array::from_fn(|wheel| self.lowest[wheel].min(other.lowest[wheel]));
        let highest = std::array::from_fn(|wheel| self.highest[wheel].max(other.highest[wheel]));
        if other.at >= self.at {
            *self = *other;
        }
        (self.lowest, self.highest) = (lowest, highest);
    }
}

/// How a lap was affected by a stop for fuel or tyres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PitVisit {
    #[default]
    None,
    /// The car came in at its end and stopped in the next lap, after the line.
    In,
    Stop,
    /// The car left the pits at its start; it stopped in the previous lap, before the line.
    Out,
}

/// The laps of a driver between two stops.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct StintRow {
    pub(super) driver: String,
    pub(super) session_type: String,
    pub(super) first_lap: u32,
    /// The number of completed laps.
    pub(super) laps: u32,
    /// In milliseconds since 1970.
    pub(super) from: i64,
    pub(super) to: i64,
    /// In litres.
    pub(super) fuel_in: Option<f64>,
    pub(super) fuel_out: Option<f64>,
    pub(super) is_current: bool,
    /// Frames are missing, which may hide a stop.
    pub(super) is_estimated: bool,
}

/// The points and tables of one session.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// The points of the stored frames, each with the position of its frame, in order of arrival.
    points: VecDeque<(u64, CarPoint)>,
    names: NameTable,
    state: Progress,
    /// A late frame was received since the state was computed.
    is_outdated: bool,
    newest: Option<NewestFrame>,
    /// `None` after a new frame.
    summary: Option<CarSummary>,
}

/// What only the newest frame shows.
#[derive(Debug)]
struct NewestFrame {
    at: i64,
    car: String,
    track: String,
    position: Option<u32>,
    session_seconds_left: Option<f64>,
}

impl Timing {
    /// Adds the frame at this position of the history; one without a timestamp is ignored.
    pub(super) fn add(&mut self, position: u64, received_at: CapturedAt, frame: &RawValue) {
        let Ok(reading) = serde_json::from_str::<FrameReading<'_>>(frame.get()) else { return };
        let Some(at) = reading.text(reading.timestamp).and_then(|text| CapturedAt::parse(&text))
        else {
            return;
        };
        let point = CarPoint {
            at: at.0,
            received_at: received_at.0,
            lap_time: reading
                .number(reading.lap_time)
                .filter(|time| *time >= 0.0)
                .unwrap_or(f64::NAN),
            lap: reading.whole(reading.lap).unwrap_or(0),
            fuel: reading.number(reading.fuel).map_or(f32::NAN, |fuel| fuel as f32),
            wear: mean_wear(reading.wheels(reading.tire_wear)),
            temps: reading.wheels(reading.tire_temps).map(warm),
            driver: self.names.index(reading.text(reading.player_name)),
            session_type: self.names.index(reading.text(reading.session_type)),
        };
        self.points.push_back((position, point));
        self.summary = None;
        if self.newest.as_ref().is_none_or(|newest| newest.at <= point.at) {
            self.newest = Some(NewestFrame {
                at: point.at,
                car: cut(reading.text(reading.car_name)),
                track: cut(reading.text(reading.track_name)),
                position: reading.whole(reading.position),
                session_seconds_left: reading
                    .number(reading.session_time_left)
                    .filter(|seconds| *seconds >= 0.0),
            });
        }
        self.is_outdated |= self.state.last.is_some_and(|last| last.at > point.at);
        if !self.is_outdated {
            self.state.advance(point);
        }
    }

    /// Removes the points of frames before this position. Laps before the remaining points stay in
    /// the tables.
    pub(super) fn remove_before(&mut self, position: u64) {
        while self.points.front().is_some_and(|(first, _)| *first < position) {
            self.points.pop_front();
        }
    }

    pub(super) fn tables(&mut self) -> TimingTables {
        self.refresh();
        let laps = self.state.laps(&self.names);
        let stints = self.state.stint_rows(&self.names);
        TimingTables { summary: self.summary_of(&laps), laps, stints }
    }

    /// The summary alone. It is cached, so that a list of all sessions costs little.
    pub(super) fn summary(&mut self) -> &CarSummary {
        if self.summary.is_none() {
            self.refresh();
            self.summary = Some(self.summary_of(&self.state.laps(&self.names)));
        }
        self.summary.get_or_insert_default()
    }

    fn summary_of(&self, laps: &[LapRow]) -> CarSummary {
        let (Some(newest), Some(current)) = (&self.newest, self.state.last) else {
            return CarSummary::default();
        };
        let session_type = self.names.get(current.session_type);
        let own = || laps.iter().rev().filter(|lap| lap.session_type == session_type);
        let clean = || own().filter(|lap| lap.pit == PitVisit::None);
        let average_lap = mean(clean().filter_map(|lap| lap.time));
        let fuel_per_lap = mean(clean().filter_map(|lap| lap.fuel_used));
        let litres = Some(f64::from(current.fuel)).filter(|fuel| fuel.is_finite());
        let laps_left = litres.zip(fuel_per_lap.filter(|used| *used > 0.0));
        let laps_left = laps_left.map(|(litres, used)| litres / used);
        let laps_to_end = newest
            .session_seconds_left
            .zip(average_lap)
            .and_then(|(left, lap)| laps_to_end(left, current.lap_time, lap));
        let needed = laps_to_end.zip(fuel_per_lap).map(|(laps, used)| laps * used);
        CarSummary {
            driver: self.names.get(current.driver),
            car: newest.car.clone(),
            track: newest.track.clone(),
            captured_at: Some(newest.at),
            started_at: self.state.stints.front().map(|stint| stint.began_at),
            lap: Some(current.lap),
            position: newest.position,
            last_lap: own().next().and_then(|lap| lap.time),
            best_lap: own().filter_map(|lap| lap.time).reduce(f64::min),
            average_lap,
            fuel: FuelOutlook {
                litres,
                last_lap: own().next().and_then(|lap| lap.fuel_used),
                average_lap: fuel_per_lap,
                laps_left,
                seconds_left: laps_left.zip(average_lap).map(|(laps, seconds)| laps * seconds),
                needed,
                spare: litres.zip(needed).map(|(litres, needed)| litres - needed),
            },
            session_type,
        }
    }

    /// The last day before the newest frame in at most `most` stretches of equal length, in
    /// chronological order.
    pub(super) fn series(&self, most: NonZeroU16) -> Vec<SeriesStretch<'_>> {
        let Some(newest) = self.newest.as_ref().map(|newest| newest.at) else { return Vec::new() };
        let points = || {
            let points = self.points.iter().map(|(_, point)| point);
            points.filter(move |point| newest - point.at < SERIES_MS)
        };
        let Some(oldest) = points().map(|point| point.at).min() else { return Vec::new() };
        let length = (newest - oldest) / i64::from(most.get()) + 1;
        let mut stretches: BTreeMap<i64, SeriesStretch<'_>> = BTreeMap::new();
        for point in points() {
            let session_type = self.names.text(point.session_type);
            let single = SeriesStretch::of(point, session_type);
            stretches
                .entry((point.at - oldest) / length)
                .and_modify(|stretch| stretch.merge(&single))
                .or_insert(single);
        }
        stretches.into_values().collect()
    }

    /// Computes the state again from all points if a late frame was received. What ended before
    /// the first point is kept.
    fn refresh(&mut self) {
        if !std::mem::take(&mut self.is_outdated) {
            return;
        }
        let mut points: Vec<_> = self.points.iter().map(|(_, point)| *point).collect();
        // Stable: frames of the same moment stay in order of arrival.
        points.sort_by_key(|point| point.at);
        let Some(first) = points.first().map(|point| point.at) else { return };
        let mut state = std::mem::take(&mut self.state);
        state.runs.retain(|run| run.last_at < first);
        state.stints.retain(|stint| stint.to < first);
        state.last = None;
        points.into_iter().for_each(|point| state.advance(point));
        self.state = state;
    }
}

/// The names in the points of a session.
#[derive(Debug, Default)]
struct NameTable(Vec<Box<str>>);

impl NameTable {
    /// The index of a name. Adds a new name; if there are too many, returns the index of the empty
    /// name instead.
    fn index(&mut self, name: Option<Cow<'_, str>>) -> u16 {
        let name = cut(name);
        if self.0.is_empty() {
            self.0.push("".into());
        }
        let index = self.0.iter().position(|known| **known == *name).unwrap_or_else(|| {
            if self.0.len() > NAMES_KEPT {
                return 0;
            }
            self.0.push(name.into());
            self.0.len() - 1
        });
        u16::try_from(index).unwrap_or(0)
    }

    fn get(&self, index: u16) -> String {
        self.text(index).to_owned()
    }

    fn text(&self, index: u16) -> &str {
        self.0.get(usize::from(index)).map(AsRef::as_ref).unwrap_or_default()
    }
}

fn cut(name: Option<Cow<'_, str>>) -> String {
    name.unwrap_or_default().chars().take(NAME_CHARS).collect()
}

/// The laps from here to the end of the lap in which the time of the session ends, if all laps take
/// as long as the average one.
fn laps_to_end(seconds_left: f64, lap_time: f64, average_lap: f64) -> Option<f64> {
    // A slow lap cannot be more than complete.
    let driven = (lap_time / average_lap).min(1.0);
    let laps = (driven + seconds_left / average_lap).ceil() - driven;
    laps.is_finite().then_some(laps)
}

/// The mean of the first [`AVERAGED_LAPS`] values.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<_> = values.take(AVERAGED_LAPS).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The fields of a frame that the tables need. A value of another type counts as absent, because
/// the server stores any frame.
#[derive(Deserialize)]
struct FrameReading<'a> {
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    lap: Option<&'a RawValue>,
    lap_time: Option<&'a RawValue>,
    position: Option<&'a RawValue>,
    fuel: Option<&'a RawValue>,
    tire_wear: Option<&'a RawValue>,
    tire_temps: Option<&'a RawValue>,
    player_name: Option<&'a RawValue>,
    car_name: Option<&'a RawValue>,
    track_name: Option<&'a RawValue>,
    session_type: Option<&'a RawValue>,
    /// An extra key of the frame: the seconds to the end of a session that only time ends.
    session_time_left: Option<&'a RawValue>,
}

impl<'a> FrameReading<'a> {
    fn text(&self, value: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
        serde_json::from_str(value?.get()).ok()
    }

    fn number(&self, value: Option<&'a RawValue>) -> Option<f64> {
        serde_json::from_str(value?.get()).ok().filter(|number: &f64| number.is_finite())
    }

    fn whole(&self, value: Option<&'a RawValue>) -> Option<u32> {
        let number = self.number(value)?;
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        is_whole.then_some(number as u32)
    }

    /// The values of the wheels fl, fr, rl, rr; NaN for those without a number.
    fn wheels(&self, value: Option<&'a RawValue>) -> [f32; 4] {
        #[derive(Default, Deserialize)]
        struct WheelReadings<'a> {
            #[serde(borrow)]
            fl: Option<&'a RawValue>,
            fr: Option<&'a RawValue>,
            rl: Option<&'a RawValue>,
            rr: Option<&'a RawValue>,
        }
        let wheels =
            value.and_then(|value| serde_json::from_str::<WheelReadings<'_>>(value.get()).ok());
        let WheelReadings { fl, fr, rl, rr } = wheels.unwrap_or_default();
        [fl, fr, rl, rr].map(|wheel| self.number(wheel).map_or(f32::NAN, |number| number as f32))
    }
}

/// The state after the points up to the last one, in chronological order.
#[derive(Debug, Default)]
struct Progress {
    runs: VecDeque<LapRun>,
    stints: VecDeque<StintRun>,
    last: Option<CarPoint>,
    /// The shortest lap so far, in milliseconds: distinguishes a stop after the line from one before
    /// it.
    shortest_ms: Option<f64>,
}

/// Consecutive points of the same lap.
#[derive(Clone, Copy, Debug)]
struct LapRun {
    lap: u32,
    session_type: u16,
    driver: u16,
    last_at: i64,
    /// The earliest and the latest start of the lap that the running times of its points give.
    start: Option<(f64, f64)>,
    /// When its first point was captured, or the lap before ended.
    from: f64,
    longest_time: f64,
    fuel_used: f64,
    wear_used: f64,
    /// The next lap follows without a lap in between.
    has_end: bool,
    /// The points start close to the start of the lap, or the lap before ended there.
    has_start: bool,
    has_gap: bool,
    pit: PitVisit,
    stops_before_line: bool,
}

#[derive(Clone, Copy, Debug)]
struct StintRun {
    driver: u16,
    session_type: u16,
    first_lap: u32,
    /// The last completed lap, or the one before `first_lap`.
    last_lap: u32,
    /// When its first point was captured.
    began_at: i64,
    /// When the stop before it ended.
    from: i64,
    to: i64,
    fuel_in: f32,
    fuel_out: f32,
    has_gap: bool,
}

impl CarPoint {
    /// When its lap started according to its running time, in milliseconds since 1970.
    fn lap_start(&self) -> Option<f64> {
        let start = self.at as f64 - self.lap_time * 1000.0;
        start.is_finite().then_some(start)
    }
}

impl Progress {
    /// Adds a point that is not older than the last one.
    fn advance(&mut self, point: CarPoint) {
        match (self.last, self.runs.back_mut()) {
            (Some(last), Some(run))
                if (last.session_type, last.lap) == (point.session_type, point.lap) =>
            {
                run.has_gap |= point.at - last.at > GAP_MS;
                run.use_up(&last, &point, 1.0);
                run.extend(&point);
            }
            (Some(last), Some(run)) => {
                let next = LapRun::follow(run, &last, &point);
                self.begin(next);
            }
            _ => self.begin(LapRun::first(&point)),
        }
        self.advance_stint(&point);
        self.last = Some(point);
    }

    fn begin(&mut self, run: LapRun) {
        if let Some(before) = self.runs.back()
            && before.has_end
            && before.has_start
            && before.pit == PitVisit::None
            && let (Some((before, _)), Some((start, _))) = (before.start, run.start)
        {
            let ms = start - before;
            self.shortest_ms = Some(self.shortest_ms.map_or(ms, |shortest| shortest.min(ms)));
        }
        self.runs.push_back(run);
        if self.runs.len() > LAPS_KEPT + 1 {
            self.runs.pop_front();
        }
    }

    fn advance_stint(&mut self, point: &CarPoint) {
        let Some((last, stint)) = self.last.as_ref().zip(self.stints.back_mut()) else {
            return self.begin_stint(StintRun::new(point, point.lap));
        };
        let is_refuelled = point.fuel - last.fuel > REFUELLED_L;
        let has_new_tyres = last.wear - point.wear > TYRES_CHANGED_PERCENT;
        let is_same_session = stint.session_type == point.session_type;
        let is_same_driver = stint.driver == point.driver;
        let is_same_stop = is_same_session && point.at - stint.began_at < STOP_MS;
        let is_stop = (is_refuelled || has_new_tyres) && is_same_session;
        stint.has_gap |= point.at - last.at > GAP_MS;
        if is_same_stop {
            stint.driver = point.driver;
            if is_refuelled {
                (stint.from, stint.fuel_in) = (point.at, point.fuel);
            }
        } else if is_stop {
            let is_after_line = self.is_soon_after_line(point);
            self.mark_stop(is_after_line);
            let first_lap = if is_after_line { point.lap } else { point.lap.saturating_add(1) };
            if let Some(stint) = self.stints.back_mut() {
                stint.last_lap = first_lap.saturating_sub(1);
            }
            return self.begin_stint(StintRun::new(point, first_lap));
        } else if !is_same_session || !is_same_driver {
            if is_same_session {
                stint.last_lap = stint.last_lap.max(point.lap.saturating_sub(1));
            }
            return self.begin_stint(StintRun::new(point, point.lap));
        }
        stint.last_lap = stint.last_lap.max(point.lap.saturating_sub(1));
        (stint.to, stint.fuel_out) = (point.at, point.fuel);
    }

    fn begin_stint(&mut self, stint: StintRun) {
        self.stints.push_back(stint);
        if self.stints.len() > STINTS_KEPT {
            self.stints.pop_front();
        }
    }

    /// Whether the point is in the first half of its lap.
    fn is_soon_after_line(&self, point: &CarPoint) -> bool {
        let Some(shortest_ms) = self.shortest_ms else { return false };
        point.lap_time * 1000.0 < shortest_ms / 2.0
    }

    /// Marks the current lap, and the one before if the stop is after the line.
    fn mark_stop(&mut self, is_after_line: bool) {
        let mut laps = self.runs.iter_mut().rev();
        if let Some(run) = laps.next() {
            run.pit = PitVisit::Stop;
            run.stops_before_line = !is_after_line;
        }
        if is_after_line && let Some(run) = laps.next().filter(|run| run.pit == PitVisit::None) {
            run.pit = PitVisit::In;
        }
    }

    /// The completed laps.
    fn laps(&self, names: &NameTable) -> Vec<LapRow> {
        let pairs = self.runs.iter().zip(self.runs.iter().skip(1));
        let rows = pairs.map(|(run, next)| {
            let (time, is_exact) = run.time(next);
            let is_known = run.has_start && run.has_end;
            LapRow {
                lap: run.lap,
                session_type: names.get(run.session_type),
                driver: names.get(run.driver),
                ended_at: if run.has_end { next.from as i64 } else { run.last_at },
                time,
                fuel_used: is_known.then_some(run.fuel_used).filter(|used| used.is_finite()),
                wear_used: is_known.then_some(run.wear_used).filter(|used| used.is_finite()),
                pit: run.pit,
                is_estimated: run.has_gap || !is_known || !is_exact,
            }
        });
        rows.collect()
    }

    fn stint_rows(&self, names: &NameTable) -> Vec<StintRow> {
        let known = |fuel: f32| Some(f64::from(fuel)).filter(|fuel| fuel.is_finite());
        let last = self.stints.len().saturating_sub(1);
        let rows = self.stints.iter().enumerate().map(|(index, stint)| StintRow {
            driver: names.get(stint.driver),
            session_type: names.get(stint.session_type),
            first_lap: stint.first_lap,
            laps: stint.last_lap.saturating_add(1).saturating_sub(stint.first_lap),
            from: stint.from,
            to: stint.to,
            fuel_in: known(stint.fuel_in),
            fuel_out: known(stint.fuel_out),
            is_current: index == last,
            is_estimated: stint.has_gap,
        });
        rows.collect()
    }
}

impl LapRun {
    /// The lap of the first point.
    fn first(point: &CarPoint) -> Self {
        let start = point.lap_start();
        Self {
            lap: point.lap,
            session_type: point.session_type,
            driver: point.driver,
            last_at: point.at,
            start: start.map(|start| (start, start)),
            from: start.unwrap_or(point.at as f64),
            longest_time: point.lap_time.max(0.0),
            fuel_used: 0.0,
            wear_used: 0.0,
            has_end: false,
            has_start: start.is_some_and(|start| point.at as f64 - start <= GAP_MS as f64),
            has_gap: false,
            pit: PitVisit::None,
            stops_before_line: false,
        }
    }

    /// The lap of `point`, after a lap whose last point is `last`. Divides what was used between
    /// the two points at the line.
    fn follow(before: &mut Self, last: &CarPoint, point: &CarPoint) -> Self {
        let mut next = Self::first(point);
        let is_next =
            last.session_type == point.session_type && last.lap.checked_add(1) == Some(point.lap);
        let has_gap = point.at - last.at > GAP_MS;
        if is_next {
            let line = next.from.clamp(last.at as f64, point.at as f64);
            let ms = (point.at - last.at) as f64;
            let share = if ms > 0.0 { (line - last.at as f64) / ms } else { 0.0 };
            before.use_up(last, point, share);
            next.use_up(last, point, 1.0 - share);
            next.has_start = true;
            before.has_end = true;
            if before.stops_before_line {
                next.pit = PitVisit::Out;
            }
        }
        before.has_gap |= has_gap;
        next.has_gap |= has_gap;
        next
    }

    fn extend(&mut self, point: &CarPoint) {
        self.last_at = point.at;
        self.driver = point.driver;
        if point.lap_time > self.longest_time {
            self.longest_time = point.lap_time;
        }
        if let Some(start) = point.lap_start() {
            let (earliest, latest) = self.start.unwrap_or((start, start));
            self.start = Some((earliest.min(start), latest.max(start)));
        }
    }

    /// Adds this share of the fuel and the tyre wear used between two points. Rising fuel or falling
    /// wear is a stop, not use.
    fn use_up(&mut self, last: &CarPoint, point: &CarPoint, share: f64) {
        self.fuel_used += share * rise(point.fuel, last.fuel);
        self.wear_used += share * rise(last.wear, point.wear);
    }

    /// The lap time in seconds, and whether it is exact.
    fn time(&self, next: &Self) -> (Option<f64>, bool) {
        if !self.has_end {
            return (None, false);
        }
        let is_steady = |(earliest, latest): (f64, f64)| latest - earliest < STEADY_MS;
        let (time, is_exact) = match (self.start, next.start) {
            (Some(start), Some(end)) if is_steady(start) && is_steady(end) => {
                ((end.0 - start.0) / 1000.0, true)
            }
            (Some(_), _) => (self.longest_time, false),
            (None, _) if self.has_start => ((next.from - self.from) / 1000.0, false),
            (None, _) => return (None, false),
        };
        (Some(time).filter(|time| *time > 0.0), is_exact)
    }
}

/// The mean of the four tyres; NaN if one of them is unknown.
fn mean_wear(wheels: [f32; 4]) -> f32 {
    wheels.iter().sum::<f32>() / 4.0
}

/// The game sends -273.15 °C if it has no reading.
fn warm(temp: f32) -> f32 {
    if temp > -273.0 { temp } else { f32::NAN }
}

/// How far a value rose, 0 if it dropped; NaN if one of them is unknown.
fn rise(from: f32, to: f32) -> f64 {
    // `f64::max` would turn NaN into 0.
    if to < from { 0.0 } else { f64::from(to) - f64::from(from) }
}

impl StintRun {
    fn new(point: &CarPoint, first_lap: u32) -> Self {
        Self {
            driver: point.driver,
            session_type: point.session_type,
            first_lap,
            last_lap: first_lap.saturating_sub(1),
            began_at: point.at,
            from: point.at,
            to: point.at,
            fuel_in: point.fuel,
            fuel_out: point.fuel,
            has_gap: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use proptest::sample::Index;
    use serde_json::{Value, json};

    use super::*;
    use crate::fields;
    use crate::source::simulator::Car;

    const STEP: Duration = Duration::from_millis(500);

    /// A drive of the simulator: the frames that an agent makes of it, and what really happened.
    struct Drive {
        frames: Vec<Box<RawValue>>,
        /// The time of each lap, from lap 1.
        times: Vec<f64>,
        /// The fuel and the mean wear in the first sample of each lap, from lap 1.
        at_line: Vec<(f64, f64)>,
        /// The lap of each stop, and the fuel before and after it.
        stops: Vec<(u64, f64, f64)>,
    }

    fn number(sample: &Value, key: &str) -> f64 {
        sample[key].as_f64().unwrap()
    }

    impl Drive {
        fn new(seed: u64, steps: usize) -> Self {
            let mut car = Car::new(seed);
            let mut drive = Self { frames: vec![], times: vec![], at_line: vec![], stops: vec![] };
            let mut before = car.sample();
            drive.mark_line(&before);
            let mut arrival = None;
            for step in 1..=steps {
                car.step(STEP);
                let sample = car.sample();
                if sample["lap"] != before["lap"] {
                    drive.times.push(number(&sample, "last_lap_time"));
                    drive.mark_line(&sample);
                }
                let is_stopped = sample["gear"] == 0;
                if is_stopped && arrival.is_none() {
                    arrival = Some(number(&before, "fuel"));
                }
                if !is_stopped && let Some(arrival) = arrival.take() {
                    let lap = sample["lap"].as_u64().unwrap();
                    drive.stops.push((lap, arrival, number(&sample, "fuel")));
                }
                let at = CapturedAt(1_763_812_800_000 + 500 * step as i64);
                let frame = fields::map(&sample, at).unwrap();
                drive.frames.push(RawValue::from_string(frame.to_string()).unwrap());
                before = sample;
            }
            drive
        }

        fn mark_line(&mut self, sample: &Value) {
            let wear = &sample["tyre_wear"];
            let wear = ["fl", "fr", "rl", "rr"].map(|wheel| number(wear, wheel));
            self.at_line.push((number(sample, "fuel"), wear.iter().sum::<f64>() / 4.0));
        }

        fn tables(&self, order: impl IntoIterator<Item = usize>) -> TimingTables {
            let mut timing = Timing::default();
            for (position, index) in order.into_iter().enumerate() {
                timing.add(position as u64, CapturedAt(0), &self.frames[index]);
            }
            timing.tables()
        }

        /// Checks a lap of the table against the lap that was driven.
        fn check(&self, row: &LapRow) {
            let index = row.lap as usize - 1;
            if let Some(time) = row.time {
                assert!((time - self.times[index]).abs() < 0.005, "{row:?}, {}", self.times[index]);
            }
            if row.is_estimated {
                return;
            }
            assert!(row.time.is_some(), "{row:?}");
            let is_stop = self.stops.iter().any(|(lap, _, _)| *lap == u64::from(row.lap));
            assert_eq!(row.pit == PitVisit::Stop, is_stop, "{row:?}");
            if !is_stop {
                let [from, to] = [self.at_line[index], self.at_line[index + 1]];
                let (fuel, wear) = (from.0 - to.0, to.1 - from.1);
                assert!((row.fuel_used.unwrap() - fuel).abs() < 0.06, "{row:?}, {fuel}");
                assert!((row.wear_used.unwrap() - wear).abs() < 0.1, "{row:?}, {wear}");
            }
        }
    }

    /// Three stops.
    const STEPS: usize = 3 * 7_200;

    #[test]
    fn laps_and_stints_equal_what_the_simulator_drove() {
        let drive = Drive::new(7, STEPS);
        let tables = drive.tables(0..STEPS);
        assert_eq!(tables.laps.len(), drive.times.len());
        for row in &tables.laps {
            assert!(!row.is_estimated, "{row:?}");
            drive.check(row);
        }
        assert!(drive.stops.len() >= 3, "{:?}", drive.stops);
        assert_eq!(tables.stints.len(), drive.stops.len() + 1);
        let mut first_lap = 1;
        for ((lap, before, after), pair) in drive.stops.iter().zip(tables.stints.windows(2)) {
            let [stint, next] = pair else { unreachable!() };
            assert_eq!(u64::from(stint.first_lap), first_lap);
            assert_eq!(u64::from(stint.laps), lap + 1 - first_lap, "{stint:?}");
            assert!((stint.fuel_out.unwrap() - before).abs() < 0.1, "{stint:?} {before}");
            assert!((next.fuel_in.unwrap() - after).abs() < 0.1, "{next:?} {after}");
            first_lap = lap + 1;
        }
        let out_laps: Vec<_> = tables.laps.iter().filter(|row| row.pit == PitVisit::Out).collect();
        assert_eq!(out_laps.len(), drive.stops.len(), "{out_laps:?}");
        let best = drive.times.iter().copied().reduce(f64::min).unwrap();
        assert!((tables.summary.best_lap.unwrap() - best).abs() < 0.005);
        let per_lap = tables.summary.fuel.average_lap.unwrap();
        let left = tables.summary.fuel.laps_left.unwrap() * per_lap;
        assert!((left - tables.summary.fuel.litres.unwrap()).abs() < 1e-9);
        let seconds = tables.summary.fuel.laps_left.unwrap() * tables.summary.average_lap.unwrap();
        assert!((tables.summary.fuel.seconds_left.unwrap() - seconds).abs() < 1e-6);
    }

    proptest! {
        // Each case drives up to two hours.
        #![proptest_config(ProptestConfig::with_cases(6))]

        /// Some frames are lost, some stretches are downsampled, and some arrive after all others.
        #[test]
        fn laps_are_exact_or_marked_after_loss_late_replay_and_downsampling(
            seed in 0_u64..1_000,
            steps in 2_000_usize..14_400,
            lost in prop::collection::vec((any::<Index>(), 1_usize..2_000), 0..4),
            downsampled in
                prop::collection::vec((any::<Index>(), 1_usize..4_000, 2_usize..64), 0..3),
            late in prop::collection::vec((any::<Index>(), 1_usize..4_000), 0..4),
        ) {
            let drive = Drive::new(seed, steps);
            let mut kept = vec![true; steps];
            for (from, count) in lost {
                let from = from.index(steps);
                kept[from..steps.min(from + count)].fill(false);
            }
            for (from, count, every) in downsampled {
                let from = from.index(steps);
                for (index, kept) in kept.iter_mut().enumerate().skip(from).take(count) {
                    *kept &= index % every == 0;
                }
            }
            let in_order: Vec<_> = (0..steps).filter(|index| kept[*index]).collect();
            let mut arrival = in_order.clone();
            for (from, count) in late {
                let from = from.index(steps);
                let (replayed, live): (Vec<_>, Vec<_>) =
                    arrival.iter().partition(|index| (from..from + count).contains(*index));
                arrival = live.into_iter().chain(replayed).collect();
            }
            let tables = drive.tables(arrival);
            prop_assert_eq!(&tables, &drive.tables(in_order));
            tables.laps.iter().for_each(|row| drive.check(row));
        }
    }

    /// Tables of frames given as `(second, frame)`.
    fn tables(frames: impl IntoIterator<Item = (i64, Value)>) -> TimingTables {
        let mut timing = Timing::default();
        for (position, (second, mut frame)) in frames.into_iter().enumerate() {
            frame["timestamp"] = CapturedAt(second * 1000).to_string().into();
            timing.add(
                position as u64,
                CapturedAt(0),
                &serde_json::value::to_raw_value(&frame).unwrap(),
            );
        }
        timing.tables()
    }

    #[test]
    fn a_stop_after_the_line_begins_the_next_stint_in_the_same_lap() {
        let drive = (0..1_000).map(|second| {
            // Laps of 100 s; refuelled 10 s after the start of lap 6.
            let fuel = if second < 510 { 60 - second / 10 } else { 110 - second / 10 };
            (second, json!({"lap": 1 + second / 100, "lap_time": second % 100, "fuel": fuel}))
        });
        let tables = tables(drive);
        let pits: Vec<_> = tables.laps.iter().map(|row| (row.lap, row.pit)).collect();
        assert_eq!(pits[4..7], [(5, PitVisit::In), (6, PitVisit::Stop), (7, PitVisit::None)]);
        let stints = tables.stints.iter().map(|stint| (stint.first_lap, stint.laps));
        assert_eq!(stints.collect::<Vec<_>>(), [(1, 5), (6, 4)]);
    }

    #[test]
    fn the_fuel_to_the_end_reaches_the_line_after_the_time_ends() {
        for (left, lap_time, fuel, needed) in [
            // 150 s from the middle of a lap end on the line two laps later.
            (json!(150), 50, 40.0, Some(15.0)),
            (json!(151), 50, 40.0, Some(25.0)),
            (json!(151), 50, 20.0, Some(25.0)),
            (json!(0), 50, 40.0, Some(5.0)),
            // In a lap that is slower than the average, the line is the next thing to come.
            (json!(110), 250, 40.0, Some(20.0)),
            (json!(-1), 50, 40.0, None),
            (json!("1:00"), 50, 40.0, None),
            (Value::Null, 50, 40.0, None),
        ] {
            // Laps of 100 s and 10 l.
            let drive = (0..601).map(|second| {
                let fuel = 200.0 - second as f64 / 10.0;
                (second, json!({"lap": second / 100, "lap_time": second % 100, "fuel": fuel}))
            });
            let last = json!({"lap": 6, "lap_time": lap_time, "fuel": fuel,
                "session_time_left": left});
            let tables = tables(drive.chain([(600 + lap_time, last)]));
            let FuelOutlook { needed: shown, spare, .. } = tables.summary.fuel;
            let rounded = shown.map(|litres| (litres * 100.0).round() / 100.0);
            assert_eq!(rounded, needed, "{left} {lap_time}");
            assert_eq!(spare, shown.map(|litres| fuel - litres));
        }
    }

    #[test]
    fn another_driver_or_session_type_begins_a_stint() {
        let drive = (0..900).map(|second| {
            let driver = if second < 300 { "Zoë" } else { "Tom" };
            let (kind, first) = if second < 600 { ("Practice", 0) } else { ("Race", 6) };
            let frame = json!({"lap": second / 100 - first, "lap_time": second % 100, "fuel": 50,
                "player_name": driver, "session_type": kind});
            (second, frame)
        });
        let tables = tables(drive);
        let stints = tables.stints.iter();
        let stints: Vec<_> =
            stints.map(|stint| (&*stint.driver, &*stint.session_type, stint.laps)).collect();
        assert_eq!(stints, [("Zoë", "Practice", 3), ("Tom", "Practice", 2), ("Tom", "Race", 2)]);
        assert_eq!(tables.laps.len(), 8);
        assert_eq!(tables.laps[5].time, None, "the practice ended in this lap");
        assert_eq!(tables.summary.last_lap, Some(100.0));
    }

    #[test]
    fn values_of_the_wrong_type_are_ignored() {
        let drive = (0..300).map(|second| {
            let frame = json!({"lap": second / 100, "lap_time": second % 100, "fuel": "full",
                "tire_wear": [1, 2], "player_name": 7, "car_name": {"a": null}});
            (second, frame)
        });
        let tables = tables(drive.chain([(900, json!({"lap": "3"})), (901, json!({"lap": [1]}))]));
        assert_eq!(tables.laps[0].time, Some(100.0));
        assert_eq!((tables.laps[0].fuel_used, tables.laps[0].wear_used), (None, None));
        assert_eq!((tables.summary.driver.as_str(), tables.summary.fuel.litres), ("", None));
        let mut timing = Timing::default();
        for frame in ["7", "null", "{\"timestamp\": 7}", "{}"] {
            timing.add(0, CapturedAt(0), serde_json::from_str(frame).unwrap());
        }
        assert_eq!(timing.tables(), TimingTables::default());
    }

    #[test]
    fn laps_stay_in_the_table_after_their_frames_are_removed_and_a_late_frame_arrives() {
        let mut timing = Timing::default();
        let frame = |second: i64| {
            let at = CapturedAt(second * 1000).to_string();
            let frame =
                json!({"timestamp": at, "lap": second / 100, "lap_time": second % 100, "fuel": 50});
            serde_json::value::to_raw_value(&frame).unwrap()
        };
        (0..1_000)
            .filter(|at| *at != 800)
            .for_each(|at| timing.add(at as u64, CapturedAt(0), &frame(at)));
        let before = timing.tables();
        timing.remove_before(700);
        assert_eq!(timing.points.len(), 299);
        timing.add(1_000, CapturedAt(0), &frame(800));
        assert_eq!(timing.tables().laps, before.laps);
    }

    #[test]
    fn the_tables_are_bounded() {
        let lap = |lap: i64| {
            (200 * lap, json!({"lap": lap, "lap_time": 0.5, "player_name": (lap % 2).to_string()}))
        };
        let tables = tables((0..3_000).map(lap));
        assert_eq!((tables.laps.len(), tables.stints.len()), (LAPS_KEPT, STINTS_KEPT));
    }

    #[test]
    fn a_series_keeps_the_peaks_of_every_tyre() {
        let mut timing = Timing::default();
        for second in 0..90_000_i64 {
            let fl = if second == 80_001 { 140.0 } else { 80.0 };
            let rr = if second == 70_001 { -273.15 } else { 60.0 };
            let at = CapturedAt(second * 1000).to_string();
            let frame = json!({"timestamp": at, "lap": 3, "fuel": 50.5, "session_type": "Race",
                "tire_temps": {"fl": fl, "rr": rr}});
            let frame = serde_json::value::to_raw_value(&frame).unwrap();
            timing.add(second as u64, CapturedAt(second * 1000 + 40), &frame);
        }
        let series = timing.series(NonZeroU16::new(100).unwrap());
        assert!((99..=100).contains(&series.len()), "{}", series.len());
        assert!(series.is_sorted_by_key(|stretch| stretch.at));
        let (first, last) = (series[0], series[series.len() - 1]);
        assert!(first.at >= 3_600_000, "{first:?}");
        assert_eq!((last.at, last.received_at), (89_999_000, 89_999_040));
        assert_eq!((last.lap, last.session_type, last.fuel), (3, "Race", 50.5));
        let peaks = series.iter().filter(|stretch| stretch.highest[0] == 140.0);
        assert_eq!(peaks.count(), 1);
        assert!(series.iter().all(|stretch| stretch.lowest[3] == 60.0));
        assert!(serde_json::to_string(&first).unwrap().contains("\"temps\":[80.0,null,null,60.0]"));
    }
}

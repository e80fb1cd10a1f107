//! When each line of a recording is due: by the times in the lines, or at a fixed rate.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::entry::CapturedAt;
use crate::fields;

/// The longest pause within a recording that is played. A longer one is a break between two sessions
/// or a step of the recorder's clock: the lines after it follow at once.
pub const MAX_PLAYED_PAUSE: Duration = Duration::from_secs(300);

/// How far a line may be older than the one before it without a step of the recorder's clock:
/// several writers may share a recording.
const MAX_DISORDER: Duration = Duration::from_secs(1);

/// How many skipped pauses of a recording are logged: one with a clock that jumps at each line must
/// not fill the log.
const MAX_LOGGED_PAUSES: u64 = 10;

/// Numbers in these ranges count seconds, milliseconds, microseconds or nanoseconds since 1970, all
/// of them after 2001. Smaller numbers have no known unit.
const EPOCH_UNITS: [(f64, f64, f64); 4] =
    [(1e9, 1e11, 1e3), (1e12, 1e14, 1.0), (1e15, 1e17, 1e-3), (1e18, 1e20, 1e-6)];

/// How fast lines are read.
#[derive(Clone, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the input delivers them.
    AsTheyCome,
    /// As the times in the lines demand.
    Recorded(Playback),
}

impl Pace {
    /// Plays a recording at `speed` times its own pace, and a recording without times at `rate_hz`
    /// lines a second, times `speed`. 0 in either plays as fast as lines can be stored.
    pub fn recorded(speed: f64, rate_hz: f64) -> Self {
        if speed > 0.0 { Self::Recorded(Playback::new(speed, rate_hz)) } else { Self::AsTheyCome }
    }

    /// When a line is due that was recorded at `recorded`; `None` for now.
    pub(super) fn due(&mut self, line: u64, recorded: Option<CapturedAt>) -> Option<Instant> {
        let Self::Recorded(playback) = self else { return None };
        let wait = match playback.gap(recorded) {
            Gap::Wait(wait) => wait,
            Gap::Skipped(pause) => {
                playback.skipped += 1;
                if playback.skipped <= MAX_LOGGED_PAUSES {
                    tracing::info!(line, ?pause, "skipped a pause in the recording");
                }
                Duration::ZERO
            }
        };
        // The due times follow from each other, so that delays do not add up.
        let due = playback.due.map_or_else(Instant::now, |due| due + wait);
        playback.due = Some(due);
        Some(due)
    }
}

/// The state of the playback of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Playback {
    speed: f64,
    /// The time between two lines of a recording without times.
    period: Duration,
    /// When the previous line was due; `None` before the first line.
    due: Option<Instant>,
    /// The newest time in the recording so far, since the last step of the recorder's clock.
    recorded: Option<CapturedAt>,
    skipped: u64,
}

/// The time between two lines.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gap {
    Wait(Duration),
    /// The recording pauses for longer than [`MAX_PLAYED_PAUSE`].
    Skipped(Duration),
}

impl Playback {
    fn new(speed: f64, rate_hz: f64) -> Self {
        let rate = rate_hz * speed;
        let period = if rate > 0.0 { Duration::from_secs_f64(1.0 / rate) } else { Duration::ZERO };
        Self { speed, period, due: None, recorded: None, skipped: 0 }
    }

    /// The time to wait between the previous line and this one. A line without a time is due with the
    /// line before it, and so is a line with an earlier time.
    fn gap(&mut self, recorded: Option<CapturedAt>) -> Gap {
        let Some(now) = recorded else {
            let is_timed = self.recorded.is_some();
            return Gap::Wait(if is_timed { Duration::ZERO } else { self.period });
        };
        let previous = *self.recorded.get_or_insert(now);
        if now < previous && now.age(previous) <= MAX_DISORDER {
            return Gap::Wait(Duration::ZERO);
        }
        self.recorded = Some(now);
        let pause = previous.age(now);
        if pause > MAX_PLAYED_PAUSE {
            Gap::Skipped(pause)
        } else {
            Gap::Wait(pause.div_f64(self.speed))
        }
    }
}

/// The time at which a line was recorded: `timestamp`, `captured_at` or `date` of the object, or of
/// the frame in it. Only differences of times are used, so times without a zone count as UTC.
pub(super) fn recorded_at(line: &[u8]) -> Option<CapturedAt> {
    let text = fields::text(line).ok()?;
    let outer = fields::members(&text).ok()?;
    let own = time_in(&outer);
    own.or_else(|| {
        let inner = ["telemetry", "frame"].iter().find_map(|key| outer.get(*key))?;
        time_in(&fields::members(inner.get()).ok()?)
    })
}

fn time_in(members: &BTreeMap<Cow<'_, str>, &RawValue>) -> Option<CapturedAt> {
    let times = ["timestamp", "captured_at", "date"].into_iter();
    times.filter_map(|key| serde_json::from_str(members.get(key)?.get()).ok()).find_map(time)
}

fn time(value: Value) -> Option<CapturedAt> {
    match value {
        Value::String(text) => CapturedAt::parse(&text).or_else(|| {
            let local: jiff::civil::DateTime = text.parse().ok()?;
            let utc = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
            Some(CapturedAt(utc.timestamp().as_millisecond()))
        }),
        Value::Number(number) => {
            let number = number.as_f64()?;
            let unit = EPOCH_UNITS.iter().find(|(from, to, _)| (*from..*to).contains(&number));
            unit.map(|(_, _, to_millis)| CapturedAt((number * to_millis) as i64))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time in milliseconds from the first line to each line, with these recorded times.
    fn played(speed: f64, rate_hz: f64, recorded: &[Option<i64>]) -> Vec<u128> {
        let mut pace = Pace::recorded(speed, rate_hz);
        let due = |at: &Option<i64>| pace.due(1, at.map(CapturedAt)).unwrap();
        let due: Vec<_> = recorded.iter().map(due).collect();
        due.iter().map(|one| (*one - due[0]).as_millis()).collect()
    }

    #[test]
    fn lines_are_due_at_their_recorded_times_divided_by_the_speed() {
        let recorded = [1_000, 1_016, 1_033, 2_000, 61_000].map(Some);
        assert_eq!(played(1.0, 2.0, &recorded), [0, 16, 33, 1_000, 60_000]);
        assert_eq!(played(4.0, 2.0, &recorded), [0, 4, 8, 250, 15_000]);
        assert_eq!(played(0.5, 2.0, &recorded), [0, 32, 66, 2_000, 120_000]);
        assert_eq!(Pace::recorded(0.0, 2.0), Pace::AsTheyCome);
    }

    #[test]
    fn lines_without_times_are_due_at_the_rate() {
        assert_eq!(played(1.0, 2.0, &[None; 4]), [0, 500, 1_000, 1_500]);
        assert_eq!(played(10.0, 2.0, &[None; 4]), [0, 50, 100, 150]);
        assert_eq!(played(1.0, 0.0, &[None; 4]), [0; 4]);
        // Such as a setup before the first frame and between frames.
        let recorded = [None, Some(1_000), None, Some(1_100), None];
        assert_eq!(played(1.0, 2.0, &recorded), [0, 0, 0, 100, 100]);
    }

    #[test]
    fn a_clock_step_or_a_long_pause_is_skipped() {
        let longest = MAX_PLAYED_PAUSE.as_millis() as i64;
        let three_days = 3 * 24 * 3_600_000;
        let recorded = [0, 100, 100 + longest, 200 + longest + three_days].map(Some);
        let expected = [0, 100, 100 + longest as u128, 100 + longest as u128];
        assert_eq!(played(1.0, 2.0, &recorded), expected);
        assert_eq!(played(1.0, 2.0, &[9_000, 9_100, 100, 200].map(Some)), [0, 100, 100, 200]);
        // Two writers.
        assert_eq!(played(1.0, 2.0, &[1_000, 200, 1_010, 210].map(Some)), [0, 0, 10, 10]);
        let extreme = [i64::MIN, i64::MAX, i64::MIN, 0].map(Some);
        assert_eq!(played(0.001, 0.001, &extreme), [0; 4]);
    }

    #[test]
    fn times_are_found_in_every_notation_that_is_unambiguous() {
        const AT: i64 = 1_763_821_822_123;
        for (line, expected) in [
            (r#"{"timestamp":"2025-11-22T14:30:22.123Z","lap":1}"#, Some(AT)),
            (r#"{"timestamp":"2025-11-22T16:30:22.123456+02:00","speed":NaN}"#, Some(AT)),
            (r#"{"timestamp":"2025-11-22T14:30:22.123"}"#, Some(AT)),
            (r#"{"date":"2025-11-22 14:30:22.123456"}"#, Some(AT)),
            (r#"{"timestamp":null,"date":"2025-11-22 14:30:22.123456"}"#, Some(AT)),
            (r#"{"timestamp":1763821822.123}"#, Some(AT)),
            (r#"{"timestamp":1763821822123}"#, Some(AT)),
            (r#"{"timestamp":1763821822123456}"#, Some(AT)),
            (r#"{"timestamp":1763821822123456789}"#, Some(AT)),
            (r#"{"seq":1,"captured_at":"2025-11-22T14:30:22.123Z","frame":{}}"#, Some(AT)),
            (r#"{"session_id":"a","telemetry":{"timestamp":1763821822123}}"#, Some(AT)),
            (r#"{"timestamp":"2025-11-22T14:30:22.123Z","setup":{"wing":7}}"#, Some(AT)),
            (r#"{"timestamp":12.5}"#, None),
            (r#"{"timestamp":"noon"}"#, None),
            (r#"{"timestamp":[],"lap":1}"#, None),
            (r#"{"lap":1}"#, None),
            ("[1]", None),
            ("nonsense", None),
        ] {
            let found = recorded_at(line.as_bytes()).map(|at| at.0);
            // The fraction of a second in a number is inexact.
            let is_close = found.zip(expected).is_some_and(|(one, other)| one.abs_diff(other) <= 1);
            assert!(is_close || found == expected, "{line}: {found:?}");
        }
    }
}

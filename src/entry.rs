//! Data types that several modules share: entries, their identifiers and timestamps.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The number of cars, stint pages and sessions that are remembered; the least recently used are
/// forgotten. No league has this many cars.
pub(crate) const MAX_STREAMS: usize = 256;
pub(crate) const MAX_PAGES: usize = 256;
pub(crate) const MAX_SESSIONS: usize = 256;

/// Sequence numbers that a user may pass are below this; no queue reaches it.
pub(crate) const MAX_SEQ: u64 = 1 << 62;

/// The sequence number of an entry: increases with each accepted entry and is never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one continuous run of driving, which is shown on one dashboard page.
///
/// Counts up from 1 over the life of a queue and survives crashes and restarts of the agent.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StintId(pub u64);

impl fmt::Display for StintId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a car. Each car has separate stints and therefore separate pages. The agent's own
/// sources share the default car.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CarId(pub Arc<str>);

impl From<&str> for CarId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// A capture time by the wall clock, in milliseconds since 1970-01-01T00:00:00Z, the dashboard's
/// resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CapturedAt(pub i64);

impl CapturedAt {
    /// Parses an RFC 3339 timestamp, truncated to milliseconds; `None` if it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        Some(Self(moment.as_millisecond()))
    }

    /// Time from this moment to `now`; zero if it is in the future.
    pub fn age(self, now: Self) -> Duration {
        Duration::from_millis(u64::try_from(now.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

/// A time on the queue's own clock, in milliseconds. It starts at the wall clock's time when the
/// queue is created and then advances with the system's uptime, so that a step of the wall clock
/// changes neither the order nor the age of entries, nor the pauses between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueTime(pub i64);

/// RFC 3339 in UTC with milliseconds, the dashboard's format: `2025-11-22T14:30:22.123Z`.
impl fmt::Display for CapturedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only times beyond the year 9999 are out of range; a broken clock must not stop the agent.
        let moment = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{moment:.3}")
    }
}

/// The content type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A frame: one dashboard telemetry record of 20 fields.
    Frame,
    /// The car's setup, opaque JSON.
    Setup,
}

impl Kind {
    /// The name in exports and tools.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Setup => "setup",
        }
    }
}

/// The driving context of a frame. Frames at which it changes are kept when a full queue is
/// downsampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Situation {
    /// `None` when the frame has no lap number.
    pub lap: Option<i64>,
    /// -1 reverse, 0 neutral or unknown, 1 any forward gear.
    pub gear_box: i64,
    /// A value that changes with the session, the driver, the car or the pit state.
    pub state: u64,
}

/// One accepted frame or setup, as stored in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub seq: Seq,
    pub stint: StintId,
    pub captured_at: CapturedAt,
    pub kind: Kind,
    /// JSON text: the telemetry of a frame, or for a setup an object with `timestamp` and `setup`.
    pub json: String,
}

/// The content of an entry as members of an object: `"<frame_key>":{…}` for a frame,
/// `"timestamp":…,"setup":{…}` for a setup.
pub(crate) fn content_members(kind: Kind, frame_key: &str, json: &str) -> String {
    match kind {
        Kind::Frame => format!(r#""{frame_key}":{json}"#),
        Kind::Setup => {
            let inner = json.strip_prefix('{').and_then(|json| json.strip_suffix('}'));
            inner.map_or_else(|| format!(r#""setup":{json}"#), str::to_owned)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_round_trip_through_text() {
        for ms in [0, 1, 999, 1_763_821_822_123, 4_102_444_800_000] {
            let moment = CapturedAt(ms);
            assert_eq!(CapturedAt::parse(&moment.to_string()), Some(moment), "{moment}");
        }
        assert_eq!(CapturedAt(1_763_821_822_123).to_string(), "2025-11-22T14:30:22.123Z");
        assert_eq!(CapturedAt::parse("2025-11-22 17:16"), None);
    }
}

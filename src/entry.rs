//! Data that several rooms share: what an entry is and how it is named.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The position of an entry: names one entry for ever, never reused, grows with each accepted entry.
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

/// Names one continuous run of driving that belongs on one dashboard page.
///
/// Counts up from 1 for the life of a queue; outlives a crash and a restart of the agent.
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

/// Names who drives: each stream has stints of its own, and so pages. The agent's own sources
/// together are one, the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stream(pub Arc<str>);

impl From<&str> for Stream {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// A moment of capture: milliseconds since 1970-01-01T00:00:00Z, the dashboard's resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CapturedAt(pub i64);

impl CapturedAt {
    /// The moment that an RFC 3339 text names, cut to milliseconds; `None` if it names none.
    pub fn parse(text: &str) -> Option<Self> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        Some(Self(moment.as_millisecond()))
    }

    /// How long before `now` it was; zero for a moment to come.
    pub fn age(self, now: Self) -> Duration {
        Duration::from_millis(u64::try_from(now.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

/// RFC 3339 in UTC with milliseconds, as the dashboard wants it: `2025-11-22T14:30:22.123Z`.
impl fmt::Display for CapturedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Out of range only beyond the year 9999: a broken clock must not stop the agent.
        let moment = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{moment:.3}")
    }
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A frame: one dashboard telemetry record of 20 fields.
    Frame,
    /// The car's setup, opaque JSON.
    Setup,
}

impl Kind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Setup => "setup",
        }
    }
}

/// What of the drive a frame shows; where it changes, a person looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Situation {
    /// `None` when the frame does not say.
    pub lap: Option<i64>,
    /// -1 reverse, 0 neutral or not said, 1 any forward gear.
    pub gear_box: i64,
    /// Differs where the session, the driver, the car or the pits do.
    pub state: u64,
}

/// One accepted frame or setup, as the queue holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: Seq,
    pub stint: StintId,
    pub captured_at: CapturedAt,
    pub kind: Kind,
    /// The frame or the setup as JSON text, ready to be put into an event.
    pub json: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_reads_back_as_it_was_written() {
        for ms in [0, 1, 999, 1_763_821_822_123, 4_102_444_800_000] {
            let moment = CapturedAt(ms);
            assert_eq!(CapturedAt::parse(&moment.to_string()), Some(moment), "{moment}");
        }
        assert_eq!(CapturedAt(1_763_821_822_123).to_string(), "2025-11-22T14:30:22.123Z");
        assert_eq!(CapturedAt::parse("2025-11-22 17:16"), None);
    }
}

//! The status of a queue and of its destinations.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::ledger::Ledger;
use super::watchdog::Stuck;
use crate::config::SERVER;
use crate::entry::{CapturedAt, CarId, QueueTime, Seq, StintId};

/// A stream and its current stint.
pub type StreamStint = (CarId, StintId);

/// A snapshot of the queue's state and counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Position of the oldest entry; equals `tail` if the queue is empty.
    pub head: Seq,
    /// Position of the next entry to be appended.
    pub tail: Seq,
    pub entries: u64,
    /// Total size of the records in bytes.
    pub bytes: u64,
    /// Bytes used on disk.
    pub disk_bytes: u64,
    /// The configured limits on entries and on disk usage.
    pub max_entries: u64,
    pub max_bytes: u64,
    /// Entries buffered in memory until the disk accepts them; not included in the other numbers.
    pub buffered: u64,
    /// Arrival time of the oldest entry that a power cut would lose now; `None` if all entries are
    /// durable.
    #[serde(skip)]
    pub undurable_since: Option<Instant>,
    /// Capture time of the oldest entry.
    pub oldest: Option<CapturedAt>,
    /// When the oldest entry was queued.
    #[serde(skip)]
    pub oldest_queued_at: Option<QueueTime>,
    /// Capture time of the newest entry ever appended, even if it was delivered since.
    pub newest: Option<CapturedAt>,
    /// The stint to which the next entry is expected to belong.
    pub stint: StintId,
    /// The current stint of each recently used stream.
    #[serde(skip)]
    pub stints: Arc<[StreamStint]>,
    pub destinations: Vec<DestinationStatus>,
    /// The last disk error; cleared when the disk works again.
    pub storage_error: Option<String>,
    /// Whether the last disk error was a full disk.
    pub disk_is_full: bool,
    /// Set while the queue worker makes no progress.
    #[serde(skip)]
    pub stuck: Option<Stuck>,
}

impl QueueStatus {
    /// The status of the destination with this name.
    pub fn destination(&self, name: &str) -> Option<&DestinationStatus> {
        self.destinations.iter().find(|destination| destination.name == name)
    }

    /// The status of the destination `server`; empty if there is none.
    pub fn server(&self) -> DestinationStatus {
        self.destination(SERVER).cloned().unwrap_or_default()
    }

    /// Entries accepted since the queue was created, or since its oldest destination was configured.
    pub fn appended(&self) -> u64 {
        self.destinations.iter().map(|destination| destination.appended).max().unwrap_or_default()
    }

    /// Entries lost to damage; if the destinations differ, the most that one of them lost.
    pub fn corrupt(&self) -> u64 {
        let corrupt = self.destinations.iter().map(|destination| destination.ledger.corrupt);
        corrupt.max().unwrap_or_default()
    }

    /// How long the oldest entry has been queued at `now`, whatever the wall clock shows; `None` if
    /// the queue is empty.
    pub fn oldest_age(&self, now: QueueTime) -> Option<Duration> {
        age(self.oldest_queued_at, now)
    }

    /// The destinations whose ledger does not balance.
    pub fn imbalanced(&self) -> impl Iterator<Item = &DestinationStatus> {
        self.destinations.iter().filter(|destination| destination.imbalance != 0)
    }
}

/// The status of one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationStatus {
    pub name: String,
    /// Entries not yet delivered to this destination.
    pub queued: u64,
    /// Capture time of the oldest of these entries.
    pub oldest: Option<CapturedAt>,
    /// When it was queued.
    #[serde(skip)]
    pub oldest_queued_at: Option<QueueTime>,
    /// How much earlier it was queued than the newest entry ever appended.
    pub lag: Duration,
    /// Entries accepted since the destination was configured, plus the entries queued at that time.
    pub appended: u64,
    pub ledger: Ledger,
    /// appended - (delivered + dropped + downsampled + dead letters) - queued. Anything but 0 is a
    /// bug in pitwire.
    pub imbalance: i64,
}

impl DestinationStatus {
    /// How long the oldest of its entries has been queued at `now`, whatever the wall clock shows;
    /// `None` if everything is delivered.
    pub fn oldest_age(&self, now: QueueTime) -> Option<Duration> {
        age(self.oldest_queued_at, now)
    }
}

fn age(queued_at: Option<QueueTime>, now: QueueTime) -> Option<Duration> {
    let age = now.0.saturating_sub(queued_at?.0);
    Some(Duration::from_millis(u64::try_from(age).unwrap_or(0)))
}

//! The books: what became of every entry that the queue ever accepted.
//!
//! appended = delivered + dropped (by reason) + thinned + quarantined + queued

use serde::{Deserialize, Serialize};

/// Why an entry left the queue without reaching the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DropReason {
    /// The queue was at its bound.
    QueueFull,
    /// It was older than `queue.max_age`.
    Expired,
    /// It could not be read back.
    Corrupt,
    /// The disk failed for longer than the memory lasted.
    Storage,
    /// A person said so.
    Operator,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::QueueFull, Self::Expired, Self::Corrupt, Self::Storage, Self::Operator];

    /// The label in metrics and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::Corrupt => "corrupt",
            Self::Storage => "storage",
            Self::Operator => "operator",
        }
    }
}

/// Counts since the queue was made. What is still queued is not in here: it is derived from the
/// positions, so that the books can be checked against the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub delivered: u64,
    pub queue_full: u64,
    pub expired: u64,
    pub corrupt: u64,
    pub storage: u64,
    /// Left out to make room: neighbours stand for them.
    pub thinned: u64,
    /// Set aside because the server refuses them.
    pub quarantined: u64,
    /// Entries that left before they got a position; they are in the counts above too.
    pub unplaced: u64,
    /// Dropped by a person. Last, and not there in older books.
    #[serde(default)]
    pub operator: u64,
}

impl Ledger {
    /// Books `entries` as dropped.
    pub fn drop(&mut self, reason: DropReason, entries: u64) {
        match reason {
            DropReason::QueueFull => self.queue_full += entries,
            DropReason::Expired => self.expired += entries,
            DropReason::Corrupt => self.corrupt += entries,
            DropReason::Storage => self.storage += entries,
            DropReason::Operator => self.operator += entries,
        }
    }

    /// Entries dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        match reason {
            DropReason::QueueFull => self.queue_full,
            DropReason::Expired => self.expired,
            DropReason::Corrupt => self.corrupt,
            DropReason::Storage => self.storage,
            DropReason::Operator => self.operator,
        }
    }

    /// Entries that left the queue, in whichever way.
    pub fn gone(&self) -> u64 {
        self.delivered + self.quarantined + self.thinned + self.dropped_in_all()
    }

    /// Entries dropped, whatever the reason.
    pub fn dropped_in_all(&self) -> u64 {
        DropReason::ALL.iter().map(|&reason| self.dropped(reason)).sum()
    }
}

//! The ledger: counts what happened to every entry that the queue ever accepted.
//!
//! appended = delivered + dropped (by reason) + downsampled + dead letters + queued

use serde::{Deserialize, Serialize};

/// Why an entry left the queue without reaching the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DropReason {
    /// The queue was full.
    QueueFull,
    /// The entry was older than `queue.max_age`.
    Expired,
    /// The entry could not be read back.
    Corrupt,
    /// The disk failed for longer than the memory buffer lasted.
    Storage,
    /// An operator dropped the entry.
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

/// Counts since the queue was created. Queued entries are not counted here: their number is derived
/// from the positions, so that the ledger can be checked against the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub delivered: u64,
    pub queue_full: u64,
    pub expired: u64,
    pub corrupt: u64,
    pub storage: u64,
    /// Removed by downsampling to make room; neighbouring frames were kept.
    pub downsampled: u64,
    /// Dead letters: entries that the server refused.
    pub dead_letters: u64,
    /// Entries that left before they were assigned a position; also included in the counts above.
    pub unplaced: u64,
    /// Dropped by an operator.
    pub operator: u64,
}

impl Ledger {
    /// Counts `entries` as dropped for `reason`.
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

    /// All entries that left the queue, for any reason.
    pub fn gone(&self) -> u64 {
        self.delivered + self.dead_letters + self.downsampled + self.dropped_in_all()
    }

    /// All dropped entries, for any reason.
    pub fn dropped_in_all(&self) -> u64 {
        DropReason::ALL.iter().map(|&reason| self.dropped(reason)).sum()
    }
}

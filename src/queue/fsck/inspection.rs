//! Read-only inspection of a queue that no agent has open: what opening it would find.

use std::io;

use super::folder::StoreScan;
use super::report::{Finding, SegmentReport, report};
use crate::config::QueueConfig;
use crate::entry::Seq;
use crate::queue::engine::{Cursor, cursors_of};
use crate::queue::ledger::Ledger;
use crate::queue::storage::lock::Lock;
use crate::queue::storage::names::is_store;
use crate::queue::{DestinationStatus, OpenError, QueueStatus};

/// An inspected queue. Holds the queue's lock, so that no other process can open it.
#[derive(Debug)]
pub struct Inspection {
    store: StoreScan,
    cursors: Vec<Cursor>,
    /// The configured limit of the disk usage.
    max_bytes: u64,
    _lock: Lock,
}

impl Inspection {
    /// Takes the queue's lock and scans its folder without reading any entry.
    pub fn begin(queue: &QueueConfig) -> Result<Self, OpenError> {
        if !is_store(&queue.path) {
            return Err(OpenError::Missing { path: queue.path.display().to_string() });
        }
        let lock = OpenError::lock(&queue.path)?;
        let storage = |source| OpenError::storage(&queue.path, source);
        let store = StoreScan::scan(&queue.path).map_err(storage)?;
        let cursors = cursors_of(&store.last_checkpoint().metadata).map_err(storage)?;
        Ok(Self { store, cursors, max_bytes: queue.max_bytes, _lock: lock })
    }

    /// Problems outside the entries.
    pub fn findings(&self) -> &[Finding] {
        self.store.findings()
    }

    /// The part of the status that needs no reading of entries: the positions, the disk usage,
    /// and the ledger of each destination.
    pub fn status(&self) -> QueueStatus {
        let checkpoint = self.store.last_checkpoint();
        let (head, lost) = (Seq(checkpoint.head), self.store.lost_before());
        let destination = |cursor: &Cursor| DestinationStatus {
            name: cursor.name.to_string(),
            ledger: cursor.ledger(lost),
            imbalance: cursor.imbalance(head, checkpoint.released),
            ..DestinationStatus::default()
        };
        let mut destinations: Vec<_> = self.cursors.iter().map(destination).collect();
        if destinations.is_empty() {
            // A queue from which nothing has left has no cursors yet.
            let ledger = Ledger { corrupt: lost, ..Ledger::default() };
            destinations.push(DestinationStatus { ledger, ..DestinationStatus::default() });
        }
        QueueStatus {
            head,
            tail: self.store.tail(),
            disk_bytes: self.store.disk_bytes(),
            max_bytes: self.max_bytes,
            destinations,
            ..QueueStatus::default()
        }
    }

    /// Files left by a crash that are deleted when the queue is opened.
    pub fn leftovers(&self) -> io::Result<Vec<String>> {
        self.store.leftovers()
    }

    /// Checks the segment that contains `from`, or else the next one; `None` at the end of the
    /// queue.
    pub fn scan(&self, from: Seq) -> io::Result<Option<SegmentReport>> {
        Ok(self.store.inspect_segment(from)?.as_ref().map(report))
    }
}

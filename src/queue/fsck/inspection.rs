//! Read-only inspection of a queue that no agent has open: what opening it would find.

use std::io;

use super::folder::StoreScan;
use super::report::{Finding, SegmentReport, report};
use crate::config::QueueConfig;
use crate::entry::Seq;
use crate::queue::OpenError;
use crate::queue::engine::{Cursor, cursors_of};
use crate::queue::storage::is_store;
use crate::queue::storage::lock::Lock;

/// An inspected queue. Holds the queue's lock, so that no other process can open it.
#[derive(Debug)]
pub struct Inspection {
    store: StoreScan,
    cursors: Vec<Cursor>,
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
        Ok(Self { store, cursors, _lock: lock })
    }

    /// Problems outside the entries.
    pub fn findings(&self) -> &[Finding] {
        self.store.findings()
    }

    /// Files left by a crash that are deleted when the queue is opened.
    pub fn leftovers(&self) -> io::Result<Vec<String>> {
        self.store.leftovers()
    }

    /// The oldest position and the one after the newest, as far as they are known without reading
    /// entries.
    pub fn ends(&self) -> (Seq, Seq) {
        (Seq(self.store.last_checkpoint().head), self.store.tail())
    }

    /// Checks the segment that contains `from`, or else the next one; `None` at the end of the
    /// queue.
    pub fn examine(&self, from: Seq) -> io::Result<Option<SegmentReport>> {
        Ok(self.store.examine(from)?.as_ref().map(report))
    }

    /// Entries lost to damage by the time the queue was last used; if the destinations differ, the
    /// most that one of them lost.
    pub fn lost_before(&self) -> u64 {
        let lost = self.store.lost_before();
        // A queue from which nothing has left has no cursors yet.
        self.cursors.iter().map(|cursor| cursor.ledger(lost).corrupt).max().unwrap_or(lost)
    }

    /// The destinations whose ledger does not balance, with the number of entries that left the
    /// queue and are missing from it. Any is a bug in pitwire.
    pub fn imbalances(&self) -> Vec<(String, i64)> {
        let checkpoint = self.store.last_checkpoint();
        let missing = |cursor: &Cursor| cursor.imbalance(Seq(checkpoint.head), checkpoint.released);
        let named = self.cursors.iter().map(|cursor| (cursor.name.to_string(), missing(cursor)));
        named.filter(|(_, missing)| *missing != 0).collect()
    }

    /// Disk usage in bytes, as `du` counts it.
    pub fn disk_bytes(&self) -> u64 {
        self.store.disk_bytes()
    }
}

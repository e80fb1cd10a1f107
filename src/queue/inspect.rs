//! Read-only inspection of a queue that no agent has open: what opening it would find.

use std::io;

use super::ledger::Ledger;
use super::lock::Lock;
use super::log::{corrupt_of, ledger_of};
use super::segments::inspect::{Untouched, is_store};
use super::{OpenError, examine};
use crate::config::QueueConfig;
use crate::entry::Seq;

pub use super::examine::{Examination, Finding, Place, out_of_order};

/// An inspected queue. Holds the queue's lock, so that no other process can open it.
#[derive(Debug)]
pub struct Inspection {
    store: Untouched,
    ledger: Ledger,
    _lock: Lock,
}

impl Inspection {
    /// Takes the queue's lock and scans its folder without reading any entry.
    pub fn begin(queue: &QueueConfig) -> Result<Self, OpenError> {
        let path = || queue.path.display().to_string();
        let storage = |source| OpenError::Storage { path: path(), source };
        if !is_store(&queue.path) {
            return Err(OpenError::Missing { path: path() });
        }
        let lock = Lock::take(&queue.path)
            .map_err(storage)?
            .map_err(|owner| OpenError::InUse { path: path(), owner })?;
        let store = Untouched::look(&queue.path).map_err(storage)?;
        let ledger = ledger_of(&store.mark().books).map_err(storage)?;
        Ok(Self { store, ledger, _lock: lock })
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
        (Seq(self.store.mark().head), self.store.tail())
    }

    /// Checks the segment that contains `from`, or else the next one; `None` at the end of the
    /// queue.
    pub fn examine(&self, from: Seq) -> io::Result<Option<Examination>> {
        Ok(self.store.examine(from)?.as_ref().map(examine::examine))
    }

    /// The ledger as last recorded, without losses since then.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Entries lost to damage by the time the queue was last used.
    pub fn lost_before(&self) -> u64 {
        corrupt_of(&self.store.mark().books, self.store.lost_before())
    }

    /// Entries that left the queue and are missing from the ledger. Anything but 0 is a bug in
    /// pitwire.
    pub fn imbalance(&self) -> i64 {
        let left = self.store.mark().released + self.ledger.unplaced;
        left as i64 - self.ledger.gone() as i64
    }

    /// Disk usage in bytes, as `du` counts it.
    pub fn disk_bytes(&self) -> u64 {
        self.store.disk_bytes()
    }
}

//! A queue that nobody has open, seen without changing it: what opening it would find.

use std::io;

use super::ledger::Ledger;
use super::lock::Lock;
use super::log::{corrupt_of, ledger_of};
use super::segments::inspect::{Untouched, is_store};
use super::{OpenError, examine};
use crate::config::QueueConfig;
use crate::entry::Seq;

pub use super::examine::{Examination, Finding, Place, out_of_order};

/// A queue at rest. As long as this lives no other process can open it.
#[derive(Debug)]
pub struct Inspection {
    store: Untouched,
    ledger: Ledger,
    _lock: Lock,
}

impl Inspection {
    /// Takes the queue's lock and looks into its folder; no entry is read yet.
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

    /// What is wrong beside the entries.
    pub fn findings(&self) -> &[Finding] {
        self.store.findings()
    }

    /// Files that a crash left and that go when the queue is opened.
    pub fn leftovers(&self) -> io::Result<Vec<String>> {
        self.store.leftovers()
    }

    /// The oldest position, and the one after the newest, as far as they are known unread.
    pub fn ends(&self) -> (Seq, Seq) {
        (Seq(self.store.mark().head), self.store.tail())
    }

    /// Reads the stretch that holds `from`, or the next one; `None` when nothing follows.
    pub fn examine(&self, from: Seq) -> io::Result<Option<Examination>> {
        Ok(self.store.examine(from)?.as_ref().map(examine::examine))
    }

    /// What became of the entries that are gone, less what is lost since.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Entries that damage had cost when the queue was used last; they are in the ledger by now.
    pub fn lost_before(&self) -> u64 {
        corrupt_of(&self.store.mark().books, self.store.lost_before())
    }

    /// Entries that left and are in no book; anything but 0 is a fault of this program.
    pub fn imbalance(&self) -> i64 {
        let left = self.store.mark().released + self.ledger.unplaced;
        left as i64 - self.ledger.gone() as i64
    }

    /// Bytes on the disk, as `du` counts them.
    pub fn disk_bytes(&self) -> u64 {
        self.store.disk_bytes()
    }
}

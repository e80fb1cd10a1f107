//! The cursor and ledger of each destination. The slowest cursor is the head of the queue. An
//! unreachable destination does not delay the others; it only uses up the queue's limits.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Engine, Metadata, OldestEntry};
use crate::entry::Seq;
use crate::queue::DestinationStatus;
use crate::queue::disposition::DispositionRange;
use crate::queue::ledger::Ledger;
use crate::queue::storage::SideLog;

/// The index of a destination in the list of configured destinations.
pub(in crate::queue) type Index = usize;

/// The cursor and ledger of one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::queue) struct Cursor {
    pub(in crate::queue) name: Arc<str>,
    /// The oldest position that has not been delivered to it.
    pub(super) committed: Seq,
    pub(super) ledger: Ledger,
    /// The disposition range that still grows.
    pub(super) disposition: Option<DispositionRange>,
    /// The number of entries that had already left the queue when the destination was configured.
    before: u64,
    /// Records that were lost after they were delivered to it, or before it was configured.
    loss_baseline: u64,
    /// The end of the entries read since the start, which may be in flight.
    #[serde(skip)]
    pub(super) in_flight_end: Seq,
    /// Records that it has received but that are kept for another destination.
    #[serde(skip)]
    acked_ahead: u64,
    /// The capture time of the oldest entry at or after a position.
    #[serde(skip)]
    oldest: Option<OldestEntry>,
}

impl Cursor {
    /// Advances the cursor to `committed`, past `records` records that other destinations may still
    /// need.
    pub(super) fn advance(&mut self, committed: Seq, records: u64) {
        self.committed = committed;
        self.acked_ahead += records;
    }

    /// Whether the entry may be in flight.
    fn is_in_flight(&self, seq: Seq) -> bool {
        (self.committed..self.in_flight_end).contains(&seq)
    }

    /// The ledger, for a store that has lost `lost` records.
    pub(in crate::queue) fn ledger(&self, lost: u64) -> Ledger {
        let mut ledger = self.ledger;
        ledger.corrupt += lost.saturating_sub(self.loss_baseline);
        ledger
    }

    /// The number of entries accepted for it, for a store with `appended` appended records.
    fn appended(&self, appended: u64) -> u64 {
        (appended + self.ledger.unplaced).saturating_sub(self.before)
    }

    /// The number of entries missing from the ledger, for a store whose metadata has this head and
    /// has counted `released` records; 0 if it balances.
    ///
    /// How many of the stored records a cursor beyond the head has passed is not known without
    /// reading them: any number up to its distance from the head balances.
    pub(in crate::queue) fn imbalance(&self, head: Seq, released: u64) -> i64 {
        let left = released + self.loss_baseline + self.ledger.unplaced;
        let missing = left as i64 - self.before as i64 - self.ledger.gone() as i64;
        let ahead = self.committed.0.saturating_sub(head.0) as i64;
        if (-ahead..=0).contains(&missing) { 0 } else { missing }
    }
}

impl Engine {
    /// Loads the cursors of these destinations from the metadata. A new destination starts at the
    /// head of the queue; the first ones of a queue account for all its entries.
    pub(super) fn load_cursors(&mut self, metadata: &Metadata, names: &[Arc<str>]) {
        let head = self.store.head();
        let (before, loss_baseline) = if metadata.cursors.is_empty() {
            (0, 0)
        } else {
            let left = self.store.appended().saturating_sub(self.store.usage().records);
            (left, self.store.lost())
        };
        let running = std::mem::take(&mut self.cursors);
        for name in names {
            let mut cursor = match metadata.cursors.iter().find(|cursor| cursor.name == *name) {
                Some(known) => known.clone(),
                None => Cursor { name: name.clone(), before, loss_baseline, ..Cursor::default() },
            };
            let old = running.iter().find(|cursor| cursor.name == *name);
            cursor.committed = cursor.committed.max(head);
            cursor.in_flight_end = old.map_or(head, |old| old.in_flight_end);
            self.cursors.push(cursor);
        }
        self.lost_counted = None;
    }

    /// Releases entries that were kept only for destinations that are no longer configured.
    pub(super) fn release_unconfigured(&mut self, metadata: &Metadata) -> io::Result<()> {
        let mut unconfigured = metadata.cursors.clone();
        unconfigured.retain(|old| self.cursors.iter().all(|cursor| cursor.name != old.name));
        if unconfigured.is_empty() {
            return Ok(());
        }
        for cursor in &unconfigured {
            let appended = cursor.appended(self.store.appended());
            let gone = cursor.ledger(self.store.lost()).gone();
            tracing::warn!(
                destination = &*cursor.name,
                entries = appended.saturating_sub(gone),
                "destination is no longer configured; its undelivered entries are not kept for it"
            );
        }
        self.commit(self.cursors.clone())
    }

    /// Persists these cursors and releases the entries that all destinations have received. On an
    /// error nothing has changed, neither here nor in the store.
    pub(super) fn commit(&mut self, cursors: Vec<Cursor>) -> io::Result<()> {
        let metadata = self.encode_metadata(&cursors)?;
        let lowest = cursors.iter().map(|cursor| cursor.committed).min();
        let head = lowest.unwrap_or_default().max(self.store.head());
        let usage = self.store.usage().records;
        self.usable_store()?.truncate(head, &metadata)?;
        let released = usage.saturating_sub(self.store.usage().records);
        self.cursors = cursors;
        for cursor in &mut self.cursors {
            cursor.acked_ahead = cursor.acked_ahead.saturating_sub(released);
        }
        Ok(())
    }

    pub(super) fn encode_metadata(&self, cursors: &[Cursor]) -> io::Result<Vec<u8>> {
        super::to_bytes(&Metadata { newest: self.newest, cursors: cursors.to_vec() })
    }

    /// The cursors after the entries `gone` were removed from the queue. `leave` updates a ledger
    /// with the number of removed entries that had not been delivered to that destination;
    /// removed entries that were delivered only reduce the number kept for the others.
    pub(super) fn without(
        &self,
        gone: &[Seq],
        mut leave: impl FnMut(&mut Ledger, u64),
    ) -> Vec<Cursor> {
        let mut cursors = self.cursors.clone();
        for cursor in &mut cursors {
            let own = gone.iter().filter(|seq| **seq >= cursor.committed).count() as u64;
            leave(&mut cursor.ledger, own);
            cursor.acked_ahead = cursor.acked_ahead.saturating_sub(gone.len() as u64 - own);
        }
        cursors
    }

    /// Whether an entry may be in flight to any destination.
    pub(super) fn is_in_flight(&self, seq: Seq) -> bool {
        self.cursors.iter().any(|cursor| cursor.is_in_flight(seq))
    }

    /// The end of the entries from `first` to `last` that may be in flight; `None` if none is.
    pub(super) fn in_flight_below(&self, first: Seq, last: Seq) -> Option<Seq> {
        self.cursors
            .iter()
            .filter(|cursor| cursor.committed <= last && first < cursor.in_flight_end)
            .map(|cursor| cursor.in_flight_end)
            .max()
    }

    /// Records the disposition of entries of one destination.
    pub(super) fn record_disposition(
        &mut self,
        cursor: &mut Cursor,
        run: DispositionRange,
        is_downsampled: bool,
    ) -> io::Result<()> {
        let Some(growing) = &mut cursor.disposition else {
            cursor.disposition = Some(run);
            return Ok(());
        };
        if let Some(next) = growing.join(run, is_downsampled) {
            // If a crash loses the metadata after this line was written, the line is written again:
            // harmless.
            self.store.append_line(SideLog::Dispositions, &growing.line(&cursor.name))?;
            cursor.disposition = Some(next);
        }
        Ok(())
    }

    /// The names of the destinations.
    pub(in crate::queue) fn destinations(&self) -> Vec<Arc<str>> {
        self.cursors.iter().map(|cursor| cursor.name.clone()).collect()
    }

    /// The status of each destination.
    pub(super) fn destination_statuses(&mut self) -> Vec<DestinationStatus> {
        let mut oldest = Vec::with_capacity(self.cursors.len());
        for index in 0..self.cursors.len() {
            oldest.push(self.oldest_of(index).unwrap_or_default());
        }
        // Afterwards, because a read may reopen the store, which loads the cursors again.
        self.recount_ahead();
        let usage = self.store.usage().records;
        let (appended, lost) = (self.store.appended(), self.store.lost());
        let mut statuses = Vec::with_capacity(self.cursors.len());
        for (cursor, oldest) in self.cursors.iter().zip(oldest) {
            let (ledger, appended) = (cursor.ledger(lost), cursor.appended(appended));
            let queued = usage.saturating_sub(cursor.acked_ahead);
            let imbalance = appended as i64 - ledger.gone() as i64 - queued as i64;
            let name = cursor.name.to_string();
            let lag = oldest.zip(self.newest).map_or(0, |(oldest, newest)| {
                newest.queued_at.0.saturating_sub(oldest.queued_at.0)
            });
            statuses.push(DestinationStatus {
                name,
                queued,
                oldest: oldest.map(|oldest| oldest.captured_at),
                oldest_queued_at: oldest.map(|oldest| oldest.queued_at),
                lag: Duration::from_millis(u64::try_from(lag).unwrap_or(0)),
                appended,
                ledger,
                imbalance,
            });
        }
        statuses
    }

    /// A destination's oldest undelivered entry.
    fn oldest_of(&mut self, of: Index) -> io::Result<Option<OldestEntry>> {
        let from = self.cursors[of].committed;
        if from <= self.store.head() {
            return self.oldest();
        }
        if from >= self.store.tail() {
            return Ok(None);
        }
        if self.cursors[of].oldest.is_none_or(|oldest| oldest.seq != from) && self.store.is_open() {
            self.cursors[of].oldest = self.read_times(from)?;
        }
        Ok(self.cursors[of].oldest)
    }

    /// Remembers an entry that was appended, for the destinations that had received everything
    /// before it.
    pub(super) fn note_oldest(&mut self, entry: OldestEntry) {
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.committed == entry.seq) {
            cursor.oldest = Some(entry);
        }
    }

    /// Recounts `acked_ahead` for each destination, at a start and after every loss of records: a record
    /// that a destination had already received is not lost to it.
    fn recount_ahead(&mut self) {
        let lost = self.store.lost();
        if self.lost_counted == Some(lost) {
            return;
        }
        let head = self.store.head();
        if self.cursors.iter().all(|cursor| cursor.committed <= head) {
            self.cursors.iter_mut().for_each(|cursor| cursor.acked_ahead = 0);
            self.lost_counted = Some(lost);
            return;
        }
        let mut counts = 0;
        let (usage, appended) = (self.store.usage().records, self.store.appended());
        for index in 0..self.cursors.len() {
            let counted =
                self.store.is_open().then(|| self.count_below(self.cursors[index].committed));
            let head = self.store.head();
            let cursor = &mut self.cursors[index];
            let (gone, appended) = (cursor.ledger(lost).gone(), cursor.appended(appended));
            let Some(Ok(ahead)) = counted else {
                // While the disk fails, derive the count from the metadata.
                cursor.acked_ahead = (usage + gone).saturating_sub(appended);
                continue;
            };
            cursor.acked_ahead = ahead;
            if cursor.committed > head {
                let queued = usage.saturating_sub(ahead);
                cursor.loss_baseline += (gone + queued).saturating_sub(appended);
            }
            counts += 1;
        }
        if counts == self.cursors.len() {
            self.lost_counted = Some(self.store.lost());
        }
    }

    /// The number of stored records below a position.
    fn count_below(&mut self, head: Seq) -> io::Result<u64> {
        if head <= self.store.head() {
            return Ok(0);
        }
        let (mut from, mut records) = (self.store.head(), 0);
        for segment in self.store.sealed_segments().iter().take_while(|segment| segment.last < head)
        {
            records += segment.usage.records;
            from = Seq(segment.last.0 + 1);
        }
        let last = Seq(head.0 - 1);
        if from <= last {
            records += self.read_between(from, last)?.len() as u64;
        }
        Ok(records)
    }
}

/// The oldest undelivered position of each destination, by name.
pub(super) fn positions(cursors: &[Cursor]) -> BTreeMap<&str, u64> {
    cursors.iter().map(|cursor| (&*cursor.name, cursor.committed.0)).collect()
}

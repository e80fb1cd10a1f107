//! Acknowledging delivered entries, and looking up the disposition of any entry.

use std::io;

use super::Log;
use super::accounts::{Account, Index};
use crate::entry::{Entry, Kind, Seq};
use crate::planted::planted;
use crate::queue::fates::{self, Fate, Run};
use crate::queue::ledger::DropReason;
use crate::queue::store::{Notes, Store, Stretch};
use crate::queue::{Batch, Limit};

impl<S: Store> Log<S> {
    /// Acknowledges a batch whose entries a destination has received. It must be the destination's
    /// oldest batch: entries before it would leave with it, unsent and missing from the ledger.
    pub(in crate::queue) fn remove(&mut self, of: Index, batch: &Batch) -> io::Result<()> {
        let head = self.accounts[of].head.max(self.store.head());
        let ahead = batch.records.first().map(|(first, _)| *first).filter(|first| *first > head);
        // Entries before it may have been downsampled.
        if ahead.is_some()
            && ahead > self.read_records(head, Limit::ONE)?.first().map(|(seq, _)| *seq)
        {
            let text = "a batch must not be removed before an older one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let held = |seq: &Seq| *seq >= head;
        let delivered = batch.entries.iter().filter(|entry| held(&entry.seq)).count() as u64;
        let count = batch.records.iter().filter(|(seq, _)| held(seq)).count() as u64;
        let Some(&(last, _)) = batch.records.last() else { return Ok(()) };
        if count == 0 {
            return Ok(());
        }
        self.put_in_force(of, batch.entries.iter().filter(|entry| held(&entry.seq)))?;
        let refused = batch.refused.iter().filter(|entry| held(&entry.seq));
        let mut quarantined = 0;
        for entry in refused {
            self.store.note(Notes::Refused, &aside(entry, &self.names[of]))?;
            quarantined += 1;
        }
        let mut account = self.accounts[of];
        if !planted("delivery_not_booked") {
            account.ledger.delivered += delivered;
        }
        account.ledger.quarantined += quarantined;
        account.ledger.drop(DropReason::Corrupt, count - delivered - quarantined);
        self.note_fates(of, &mut account, batch, head)?;
        let one_more = u64::from(planted("one_more_than_the_batch_removed"));
        account.goes_ahead(Seq(last.0 + 1 + one_more), count);
        self.keep_account(of, account)
    }

    /// Records the disposition of the entries of an acknowledged batch.
    fn note_fates(
        &mut self,
        of: Index,
        account: &mut Account,
        batch: &Batch,
        head: Seq,
    ) -> io::Result<()> {
        let has = |entries: &[Entry], seq| entries.binary_search_by_key(&seq, |e| e.seq).is_ok();
        let is_thinned = self.is_thinned_at(head);
        for &(seq, _) in batch.records.iter().filter(|(seq, _)| *seq >= head) {
            let fate = match seq {
                seq if has(&batch.entries, seq) => Fate::Delivered,
                seq if has(&batch.refused, seq) => Fate::Refused,
                _ => Fate::Dropped(DropReason::Corrupt),
            };
            self.note_run(of, account, Run { first: seq, last: seq, fate }, is_thinned)?;
        }
        Ok(())
    }

    /// Whether the segment that contains a position was downsampled.
    pub(super) fn is_thinned_at(&self, seq: Seq) -> bool {
        let is_there = |stretch: &Stretch| stretch.level > 0 && stretch.last >= seq;
        if seq <= self.store.head() {
            return self.store.oldest_stretch().as_ref().is_some_and(is_there);
        }
        let stretches = self.store.stretches();
        stretches.iter().find(|stretch| stretch.last >= seq).is_some_and(is_there)
    }

    /// The disposition of an entry for `[server]`, and for each other destination by name.
    pub(in crate::queue) fn fate(&mut self, seq: Seq) -> io::Result<(Fate, Vec<(String, Fate)>)> {
        if seq >= self.store.tail() {
            return Ok((Fate::NotGivenYet, Vec::new()));
        }
        let found = self.read_records(seq, Limit::ONE)?;
        let is_held = found.first().is_some_and(|(found, _)| *found == seq);
        let notes = match self.accounts.iter().all(|account| is_held && account.head <= seq) {
            true => String::new(),
            false => self.store.notes(Notes::Fates)?,
        };
        let fate = |(name, account): (&String, &Account)| match is_held && account.head <= seq {
            true => (name.clone(), Fate::Queued),
            false => (name.clone(), fates::find(&notes, name, account.run, seq)),
        };
        let mut all = self.names.iter().zip(&self.accounts).map(fate);
        let server = all.next().map_or(Fate::Unknown, |(_, fate)| fate);
        Ok((server, all.collect()))
    }
}

/// Formats a dead letter: one JSON object with the unchanged frame or setup.
fn aside(entry: &Entry, destination: &str) -> String {
    let Entry { seq, stint, captured_at, kind, json } = entry;
    let kind = match kind {
        Kind::Frame => "telemetry",
        Kind::Setup => "setup",
    };
    let whose = fates::whose(destination);
    format!(
        r#"{{"seq":{seq},"stint":{stint},"captured_at":"{captured_at}","cause":"refused"{whose},"{kind}":{json}}}"#
    )
}

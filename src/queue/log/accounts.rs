//! The cursor and ledger of each destination. The slowest cursor is the head of the queue. An
//! unreachable destination does not delay the others; it only uses up the queue's limits.
//!
//! The first account is that of `[server]`, which always exists.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::{Books, Log};
use crate::entry::Seq;
use crate::planted::planted;
use crate::queue::Standing;
use crate::queue::fates::Run;
use crate::queue::ledger::Ledger;
use crate::queue::store::{Notes, Store};

/// The index of a destination in the list of configured destinations.
pub(in crate::queue) type Index = usize;

/// The cursor and ledger of one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    /// The oldest position that has not been delivered to it.
    pub(super) head: Seq,
    pub(super) ledger: Ledger,
    /// The disposition range that still grows.
    pub(super) run: Option<Run>,
    /// The number of entries that had already left the queue when the destination was configured.
    before: u64,
    /// Records that were lost after they were delivered to it, or before it was configured.
    not_lost: u64,
    /// The end of the entries read since the start, which may be in flight.
    #[serde(skip)]
    pub(super) read_to: Seq,
    /// Records that it has received but that are kept for another destination.
    #[serde(skip)]
    ahead: u64,
}

impl Account {
    /// Advances the cursor to `head`, past `records` records that other destinations may still
    /// need.
    pub(super) fn goes_ahead(&mut self, head: Seq, records: u64) {
        self.head = head;
        self.ahead += records;
    }

    /// Whether the entry may be in flight.
    fn may_be_out(&self, seq: Seq) -> bool {
        (self.head..self.read_to).contains(&seq)
    }

    /// The ledger, for a store that has lost `lost` records.
    fn ledger(&self, lost: u64) -> Ledger {
        let mut ledger = self.ledger;
        ledger.corrupt += lost.saturating_sub(self.not_lost);
        ledger
    }

    /// The number of entries accepted for it, for a store with `appended` appended records.
    fn appended(&self, appended: u64) -> u64 {
        (appended + self.ledger.unplaced).saturating_sub(self.before)
    }
}

/// The persisted account of the destination `name`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    name: String,
    account: Account,
}

impl Kept {
    pub(super) fn name(&self) -> String {
        self.name.clone()
    }
}

impl<S: Store> Log<S> {
    /// Loads the accounts of the configured destinations from the metadata. The account of a new
    /// destination starts at the head of the queue.
    pub(super) fn take_accounts(&mut self, books: &Books) {
        let (head, lost) = (self.store.head(), self.store.lost());
        let before = self.store.appended().saturating_sub(self.store.held().records);
        let server = Account {
            head: books.head.map_or(head, |at| at.max(head)),
            ledger: books.ledger,
            run: books.run,
            not_lost: books.not_lost,
            ..Account::default()
        };
        let others = self.names[1..].iter().map(|name| {
            let known = books.others.iter().find(|kept| kept.name == *name);
            let new = Account { head, before, not_lost: lost, ..Account::default() };
            let account = known.map_or(new, |kept| kept.account);
            Account { head: account.head.max(head), ..account }
        });
        let accounts: Vec<_> = [server].into_iter().chain(others).collect();
        let read_to = |index| self.accounts.get(index).map_or(head, |old: &Account| old.read_to);
        self.accounts = accounts
            .into_iter()
            .enumerate()
            .map(|(index, account)| Account { read_to: read_to(index), ..account })
            .collect();
        self.lost_counted = None;
    }

    /// Releases entries that were kept only for destinations that are no longer configured.
    pub(super) fn part_with_others(&mut self, books: &Books) -> io::Result<()> {
        let gone = books.others.iter().filter(|kept| !self.names.contains(&kept.name));
        let mut has_gone = false;
        for kept in gone {
            let appended = kept.account.appended(self.store.appended());
            let gone = kept.account.ledger(self.store.lost()).gone();
            tracing::warn!(
                destination = kept.name,
                entries = appended.saturating_sub(gone),
                "destination is no longer configured; its undelivered entries are not kept for it"
            );
            has_gone = true;
        }
        if has_gone { self.keep_books(self.accounts.clone()) } else { Ok(()) }
    }

    /// Persists these accounts and releases the entries that all destinations have received. On an
    /// error nothing has changed, neither here nor in the store.
    pub(super) fn keep_books(&mut self, accounts: Vec<Account>) -> io::Result<()> {
        let books = self.books(&accounts)?;
        let heads = accounts.iter().map(|account| account.head);
        let lowest = match planted("the_fastest_releases") {
            true => heads.max(),
            false => heads.min(),
        };
        let head = lowest.unwrap_or_default().max(self.store.head());
        let held = self.store.held().records;
        self.sound()?.release(head, &books)?;
        let released = held.saturating_sub(self.store.held().records);
        self.accounts = accounts;
        for account in &mut self.accounts {
            let had = if planted("what_was_had_counts_on") { 0 } else { released };
            account.ahead = account.ahead.saturating_sub(had);
        }
        Ok(())
    }

    /// Persists one changed account.
    pub(super) fn keep_account(&mut self, of: Index, account: Account) -> io::Result<()> {
        let mut accounts = self.accounts.clone();
        accounts[of] = account;
        self.keep_books(accounts)
    }

    pub(super) fn books(&self, accounts: &[Account]) -> io::Result<Vec<u8>> {
        let (server, others) = accounts.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let kept = |(name, account): (&String, &Account)| {
            let (name, account) = (name.clone(), *account);
            Kept { name, account }
        };
        super::to_bytes(&Books {
            ledger: server.ledger,
            newest: self.newest,
            run: server.run,
            head: (!others.is_empty()).then_some(server.head),
            not_lost: server.not_lost,
            others: self.names[1..].iter().zip(others).map(kept).collect(),
        })
    }

    /// The accounts after the entries `gone` were removed from the queue. `leave` updates a ledger
    /// with the number of removed entries that had not been delivered to that destination;
    /// delivered ones only reduce what is kept for the others.
    pub(super) fn without(
        &self,
        gone: &[Seq],
        mut leave: impl FnMut(&mut Ledger, u64),
    ) -> Vec<Account> {
        let mut accounts = self.accounts.clone();
        for account in &mut accounts {
            let own = gone.iter().filter(|seq| **seq >= account.head).count() as u64;
            leave(&mut account.ledger, own);
            account.ahead = account.ahead.saturating_sub(gone.len() as u64 - own);
        }
        accounts
    }

    /// The cursor of each destination, by name; empty if there is only one destination.
    pub(super) fn places(&self) -> BTreeMap<String, u64> {
        let place = |(name, account): (&String, &Account)| (name.clone(), account.head.0);
        let several = self.names.iter().zip(&self.accounts).filter(|_| self.names.len() > 1);
        several.map(place).collect()
    }

    /// Whether an entry may be in flight to any destination.
    pub(super) fn may_be_out(&self, seq: Seq) -> bool {
        self.accounts.iter().any(|account| account.may_be_out(seq))
    }

    /// The end of the entries from `first` to `last` that may be in flight; `None` if none is.
    pub(super) fn out_below(&self, first: Seq, last: Seq) -> Option<Seq> {
        let meets = |account: &&Account| account.head <= last && first < account.read_to;
        self.accounts.iter().filter(meets).map(|account| account.read_to).max()
    }

    /// Records the disposition of entries of one destination.
    pub(super) fn note_run(
        &mut self,
        of: Index,
        account: &mut Account,
        run: Run,
        is_thinned: bool,
    ) -> io::Result<()> {
        let Some(growing) = &mut account.run else {
            account.run = Some(run);
            return Ok(());
        };
        if let Some(next) = growing.join(run, is_thinned) {
            // If a crash loses the metadata after this line was written, the line is written again:
            // harmless.
            self.store.note(Notes::Fates, &growing.line(&self.names[of]))?;
            account.run = Some(next);
        }
        Ok(())
    }

    /// The names of the destinations; `[server]` is first, with an empty name.
    pub(in crate::queue) fn destinations(&self) -> &[String] {
        &self.names
    }

    /// The status of `[server]`, and of the other destinations.
    pub(super) fn standings(&mut self) -> (Standing, Vec<Standing>) {
        self.count_ahead();
        let held = self.store.held().records;
        let (appended, lost) = (self.store.appended(), self.store.lost());
        let standing = |(name, account): (&String, &Account)| {
            let (ledger, appended) = (account.ledger(lost), account.appended(appended));
            let queued = held.saturating_sub(account.ahead);
            let imbalance = appended as i64 - ledger.gone() as i64 - queued as i64;
            Standing { name: name.clone(), queued, appended, ledger, imbalance }
        };
        let mut all = self.names.iter().zip(&self.accounts).map(standing);
        (all.next().unwrap_or_default(), all.collect())
    }

    /// Recounts `ahead` for each destination, at a start and after every loss of records: a record
    /// that a destination had already received is not lost to it.
    fn count_ahead(&mut self) {
        let lost = self.store.lost();
        if self.lost_counted == Some(lost) {
            return;
        }
        let is_ahead = |account: &Account| account.head > self.store.head();
        if !self.accounts.iter().any(is_ahead) {
            self.accounts.iter_mut().for_each(|account| account.ahead = 0);
            self.lost_counted = Some(lost);
            return;
        }
        let mut counts = 0;
        let (held, appended) = (self.store.held().records, self.store.appended());
        for index in 0..self.accounts.len() {
            let counted = self.store.is_open().then(|| self.count_below(self.accounts[index].head));
            let head = self.store.head();
            let account = &mut self.accounts[index];
            let (gone, appended) = (account.ledger(lost).gone(), account.appended(appended));
            let Some(Ok(ahead)) = counted else {
                // While the disk fails, derive the count from the metadata.
                account.ahead = (held + gone).saturating_sub(appended);
                continue;
            };
            account.ahead = ahead;
            if account.head > head {
                let queued = held.saturating_sub(ahead);
                account.not_lost += (gone + queued).saturating_sub(appended);
            }
            counts += 1;
        }
        if counts == self.accounts.len() {
            self.lost_counted = Some(self.store.lost());
        }
    }

    /// The number of stored records below a position.
    fn count_below(&mut self, head: Seq) -> io::Result<u64> {
        if head <= self.store.head() {
            return Ok(0);
        }
        let (mut from, mut records) = (self.store.head(), 0);
        for stretch in self.store.stretches().iter().take_while(|stretch| stretch.last < head) {
            records += stretch.held.records;
            from = Seq(stretch.last.0 + 1);
        }
        let last = Seq(head.0 - 1);
        if from <= last {
            records += self.read_between(from, last)?.len() as u64;
        }
        Ok(records)
    }
}

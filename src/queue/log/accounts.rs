//! Each destination's place in the log, and its own ledger. The slowest place is the log's head; one
//! that is away holds nobody back but the bound.
//!
//! The first account is that of `[server]`; it is always there.

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

/// A destination as the log sees it: by its place among those that are configured.
pub(in crate::queue) type Index = usize;

/// What one destination has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    /// The oldest position that it has not had.
    pub(super) head: Seq,
    pub(super) ledger: Ledger,
    /// What left last.
    pub(super) run: Option<Run>,
    /// Entries that had been appended, and had left, when it was configured.
    before: u64,
    /// Records that were lost after it had had them, or before it was configured.
    not_lost: u64,
    /// Everything below was read since the start and may be out.
    #[serde(skip)]
    pub(super) read_to: Seq,
    /// Records that are held though it had them: somebody else has not.
    #[serde(skip)]
    ahead: u64,
}

impl Account {
    /// It has had so many records up to a later place, which others may not have had.
    pub(super) fn goes_ahead(&mut self, head: Seq, records: u64) {
        self.head = head;
        self.ahead += records;
    }

    /// Whether the entry may be on its way to the server now.
    fn may_be_out(&self, seq: Seq) -> bool {
        (self.head..self.read_to).contains(&seq)
    }

    /// Its ledger, of a store that has lost so much.
    fn ledger(&self, lost: u64) -> Ledger {
        let mut ledger = self.ledger;
        ledger.corrupt += lost.saturating_sub(self.not_lost);
        ledger
    }

    /// Entries that were accepted for it, in a store to which so much was appended.
    fn appended(&self, appended: u64) -> u64 {
        (appended + self.ledger.unplaced).saturating_sub(self.before)
    }
}

/// An account in the books; the name says whose it is.
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
    /// Takes the accounts out of the books: of the destinations that are configured now. One that is
    /// new begins with what the log holds.
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

    /// Gives up what only a destination has not had that is not configured any more.
    pub(super) fn part_with_others(&mut self, books: &Books) -> io::Result<()> {
        let gone = books.others.iter().filter(|kept| !self.names.contains(&kept.name));
        let mut has_gone = false;
        for kept in gone {
            let appended = kept.account.appended(self.store.appended());
            let gone = kept.account.ledger(self.store.lost()).gone();
            tracing::warn!(
                destination = kept.name,
                entries = appended.saturating_sub(gone),
                "not configured any more: what it has not had is not kept for it any longer"
            );
            has_gone = true;
        }
        if has_gone { self.keep_books(self.accounts.clone()) } else { Ok(()) }
    }

    /// Keeps these accounts, and gives up what all of them have had. On an error nothing has changed,
    /// here and in the store.
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

    /// Changes one account in the books.
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

    /// The accounts after entries have left that each destination had not had yet, were it in reach
    /// or not: each is told which of them were its own. What it had had before is held no more.
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

    /// Where the destinations are, if there are several.
    pub(super) fn places(&self) -> BTreeMap<String, u64> {
        let place = |(name, account): (&String, &Account)| (name.clone(), account.head.0);
        let several = self.names.iter().zip(&self.accounts).filter(|_| self.names.len() > 1);
        several.map(place).collect()
    }

    /// Whether an entry may be on its way to a server now.
    pub(super) fn may_be_out(&self, seq: Seq) -> bool {
        self.accounts.iter().any(|account| account.may_be_out(seq))
    }

    /// The end of what may be out of a stretch, if some of it may.
    pub(super) fn out_below(&self, first: Seq, last: Seq) -> Option<Seq> {
        let meets = |account: &&Account| account.head <= last && first < account.read_to;
        self.accounts.iter().filter(meets).map(|account| account.read_to).max()
    }

    /// Notes what became of an entry of one destination.
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
            // One that was noted and is not in the books after a crash is noted again: no harm.
            self.store.note(Notes::Fates, &growing.line(&self.names[of]))?;
            account.run = Some(next);
        }
        Ok(())
    }

    /// The names of the destinations; `[server]`, which is the first, has none.
    pub(in crate::queue) fn destinations(&self) -> &[String] {
        &self.names
    }

    /// How each destination stands: that of `[server]`, and the others.
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

    /// Counts anew what is held of what each destination has had, at a start and whenever records
    /// were lost: those that a destination had had are not lost to it.
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
                // The disk fails: as the books have it, until it can be counted.
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

    /// Records that are held below a position.
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

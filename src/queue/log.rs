//! The queue's rules over a store: admit, make room, read, remove, and keep the books.
//!
//! Plain calls, no task and no clock: "old" means older than the newest entry that came, so a jump
//! of the wall clock while nothing is captured expires nothing.

mod accounts;
mod dropping;
mod leaving;
mod looking;
mod recent;
mod room;
mod setups;
mod stints;

use std::io;

use serde::{Deserialize, Serialize};

pub(super) use self::accounts::Index;
use self::accounts::{Account, Kept};
pub use self::dropping::DropStep;
pub use self::looking::{LookedAhead, Mended, Peeked};
use self::recent::Recent;
use self::stints::Stints;
use super::buffer::{Shed, Waiting};
use super::fates::{self, Run};
use super::ledger::{DropReason, Ledger};
use super::record::{self, EncodeError};
use super::store::{Notes, Store};
use super::{Appended, Batch, Content, Destinations, Limit, Limits, QueueStatus};
use crate::config::{Durability, MAX_SESSIONS};
use crate::entry::{CapturedAt, Kind, Seq, StintId, Stream};
use crate::planted::planted;

/// Facts that are kept beside the log; each is one small MessagePack value.
const STREAMS: &str = "streams";
const SESSIONS: &str = "sessions";

/// What the store keeps with the head.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Books {
    ledger: Ledger,
    newest: Option<Newest>,
    /// What left last.
    run: Option<Run>,
    /// Where `[server]` is, if there are other destinations. From here on not in older books.
    #[serde(default)]
    head: Option<Seq>,
    #[serde(default)]
    not_lost: u64,
    #[serde(default)]
    others: Vec<Kept>,
}

/// The stint and the moment of the newest entry that was ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Newest {
    stint: StintId,
    captured_at: CapturedAt,
}

/// The session that a server gave to a stint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StintSession {
    pub stint: StintId,
    pub server: String,
    pub session: String,
}

/// The log: a store and the rules over it.
#[derive(Debug)]
pub(super) struct Log<S> {
    store: S,
    limits: Limits,
    /// The destinations: `[server]`, which has no name, and the others.
    names: Vec<String>,
    /// Of each of them.
    accounts: Vec<Account>,
    /// What the store had lost when the accounts were counted last.
    lost_counted: Option<u64>,
    newest: Option<Newest>,
    stints: Stints,
    /// Everything below is durable.
    durable: Seq,
    /// Where the newest minute begins, which is not thinned.
    recent: Recent,
    oldest: Option<(Seq, CapturedAt)>,
}

impl<S: Store> Log<S> {
    /// Takes over a store at the moment `now`, as the wall clock has it.
    pub(super) fn open(
        mut store: S,
        limits: Limits,
        destinations: Destinations<'_>,
        now: CapturedAt,
    ) -> io::Result<Self> {
        let books = match store.books() {
            Some(bytes) => rmp_serde::from_slice(&bytes).map_err(io::Error::other)?,
            None => Books::default(),
        };
        // What the operating system still held of a killed process is not durable yet.
        store.flush()?;
        let newest = newest_ever(&mut store, &books)?;
        let known = fact(&store, STREAMS)?.unwrap_or_default();
        let stints = Stints::resume(known, newest, &limits, now);
        let others = match destinations {
            Destinations::These(names) => names.to_vec(),
            Destinations::AsTheyAre => books.others.iter().map(Kept::name).collect(),
        };
        let mut log = Self {
            durable: store.tail(),
            recent: Recent::new(newest.map(|newest| newest.captured_at), store.tail()),
            names: [String::new()].into_iter().chain(others).collect(),
            accounts: Vec::new(),
            lost_counted: None,
            newest,
            stints,
            oldest: None,
            store,
            limits,
        };
        log.take_accounts(&books);
        log.note_lost();
        log.part_with_others(&books)?;
        // One that was lowered holds from here on.
        log.limit(log.limits.clone())?;
        Ok(log)
    }

    /// Has other limits from here on.
    pub(super) fn limit(&mut self, limits: Limits) -> io::Result<()> {
        self.limits = limits;
        self.make_room(None)?;
        match self.newest {
            Some(newest) => self.expire(newest.captured_at),
            None => Ok(()),
        }
    }

    /// Accepts an entry of a stream or says what became of it.
    pub(super) fn append(&mut self, stream: &Stream, entry: &Waiting) -> io::Result<Appended> {
        let &Waiting { captured_at, driven_at, content, .. } = entry;
        self.sound()?;
        let (stint, begins) = self.stints.at(stream, captured_at, &self.limits);
        let (kind, setup) = match content {
            Content::Frame(_) => (Kind::Frame, None),
            Content::Setup { fingerprint } => (Kind::Setup, Some(fingerprint)),
        };
        if setup.is_some_and(|setup| self.stints.has_setup(stream, setup))
            && !planted("same_setup_stored_again")
        {
            return Ok(Appended::Unchanged);
        }
        // Before its first entry: after a crash the stream must find its stint.
        self.write_stints()?;
        let marks = entry.marks.and(self.stints.marks(stream, begins, self.store.tail()));
        let json = &entry.json;
        let bytes = match driven_at {
            None => record::encode(stint, captured_at, kind, marks, json),
            Some(at) => record::encode_relayed(stint, captured_at, at, kind, marks, json),
        };
        let bytes = bytes.map_err(not_encoded)?;
        self.expire(captured_at)?;
        if !self.make_room(Some(bytes.len()))? {
            self.keep_unplaced(|ledger| ledger.drop(DropReason::QueueFull, 1), 1)?;
            return Ok(Appended::Dropped(DropReason::QueueFull));
        }
        let seq = self.sound()?.append(&bytes)?;
        if self.store.held().records == 1 {
            self.oldest = Some((self.store.head(), captured_at));
        }
        self.newest = Some(Newest { stint, captured_at });
        self.recent.note(captured_at, seq);
        self.stints.appended(stream, captured_at, setup);
        if setup.is_some() {
            // What is known must not outlive the setup, or it would not be accepted again.
            self.flush()?;
            self.write_stints()?;
        }
        Ok(Appended::Stored(seq))
    }

    fn write_stints(&mut self) -> io::Result<()> {
        if let Some(known) = self.stints.unwritten() {
            let known = to_bytes(&known)?;
            self.store.put(STREAMS, Some(&known))?;
            self.stints.written();
        }
        Ok(())
    }

    /// Whether an entry was appended already, before the store failed: moments are strictly
    /// increasing, so each names one entry. Says the position of the newest then.
    pub(super) fn has(&mut self, entry: &Waiting) -> io::Result<Option<Seq>> {
        self.sound()?;
        let is_there = self.newest.is_some_and(|newest| entry.captured_at <= newest.captured_at);
        let newest = self.store.last().unwrap_or(Seq(self.store.tail().0 - 1));
        Ok((is_there && !planted("stored_again_after_a_failure")).then_some(newest))
    }

    /// Books what was given up in memory, before it had a position.
    pub(super) fn book(&mut self, shed: Shed) -> io::Result<()> {
        if shed == Shed::default() || planted("given_up_in_memory_not_booked") {
            return Ok(());
        }
        let gone = |ledger: &mut Ledger| {
            ledger.thinned += shed.thinned;
            ledger.drop(DropReason::Storage, shed.dropped);
        };
        self.keep_unplaced(gone, shed.thinned + shed.dropped)
    }

    /// Books entries that no destination gets, as they never got a position.
    fn keep_unplaced(&mut self, gone: impl Fn(&mut Ledger), entries: u64) -> io::Result<()> {
        let mut accounts = self.accounts.clone();
        for account in &mut accounts {
            account.ledger.unplaced += entries;
            gone(&mut account.ledger);
        }
        self.keep_books(accounts)
    }

    /// The entries from `from` on that may be sent to a destination; `None` when there is none.
    ///
    /// Where each entry is made durable on its own, only what is durable is sent. Elsewhere a power
    /// cut may forget an entry that the server has; its position is not given out again.
    pub(super) fn read(&mut self, of: Index, from: Seq, limit: Limit) -> io::Result<Option<Batch>> {
        let of_whom = if planted("one_place_for_all") { 0 } else { of };
        let from = from.max(self.accounts[of_whom].head);
        let end = match self.limits.durability {
            Durability::Entry if planted("sent_before_its_flush") => self.store.tail(),
            Durability::Entry => self.durable,
            Durability::Within(_) | Durability::Os => self.store.tail(),
        };
        if from >= end {
            return Ok(None);
        }
        let mut batch: Option<Batch> = None;
        for (seq, bytes) in self.read_records(from, limit)? {
            if seq >= end {
                break;
            }
            let batch = batch.get_or_insert_default();
            match record::decode(seq, &bytes) {
                Ok(entry) => batch.entries.push(entry),
                // Left out here, counted as corrupt when the batch is removed.
                Err(error) => tracing::error!(%seq, %error, "an entry cannot be read back"),
            }
            batch.records.push((seq, bytes.len() as u32));
            let account = &mut self.accounts[of];
            account.read_to = account.read_to.max(Seq(seq.0 + 1));
        }
        Ok(batch)
    }

    /// Makes everything so far durable.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let store = self.sound()?;
        if !store.is_durable() {
            store.flush()?;
        }
        self.note_durable();
        Ok(())
    }

    /// What the store made durable on its own counts as well.
    fn note_durable(&mut self) {
        if self.store.is_durable() {
            self.durable = self.store.tail();
        }
    }

    /// Whether a power cut now would undo something.
    pub(super) fn is_dirty(&self) -> bool {
        !self.store.is_durable()
    }

    /// Whether a power cut now would lose an entry.
    pub(super) fn has_unflushed_entries(&self) -> bool {
        self.durable < self.store.tail()
    }

    /// The session that `server` gave to `stint`.
    pub(super) fn session(&self, stint: StintId, server: &str) -> io::Result<Option<String>> {
        let sessions: Vec<StintSession> = fact(&self.store, SESSIONS)?.unwrap_or_default();
        let found = sessions.into_iter().rfind(|s| s.stint == stint && s.server == server);
        Ok(found.map(|s| s.session))
    }

    /// Remembers the session that `server` gave to `stint`.
    pub(super) fn set_session(
        &mut self,
        stint: StintId,
        server: &str,
        session: &str,
    ) -> io::Result<()> {
        let mut sessions: Vec<StintSession> = fact(&self.store, SESSIONS)?.unwrap_or_default();
        sessions.retain(|s| s.stint != stint || s.server != server);
        let excess = (sessions.len() + 1).saturating_sub(MAX_SESSIONS);
        sessions.drain(..excess);
        sessions.push(StintSession { stint, server: server.into(), session: session.into() });
        self.store.put(SESSIONS, Some(&to_bytes(&sessions)?))
    }

    /// All sessions that are remembered, the newest last.
    pub(super) fn sessions(&self) -> io::Result<Vec<StintSession>> {
        Ok(fact(&self.store, SESSIONS)?.unwrap_or_default())
    }

    /// Begins the stint that the stream's next entry at the moment `at` belongs to, if it has none, and
    /// remembers the session that each server gave to it elsewhere.
    pub(super) fn go_on(
        &mut self,
        stream: &Stream,
        at: CapturedAt,
        sessions: &[(String, String)],
    ) -> io::Result<()> {
        self.sound()?;
        let (stint, _) = self.stints.at(stream, at, &self.limits);
        // Before its sessions: after a crash no other stream may find them.
        self.write_stints()?;
        sessions.iter().try_for_each(|(server, session)| self.set_session(stint, server, session))
    }

    /// The stint that the oldest entry of a destination, or if there is none the next one, belongs to.
    pub(super) fn stint(&mut self, of: Index) -> io::Result<StintId> {
        let oldest = self.read_records(self.accounts[of].head, Limit::ONE)?;
        let entry = oldest.first().and_then(|(seq, bytes)| record::decode(*seq, bytes).ok());
        Ok(entry.map_or_else(|| self.stints.expected(), |entry| entry.stint))
    }

    /// How the queue stands.
    pub(super) fn status(&mut self) -> QueueStatus {
        let (head, tail) = (self.store.head(), self.store.tail());
        let held = self.store.held();
        let (server, others) = self.standings();
        QueueStatus {
            head,
            tail,
            entries: held.records,
            bytes: held.bytes,
            disk_bytes: self.store.disk_bytes(),
            max_entries: self.limits.max_entries,
            max_bytes: self.limits.max_bytes,
            oldest: self.oldest().unwrap_or_default(),
            newest: self.newest.map(|newest| newest.captured_at),
            stint: self.stints.expected(),
            stints: self.stints.shown(),
            queued: server.queued,
            appended: server.appended,
            imbalance: server.imbalance,
            ledger: server.ledger,
            others,
            buffered: 0,
            undurable_since: None,
            storage_error: None,
            disk_is_full: false,
            stuck: None,
        }
    }

    /// The moment of the oldest entry.
    fn oldest(&mut self) -> io::Result<Option<CapturedAt>> {
        let head = self.store.head();
        if self.oldest.is_none_or(|(seq, _)| seq != head) {
            let oldest = self.read_records(head, Limit::ONE)?;
            let place = oldest.first().and_then(|(_, bytes)| record::place(bytes));
            self.oldest = place.map(|(_, at)| (head, at));
        }
        Ok(self.oldest.map(|(_, captured_at)| captured_at))
    }

    /// Does what would hold up an append; to be called when nobody waits.
    pub(super) fn maintain(&mut self) -> io::Result<()> {
        self.sound()?.maintain()?;
        self.note_durable();
        Ok(())
    }

    fn read_records(&mut self, from: Seq, limit: Limit) -> io::Result<Vec<(Seq, Vec<u8>)>> {
        let records = self.sound()?.read(from, limit);
        self.note_lost();
        records
    }

    /// Notes the fate of what the store has lost. Without the note the fate is unknown; the ledger
    /// counts the loss all the same, so a disk that is full does not stop the queue here.
    fn note_lost(&mut self) {
        for (first, last) in self.store.take_lost() {
            let line = fates::lost_line(first, last, &self.places());
            if let Err(error) = self.store.note(Notes::Fates, &line) {
                tracing::warn!(%first, %last, %error, "cannot note that entries were lost");
            }
        }
    }

    /// All records between two positions, ends included.
    fn read_between(&mut self, first: Seq, last: Seq) -> io::Result<Vec<(Seq, Vec<u8>)>> {
        let mut records = self.read_records(first, Limit::ALL_OF_A_STRETCH)?;
        while let Some(next) = records.last().map(|(seq, _)| Seq(seq.0 + 1))
            && next <= last
        {
            let more = self.read_records(next, Limit::ALL_OF_A_STRETCH)?;
            if more.is_empty() {
                break;
            }
            records.extend(more);
        }
        records.truncate(records.partition_point(|(seq, _)| *seq <= last));
        Ok(records)
    }

    /// The store, opened again if it failed: after an error it starts over from what is on the
    /// disk, and so do the books.
    fn sound(&mut self) -> io::Result<&mut S> {
        if !self.store.is_open() {
            self.store.reopen()?;
            let books = self.store.books().and_then(|bytes| rmp_serde::from_slice(&bytes).ok());
            let books: Books = books.unwrap_or_default();
            self.take_accounts(&books);
            self.newest = newest_ever(&mut self.store, &books)?;
            self.stints.forget_neighbours();
            self.note_durable();
        }
        Ok(&mut self.store)
    }
}

/// The ledger in the books that a store keeps; an empty one if it keeps none yet.
pub(super) fn ledger_of(books: &[u8]) -> io::Result<Ledger> {
    if books.is_empty() {
        return Ok(Ledger::default());
    }
    rmp_serde::from_slice(books).map(|books: Books| books.ledger).map_err(io::Error::other)
}

/// Entries that damage has cost `[server]`, by the books of a store that has lost so many.
pub(super) fn corrupt_of(books: &[u8], lost: u64) -> u64 {
    let books: Books = rmp_serde::from_slice(books).unwrap_or_default();
    books.ledger.corrupt + lost.saturating_sub(books.not_lost)
}

/// Stint and moment of the newest record that ever was: the newest that is held may be much older,
/// when those after it were dropped.
fn newest_ever<S: Store>(store: &mut S, books: &Books) -> io::Result<Option<Newest>> {
    let held = newest_held(store)?;
    Ok(held.into_iter().chain(books.newest).max_by_key(|newest| newest.captured_at))
}

fn newest_held<S: Store>(store: &mut S) -> io::Result<Option<Newest>> {
    let Some(last) = store.last() else { return Ok(None) };
    let records = store.read(last, Limit::ONE)?;
    let place = records.first().and_then(|(_, bytes)| record::place(bytes));
    Ok(place.map(|(stint, captured_at)| Newest { stint, captured_at }))
}

fn fact<T: serde::de::DeserializeOwned>(store: &impl Store, key: &str) -> io::Result<Option<T>> {
    let Some(bytes) = store.get(key)? else { return Ok(None) };
    match rmp_serde::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            tracing::error!(key, %error, "a fact of the queue cannot be read back, going on without");
            Ok(None)
        }
    }
}

fn to_bytes(value: &impl Serialize) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(io::Error::other)
}

fn not_encoded(error: EncodeError) -> io::Error {
    io::Error::other(error)
}

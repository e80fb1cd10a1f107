//! The queue's rules over a store: admit, make room, read, remove, and keep the books.
//!
//! Plain calls, no task and no clock: "old" means older than the newest entry, so a jump of the
//! wall clock while nothing is captured expires nothing.

use std::io;

use serde::{Deserialize, Serialize};

use super::ledger::{DropReason, Ledger};
use super::record::{self, EncodeError};
use super::store::Store;
use super::{Appended, Batch, Content, FIRST, Limit, Limits, NewEntry, QueueStatus};
use crate::config::WhenFull;
use crate::entry::{CapturedAt, Entry, Kind, Seq, StintId};

/// Facts that are kept beside the log; each is one small MessagePack value.
const SETUP_IN_FORCE: &str = "setup_in_force";
const LATEST_SETUP: &str = "latest_setup";
const SESSIONS: &str = "sessions";

/// Sessions that are remembered, the newest ones: more stints than a queue can hold in practice.
const MAX_SESSIONS: usize = 64;

/// What the store keeps with the head.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Books {
    ledger: Ledger,
    newest: Option<Newest>,
}

/// The stint and the moment of the newest entry that was ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Newest {
    stint: StintId,
    captured_at: CapturedAt,
}

/// The session that a server gave to a stint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StintSession {
    stint: StintId,
    server: String,
    session: String,
}

/// The log: a store and the rules over it.
#[derive(Debug)]
pub(super) struct Log<S> {
    store: S,
    limits: Limits,
    ledger: Ledger,
    /// Bytes of the records that are held.
    bytes: u64,
    newest: Option<Newest>,
    /// The stint that the next entry belongs to, unless silence begins another.
    stint: StintId,
    /// Stint and fingerprint of the setup that was accepted last.
    latest_setup: Option<(StintId, u64)>,
    /// Everything below is durable: only that may be published, or after a power cut the position
    /// of a published entry would be given to another one.
    durable: Seq,
    dirty: bool,
    oldest: Option<(Seq, CapturedAt)>,
}

impl<S: Store> Log<S> {
    /// Takes over a store at the moment `now`, as the wall clock has it.
    pub(super) fn open(mut store: S, limits: Limits, now: CapturedAt) -> io::Result<Self> {
        let books = match store.books() {
            Some(bytes) => rmp_serde::from_slice(&bytes).map_err(io::Error::other)?,
            None => Books::default(),
        };
        // What the operating system still held of a killed process is not durable yet.
        store.flush()?;
        let (bytes, last) = measure(&mut store)?;
        let newest = last.or(books.newest);
        let latest_setup = fact(&store, LATEST_SETUP)?;
        let stint = match newest {
            Some(newest) if limits.continues(newest.captured_at, now) => newest.stint,
            Some(newest) => StintId(newest.stint.0 + 1),
            None => StintId(1),
        };
        let mut log = Self {
            durable: store.tail(),
            ledger: books.ledger,
            bytes,
            newest,
            stint,
            latest_setup,
            dirty: false,
            oldest: None,
            store,
            limits,
        };
        // A limit that was lowered holds from here on.
        log.make_room(0)?;
        Ok(log)
    }

    /// Accepts an entry or says what became of it.
    pub(super) fn append(&mut self, entry: NewEntry) -> io::Result<Appended> {
        let NewEntry { captured_at, content, json } = entry;
        let newest = self.newest.filter(|newest| newest.stint == self.stint);
        if newest.is_some_and(|newest| !self.limits.continues(newest.captured_at, captured_at)) {
            self.stint = StintId(self.stint.0 + 1);
        }
        let stint = self.stint;
        let (kind, setup) = match content {
            Content::Frame => (Kind::Frame, None),
            Content::Setup { fingerprint } => (Kind::Setup, Some((stint, fingerprint))),
        };
        if setup.is_some() && setup == self.latest_setup {
            return Ok(Appended::Unchanged);
        }
        let bytes = record::encode(stint, captured_at, kind, &json).map_err(not_encoded)?;
        let full = self.lacks_room(1, bytes.len() as u64);
        if full && self.limits.when_full == WhenFull::DropNewest {
            self.ledger.unplaced += 1;
            self.ledger.drop(DropReason::QueueFull, 1);
            self.keep_books(self.store.head())?;
            return Ok(Appended::Dropped(DropReason::QueueFull));
        }
        if full {
            self.make_room(bytes.len() as u64)?;
        }
        let seq = self.store.append(&bytes)?;
        self.dirty = true;
        self.bytes += bytes.len() as u64;
        self.newest = Some(Newest { stint, captured_at });
        self.expire()?;
        if let Some(setup) = setup {
            self.latest_setup = Some(setup);
            self.store.put(LATEST_SETUP, Some(&to_bytes(&setup)?))?;
        }
        Ok(Appended::Stored(seq))
    }

    /// The durable entries from `from` on, all of one stint; `None` when there is none.
    pub(super) fn read(&mut self, from: Seq, limit: Limit) -> io::Result<Option<Batch>> {
        let from = from.max(self.store.head());
        if from >= self.durable {
            return Ok(None);
        }
        let limit =
            Limit { entries: limit.entries.min((self.durable.0 - from.0) as usize), ..limit };
        let mut batch: Option<Batch> = None;
        for (seq, bytes) in self.store.read(from, limit)? {
            let entry = record::decode(seq, &bytes);
            let stint = entry.as_ref().ok().map(|entry| entry.stint);
            let batch = batch.get_or_insert_with(|| Batch::new(stint.unwrap_or(self.stint)));
            match entry {
                Ok(entry) if batch.entries.is_empty() || entry.stint == batch.stint => {
                    batch.stint = entry.stint;
                    batch.entries.push(entry);
                }
                Ok(_) => break,
                // Left out here, counted as corrupt when the batch is removed.
                Err(error) => tracing::error!(%seq, %error, "an entry cannot be read back"),
            }
            batch.records.push((seq, bytes.len() as u32));
        }
        Ok(batch)
    }

    /// Gives up a batch whose entries the server has.
    pub(super) fn remove(&mut self, batch: &Batch) -> io::Result<()> {
        let head = self.store.head();
        let held = |seq: &Seq| *seq >= head;
        let delivered = batch.entries.iter().filter(|entry| held(&entry.seq)).count() as u64;
        let records = batch.records.iter().filter(|(seq, _)| held(seq));
        let (count, bytes) =
            records.fold((0, 0), |(n, sum), (_, len)| (n + 1, sum + u64::from(*len)));
        let Some(&(last, _)) = batch.records.last() else { return Ok(()) };
        if count == 0 {
            return Ok(());
        }
        self.put_in_force(batch.entries.iter().filter(|entry| held(&entry.seq)))?;
        self.bytes -= bytes;
        self.ledger.delivered += delivered;
        self.ledger.drop(DropReason::Corrupt, count - delivered);
        self.keep_books(Seq(last.0 + 1))
    }

    /// Makes everything so far durable.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.dirty {
            self.store.flush()?;
            self.dirty = false;
            self.durable = self.store.tail();
        }
        Ok(())
    }

    /// Whether something would be lost by a power cut now.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether appended entries wait for a flush before they may be read.
    pub(super) fn has_unflushed_entries(&self) -> bool {
        self.durable < self.store.tail()
    }

    /// The setup that was in force just before the head, if the head's stint has one.
    pub(super) fn setup_in_force(&self, stint: StintId) -> io::Result<Option<Entry>> {
        let Some((seq, bytes)) = fact::<(Seq, Vec<u8>)>(&self.store, SETUP_IN_FORCE)? else {
            return Ok(None);
        };
        Ok(record::decode(seq, &bytes).ok().filter(|entry| entry.stint == stint))
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

    /// The stint of the oldest entry, or if there is none that of the next.
    pub(super) fn stint(&mut self) -> io::Result<StintId> {
        let oldest = self.store.read(self.store.head(), Limit::ONE)?.pop();
        let oldest = oldest.and_then(|(seq, bytes)| record::decode(seq, &bytes).ok());
        Ok(oldest.map_or(self.stint, |entry| entry.stint))
    }

    /// How the queue stands.
    pub(super) fn status(&mut self) -> QueueStatus {
        let (head, tail) = (self.store.head(), self.store.tail());
        if self.oldest.is_none_or(|(seq, _)| seq != head) {
            let one = self.store.read(head, Limit::ONE).unwrap_or_default();
            let entry = one.first().and_then(|(seq, bytes)| record::decode(*seq, bytes).ok());
            self.oldest = entry.map(|entry| (head, entry.captured_at));
        }
        let entries = tail.0 - head.0;
        let appended = tail.0 - FIRST.0 - self.ledger.skipped + self.ledger.unplaced;
        QueueStatus {
            head,
            tail,
            entries,
            bytes: self.bytes,
            disk_bytes: self.store.disk_bytes(),
            oldest: self.oldest.map(|(_, captured_at)| captured_at),
            newest: self.newest.map(|newest| newest.captured_at),
            stint: self.stint,
            appended,
            imbalance: appended as i64 - self.ledger.gone() as i64 - entries as i64,
            ledger: self.ledger,
        }
    }

    fn lacks_room(&self, entries: u64, bytes: u64) -> bool {
        let held = self.store.tail().0 - self.store.head().0;
        held + entries > self.limits.max_entries || self.bytes + bytes > self.limits.max_bytes
    }

    /// Drops the oldest entries until one of `bytes` fits, or until the log is within its limits
    /// when `bytes` is 0.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        let entries = u64::from(bytes > 0);
        while self.lacks_room(entries, bytes) && self.drop_oldest(DropReason::QueueFull)? {}
        Ok(())
    }

    /// Drops what is older than the newest entry by more than the limit.
    fn expire(&mut self) -> io::Result<()> {
        let Some(newest) = self.newest else { return Ok(()) };
        let oldest_allowed = newest.captured_at.0.saturating_sub(self.limits.max_age_ms());
        while self.status().oldest.is_some_and(|oldest| oldest.0 < oldest_allowed)
            && self.drop_oldest(DropReason::Expired)?
        {}
        Ok(())
    }

    /// Drops the oldest entry; `false` when there is none.
    fn drop_oldest(&mut self, reason: DropReason) -> io::Result<bool> {
        let Some((seq, bytes)) = self.store.read(self.store.head(), Limit::ONE)?.pop() else {
            return Ok(false);
        };
        let entry = record::decode(seq, &bytes).ok();
        self.put_in_force(entry.iter())?;
        self.bytes -= bytes.len() as u64;
        self.ledger.drop(if entry.is_some() { reason } else { DropReason::Corrupt }, 1);
        self.keep_books(Seq(seq.0 + 1))?;
        Ok(true)
    }

    /// Entries are leaving: the last setup among them is the one in force at the new head.
    fn put_in_force<'a>(&mut self, leaving: impl Iterator<Item = &'a Entry>) -> io::Result<()> {
        let Some(setup) = leaving.filter(|entry| entry.kind == Kind::Setup).last() else {
            return Ok(());
        };
        let bytes = record::encode(setup.stint, setup.captured_at, setup.kind, &setup.json)
            .map_err(not_encoded)?;
        self.store.put(SETUP_IN_FORCE, Some(&to_bytes(&(setup.seq, bytes))?))
    }

    fn keep_books(&mut self, head: Seq) -> io::Result<()> {
        let books = Books { ledger: self.ledger, newest: self.newest };
        self.dirty = true;
        self.store.release(head, &to_bytes(&books)?)
    }
}

/// Bytes of all records, and the newest entry, by reading the log once.
fn measure<S: Store>(store: &mut S) -> io::Result<(u64, Option<Newest>)> {
    let (mut from, mut total, mut newest) = (store.head(), 0, None);
    loop {
        let records = store.read(from, Limit { entries: 1024, bytes: 1 << 20 })?;
        let Some(&(last, _)) = records.last() else { return Ok((total, newest)) };
        for (seq, bytes) in &records {
            total += bytes.len() as u64;
            if let Ok(entry) = record::decode(*seq, bytes) {
                newest = Some(Newest { stint: entry.stint, captured_at: entry.captured_at });
            }
        }
        from = Seq(last.0 + 1);
    }
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

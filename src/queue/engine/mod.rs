//! The queue engine: the rules for appending, evicting, reading and acknowledging entries on top of
//! a store, and for recording what happened to them.
//!
//! Plain synchronous calls, with no task and no clock. The age of an entry is relative to the
//! newest entry that was appended, in queue time, so a step of the wall clock expires nothing.

mod ack;
mod cursors;
mod downsampling;
mod eviction;
mod peek;
mod purge;
mod recent;
mod setups;
mod stints;
mod time;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::cursors::positions;
pub(super) use self::cursors::{Cursor, Index};
pub use self::eviction::DROP_STEP_ENTRIES;
pub use self::peek::{LookedAhead, Peeked};
pub use self::purge::PurgeStep;
pub use self::recent::RECENT;
use self::recent::Recent;
use self::stints::Stints;
use self::time::ClockOffsets;
use super::buffer::{Discarded, Pending};
use super::ledger::{DropReason, Ledger};
use super::record::{self, EncodeError, Record};
use super::storage::{KeyValue, SideLog, Storage, Store};
use super::{Appended, Batch, Content, Destinations, Limit, Limits, QueueStatus, disposition};
use crate::config::{Durability, SERVER};
use crate::entry::{CapturedAt, CarId, Kind, MAX_SESSIONS, QueueTime, Seq, StintId};
use crate::platform::clock::Clock;

/// Keys of facts stored beside the records; each value is a small MessagePack document.
const STREAMS: &str = "streams";
const SESSIONS: &str = "sessions";
const CLOCK: &str = "clock";

/// The metadata that the store persists together with the head.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Metadata {
    newest: Option<NewestEntry>,
    cursors: Vec<Cursor>,
}

/// The stint and times of the newest entry ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NewestEntry {
    stint: StintId,
    queued_at: QueueTime,
    captured_at: CapturedAt,
}

/// When the oldest entry of the queue, or of a destination, was queued and captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OldestEntry {
    seq: Seq,
    queued_at: QueueTime,
    captured_at: CapturedAt,
}

/// The session that a server assigned to a stint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StintSession {
    pub stint: StintId,
    pub server: String,
    pub session: String,
}

/// The queue engine: a store, and the queue's rules on top of it.
pub(super) struct Engine {
    store: Box<dyn Store>,
    limits: Limits,
    /// The cursor and ledger of each destination; there is at least one.
    cursors: Vec<Cursor>,
    /// The store's count of lost records when `acked_ahead` was last computed.
    lost_counted: Option<u64>,
    newest: Option<NewestEntry>,
    stints: Stints,
    /// Entries below this position are durable.
    durable: Seq,
    /// The start of the newest minute, which is not downsampled.
    recent: Recent,
    oldest: Option<OldestEntry>,
    offsets: ClockOffsets,
    /// `offsets` is not on disk.
    has_new_offsets: bool,
}

impl Engine {
    /// Opens the engine on `store`. `clock` measures the time since it was closed.
    pub(super) fn open(
        mut store: Box<dyn Store>,
        limits: Limits,
        destinations: Destinations<'_>,
        clock: &Clock,
    ) -> io::Result<Self> {
        let metadata = match store.metadata() {
            Some(bytes) => rmp_serde::from_slice(&bytes).map_err(io::Error::other)?,
            None => Metadata::default(),
        };
        // What a killed process wrote may still be in the operating system's cache: make it durable
        // first.
        store.flush()?;
        let newest = newest_ever(&mut *store, &metadata)?;
        let known = fact(&*store, STREAMS)?.unwrap_or_default();
        let read = clock.read();
        let stored = fact(&*store, CLOCK)?;
        let last = newest.map(|newest| newest.queued_at);
        let longest = limits.resume_after.saturating_add(Duration::from_millis(1));
        let offsets = ClockOffsets::at_start(stored.as_ref(), last, clock.boot(), read, longest);
        let now = offsets.queue_time(read.uptime_ms);
        let stints = Stints::resume(known, newest, &limits, now);
        let mut names: Vec<Arc<str>> = match destinations {
            Destinations::Configured(names) => names.iter().map(|name| name[..].into()).collect(),
            Destinations::Stored => {
                metadata.cursors.iter().map(|cursor| cursor.name.clone()).collect()
            }
        };
        // Without a destination, no ledger would count dropped entries.
        if names.is_empty() {
            names.push(SERVER.into());
        }
        let mut engine = Self {
            durable: store.tail(),
            recent: Recent::new(
                newest.map(|newest| (newest.queued_at, newest.captured_at)),
                store.tail(),
            ),
            cursors: Vec::new(),
            lost_counted: None,
            newest,
            stints,
            oldest: None,
            has_new_offsets: stored.as_ref() != Some(&offsets),
            offsets,
            store,
            limits,
        };
        note_lost(&mut *engine.store, &metadata.cursors);
        engine.load_cursors(&metadata, &names);
        engine.release_unconfigured(&metadata)?;
        // Apply a limit that was lowered since the last run.
        let before = engine.dropped();
        engine.limit(engine.limits.clone())?;
        let dropped = engine.dropped().saturating_sub(before);
        if dropped > 0 {
            tracing::warn!(entries = dropped, "queued entries exceeded a limit and were dropped");
        }
        Ok(engine)
    }

    /// The entries dropped so far, for all destinations together.
    fn dropped(&self) -> u64 {
        self.cursors.iter().map(|cursor| cursor.ledger.dropped_in_all()).sum()
    }

    /// Replaces the limits and evicts whatever no longer fits.
    pub(super) fn limit(&mut self, limits: Limits) -> io::Result<()> {
        self.limits = limits;
        self.make_room(None)?;
        match self.newest {
            Some(newest) => self.expire(newest.queued_at),
            None => Ok(()),
        }
    }

    /// Appends an entry of a stream and returns the outcome.
    pub(super) fn append(&mut self, stream: &CarId, entry: &Pending) -> io::Result<Appended> {
        let &Pending { stamp, captured_at, origin, pause, content, .. } = entry;
        let queued_at = stamp.queued_at;
        self.usable_store()?;
        let (stint, begins) = self.stints.at(stream, queued_at, pause, &self.limits);
        let (kind, setup) = match content {
            Content::Frame(_) => (Kind::Frame, None),
            Content::Setup { fingerprint } => (Kind::Setup, Some(fingerprint)),
        };
        if setup.is_some_and(|setup| self.stints.has_setup(stream, setup)) {
            return Ok(Appended::Unchanged);
        }
        // Persist the stint before its first entry, so that the stream finds it after a crash.
        self.write_stints()?;
        self.has_new_offsets |= self.offsets.follow(stamp);
        self.write_offsets()?;
        let flags = entry.flags.and(self.stints.retention_flags(stream, begins, self.store.tail()));
        let json = entry.json.as_str();
        let record = Record { stint, queued_at, captured_at, kind, flags, json, origin };
        let bytes = record::encode(&record).map_err(not_encoded)?;
        self.expire(queued_at)?;
        if !self.make_room(Some(bytes.len()))? {
            self.record_unplaced(1, |ledger| ledger.drop(DropReason::QueueFull, 1))?;
            return Ok(Appended::Dropped(DropReason::QueueFull));
        }
        let seq = self.usable_store()?.append(&bytes)?;
        self.note_oldest(OldestEntry { seq, queued_at, captured_at });
        if self.store.usage().records == 1 {
            self.oldest = Some(OldestEntry { seq: self.store.head(), queued_at, captured_at });
        }
        self.newest = Some(NewestEntry { stint, queued_at, captured_at });
        self.recent.note(queued_at, captured_at, seq);
        self.stints.appended(stream, queued_at, setup);
        if setup.is_some() {
            // Persist the setup before its fingerprint; otherwise a crash could make us reject the
            // setup as a duplicate.
            self.flush()?;
            self.write_stints()?;
        }
        Ok(Appended::Stored(seq))
    }

    fn write_offsets(&mut self) -> io::Result<()> {
        if self.has_new_offsets {
            let offsets = to_bytes(&self.offsets)?;
            self.store.put(CLOCK, &offsets)?;
            self.has_new_offsets = false;
        }
        Ok(())
    }

    fn write_stints(&mut self) -> io::Result<()> {
        if let Some(known) = self.stints.unwritten() {
            let known = to_bytes(&known)?;
            self.store.put(STREAMS, &known)?;
            self.stints.written();
        }
        Ok(())
    }

    /// If the entry was already appended before the store failed, returns the position of the
    /// newest entry. Queue times strictly increase, so each identifies one entry.
    pub(super) fn has(&mut self, entry: &Pending) -> io::Result<Option<Seq>> {
        self.usable_store()?;
        let is_there = self.newest.is_some_and(|newest| entry.stamp.queued_at <= newest.queued_at);
        let newest = self.store.last().unwrap_or(Seq(self.store.tail().0 - 1));
        Ok(is_there.then_some(newest))
    }

    /// Records entries that were discarded from memory before they got a position.
    pub(super) fn record_discarded(&mut self, discarded: Discarded) -> io::Result<()> {
        if discarded == Discarded::default() {
            return Ok(());
        }
        self.record_unplaced(discarded.downsampled + discarded.dropped, |ledger| {
            ledger.downsampled += discarded.downsampled;
            ledger.drop(DropReason::Storage, discarded.dropped);
        })
    }

    /// Records entries that never got a position as lost to every destination.
    fn record_unplaced(&mut self, entries: u64, gone: impl Fn(&mut Ledger)) -> io::Result<()> {
        let mut cursors = self.cursors.clone();
        for cursor in &mut cursors {
            cursor.ledger.unplaced += entries;
            gone(&mut cursor.ledger);
        }
        self.commit(cursors)
    }

    /// Reads entries from `from` that may be sent to a destination; `None` if it has nothing to
    /// send.
    ///
    /// With `durability = "entry"`, only durable entries are sent. With the other settings, a power
    /// cut may lose an entry that the server already has; its position is not reused.
    pub(super) fn read(&mut self, of: Index, from: Seq, limit: Limit) -> io::Result<Option<Batch>> {
        let from = from.max(self.cursors[of].committed);
        let end = match self.limits.durability {
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
                // Skipped here; counted as corrupt when the batch is removed.
                Err(error) => tracing::error!(%seq, %error, "cannot decode a queue entry"),
            }
            batch.records.push((seq, bytes.len() as u32));
            let cursor = &mut self.cursors[of];
            cursor.in_flight_end = cursor.in_flight_end.max(Seq(seq.0 + 1));
        }
        Ok(batch)
    }

    /// Makes all changes so far durable.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let store = self.usable_store()?;
        if !store.is_durable() {
            store.flush()?;
        }
        self.note_durable();
        Ok(())
    }

    /// Advances the durable position if the store has become durable, for example by sealing a
    /// segment.
    fn note_durable(&mut self) {
        if self.store.is_durable() {
            self.durable = self.store.tail();
        }
    }

    /// Whether a power cut would undo a change.
    pub(super) fn is_dirty(&self) -> bool {
        !self.store.is_durable()
    }

    /// Whether a power cut would lose an entry.
    pub(super) fn has_unflushed_entries(&self) -> bool {
        self.durable < self.store.tail()
    }

    /// The session that `server` assigned to `stint`.
    pub(super) fn session(&self, stint: StintId, server: &str) -> io::Result<Option<String>> {
        let sessions: Vec<StintSession> = fact(&*self.store, SESSIONS)?.unwrap_or_default();
        let found = sessions.into_iter().rfind(|s| s.stint == stint && s.server == server);
        Ok(found.map(|s| s.session))
    }

    /// Stores the session that `server` assigned to `stint`, and forgets the oldest one if there
    /// are too many.
    pub(super) fn set_session(
        &mut self,
        stint: StintId,
        server: &str,
        session: &str,
    ) -> io::Result<()> {
        let mut sessions: Vec<StintSession> = fact(&*self.store, SESSIONS)?.unwrap_or_default();
        sessions.retain(|s| s.stint != stint || s.server != server);
        let excess = (sessions.len() + 1).saturating_sub(MAX_SESSIONS);
        sessions.drain(..excess);
        sessions.push(StintSession { stint, server: server.into(), session: session.into() });
        self.store.put(SESSIONS, &to_bytes(&sessions)?)
    }

    /// All stored sessions, newest last.
    pub(super) fn sessions(&self) -> io::Result<Vec<StintSession>> {
        Ok(fact(&*self.store, SESSIONS)?.unwrap_or_default())
    }

    /// The state of the delivery to a destination, which only the delivery understands.
    pub(super) fn delivery_state(&self, of: Index) -> io::Result<Option<Vec<u8>>> {
        self.store.get(&self.delivery_key(of))
    }

    pub(super) fn set_delivery_state(&mut self, of: Index, state: &[u8]) -> io::Result<()> {
        let key = self.delivery_key(of);
        self.store.put(&key, state)
    }

    fn delivery_key(&self, of: Index) -> String {
        format!("delivery-{}", self.cursors[of].name)
    }

    /// Starts the stint for the stream's next entry at time `at` unless it continues one, and
    /// stores the sessions that servers assigned to the stint elsewhere.
    pub(super) fn continue_stint(
        &mut self,
        stream: &CarId,
        at: QueueTime,
        sessions: &[(String, String)],
    ) -> io::Result<()> {
        self.usable_store()?;
        let (stint, _) = self.stints.at(stream, at, Duration::ZERO, &self.limits);
        // Persist the stint before its sessions, so that after a crash no other stream finds them.
        self.write_stints()?;
        sessions.iter().try_for_each(|(server, session)| self.set_session(stint, server, session))
    }

    /// The stint of a destination's oldest undelivered entry, or of the next entry if everything is
    /// delivered.
    pub(super) fn stint(&mut self, of: Index) -> io::Result<StintId> {
        let oldest = self.read_records(self.cursors[of].committed, Limit::ONE)?;
        let entry = oldest.first().and_then(|(seq, bytes)| record::decode(*seq, bytes).ok());
        Ok(entry.map_or_else(|| self.stints.expected(), |entry| entry.stint))
    }

    /// Queue time minus uptime in ms, and the queue time of the newest entry ever appended.
    pub(super) fn clock(&self) -> (i64, Option<QueueTime>) {
        (self.offsets.uptime, self.newest.map(|newest| newest.queued_at))
    }

    /// The current status of the queue.
    pub(super) fn status(&mut self) -> QueueStatus {
        let (head, tail) = (self.store.head(), self.store.tail());
        let usage = self.store.usage();
        let destinations = self.destination_statuses();
        let oldest = self.oldest().unwrap_or_default();
        QueueStatus {
            head,
            tail,
            entries: usage.records,
            bytes: usage.bytes,
            disk_bytes: self.store.disk_bytes(),
            max_entries: self.limits.max_entries,
            max_bytes: self.limits.max_bytes,
            oldest: oldest.map(|oldest| oldest.captured_at),
            oldest_queued_at: oldest.map(|oldest| oldest.queued_at),
            newest: self.newest.map(|newest| newest.captured_at),
            stint: self.stints.expected(),
            stints: self.stints.shown(),
            destinations,
            buffered: 0,
            undurable_since: None,
            storage_error: None,
            disk_is_full: false,
            stuck: None,
        }
    }

    fn oldest(&mut self) -> io::Result<Option<OldestEntry>> {
        let head = self.store.head();
        if self.oldest.is_none_or(|oldest| oldest.seq != head) {
            self.oldest = self.read_times(head)?;
        }
        Ok(self.oldest)
    }

    /// The times of the first entry at or after `seq`.
    fn read_times(&mut self, seq: Seq) -> io::Result<Option<OldestEntry>> {
        let records = self.read_records(seq, Limit::ONE)?;
        let record = records.first().and_then(|(_, bytes)| record::fields(bytes));
        Ok(record.map(|Record { queued_at, captured_at, .. }| OldestEntry {
            seq,
            queued_at,
            captured_at,
        }))
    }

    /// Does slow housekeeping that would delay an append. Call it when no caller waits.
    pub(super) fn maintain(&mut self) -> io::Result<()> {
        self.usable_store()?.maintain()?;
        self.note_durable();
        Ok(())
    }

    pub(super) fn read_records(
        &mut self,
        from: Seq,
        limit: Limit,
    ) -> io::Result<Vec<(Seq, Vec<u8>)>> {
        let records = self.usable_store()?.read(from, limit);
        note_lost(&mut *self.store, &self.cursors);
        records
    }

    /// All records from `first` to `last` inclusive.
    fn read_between(&mut self, first: Seq, last: Seq) -> io::Result<Vec<(Seq, Vec<u8>)>> {
        let mut records = self.read_records(first, Limit::WHOLE_SEGMENT)?;
        while let Some(next) = records.last().map(|(seq, _)| Seq(seq.0 + 1))
            && next <= last
        {
            let more = self.read_records(next, Limit::WHOLE_SEGMENT)?;
            if more.is_empty() {
                break;
            }
            records.extend(more);
        }
        records.truncate(records.partition_point(|(seq, _)| *seq <= last));
        Ok(records)
    }

    /// Returns the store, reopened if it failed. After an error, the store and the metadata are
    /// reloaded from disk.
    pub(super) fn usable_store(&mut self) -> io::Result<&mut dyn Store> {
        if !self.store.is_open() {
            self.store.reopen()?;
            let metadata =
                self.store.metadata().and_then(|bytes| rmp_serde::from_slice(&bytes).ok());
            let metadata: Metadata = metadata.unwrap_or_default();
            let names = self.destinations();
            note_lost(&mut *self.store, &metadata.cursors);
            self.load_cursors(&metadata, &names);
            self.newest = newest_ever(&mut *self.store, &metadata)?;
            self.stints.forget_neighbours();
            self.note_durable();
        }
        Ok(&mut *self.store)
    }
}

/// Writes the disposition of records that the store has lost to the side log; `cursors` are
/// those before the loss. If that fails, their disposition is unknown, but the ledger still
/// counts the loss; so a full disk does not stop the queue here.
fn note_lost(store: &mut dyn Store, cursors: &[Cursor]) {
    for (first, last) in store.take_lost() {
        let line = disposition::lost_line(first, last, &positions(cursors));
        if let Err(error) = store.append_line(SideLog::Dispositions, &line) {
            tracing::warn!(%first, %last, %error, "cannot record which entries were lost");
        }
    }
}

/// Decodes the cursors of all destinations from a store's metadata; none for a new store.
pub(super) fn cursors_of(metadata: &[u8]) -> io::Result<Vec<Cursor>> {
    if metadata.is_empty() {
        return Ok(Vec::new());
    }
    rmp_serde::from_slice(metadata)
        .map(|metadata: Metadata| metadata.cursors)
        .map_err(io::Error::other)
}

/// The stint and times of the newest record ever appended. The newest stored record may be
/// much older if later ones were dropped.
fn newest_ever(store: &mut dyn Storage, metadata: &Metadata) -> io::Result<Option<NewestEntry>> {
    let usage = newest_stored(store)?;
    Ok(usage.into_iter().chain(metadata.newest).max_by_key(|newest| newest.queued_at))
}

fn newest_stored(store: &mut dyn Storage) -> io::Result<Option<NewestEntry>> {
    let Some(last) = store.last() else { return Ok(None) };
    let records = store.read(last, Limit::ONE)?;
    let record = records.first().and_then(|(_, bytes)| record::fields(bytes));
    Ok(record.map(|Record { stint, queued_at, captured_at, .. }| NewestEntry {
        stint,
        queued_at,
        captured_at,
    }))
}

fn fact<T: DeserializeOwned>(store: &dyn KeyValue, key: &str) -> io::Result<Option<T>> {
    let Some(bytes) = store.get(key)? else { return Ok(None) };
    match rmp_serde::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            tracing::error!(key, %error, "a queue fact cannot be decoded; continuing without it");
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

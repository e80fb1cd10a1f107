//! The memory buffer between the sources and the disk: normally empty, and bounded while the disk
//! is slow, full or missing.
//!
//! A source that appends entries waits for the disk for at most [`APPEND_TIMEOUT`]. After that the
//! disk counts as stalled, and until it recovers, entries are buffered without waiting. If the
//! buffer is full, the source waits up to the same timeout for room; then every second buffered
//! frame is removed, and if that is not enough, new entries are dropped. A patient source, such as
//! one that reads a file, waits without a timeout, and with `when_full = "block"` also until the
//! queue has room.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::ledger::DropReason;
use super::record::RetentionFlags;
use super::watchdog::Heartbeat;
use super::{Appended, Content, NewEntry, QueueError, Stamp, Stamps};
use crate::entry::{CapturedAt, CarId, MAX_STREAMS, QueueTime, Seq, Situation};

/// How long a source waits for the disk before its entries count as buffered.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum entries, and bytes of JSON, that wait in memory while the disk is slow, full or
/// missing. One request of a source may exceed it.
pub const BUFFER_ENTRIES: usize = 16_384;
pub const BUFFER_BYTES: usize = 12 << 20;

/// A buffered entry.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) stamp: Stamp,
    pub(super) captured_at: CapturedAt,
    pub(super) origin: Option<Seq>,
    pub(super) pause: Duration,
    pub(super) content: Content,
    pub(super) flags: RetentionFlags,
    pub(super) json: String,
    /// `None` while the entry is pending.
    pub(super) outcome: Option<Appended>,
}

/// Entries appended by one call.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) stream: CarId,
    pub(super) entries: Vec<Pending>,
    /// `None` if the caller no longer waits for the reply.
    pub(super) reply: Option<oneshot::Sender<Result<Vec<Appended>, QueueError>>>,
    /// The source waits without a timeout.
    is_blocking: bool,
    bytes: usize,
}

impl Group {
    /// The outcome of each entry; a pending entry counts as buffered.
    pub(super) fn outcomes(&self) -> Vec<Appended> {
        self.entries.iter().map(|entry| entry.outcome.unwrap_or(Appended::Buffered)).collect()
    }
}

/// Entries discarded from memory and not yet recorded in the ledger on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Discarded {
    pub(super) downsampled: u64,
    pub(super) dropped: u64,
}

enum Admitted {
    Answered(Vec<Appended>),
    /// The number of entries, and the receiver for their outcomes.
    Waits(usize, oneshot::Receiver<Result<Vec<Appended>, QueueError>>),
    NoRoom,
}

/// The memory buffer, shared by the sources and the queue worker.
#[derive(Debug)]
pub(super) struct Buffer {
    inner: Mutex<Inner>,
    /// Wakes the queue worker: entries were appended.
    appended: Notify,
    /// Wakes the sources: there is room again.
    freed: Notify,
    /// The current step of the queue worker.
    pub(super) heartbeat: Heartbeat,
}

#[derive(Debug)]
struct Inner {
    stamps: Stamps,
    /// The situation in the last frame of each stream, least recently used stream first.
    situations: Vec<(CarId, Situation)>,
    groups: VecDeque<Group>,
    /// Entries in `groups`, plus entries that the queue worker has taken and not settled.
    entries: usize,
    bytes: usize,
    discarded: Discarded,
    /// Entries that the queue can accept without evicting others.
    room: u64,
    /// When the disk stopped keeping up.
    stalled: Option<Instant>,
    is_closed: bool,
}

impl Buffer {
    pub(super) fn new(stamps: Stamps) -> Self {
        let inner = Inner {
            stamps,
            situations: Vec::new(),
            groups: VecDeque::new(),
            entries: 0,
            bytes: 0,
            discarded: Discarded::default(),
            room: u64::MAX,
            stalled: None,
            is_closed: false,
        };
        Self {
            inner: Mutex::new(inner),
            appended: Notify::new(),
            freed: Notify::new(),
            heartbeat: Heartbeat::default(),
        }
    }

    /// Appends the entries of a stream that `make` returns, and returns the outcome of each.
    /// `blocking` is the number of entries of a source that waits until the queue has room for them.
    pub(super) async fn append(
        &self,
        stream: &CarId,
        blocking: Option<u64>,
        make: impl FnOnce(&mut Stamps) -> Vec<NewEntry>,
    ) -> Result<Vec<Appended>, QueueError> {
        let is_blocking = blocking.is_some();
        let deadline = Instant::now() + if is_blocking { FOREVER } else { APPEND_TIMEOUT };
        let mut make = Some(make);
        let (count, answer) = loop {
            let is_in_time = timeout_at(deadline, self.room(blocking)).await.is_ok();
            match self.admit(stream, is_blocking, is_in_time, &mut make)? {
                Admitted::Answered(outcomes) => return Ok(outcomes),
                Admitted::Waits(count, answer) => break (count, answer),
                Admitted::NoRoom => {}
            }
        };
        self.appended.notify_one();
        match timeout_at(deadline, answer).await {
            Ok(answer) => answer.map_err(|_| QueueError::Closed)?,
            Err(_) => {
                self.inner().stall();
                Ok(vec![Appended::Buffered; count])
            }
        }
    }

    fn admit(
        &self,
        stream: &CarId,
        is_blocking: bool,
        is_in_time: bool,
        make: &mut Option<impl FnOnce(&mut Stamps) -> Vec<NewEntry>>,
    ) -> Result<Admitted, QueueError> {
        let mut inner = self.inner();
        if inner.is_closed {
            return Err(QueueError::Closed);
        }
        if inner.is_full() && is_in_time {
            // Another source took the room first.
            return Ok(Admitted::NoRoom);
        }
        let entries = make.take().map(|make| make(&mut inner.stamps)).unwrap_or_default();
        let mut group = inner.group(stream, entries, is_blocking);
        let count = group.entries.len();
        if inner.is_full() {
            inner.stall();
            inner.downsample();
        }
        if inner.is_full() {
            inner.discarded.dropped += count as u64;
            return Ok(Admitted::Answered(vec![Appended::Dropped(DropReason::Storage); count]));
        }
        let is_stalled = inner.stalled.is_some() && !is_blocking;
        inner.entries += count;
        inner.bytes += group.bytes;
        if is_stalled {
            inner.groups.push_back(group);
            return Ok(Admitted::Answered(vec![Appended::Buffered; count]));
        }
        let (reply, answer) = oneshot::channel();
        group.reply = Some(reply);
        inner.groups.push_back(group);
        Ok(Admitted::Waits(count, answer))
    }

    /// Waits until there is room or the buffer is closed.
    async fn room(&self, blocking: Option<u64>) {
        loop {
            let freed = self.freed.notified();
            {
                let inner = self.inner();
                let waits = match blocking {
                    Some(entries) => inner.is_full() || inner.entries as u64 + entries > inner.room,
                    None => inner.is_full(),
                };
                if inner.is_closed || !waits {
                    return;
                }
            }
            freed.await;
        }
    }

    /// The queue time now.
    pub(super) fn now(&self) -> QueueTime {
        self.inner().stamps.now()
    }

    /// Waits until entries may have been appended.
    pub(super) async fn appended(&self) {
        self.appended.notified().await;
    }

    /// Takes the buffered entries, for the queue worker to store. They count towards the buffer's
    /// size until they are [settled](Buffer::settle).
    pub(super) fn take(&self) -> (VecDeque<Group>, Discarded) {
        let mut inner = self.inner();
        (std::mem::take(&mut inner.groups), std::mem::take(&mut inner.discarded))
    }

    /// Returns entries to the front of the buffer after a disk error.
    pub(super) fn put_back(&self, groups: VecDeque<Group>, discarded: Discarded) {
        let mut inner = self.inner();
        for mut group in groups.into_iter().rev() {
            if !group.is_blocking
                && let Some(reply) = group.reply.take()
            {
                // The caller may already be gone.
                let _ = reply.send(Ok(vec![Appended::Buffered; group.entries.len()]));
            }
            inner.groups.push_front(group);
        }
        inner.discarded.downsampled += discarded.downsampled;
        inner.discarded.dropped += discarded.dropped;
        // Mark the disk as stalled: the next settled group clears it.
        if inner.entries > 0 {
            inner.stall();
        }
    }

    /// Removes a group from the buffer's size once it is stored or its outcome is known.
    pub(super) fn settle(&self, group: &Group) {
        let mut inner = self.inner();
        inner.entries = inner.entries.saturating_sub(group.entries.len());
        inner.bytes = inner.bytes.saturating_sub(group.bytes);
        inner.stalled = None;
        drop(inner);
        self.freed.notify_waiters();
    }

    /// Sets how many entries the queue can accept without evicting others.
    pub(super) fn set_room(&self, room: u64) {
        if std::mem::replace(&mut self.inner().room, room) != room {
            self.freed.notify_waiters();
        }
    }

    /// Closes the buffer: later appends fail.
    pub(super) fn close(&self) {
        self.inner().is_closed = true;
        self.freed.notify_waiters();
    }

    /// Returns the number of entries in memory, since when the disk has been stalled, and the
    /// discarded entries that are not yet recorded on disk.
    pub(super) fn status(&self) -> (u64, Option<Instant>, Discarded) {
        let inner = self.inner();
        (inner.entries as u64, inner.stalled, inner.discarded)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Longer than any race, yet small enough that adding it to the current time does not overflow.
const FOREVER: Duration = Duration::from_hours(365 * 24);

impl Inner {
    fn group(&mut self, stream: &CarId, entries: Vec<NewEntry>, is_blocking: bool) -> Group {
        let bytes = entries.iter().map(|entry| entry.json.len()).sum();
        let entries = entries.into_iter().map(|entry| {
            let NewEntry { stamp, captured_at, origin, pause, content, json } = entry;
            let flags = self.retention_flags(stream, content);
            let outcome = None;
            Pending { stamp, captured_at, origin, pause, content, flags, json, outcome }
        });
        Group {
            stream: stream.clone(),
            entries: entries.collect(),
            reply: None,
            is_blocking,
            bytes,
        }
    }

    /// The retention flags of a frame, derived from the previous frame of its stream.
    fn retention_flags(&mut self, stream: &CarId, content: Content) -> RetentionFlags {
        let Content::Frame(situation) = content else { return RetentionFlags::default() };
        match self.replace_situation(stream, situation) {
            None => RetentionFlags::KEEP,
            Some(before) if before.lap != situation.lap => RetentionFlags::KEEP_WITH_PREDECESSOR,
            Some(before) if before != situation => RetentionFlags::KEEP,
            Some(_) => RetentionFlags::default(),
        }
    }

    fn replace_situation(&mut self, stream: &CarId, now: Situation) -> Option<Situation> {
        if let Some(index) = self.situations.iter().rposition(|(known, _)| known == stream) {
            self.situations[index..].rotate_left(1);
            return self.situations.last_mut().map(|(_, before)| std::mem::replace(before, now));
        }
        let excess = (self.situations.len() + 1).saturating_sub(MAX_STREAMS);
        self.situations.drain(..excess);
        self.situations.push((stream.clone(), now));
        None
    }

    fn is_full(&self) -> bool {
        self.entries >= BUFFER_ENTRIES || self.bytes >= BUFFER_BYTES
    }

    fn stall(&mut self) {
        self.stalled.get_or_insert_with(Instant::now);
    }

    /// Removes every second buffered frame of each stream, except frames that are marked and frames
    /// whose successor must keep its predecessor.
    fn downsample(&mut self) {
        // Per stream, about the next newer frame: whether it is removed, and whether it keeps its
        // predecessor.
        let mut after: HashMap<CarId, (bool, bool)> = HashMap::new();
        let (mut entries, mut bytes) = (0, 0);
        for group in self.groups.iter_mut().rev() {
            if group.is_blocking {
                continue;
            }
            let before = group.entries.len();
            let (goes, is_wanted) = after.entry(group.stream.clone()).or_insert((true, true));
            let mut kept = Vec::with_capacity(before);
            for entry in group.entries.drain(..).rev() {
                let is_frame = matches!(entry.content, Content::Frame(_));
                let may_go = is_frame && !*is_wanted && !entry.flags.is_kept();
                if is_frame {
                    *is_wanted = entry.flags.keeps_predecessor();
                }
                *goes = may_go && !*goes;
                // Keep entries whose caller still waits for their outcomes.
                if *goes && group.reply.is_none() && entry.outcome.is_none() {
                    bytes += entry.json.len();
                    continue;
                }
                kept.push(entry);
            }
            kept.reverse();
            group.entries = kept;
            entries += before - group.entries.len();
            group.bytes = group.entries.iter().map(|entry| entry.json.len()).sum();
        }
        self.groups.retain(|group| !group.entries.is_empty());
        self.entries -= entries;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.discarded.downsampled += entries as u64;
    }
}

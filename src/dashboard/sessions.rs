//! The sessions in memory, and on disk if the server has a store: the received frames and setups,
//! as text.
//!
//! All sessions together hold at most [`HISTORY_BYTES`]. Beyond that, the least recently active
//! session drops its oldest frames, then its oldest setups, but never the latest ones, so that a
//! joining viewer still sees the car. The summary counts the dropped frames. If the latest frames
//! and setups of all sessions exceed the limit, the least recently active session is forgotten.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::num::NonZeroU16;
use std::ops::Range;
use std::path::Path;

use serde::Serialize;
use serde_json::value::RawValue;

use super::store::{EntryKind, SessionStore, StoredLine};
use super::timing::{CarSummary, POINT_BYTES, SeriesStretch, Timing, TimingTables};
use crate::contract::{SetupEvent, new_session_id};
use crate::entry::CapturedAt;
use crate::platform::clock;

/// The maximum size of all sessions together: 1 GiB, a week of frames at 2 Hz.
pub(super) const HISTORY_BYTES: usize = 1 << 30;

/// The maximum sessions with data: a season of a league. Beyond that, the least recently active one
/// is forgotten.
const SESSIONS_KEPT: usize = 1_000;

/// The maximum sessions without data, whose publishers have not sent anything yet. Beyond that, the
/// oldest of them is forgotten; they never displace sessions with data.
const EMPTY_SESSIONS_KEPT: usize = 1_000;

/// Memory of a frame or setup in addition to its text: pointers, the time of receipt, its point in
/// the tables, and allocator overhead.
const OVERHEAD_BYTES: usize = 64 + POINT_BYTES;

/// A summary of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub session_id: String,
    /// The number of stored frames.
    pub frames: usize,
    /// The number of stored setups.
    pub setups: usize,
    /// The number of frames that were dropped to make room for newer ones.
    pub frames_dropped: u64,
}

/// An event for a session that the server does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown session")]
pub(super) struct UnknownSession;

/// All sessions of one server.
#[derive(Debug)]
pub(super) struct Sessions {
    by_id: HashMap<String, StoredSession>,
    bytes: usize,
    limit_bytes: usize,
    /// A logical clock that counts assignments and stored events.
    clock: u64,
    store: Option<SessionStore>,
}

#[derive(Debug, Default)]
struct StoredSession {
    assigned: u64,
    last_fed: u64,
    frames: VecDeque<StoredFrame>,
    frames_dropped: u64,
    setups: VecDeque<SetupEvent>,
    setups_dropped: u64,
    timing: Timing,
}

/// A row of the list of sessions.
#[derive(Debug)]
pub(super) struct SessionRow<'a> {
    pub(super) session_id: &'a str,
    /// The number of received frames, including those that were dropped.
    pub(super) frames: u64,
    /// When the last frame was received.
    pub(super) received_at: Option<CapturedAt>,
    pub(super) summary: &'a CarSummary,
}

#[derive(Debug)]
pub(super) struct StoredFrame {
    /// When the server received it.
    pub(super) received_at: CapturedAt,
    pub(super) telemetry: Box<RawValue>,
}

impl Sessions {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { by_id: HashMap::new(), bytes: 0, limit_bytes, clock: 0, store: None }
    }

    /// The sessions of a directory, in which all changes are stored too.
    ///
    /// # Errors
    /// If the directory cannot be read, or another server uses it.
    pub(super) fn open(limit_bytes: usize, folder: &Path) -> io::Result<Self> {
        let mut store = SessionStore::open(folder)?;
        let mut sessions = Self::new(limit_bytes);
        store.load(|id, line| sessions.restore(id, line))?;
        store.retain(|id, kind| {
            let session = sessions.by_id.get(id)?;
            Some(match kind {
                EntryKind::Frame => session.frames.len(),
                EntryKind::Setup => session.setups.len(),
            })
        });
        sessions.store = Some(store);
        Ok(sessions)
    }

    fn restore(&mut self, id: &str, line: StoredLine<'_>) {
        if !self.by_id.contains_key(id) {
            self.forget_excess(StoredSession::is_empty, EMPTY_SESSIONS_KEPT - 1);
            self.begin(id);
        }
        // The session was just created, so it is known.
        let _ = match line {
            StoredLine::Session { .. } => Ok(()),
            StoredLine::Frame { received_at, telemetry } => {
                let received_at = CapturedAt(received_at);
                self.insert_frame(id, StoredFrame { received_at, telemetry: telemetry.to_owned() })
            }
            StoredLine::Setup { timestamp, setup } => {
                let timestamp = timestamp.map(ToOwned::to_owned);
                self.insert_setup(id, SetupEvent { timestamp, setup: setup.to_owned() })
            }
        };
    }

    fn begin(&mut self, id: &str) {
        let now = self.tick();
        let session = StoredSession { assigned: now, last_fed: now, ..StoredSession::default() };
        self.by_id.insert(id.to_owned(), session);
    }

    /// Creates a session; its id is a random lower-case UUID.
    pub(super) fn assign(&mut self) -> String {
        self.forget_excess(StoredSession::is_empty, EMPTY_SESSIONS_KEPT - 1);
        let id = new_session_id();
        self.begin(&id);
        if let Some(store) = &mut self.store {
            store.create(&id, clock::now());
        }
        id
    }

    /// Appends a frame to its session.
    pub(super) fn store_frame(&mut self, id: &str, frame: &RawValue) -> Result<(), UnknownSession> {
        if !self.by_id.contains_key(id) {
            return Err(UnknownSession);
        }
        let frame = StoredFrame { received_at: clock::now(), telemetry: frame.to_owned() };
        if let Some(store) = &mut self.store {
            store.append(id, &frame.line());
        }
        self.insert_frame(id, frame)
    }

    fn insert_frame(&mut self, id: &str, frame: StoredFrame) -> Result<(), UnknownSession> {
        let session = self.feed(id, frame_bytes(&frame.telemetry))?;
        let is_first = session.is_empty();
        let position = session.frames_dropped + session.frames.len() as u64;
        session.timing.add(position, frame.received_at, &frame.telemetry);
        session.frames.push_back(frame);
        self.make_room();
        if is_first {
            self.forget_excess(|session| !session.is_empty(), SESSIONS_KEPT);
        }
        Ok(())
    }

    /// Appends a setup to its session.
    pub(super) fn store_setup(
        &mut self,
        id: &str,
        setup: SetupEvent,
    ) -> Result<(), UnknownSession> {
        if !self.by_id.contains_key(id) {
            return Err(UnknownSession);
        }
        if let Some(store) = &mut self.store {
            store.append(id, &StoredLine::setup(&setup));
        }
        self.insert_setup(id, setup)
    }

    fn insert_setup(&mut self, id: &str, setup: SetupEvent) -> Result<(), UnknownSession> {
        let session = self.feed(id, setup_bytes(&setup))?;
        let is_first = session.is_empty();
        session.setups.push_back(setup);
        self.make_room();
        if is_first {
            self.forget_excess(|session| !session.is_empty(), SESSIONS_KEPT);
        }
        Ok(())
    }

    /// The latest setup and frame, which a joining viewer receives.
    pub(super) fn latest(&self, id: &str) -> (Option<SetupEvent>, Option<Box<RawValue>>) {
        let session = self.by_id.get(id);
        (
            session.and_then(|session| session.setups.back().cloned()),
            session.and_then(|session| session.frames.back().map(|frame| frame.telemetry.clone())),
        )
    }

    /// All sessions, in the order in which they were assigned.
    pub(super) fn summaries(&self) -> Vec<Summary> {
        let mut sessions: Vec<_> = self.by_id.iter().collect();
        sessions.sort_unstable_by_key(|(_, session)| session.assigned);
        sessions
            .into_iter()
            .map(|(id, session)| Summary {
                session_id: id.clone(),
                frames: session.frames.len(),
                setups: session.setups.len(),
                frames_dropped: session.frames_dropped,
            })
            .collect()
    }

    /// The newest `most` sessions, newest first, each with its id.
    pub(super) fn overview(&mut self, most: usize) -> Vec<SessionRow<'_>> {
        let mut sessions: Vec<_> = self.by_id.iter_mut().collect();
        sessions.sort_unstable_by_key(|(_, session)| std::cmp::Reverse(session.assigned));
        sessions.truncate(most);
        let rows = sessions.into_iter().map(|(id, session)| SessionRow {
            session_id: id,
            frames: session.frames_dropped + session.frames.len() as u64,
            received_at: session.frames.back().map(|frame| frame.received_at),
            summary: session.timing.summary(),
        });
        rows.collect()
    }

    /// The laps, stints and fuel of a session.
    pub(super) fn tables(&mut self, id: &str) -> Option<TimingTables> {
        Some(self.by_id.get_mut(id)?.timing.tables())
    }

    /// The history of a session for plots, in at most `most` stretches.
    pub(super) fn series(&self, id: &str, most: NonZeroU16) -> Option<Vec<SeriesStretch<'_>>> {
        Some(self.by_id.get(id)?.timing.series(most))
    }

    pub(super) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// The positions of the stored frames, counted from the first frame that the session received.
    pub(super) fn frame_positions(&self, id: &str) -> Option<Range<u64>> {
        let session = self.by_id.get(id)?;
        let start = session.frames_dropped;
        Some(start..start + session.frames.len() as u64)
    }

    /// The frames at `positions` that are still stored, each with its position.
    pub(super) fn frames(
        &self,
        id: &str,
        positions: Range<u64>,
    ) -> impl Iterator<Item = (u64, &StoredFrame)> {
        self.by_id.get(id).into_iter().flat_map(move |session| {
            let skipped = positions.start.saturating_sub(session.frames_dropped);
            let first = session.frames_dropped + skipped;
            let frames = session.frames.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX));
            (first..positions.end).zip(frames)
        })
    }

    /// The positions of the stored setups, counted from the first setup that the session received.
    pub(super) fn setup_positions(&self, id: &str) -> Option<Range<u64>> {
        let session = self.by_id.get(id)?;
        let start = session.setups_dropped;
        Some(start..start + session.setups.len() as u64)
    }

    /// The setups at `positions` that are still stored, each with its position.
    pub(super) fn setups(
        &self,
        id: &str,
        positions: Range<u64>,
    ) -> impl Iterator<Item = (u64, &SetupEvent)> {
        self.by_id.get(id).into_iter().flat_map(move |session| {
            let skipped = positions.start.saturating_sub(session.setups_dropped);
            let first = session.setups_dropped + skipped;
            let setups = session.setups.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX));
            (first..positions.end).zip(setups)
        })
    }

    /// Forgets every session, like a restart; returns their number.
    pub(super) fn forget_all(&mut self) -> usize {
        self.bytes = 0;
        let forgotten = std::mem::take(&mut self.by_id);
        if let Some(store) = &mut self.store {
            forgotten.keys().for_each(|id| store.remove(id));
        }
        forgotten.len()
    }

    /// Charges `size` bytes to a session and returns it.
    fn feed(&mut self, id: &str, size: usize) -> Result<&mut StoredSession, UnknownSession> {
        let now = self.tick();
        let session = self.by_id.get_mut(id).ok_or(UnknownSession)?;
        session.last_fed = now;
        self.bytes += size;
        Ok(session)
    }

    fn make_room(&mut self) {
        while self.bytes > self.limit_bytes {
            let sessions = self.by_id.len();
            let quietest = self
                .by_id
                .iter_mut()
                .filter(|(_, session)| session.frames.len() > 1 || session.setups.len() > 1)
                .min_by_key(|(_, session)| session.last_fed);
            match quietest {
                Some((id, session)) => {
                    let (kind, freed) = session.evict_oldest();
                    self.bytes -= freed;
                    if let Some(store) = &mut self.store {
                        store.drop_oldest(id, kind);
                    }
                }
                None if sessions > 1 => self.forget_quietest(),
                None => return,
            }
        }
    }

    fn forget_quietest(&mut self) {
        let quietest = self.by_id.iter().min_by_key(|(_, session)| session.last_fed);
        let Some(id) = quietest.map(|(id, _)| id.clone()) else { return };
        if let Some(session) = self.by_id.remove(&id) {
            self.bytes -= session.bytes();
            if let Some(store) = &mut self.store {
                store.remove(&id);
            }
            tracing::warn!(session = %id, "history full; forgot the least active session");
        }
    }

    /// Forgets the least recently active sessions that are `of_kind` until at most `most` remain.
    fn forget_excess(&mut self, of_kind: fn(&StoredSession) -> bool, most: usize) {
        let of_this_kind = self.by_id.iter().filter(|(_, session)| of_kind(session));
        let mut quietest: Vec<_> =
            of_this_kind.map(|(id, session)| (session.last_fed, id.clone())).collect();
        let excess = quietest.len().saturating_sub(most);
        quietest.sort_unstable();
        for (_, id) in quietest.into_iter().take(excess) {
            if let Some(session) = self.by_id.remove(&id) {
                self.bytes -= session.bytes();
                if let Some(store) = &mut self.store {
                    store.remove(&id);
                }
                tracing::warn!(session = %id, most, "too many sessions; forgot the least active one");
            }
        }
    }

    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn close_files(&mut self) {
        self.store.iter_mut().for_each(SessionStore::close_files);
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl StoredFrame {
    fn line(&self) -> StoredLine<'_> {
        StoredLine::frame(self.received_at, &self.telemetry)
    }
}

impl StoredSession {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.setups.is_empty()
    }

    /// Drops the oldest frame, or the oldest setup if only one frame is left; returns which of them,
    /// and the freed bytes.
    fn evict_oldest(&mut self) -> (EntryKind, usize) {
        if self.frames.len() > 1 {
            self.frames_dropped += 1;
            self.timing.remove_before(self.frames_dropped);
            let frame = self.frames.pop_front();
            (EntryKind::Frame, frame.map_or(0, |frame| frame_bytes(&frame.telemetry)))
        } else {
            self.setups_dropped += 1;
            let setup = self.setups.pop_front();
            (EntryKind::Setup, setup.map_or(0, |setup| setup_bytes(&setup)))
        }
    }

    fn bytes(&self) -> usize {
        let frames: usize = self.frames.iter().map(|frame| frame_bytes(&frame.telemetry)).sum();
        let setups: usize = self.setups.iter().map(setup_bytes).sum();
        frames + setups
    }
}

fn frame_bytes(frame: &RawValue) -> usize {
    frame.get().len() + OVERHEAD_BYTES
}

fn setup_bytes(setup: &SetupEvent) -> usize {
    let timestamp = setup.timestamp.as_ref().map_or(0, |timestamp| timestamp.get().len());
    timestamp + setup.setup.get().len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn held(sessions: &Sessions, id: &str) -> Vec<String> {
        let all = sessions.frames(id, 0..u64::MAX);
        all.map(|(position, frame)| format!("{position}:{}", frame.telemetry.get())).collect()
    }

    #[test]
    fn eviction_starts_with_the_quietest_session_but_keeps_its_latest_frame() {
        let mut sessions = Sessions::new(4 * (1 + OVERHEAD_BYTES));
        let quiet = sessions.assign();
        let busy = sessions.assign();
        for frame in ["1", "2", "3"] {
            sessions.store_frame(&quiet, &json(frame)).unwrap();
        }
        for frame in ["4", "5", "6", "7"] {
            sessions.store_frame(&busy, &json(frame)).unwrap();
        }
        assert_eq!(held(&sessions, &quiet), ["2:3"]);
        assert_eq!(held(&sessions, &busy), ["1:5", "2:6", "3:7"]);
        assert_eq!(sessions.frame_positions(&busy), Some(1..4));
        assert_eq!(sessions.frames(&busy, 2..3).count(), 1, "a part of the history");
        assert_eq!(
            sessions.bytes,
            sessions.by_id.values().map(StoredSession::bytes).sum::<usize>()
        );
    }

    #[test]
    fn a_session_is_forgotten_when_latest_frames_alone_exceed_the_limit() {
        let mut sessions = Sessions::new(4 * (1 + OVERHEAD_BYTES));
        let ids: Vec<_> = (0..5).map(|_| sessions.assign()).collect();
        for id in &ids {
            sessions.store_frame(id, &json("1")).unwrap();
        }
        assert!(sessions.bytes <= sessions.limit_bytes);
        assert_eq!(sessions.frame_positions(&ids[0]), None);
        assert_eq!(sessions.summaries().len(), 4);
    }

    #[test]
    fn evicting_setups_does_not_renumber_the_rest() {
        let mut sessions = Sessions::new(3 * (1 + OVERHEAD_BYTES));
        let id = sessions.assign();
        for setup in ["1", "2", "3", "4"] {
            let setup = SetupEvent { timestamp: None, setup: json(setup) };
            sessions.store_setup(&id, setup).unwrap();
        }
        assert_eq!(sessions.setup_positions(&id), Some(1..4));
        let held = sessions.setups(&id, 0..3).map(|(at, setup)| format!("{at}:{}", setup.setup));
        assert_eq!(held.collect::<Vec<_>>(), ["1:2", "2:3"]);
    }

    #[test]
    fn an_empty_session_evicts_only_other_empty_sessions() {
        let mut sessions = Sessions::new(HISTORY_BYTES);
        let fed: Vec<_> = (0..SESSIONS_KEPT).map(|_| sessions.assign()).collect();
        for id in &fed {
            sessions.store_frame(id, &json("1")).unwrap();
        }
        let empty: Vec<_> = (0..=EMPTY_SESSIONS_KEPT).map(|_| sessions.assign()).collect();
        for id in &fed {
            assert!(sessions.frame_positions(id).is_some());
        }
        assert_eq!(sessions.summaries().len(), SESSIONS_KEPT + EMPTY_SESSIONS_KEPT);
        assert!(sessions.store_frame(&empty[0], &json("2")).is_err(), "the oldest empty one");
    }

    #[test]
    fn exceeding_the_session_limit_evicts_the_quietest_session() {
        let mut sessions = Sessions::new(HISTORY_BYTES);
        let ids: Vec<_> = (0..=SESSIONS_KEPT)
            .map(|_| {
                let id = sessions.assign();
                sessions.store_frame(&id, &json("1")).unwrap();
                id
            })
            .collect();
        assert!(sessions.frame_positions(&ids[0]).is_none());
        assert_eq!(sessions.summaries().len(), SESSIONS_KEPT);
        assert_eq!(sessions.bytes, SESSIONS_KEPT * (1 + OVERHEAD_BYTES));
    }
}

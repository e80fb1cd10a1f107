//! Tracks the current stint of each stream.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NewestEntry;
use crate::entry::{CarId, MAX_STREAMS, QueueTime, Seq, StintId};
use crate::queue::record::RetentionFlags;
use crate::queue::{Limits, StreamStint};

/// A stream and its newest stint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownStream {
    stream: CarId,
    stint: StintId,
    /// The fingerprint of the last accepted setup in this stint.
    setup: Option<u64>,
    /// The queue time of its newest entry, if any.
    #[serde(skip)]
    newest: Option<QueueTime>,
    /// The number of its next entry, which determines its rank for downsampling. Numbering starts
    /// at the position of the stream's first entry since the start; so for a single stream the
    /// number equals the position.
    #[serde(skip)]
    number: Option<u64>,
    /// The newest entry is a frame.
    #[serde(skip)]
    follows_a_frame: bool,
}

/// The most recently used streams.
#[derive(Debug, Default)]
pub(super) struct Stints {
    /// Least recently used first.
    known: Vec<KnownStream>,
    highest: StintId,
    /// `known` has changes that are not on disk.
    is_dirty: bool,
    shown: Arc<[StreamStint]>,
}

impl Stints {
    /// Restores the stints that were `known` when the last entry was appended: all of them
    /// continue, or none if the pause since then was too long.
    pub(super) fn resume(
        mut known: Vec<KnownStream>,
        newest: Option<NewestEntry>,
        limits: &Limits,
        now: QueueTime,
    ) -> Self {
        let last = newest.map(|newest| newest.queued_at);
        if let (true, Some(newest)) = (known.is_empty(), newest) {
            known.push(KnownStream::new(CarId::default(), newest.stint));
        }
        let highest = known.iter().map(|known| known.stint).chain(newest.map(|n| n.stint)).max();
        known.retain_mut(|known| {
            known.newest = last;
            last.is_some_and(|last| limits.continues(last, now, Duration::ZERO))
        });
        let highest = highest.unwrap_or_default();
        let mut stints = Self { known, highest, ..Self::default() };
        stints.show();
        stints
    }

    /// The stint of the stream's next entry, and whether the entry is its first. A `pause` of the
    /// recording counts if it is longer than the time since the stream's newest entry.
    pub(super) fn at(
        &mut self,
        stream: &CarId,
        queued_at: QueueTime,
        pause: Duration,
        limits: &Limits,
    ) -> (StintId, bool) {
        match self.find(stream) {
            Some(KnownStream { newest: Some(newest), stint, .. })
                if limits.continues(*newest, queued_at, pause) =>
            {
                (*stint, false)
            }
            Some(KnownStream { newest: None, stint, .. }) => (*stint, true),
            _ => (self.begin(stream), true),
        }
    }

    fn begin(&mut self, stream: &CarId) -> StintId {
        self.highest = StintId(self.highest.0 + 1);
        let stint = self.highest;
        self.known.retain(|known| known.stream != *stream);
        let excess = (self.known.len() + 1).saturating_sub(MAX_STREAMS);
        self.known.drain(..excess);
        self.known.push(KnownStream::new(stream.clone(), stint));
        self.is_dirty = true;
        self.show();
        stint
    }

    /// Whether this setup equals the stream's last setup.
    pub(super) fn has_setup(&mut self, stream: &CarId, fingerprint: u64) -> bool {
        self.find(stream).is_some_and(|known| known.setup == Some(fingerprint))
    }

    /// The retention flags of the stream's next entry.
    pub(super) fn retention_flags(
        &mut self,
        stream: &CarId,
        begins: bool,
        position: Seq,
    ) -> RetentionFlags {
        let Some(known) = self.find(stream) else { return RetentionFlags::KEEP };
        let first = if begins || !known.follows_a_frame {
            RetentionFlags::KEEP
        } else {
            RetentionFlags::default()
        };
        first.and(RetentionFlags::numbered(*known.number.get_or_insert(position.0)))
    }

    /// Records that the stream's next entry was appended.
    pub(super) fn appended(&mut self, stream: &CarId, at: QueueTime, setup: Option<u64>) {
        let Some(known) = self.find(stream) else { return };
        known.newest = Some(at);
        known.follows_a_frame = setup.is_none();
        known.number = known.number.map(|number| number + 1);
        if setup.is_some() {
            known.setup = setup;
            self.is_dirty = true;
        }
    }

    /// Forgets the preceding frames, which may have been lost: the next frame of each stream is
    /// marked as a first one.
    pub(super) fn forget_neighbours(&mut self) {
        for known in &mut self.known {
            (known.follows_a_frame, known.number) = (false, None);
        }
    }

    /// The expected stint of the next entry: the stint of the most recently used stream, unless a
    /// pause starts a new one.
    pub(super) fn expected(&self) -> StintId {
        self.known.last().map_or(StintId(self.highest.0 + 1), |last| last.stint)
    }

    /// Whether a stream may continue this stint.
    pub(super) fn may_continue(&self, stint: StintId) -> bool {
        stint == self.expected() || self.known.iter().any(|known| known.stint == stint)
    }

    /// The state to persist, if it has changed.
    pub(super) fn unwritten(&self) -> Option<&[KnownStream]> {
        self.is_dirty.then_some(&self.known)
    }

    pub(super) fn written(&mut self) {
        self.is_dirty = false;
    }

    /// The streams and their stints, for the status.
    pub(super) fn shown(&self) -> Arc<[StreamStint]> {
        Arc::clone(&self.shown)
    }

    fn show(&mut self) {
        self.shown = self.known.iter().map(|known| (known.stream.clone(), known.stint)).collect();
    }

    /// Finds the stream and marks it as most recently used.
    fn find(&mut self, stream: &CarId) -> Option<&mut KnownStream> {
        let index = self.known.iter().rposition(|known| known.stream == *stream)?;
        self.known[index..].rotate_left(1);
        self.known.last_mut()
    }
}

impl KnownStream {
    fn new(stream: CarId, stint: StintId) -> Self {
        Self { stream, stint, setup: None, newest: None, number: None, follows_a_frame: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::entry::CapturedAt;

    fn limits() -> Limits {
        let config = Config::default();
        Limits {
            resume_after: Duration::from_secs(10),
            ..Limits::new(&config.queue, &config.stint)
        }
    }

    fn newest(stint: StintId, at: i64) -> NewestEntry {
        NewestEntry { stint, queued_at: QueueTime(at), captured_at: CapturedAt(0) }
    }

    /// Appends a frame of the stream at this second and returns its stint.
    fn drive(stints: &mut Stints, stream: &str, second: i64) -> u64 {
        let (stream, at) = (CarId::from(stream), QueueTime(second * 1000));
        let (stint, _) = stints.at(&stream, at, Duration::ZERO, &limits());
        stints.appended(&stream, at, None);
        stint.0
    }

    #[test]
    fn each_car_has_its_own_stints() {
        let mut stints = Stints::default();
        assert_eq!(drive(&mut stints, "", 0), 1);
        assert_eq!(drive(&mut stints, "b", 1), 2);
        assert_eq!(drive(&mut stints, "", 9), 1);
        assert_eq!(drive(&mut stints, "b", 12), 3);
        assert_eq!(drive(&mut stints, "", 13), 1);
        assert_eq!(stints.expected(), StintId(1));
        assert!(stints.may_continue(StintId(3)) && !stints.may_continue(StintId(2)));
    }

    /// Otherwise a session that opens while the queue is empty would request a page that stays
    /// empty.
    #[test]
    fn the_stint_of_the_only_publisher_is_the_expected_one() {
        let mut stints = Stints::default();
        assert_eq!(stints.expected(), StintId(1));
        drive(&mut stints, "publisher", 0);
        assert_eq!(stints.expected(), StintId(1));
        let known = stints.unwritten().unwrap().to_vec();
        let newest = Some(newest(StintId(1), 0));
        let stints = Stints::resume(known, newest, &limits(), QueueTime(1000));
        assert_eq!(stints.expected(), StintId(1));
    }

    #[test]
    fn a_restart_resumes_either_all_stints_or_none() {
        let mut stints = Stints::default();
        drive(&mut stints, "a", 0);
        drive(&mut stints, "b", 1);
        let known = stints.unwritten().unwrap().to_vec();
        let newest = Some(newest(StintId(2), 1000));
        let mut soon = Stints::resume(known.clone(), newest, &limits(), QueueTime(11_000));
        assert_eq!(drive(&mut soon, "a", 11), 1);
        assert_eq!(drive(&mut soon, "b", 11), 2);
        let mut late = Stints::resume(known, newest, &limits(), QueueTime(11_001));
        assert_eq!(drive(&mut late, "a", 12), 3);
        assert_eq!(drive(&mut late, "b", 12), 4);
    }

    #[test]
    fn the_least_recently_used_car_is_forgotten_first() {
        let mut stints = Stints::default();
        let names: Vec<String> = (0..=MAX_STREAMS).map(|number| number.to_string()).collect();
        for name in &names[..MAX_STREAMS] {
            drive(&mut stints, name, 0);
        }
        assert_eq!(drive(&mut stints, "0", 0), 1);
        drive(&mut stints, &names[MAX_STREAMS], 0);
        assert_eq!(drive(&mut stints, "0", 0), 1);
        assert!(drive(&mut stints, "1", 0) > MAX_STREAMS as u64);
    }
}

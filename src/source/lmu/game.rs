//! Detects whether the game runs, whether the player drives, and which shared memory to read.
//!
//! - The game's native memory has priority. The plugin's is read while the native one is missing or
//!   its clock does not advance.
//! - A region can outlive the game, so its existence proves little. A sample is new if the game's
//!   clock has advanced since the previous one; the first sample of a region only sets the clock.
//! - A region whose clock has not advanced for 2 s is closed, and reopened for one look a second.
//!   This finds the regions of a restarted game even if another process still holds the old ones.

use std::time::{Duration, Instant};

use super::LMU_LOOK_INTERVAL;
use super::memory::Memory;
use super::reader::{GameReader, GameReading, Way};
use super::snapshot::Snapshot;

/// A game whose clock has not advanced for this long is paused, in its menus or has ended.
const LMU_STALE_AFTER: Duration = Duration::from_secs(2);

/// The state of the game.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The game does not run, or does not share its memory.
    Away,
    /// The game runs, but the player does not drive.
    Waiting,
    /// The player drives: the clock in the shared memory advances.
    Driven(Way),
}

/// The result of one look at the game.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub presence: Presence,
    /// A sample that is newer than the one of the previous look.
    pub sample: Option<Box<Snapshot>>,
}

/// The game, as read through both kinds of shared memory.
#[derive(Debug)]
pub struct Game {
    memory: Box<dyn Memory>,
    native: Feed,
    plugin: Feed,
    /// When closed feeds were last reopened.
    opened: Option<Instant>,
}

impl Game {
    pub fn new(memory: Box<dyn Memory>) -> Self {
        let (native, plugin) = (Feed::new(Way::Native), Feed::new(Way::Plugin));
        Self { memory, native, plugin, opened: None }
    }

    /// Looks at the game once. Blocks for a few milliseconds, 100 at most.
    pub fn look(&mut self, now: Instant) -> Look {
        // Look at closed feeds once a second, even while the other feed is read more often.
        if !self.is_open()
            || self
                .opened
                .is_none_or(|opened| now.saturating_duration_since(opened) >= LMU_LOOK_INTERVAL)
        {
            self.opened = Some(now);
            self.native.open(&*self.memory);
            if !self.native.is_moving(now) {
                self.plugin.open(&*self.memory);
            }
        }
        let mut sample = self.native.read(now);
        if self.native.is_moving(now) {
            self.plugin.close();
        } else {
            sample = self.plugin.read(now);
        }
        Look { presence: self.presence(now), sample }
    }

    /// Whether a feed is open, so that the next look is worthwhile before a second has passed.
    pub fn is_open(&self) -> bool {
        self.native.reader.is_some() || self.plugin.reader.is_some()
    }

    fn presence(&self, now: Instant) -> Presence {
        for feed in [&self.native, &self.plugin] {
            if feed.is_moving(now) {
                return Presence::Driven(feed.way);
            }
        }
        if self.native.is_live || self.plugin.is_live { Presence::Waiting } else { Presence::Away }
    }
}

/// One kind of shared memory and the state of its clock.
#[derive(Debug)]
struct Feed {
    way: Way,
    reader: Option<GameReader>,
    is_live: bool,
    /// The value at the last read; kept when the feed is closed.
    clock: Option<u64>,
    /// When the clock was first seen or last changed.
    seen: Option<Instant>,
    /// When the clock last changed from a known value.
    moved: Option<Instant>,
}

impl Feed {
    fn new(way: Way) -> Self {
        Self { way, reader: None, is_live: false, clock: None, seen: None, moved: None }
    }

    fn open(&mut self, memory: &dyn Memory) {
        if self.reader.is_none() {
            self.reader = GameReader::open(self.way, memory).ok();
            if self.reader.is_none() {
                self.forget();
            }
        }
    }

    fn close(&mut self) {
        self.reader = None;
    }

    /// Resets the feed after its region has disappeared.
    fn forget(&mut self) {
        *self = Self::new(self.way);
    }

    fn is_moving(&self, now: Instant) -> bool {
        is_recent(self.moved, now)
    }

    /// Reads a sample; `None` without a new one.
    fn read(&mut self, now: Instant) -> Option<Box<Snapshot>> {
        let sample = match self.reader.as_ref()?.read() {
            GameReading::Sample(sample) => Some(sample),
            GameReading::NoSample(_) => None,
            GameReading::Unavailable => {
                self.forget();
                return None;
            }
        };
        self.is_live = true;
        let sample = sample.filter(|sample| self.advance(sample.clock(), now));
        if !is_recent(self.seen, now) {
            self.close();
        }
        sample
    }

    /// Records the clock; returns whether it differs from a previously known value.
    fn advance(&mut self, clock: u64, now: Instant) -> bool {
        let before = self.clock.replace(clock);
        let is_other = before != Some(clock);
        if is_other {
            self.seen = Some(now);
        }
        if is_other && before.is_some() {
            self.moved = Some(now);
        }
        is_other && before.is_some()
    }
}

fn is_recent(then: Option<Instant>, now: Instant) -> bool {
    let age = then.map_or(Duration::MAX, |then| now.saturating_duration_since(then));
    age < LMU_STALE_AFTER
}

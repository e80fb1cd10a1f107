//! Whether the game is there, whether it is driven, and by which way it is read.
//!
//! - The game's own memory comes first. The plugin's is read as long as that one stands still or is
//!   not there.
//! - A region outlives the game, so that its being there says little: a sample is new when the
//!   game's clock has moved since the last one. The first sample of a region only shows the clock.
//! - What stands still for 2 s is closed, and opened again for one look a second. So the regions
//!   of a new game are found, even where those of the old one are still held by somebody.

use std::time::{Duration, Instant};

use super::memory::Memory;
use super::reader::{Reader, Reading, Way};
use super::snapshot::Snapshot;
use crate::config::{LMU_LOOK_INTERVAL, LMU_STALE_AFTER};

/// How the game stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It does not run, or does not share its memory.
    Away,
    /// It runs; the player does not drive.
    Waiting,
    /// Its clock moves.
    Driven(Way),
}

/// What a look at the game has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub presence: Presence,
    /// One that was not there at the last look.
    pub sample: Option<Box<Snapshot>>,
}

/// The game, by both ways.
#[derive(Debug)]
pub struct Game {
    memory: Box<dyn Memory>,
    native: Feed,
    plugin: Feed,
    /// When closed feeds were opened the last time.
    opened: Option<Instant>,
}

impl Game {
    pub fn new(memory: Box<dyn Memory>) -> Self {
        let (native, plugin) = (Feed::new(Way::Native), Feed::new(Way::Plugin));
        Self { memory, native, plugin, opened: None }
    }

    /// Looks once. Blocks for some milliseconds, 100 at most.
    pub fn look(&mut self, now: Instant) -> Look {
        // One look a second at what is closed, also while the other way is read many times.
        let is_due = |opened| now.saturating_duration_since(opened) >= LMU_LOOK_INTERVAL;
        if !self.is_open() || self.opened.is_none_or(is_due) {
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

    /// Whether there may be something new sooner than in a second.
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

/// The game by one way.
#[derive(Debug)]
struct Feed {
    way: Way,
    reader: Option<Reader>,
    is_live: bool,
    /// As it stood when it was read the last time, also when it has been closed since.
    clock: Option<u64>,
    /// When the clock was seen the first time, or moved.
    seen: Option<Instant>,
    moved: Option<Instant>,
}

impl Feed {
    fn new(way: Way) -> Self {
        Self { way, reader: None, is_live: false, clock: None, seen: None, moved: None }
    }

    fn open(&mut self, memory: &dyn Memory) {
        if self.reader.is_none() {
            self.reader = Reader::open(self.way, memory).ok();
            if self.reader.is_none() {
                self.forget();
            }
        }
    }

    fn close(&mut self) {
        self.reader = None;
    }

    /// The region is gone, and with it what is known of its clock.
    fn forget(&mut self) {
        *self = Self::new(self.way);
    }

    fn is_moving(&self, now: Instant) -> bool {
        is_recent(self.moved, now)
    }

    /// A sample that is new, if there is one.
    fn read(&mut self, now: Instant) -> Option<Box<Snapshot>> {
        let sample = match self.reader.as_ref()?.read() {
            Reading::Sample(sample) => Some(sample),
            Reading::NoSample(_) => None,
            Reading::Unavailable => {
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

    /// Whether the clock has moved from where it was known to stand.
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

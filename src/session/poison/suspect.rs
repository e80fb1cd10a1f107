//! An entry that is suspected to be poison: its failed tries, and what follows from their number.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::entry::{Kind, Seq};

/// The least failed tries of an entry before it can become a dead letter, and of an entry alone
/// before a later one is sent first.
pub(super) const TRIES: u32 = 3;
/// The least time from the first to the last failed try of an entry before it can become a dead
/// letter: a restart of a handler or a short stall of its database does not cost an entry.
pub(super) const SPREAD: Duration = Duration::from_secs(5);
/// The failures that must follow the proof of another entry on the same connection. One may be a
/// coincidence: the connection may end just then.
pub(super) const CONTRADICTIONS: u32 = 2;
/// How often the tries before a probe double, to 12, while probes fail: the longer an outage, the
/// rarer it ends between a try of the suspect and the probe.
const MAX_TRY_DOUBLINGS: u32 = 2;
/// How often the distance of the probe is multiplied by four, to 256 entries, while probes fail: a
/// lap at 2 Hz.
const MAX_DISTANCE_STEPS: u32 = 4;

/// An entry that got no proof although it was sent alone, or was overtaken by a proven one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) seq: Seq,
    pub(super) kind: Kind,
    pub(super) first_failed: Instant,
    pub(super) tries: u32,
    /// Tries since the last probe.
    pub(super) tries_alone: u32,
    pub(super) contradictions: u32,
    /// Probes that got no proof.
    pub(super) outages: u32,
    /// Further entries to read because the last batch had no probe.
    pub(super) reach: usize,
}

impl Suspect {
    /// An entry that has failed no try yet.
    pub(super) fn new(seq: Seq, kind: Kind, now: Instant) -> Self {
        Self {
            seq,
            kind,
            first_failed: now,
            tries: 0,
            tries_alone: 0,
            contradictions: 0,
            outages: 0,
            reach: 0,
        }
    }

    /// The tries alone before the suspect is overtaken.
    pub(super) fn tries_before_probe(&self) -> u32 {
        TRIES << self.outages.min(MAX_TRY_DOUBLINGS)
    }

    /// Whether another entry is sent before the suspect, given the newest entry that already was.
    pub(super) fn is_overtaken(&self, overtaker: Option<Seq>, now: Instant) -> bool {
        let is_spread = now - self.first_failed >= SPREAD;
        overtaker > Some(self.seq) && self.outages == 0
            || self.tries_alone >= self.tries_before_probe() && is_spread
    }

    /// Whether the entry becomes a dead letter.
    pub(super) fn is_undeliverable(&self, now: Instant) -> bool {
        self.tries >= TRIES
            && self.contradictions >= CONTRADICTIONS
            && now - self.first_failed >= SPREAD
    }

    /// The distance to the probe, in entries, from the suspect or from the newest entry that overtook
    /// it.
    pub(super) fn distance(&self) -> usize {
        4_usize.pow(self.outages.min(MAX_DISTANCE_STEPS))
    }

    /// The suspect for the status page, given the newest entry that overtook it.
    pub(super) fn retrying(&self, overtaker: Option<Seq>) -> Retrying {
        let missing = CONTRADICTIONS.saturating_sub(self.contradictions);
        let before = if overtaker > Some(self.seq) {
            self.tries
        } else {
            self.tries + self.tries_before_probe().saturating_sub(self.tries_alone)
        };
        let (attempt, of) = (self.tries + 1, (before + missing).max(TRIES));
        Retrying { seq: self.seq, kind: self.kind, attempt, of: of.max(attempt) }
    }
}

/// An entry that is sent again because it got no proof, for the status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retrying {
    pub seq: Seq,
    pub kind: Kind,
    /// The number of the next attempt, and of the last one before the entry becomes a dead letter
    /// if other entries are proven meanwhile.
    pub attempt: u32,
    pub of: u32,
}

impl fmt::Display for Retrying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, kind, attempt, of } = self;
        let kind = kind.as_str();
        write!(
            f,
            "the server confirms no delivery of entry {seq} ({kind}); attempt {attempt} of {of}"
        )
    }
}

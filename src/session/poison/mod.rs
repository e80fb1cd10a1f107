//! Isolates entries that a server can neither store nor refuse, so that the rest of the queue is
//! delivered. Pure; survives a reconnect.
//!
//! A handler that raises, disconnects or stops reading at one entry confirms nothing, which looks
//! like an outage. What tells them apart is that other entries of ours are proven meanwhile. Only
//! our own entries count as evidence.
//!
//! # How an entry is isolated
//!
//! 1. A batch without proof is sent again in halves, until one entry alone gets no proof: the
//!    *suspect*. It is sent alone on each connection.
//! 2. An entry that failed alone [`TRIES`] times over at least [`SPREAD`] is overtaken: on the next
//!    connection a later entry, the *probe*, is sent before it.
//! 3. If the probe is proven, the suspect is sent again on that same connection. Without proof
//!    again, the failure is *contradicted*: the server processed another entry just before.
//! 4. After [`CONTRADICTIONS`] contradicted failures among at least [`TRIES`] over [`SPREAD`], the
//!    entry is undeliverable and becomes a dead letter.
//! 5. If the probe is not proven either, it is an outage: earlier contradictions no longer count,
//!    the suspect is tried alone again, twice as often as before, and the next probe is four times as
//!    far away, in case a run of entries is poison.
//!
//! An entry that was not echoed although a later one of the same connection was is contradicted at
//! once, without a probe. The next entry of a run of poison has been overtaken by the same probe, so
//! it is overtaken again after its first failure.
//!
//! The setup in force, which is sent to a new page although it left the queue before, has no place
//! in the queue. After a failure it waits until another entry is proven on the connection; after
//! [`TRIES`] failures it is not sent again.
//!
//! The probe alone does not condemn the suspect, because an outage may end between the two: one in
//! five that last longer than the tries would cost a good entry. A good suspect is proven in step 3
//! and arrives one place late, which step 2 makes rare. In a run of poison, the probes of its entries
//! arrive before the first good entry after the run.
//!
//! # Transitions
//!
//! Each row is a unit test with this name. `Batch` is the failure of several entries, `Alone` of
//! one.
//!
//! | row | event | state before | state after |
//! | --- | --- | --- | --- |
//! | `a_batch_without_proof_is_halved` | failed: `Batch` | `Clear`, `Halving` | `Halving`, half of the entries that failed |
//! | `a_proven_range_ends_the_halving` | proven: the last entry of the range | `Halving` | `Clear` |
//! | `an_entry_without_proof_is_a_suspect` | failed: `Alone` | `Clear`, `Halving` | `Alone`, 1 try |
//! | `an_older_batch_is_halved_first` | failed: `Batch`, older than the suspect | `Alone`, `Overtaking` | `Halving` |
//! | `a_batch_with_a_suspect_blames_no_entry` | failed: `Batch` | `Alone`, `Overtaking` | unchanged |
//! | `an_older_entry_is_suspected_first` | failed: `Alone`, older than the suspect | `Alone` | `Alone`, the older entry |
//! | `a_proven_suspect_that_fails_again_keeps_its_tries` | proven or answered: the suspect; failed: the same | `Alone`, `Overtaking` | `Alone` or `Overtaking`, 1 more try |
//! | `a_proven_suspect_is_none` | proven or answered: the suspect | `Alone`, `Overtaking` | `Clear` |
//! | `an_entry_is_overtaken_after_three_tries_over_five_seconds` | failed: the suspect | `Alone` | `Overtaking` at both limits |
//! | `an_overtaken_entry_is_contradicted_at_once` | overtaken | `Clear` | `Overtaking`, 1 try, 1 contradiction |
//! | `an_entry_before_a_proven_probe_is_overtaken_at_once` | failed: `Alone`, older than the newest probe | `Clear` | `Overtaking`, 1 try |
//! | `a_failure_after_a_proven_probe_is_contradicted` | proven: the probe; failed: the suspect | `Overtaking` | `Overtaking`, 1 more contradiction |
//! | `proof_on_an_earlier_connection_contradicts_nothing` | proven: the probe; connected; failed: the suspect | `Overtaking` | `Overtaking`, 1 more try only |
//! | `an_older_entry_contradicts_nothing` | proven: an older entry; failed: the suspect | `Alone` | `Alone`, 1 more try only |
//! | `a_contradicted_entry_is_undeliverable` | failed: the suspect, at all three limits | `Overtaking` | `Clear`, the entry is undeliverable |
//! | `a_probe_without_proof_is_an_outage` | failed: the probe | `Overtaking` | `Alone`, twice the tries, four times the distance |
//! | `an_outage_clears_contradictions` | failed: the probe | `Overtaking`, contradicted | `Alone`, no contradictions |
//! | `an_entry_that_left_the_queue_is_no_suspect` | removed | any | `Clear` if the entry or the range is gone |
//!
//! [`SPREAD`]: suspect::SPREAD

mod suspect;

use std::collections::BTreeMap;

use tokio::time::Instant;

pub use self::suspect::Retrying;
use self::suspect::{CONTRADICTIONS, Suspect, TRIES};
use super::MAX_UNPROVEN_ENTRIES;
use crate::entry::{Entry, Kind, Seq};

/// The further entries that the next batch has if all after the suspect are stored already; four
/// times as many each time.
const FIRST_REACH: usize = 16;
const MAX_REACH: usize = 1024;
/// The maximum number of undeliverable entries that are remembered until they leave the queue, and
/// setups until the process ends. One entry at a time is isolated, so more are not expected.
const MAX_UNDELIVERABLE: usize = 64;

/// The state of the isolation of the entries at the head of the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum IsolationState {
    #[default]
    Clear,
    /// One of the entries up to `last` may be poison: batches have at most `limit` entries.
    Halving { last: Seq, limit: usize },
    /// The suspect is sent alone.
    Alone(Suspect),
    /// A later entry is sent before the suspect.
    Overtaking(Suspect),
}

/// An entry that was handed to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) seq: Seq,
    pub(super) kind: Kind,
    pub(super) bytes: usize,
}

impl InFlight {
    pub(super) fn of(entry: &Entry) -> Self {
        Self { seq: entry.seq, kind: entry.kind, bytes: entry.json.len() }
    }
}

/// The isolation of poison entries of one destination.
#[derive(Debug, Default)]
pub(super) struct Isolation {
    state: IsolationState,
    /// The first entry of the newest batch.
    head: Seq,
    /// The last suspect that was proven. If it fails after all, its earlier tries count: the server
    /// acknowledged it, but its page turned out to be empty.
    acquitted: Option<Suspect>,
    /// The newest entry that was proven before the suspect; it is behind the suspect in the queue.
    overtaker: Option<Seq>,
    /// An entry was proven on this connection, and one that overtook the suspect.
    is_any_proven: bool,
    is_probe_proven: bool,
    /// The newest setup that failed outside of a batch, and how often.
    setup_in_force: Option<(Seq, u32)>,
    /// The undeliverable entries, with the reason of the last failure.
    undeliverable: BTreeMap<Seq, String>,
}

impl Isolation {
    /// A connection was opened.
    pub(super) fn connected(&mut self) {
        self.is_any_proven = false;
        self.is_probe_proven = false;
    }

    /// A batch that starts with this entry is sent.
    pub(super) fn starts(&mut self, first: Seq) {
        self.head = first;
    }

    /// Entries were proven on this connection.
    pub(super) fn proven(&mut self, seqs: impl IntoIterator<Item = Seq>) {
        for seq in seqs {
            self.is_any_proven = true;
            match &mut self.state {
                IsolationState::Alone(suspect) | IsolationState::Overtaking(suspect)
                    if suspect.seq == seq =>
                {
                    self.acquitted = Some(suspect.clone());
                    self.state = IsolationState::Clear;
                }
                IsolationState::Overtaking(suspect) if suspect.seq < seq => {
                    self.is_probe_proven = true;
                    self.overtaker = self.overtaker.max(Some(seq));
                    // The next probe is the entry after this one.
                    suspect.outages = 0;
                }
                IsolationState::Halving { last, .. } if *last <= seq => {
                    self.state = IsolationState::Clear
                }
                IsolationState::Alone(_)
                | IsolationState::Overtaking(_)
                | IsolationState::Halving { .. }
                | IsolationState::Clear => {}
            }
        }
    }

    /// The server stores the entry, or has answered it in another way.
    pub(super) fn answered(&mut self, seq: Seq) {
        if self.is_suspect(seq) {
            self.acquitted = self.suspect().cloned();
            self.state = IsolationState::Clear;
        }
    }

    /// The entry was not echoed on this connection, although later ones up to `overtaker` were.
    pub(super) fn overtaken(
        &mut self,
        InFlight { seq, kind, .. }: InFlight,
        overtaker: Option<Seq>,
        now: Instant,
    ) {
        let mut suspect = match std::mem::take(&mut self.state) {
            IsolationState::Alone(suspect) | IsolationState::Overtaking(suspect)
                if suspect.seq <= seq =>
            {
                suspect
            }
            _ => Suspect::new(seq, kind, now),
        };
        if suspect.seq == seq {
            suspect.tries += 1;
            suspect.contradictions += 1;
            self.overtaker = self.overtaker.max(overtaker);
            self.is_probe_proven = true;
        }
        self.state = IsolationState::Overtaking(suspect);
    }

    /// These entries were in flight when the connection ended or their proof timed out. Returns the
    /// entry if it has become undeliverable.
    pub(super) fn failed(
        &mut self,
        unproven: &[InFlight],
        reason: &str,
        now: Instant,
    ) -> Option<InFlight> {
        match *unproven {
            [] => None,
            [one] => self.failed_alone(one, reason, now),
            [.., InFlight { seq: last, .. }] => {
                if self.suspect().is_none_or(|suspect| last < suspect.seq) {
                    self.state =
                        IsolationState::Halving { last, limit: (unproven.len() / 2).max(1) };
                }
                None
            }
        }
    }

    fn failed_alone(&mut self, one: InFlight, reason: &str, now: Instant) -> Option<InFlight> {
        let mut suspect = match std::mem::take(&mut self.state) {
            IsolationState::Overtaking(suspect) if suspect.seq < one.seq => {
                self.probe_failed(suspect);
                return None;
            }
            IsolationState::Alone(suspect) | IsolationState::Overtaking(suspect)
                if suspect.seq <= one.seq =>
            {
                suspect
            }
            _ => self
                .acquitted
                .take()
                .filter(|acquitted| acquitted.seq == one.seq)
                .unwrap_or_else(|| Suspect::new(one.seq, one.kind, now)),
        };
        if suspect.seq == one.seq {
            suspect.tries += 1;
            suspect.tries_alone += 1;
            suspect.contradictions += u32::from(self.is_probe_proven);
        }
        if suspect.is_undeliverable(now) {
            self.condemn(suspect.seq, reason);
            return Some(one);
        }
        self.state = if suspect.is_overtaken(self.overtaker, now) {
            IsolationState::Overtaking(suspect)
        } else {
            IsolationState::Alone(suspect)
        };
        None
    }

    fn probe_failed(&mut self, suspect: Suspect) {
        // What looked like a contradiction may have been the beginning of the outage.
        let outages = suspect.outages + 1;
        self.state = IsolationState::Alone(Suspect {
            tries_alone: 0,
            contradictions: 0,
            outages,
            ..suspect
        });
    }

    /// The server refuses the entry, or it is undeliverable: it is not sent again.
    pub(super) fn condemn(&mut self, seq: Seq, reason: &str) {
        self.answered(seq);
        while self.undeliverable.len() >= MAX_UNDELIVERABLE {
            self.undeliverable.pop_first();
        }
        self.undeliverable.insert(seq, reason.to_owned());
    }

    /// The setup in force got no proof. Returns whether it is given up.
    pub(super) fn setup_failed(&mut self, setup: Seq, reason: &str) -> bool {
        let before = self.setup_in_force.filter(|(seq, _)| *seq == setup);
        let failures = before.map_or(0, |(_, failures)| failures) + 1;
        self.setup_in_force = Some((setup, failures));
        let is_given_up = failures >= TRIES;
        if is_given_up {
            self.setup_in_force = None;
            self.condemn(setup, reason);
        }
        is_given_up
    }

    /// The setup in force was proven, or needs no delivery any more.
    pub(super) fn setup_done(&mut self) {
        self.setup_in_force = None;
    }

    /// Whether the setup in force must not be sent now: it was given up, or another entry has to be
    /// proven on this connection first.
    pub(super) fn defers(&self, setup: Seq) -> bool {
        let has_failed = self.setup_in_force.is_some_and(|(seq, _)| seq == setup);
        self.undeliverable.contains_key(&setup) || has_failed && !self.is_any_proven
    }

    /// The setup in force that was deferred and is to be sent again.
    pub(super) fn deferred_setup(&self) -> Option<Seq> {
        self.setup_in_force.map(|(seq, _)| seq).filter(|_| self.is_any_proven)
    }

    /// The entries up to `last` left the queue.
    pub(super) fn removed(&mut self, last: Seq) {
        let is_gone = match &self.state {
            IsolationState::Clear => false,
            IsolationState::Halving { last: of_range, .. } => *of_range <= last,
            IsolationState::Alone(suspect) | IsolationState::Overtaking(suspect) => {
                suspect.seq <= last
            }
        };
        if is_gone {
            self.state = IsolationState::Clear;
        }
        self.overtaker = self.overtaker.filter(|overtaker| *overtaker > last);
    }

    /// The entries get another page, without the proven ones.
    pub(super) fn page_is_new(&mut self) {
        self.overtaker = None;
    }

    fn is_suspect(&self, seq: Seq) -> bool {
        self.suspect().is_some_and(|suspect| suspect.seq == seq)
    }

    fn suspect(&self) -> Option<&Suspect> {
        match &self.state {
            IsolationState::Alone(suspect) | IsolationState::Overtaking(suspect) => Some(suspect),
            IsolationState::Clear | IsolationState::Halving { .. } => None,
        }
    }

    /// The maximum number of entries of the next batch.
    pub(super) fn limit(&self, most: usize) -> usize {
        match &self.state {
            IsolationState::Clear => most,
            IsolationState::Halving { limit, .. } => most.min(*limit),
            IsolationState::Alone(_) => 1,
            IsolationState::Overtaking(suspect) if suspect.contradictions >= CONTRADICTIONS => 1,
            // From the head to the suspect, the entries that overtook it, and those up to the probe.
            IsolationState::Overtaking(suspect) => {
                let Seq(newest) = self.overtaker.unwrap_or_default().max(suspect.seq);
                let known = newest.saturating_sub(self.head.0) as usize + 1;
                known.min(MAX_UNPROVEN_ENTRIES) + suspect.distance() + suspect.reach
            }
        }
    }

    /// Whether entries are sent in small batches, each proven before the next.
    pub(super) fn is_active(&self) -> bool {
        self.state != IsolationState::Clear
    }

    /// The entry that another one has to overtake; `None` once enough did and only the time is
    /// missing. More probes would use up the entries after a long run of poison.
    pub(super) fn to_overtake(&self) -> Option<Seq> {
        match &self.state {
            IsolationState::Overtaking(suspect) if suspect.contradictions < CONTRADICTIONS => {
                Some(suspect.seq)
            }
            IsolationState::Overtaking(_)
            | IsolationState::Clear
            | IsolationState::Halving { .. }
            | IsolationState::Alone(_) => None,
        }
    }

    /// All entries of a batch after the suspect, up to `last`, are stored already, for example on the
    /// pages of other stints: the next batch has more.
    pub(super) fn lacks_probe(&mut self, last: Seq) {
        if let IsolationState::Overtaking(suspect) = &mut self.state
            && suspect.seq < last
        {
            self.overtaker = self.overtaker.max(Some(last));
            suspect.reach = (4 * suspect.reach).clamp(FIRST_REACH, MAX_REACH);
        }
    }

    /// The index of the probe among the entries after the suspect, oldest first: the last one if
    /// the queue is short, `None` without any.
    pub(super) fn probe(&self, after: &[&Entry]) -> Option<usize> {
        let overtakers = after.iter().filter(|entry| Some(entry.seq) <= self.overtaker).count();
        let distance = self.suspect().map_or(1, Suspect::distance);
        (overtakers + distance).min(after.len()).checked_sub(1)
    }

    /// Whether an entry failed and no other one has been tried since: it is unknown whether the
    /// server takes any. A contradiction shows that it takes others.
    pub(super) fn is_undecided(&self) -> bool {
        self.suspect().is_some_and(|suspect| suspect.outages == 0 && suspect.contradictions == 0)
    }

    /// Why an entry is undeliverable; `None` if it is to be sent.
    pub(super) fn verdict(&self, seq: Seq) -> Option<&str> {
        self.undeliverable.get(&seq).map(String::as_str)
    }

    /// The suspect for the status page.
    pub(super) fn retrying(&self) -> Option<Retrying> {
        self.suspect().map(|suspect| suspect.retrying(self.overtaker))
    }
}

#[cfg(test)]
mod tests;

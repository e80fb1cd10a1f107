//! One unit test for each row of the transition table, and for the bounds.

use std::time::Duration;

use super::suspect::SPREAD;
use super::*;
use crate::entry::{CapturedAt, StintId};

const LOST: &str = "connection lost";

/// An isolation and its clock.
struct Lab {
    isolation: Isolation,
    now: Instant,
}

fn one(seq: u64, kind: Kind) -> InFlight {
    InFlight { seq: Seq(seq), kind, bytes: 2 }
}

fn entry(seq: u64) -> Entry {
    let (captured_at, json) = (CapturedAt(0), String::new());
    Entry { seq: Seq(seq), stint: StintId(1), captured_at, kind: Kind::Frame, json }
}

impl Lab {
    fn new() -> Self {
        Self { isolation: Isolation::default(), now: Instant::now() }
    }

    /// A lab with a frame that failed this often, with the pause before each further try.
    fn with_suspect(seq: u64, tries: u32, pause: Duration) -> Self {
        let mut lab = Self::new();
        lab.fails(&[seq]);
        for _ in 1..tries {
            lab.now += pause;
            lab.fails(&[seq]);
        }
        lab
    }

    /// A lab with an overtaken suspect.
    fn overtaking(seq: u64) -> Self {
        let mut lab = Self::with_suspect(seq, TRIES, SPREAD / 2);
        assert!(matches!(lab.isolation.state, IsolationState::Overtaking(_)));
        lab.isolation.starts(Seq(seq));
        lab
    }

    /// Entries fail together on their connection.
    fn fails(&mut self, seqs: &[u64]) -> Option<Seq> {
        let unproven: Vec<_> = seqs.iter().map(|seq| one(*seq, Kind::Frame)).collect();
        let failed = self.isolation.failed(&unproven, LOST, self.now);
        self.isolation.connected();
        failed.map(|failed| failed.seq)
    }

    fn proves(&mut self, seqs: &[u64]) {
        self.isolation.proven(seqs.iter().map(|seq| Seq(*seq)));
    }

    fn suspect(&self) -> &Suspect {
        self.isolation.suspect().unwrap()
    }

    fn is_overtaking(&self, seq: u64) -> bool {
        self.isolation.to_overtake() == Some(Seq(seq))
    }
}

#[test]
fn a_batch_without_proof_is_halved() {
    let mut lab = Lab::new();
    assert_eq!(lab.isolation.limit(1000), 1000);
    lab.fails(&[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(lab.isolation.state, IsolationState::Halving { last: Seq(8), limit: 4 });
    assert_eq!(lab.isolation.limit(1000), 4);
    lab.fails(&[5, 6, 7]);
    assert_eq!(lab.isolation.state, IsolationState::Halving { last: Seq(7), limit: 1 });
}

#[test]
fn a_proven_range_ends_the_halving() {
    let mut lab = Lab::new();
    lab.fails(&[1, 2, 3, 4]);
    lab.proves(&[1, 2, 3]);
    assert!(lab.isolation.is_active());
    lab.proves(&[4]);
    assert!(!lab.isolation.is_active());
}

#[test]
fn an_entry_without_proof_is_a_suspect() {
    for halves_first in [false, true] {
        let mut lab = Lab::new();
        if halves_first {
            lab.fails(&[1, 2]);
        }
        lab.fails(&[1]);
        assert!(matches!(lab.isolation.state, IsolationState::Alone(_)));
        assert_eq!((lab.suspect().seq, lab.suspect().tries), (Seq(1), 1));
        assert_eq!(lab.isolation.limit(1000), 1);
    }
}

#[test]
fn a_batch_with_a_suspect_blames_no_entry() {
    for mut lab in [Lab::with_suspect(1, 1, SPREAD), Lab::overtaking(1)] {
        let before = lab.isolation.state.clone();
        lab.fails(&[1, 2]);
        assert_eq!(lab.isolation.state, before);
    }
}

#[test]
fn an_older_batch_is_halved_first() {
    for mut lab in [Lab::with_suspect(7, 1, SPREAD), Lab::overtaking(7)] {
        lab.fails(&[3, 4, 5, 6]);
        assert_eq!(lab.isolation.state, IsolationState::Halving { last: Seq(6), limit: 2 });
    }
}

#[test]
fn an_older_entry_is_suspected_first() {
    let mut lab = Lab::with_suspect(7, 2, SPREAD);
    lab.fails(&[3]);
    assert_eq!((lab.suspect().seq, lab.suspect().tries), (Seq(3), 1));
}

#[test]
fn a_proven_suspect_is_none() {
    for mut lab in [Lab::with_suspect(1, 1, SPREAD), Lab::overtaking(1)] {
        lab.proves(&[1]);
        assert_eq!(lab.isolation.state, IsolationState::Clear);
    }
    let mut lab = Lab::overtaking(1);
    lab.isolation.answered(Seq(1));
    assert_eq!(lab.isolation.state, IsolationState::Clear);
}

/// A server may acknowledge an entry that it does not keep.
#[test]
fn a_proven_suspect_that_fails_again_keeps_its_tries() {
    let mut lab = Lab::with_suspect(1, 1, SPREAD);
    for n in 1..TRIES {
        if n == 1 {
            lab.proves(&[1])
        } else {
            lab.isolation.answered(Seq(1))
        }
        lab.now += SPREAD;
        lab.fails(&[1]);
    }
    assert!(lab.is_overtaking(1));
    lab.proves(&[1]);
    lab.fails(&[2]);
    assert!(!lab.is_overtaking(2), "the tries of another entry");
}

#[test]
fn an_entry_is_overtaken_after_three_tries_over_five_seconds() {
    let mut lab = Lab::with_suspect(1, 2, SPREAD);
    assert!(!lab.is_overtaking(1), "two tries");
    lab.fails(&[1]);
    assert!(lab.is_overtaking(1));
    let mut lab = Lab::with_suspect(1, 5, Duration::from_secs(1));
    assert!(!lab.is_overtaking(1), "five tries over four seconds");
    lab.now += Duration::from_secs(1);
    lab.fails(&[1]);
    assert!(lab.is_overtaking(1));
    // The suspect and the probe.
    lab.isolation.starts(Seq(1));
    assert_eq!(lab.isolation.limit(1000), 2);
}

#[test]
fn an_overtaken_entry_is_contradicted_at_once() {
    let mut lab = Lab::new();
    lab.isolation.overtaken(one(7, Kind::Frame), Some(Seq(16)), lab.now);
    assert!(lab.is_overtaking(7));
    assert_eq!((lab.suspect().tries, lab.suspect().contradictions), (1, 1));
    // The nine entries that overtook it and the five before it are read again with it.
    lab.isolation.starts(Seq(2));
    assert_eq!(lab.isolation.limit(1000), 16);
    // On the same connection, the next try is contradicted too.
    lab.fails(&[7]);
    assert_eq!((lab.suspect().tries, lab.suspect().contradictions), (2, 2));
    lab.now += SPREAD;
    assert_eq!(lab.fails(&[7]), Some(Seq(7)));
}

#[test]
fn an_entry_before_a_proven_probe_is_overtaken_at_once() {
    let mut lab = Lab::overtaking(1);
    lab.proves(&[5]);
    lab.isolation.condemn(Seq(1), LOST);
    lab.fails(&[2]);
    assert!(lab.is_overtaking(2));
    assert_eq!(lab.suspect().tries, 1);
    // The next probe is the entry after the last one.
    let entries = [3, 4, 6, 7].map(entry);
    assert_eq!(lab.isolation.probe(&entries.iter().collect::<Vec<_>>()), Some(2));
    lab.isolation.removed(Seq(5));
    lab.fails(&[6]);
    assert!(!lab.is_overtaking(6));
    lab.isolation.page_is_new();
    lab.fails(&[3]);
    assert!(!lab.is_overtaking(3));
}

#[test]
fn a_failure_after_a_proven_probe_is_contradicted() {
    let mut lab = Lab::overtaking(1);
    lab.proves(&[2]);
    assert_eq!(lab.fails(&[1]), None);
    assert_eq!((lab.suspect().tries, lab.suspect().contradictions), (4, 1));
    assert!(lab.is_overtaking(1));
    assert_eq!(lab.isolation.limit(1000), 3, "the suspect, the probe before, and the next one");
}

#[test]
fn proof_on_an_earlier_connection_contradicts_nothing() {
    let mut lab = Lab::overtaking(1);
    lab.proves(&[2]);
    lab.isolation.connected();
    lab.fails(&[1]);
    assert_eq!((lab.suspect().tries, lab.suspect().contradictions), (4, 0));
}

/// Otherwise a live frame that a cut interrupts would be contradicted by the frame before it.
#[test]
fn an_older_entry_contradicts_nothing() {
    let mut lab = Lab::with_suspect(7, 1, SPREAD);
    lab.proves(&[6]);
    lab.fails(&[7]);
    assert_eq!((lab.suspect().tries, lab.suspect().contradictions), (2, 0));
}

#[test]
fn a_contradicted_entry_is_undeliverable() {
    let mut lab = Lab::overtaking(1);
    for (probe, expected) in [(2, None), (3, Some(Seq(1)))] {
        lab.proves(&[probe]);
        assert_eq!(lab.fails(&[1]), expected);
    }
    assert_eq!(lab.isolation.verdict(Seq(1)), Some(LOST));
    assert_eq!(lab.isolation.state, IsolationState::Clear);
    // Each of the three limits alone is not enough.
    let mut lab = Lab::new();
    for _ in 0..5 {
        lab.isolation.overtaken(one(1, Kind::Frame), Some(Seq(2)), lab.now);
        assert_eq!(lab.fails(&[1]), None, "within five seconds");
    }
    let mut lab = Lab::with_suspect(1, 50, SPREAD);
    assert_eq!(lab.fails(&[1]), None, "no other entry was proven");
}

/// On a server that confirms nothing, silence after the next probe would otherwise look like an
/// outage, and the contradictions would never add up.
#[test]
fn a_contradiction_shows_that_the_server_takes_others() {
    let mut lab = Lab::overtaking(1);
    assert!(lab.isolation.is_undecided());
    lab.proves(&[2]);
    lab.fails(&[1]);
    assert!(!lab.isolation.is_undecided());
}

/// A server that goes silent at random once looked like one that fails at this entry.
#[test]
fn an_outage_clears_contradictions() {
    let mut lab = Lab::overtaking(1);
    lab.proves(&[2]);
    assert_eq!(lab.fails(&[1]), None);
    assert_eq!(lab.suspect().contradictions, 1);
    lab.fails(&[3]);
    assert_eq!((lab.suspect().seq, lab.suspect().contradictions), (Seq(1), 0));
}

#[test]
fn a_probe_without_proof_is_an_outage() {
    let mut lab = Lab::overtaking(1);
    assert_eq!(lab.fails(&[2]), None);
    assert!(matches!(lab.isolation.state, IsolationState::Alone(_)));
    assert_eq!((lab.suspect().seq, lab.suspect().tries_alone), (Seq(1), 0));
    for _ in 1..2 * TRIES {
        lab.fails(&[1]);
        assert!(!lab.is_overtaking(1));
    }
    lab.fails(&[1]);
    let entries = [2, 3, 4].map(entry);
    let after: Vec<_> = entries.iter().collect();
    assert_eq!(lab.isolation.probe(&after), Some(2));
    assert_eq!(lab.isolation.probe(&after[..1]), Some(0));
    assert_eq!(lab.isolation.probe(&[]), None);
    // The distance and the tries are bounded.
    for _ in 0..100 {
        while !lab.is_overtaking(1) {
            lab.fails(&[1]);
        }
        lab.fails(&[2]);
    }
    assert_eq!(lab.suspect().distance(), 256);
    assert_eq!(lab.suspect().tries_before_probe(), 12);
}

#[test]
fn an_entry_that_left_the_queue_is_no_suspect() {
    let mut halving = Lab::new();
    halving.fails(&[1, 2]);
    let alone = Lab::with_suspect(2, 1, SPREAD);
    for mut lab in [halving, alone, Lab::overtaking(2)] {
        lab.isolation.removed(Seq(1));
        assert!(lab.isolation.is_active());
        lab.isolation.removed(Seq(2));
        assert!(!lab.isolation.is_active());
    }
}

#[test]
fn a_batch_without_a_probe_is_followed_by_a_larger_one() {
    let mut lab = Lab::overtaking(1);
    lab.isolation.lacks_probe(Seq(1));
    assert_eq!(lab.isolation.limit(1), 2, "the queue has no other entry");
    lab.isolation.lacks_probe(Seq(2));
    assert_eq!(lab.isolation.limit(1), 3 + FIRST_REACH);
    (0..10).for_each(|_| lab.isolation.lacks_probe(Seq(2)));
    assert_eq!(lab.isolation.limit(1), 3 + MAX_REACH);
}

#[test]
fn undeliverable_entries_are_bounded() {
    let mut isolation = Isolation::default();
    (0..1000).for_each(|seq| isolation.condemn(Seq(seq), LOST));
    assert_eq!(isolation.undeliverable.len(), MAX_UNDELIVERABLE);
    assert!(isolation.verdict(Seq(999)).is_some());
}

#[test]
fn the_setup_in_force_waits_for_another_entry_and_is_given_up_after_three_tries() {
    let mut isolation = Isolation::default();
    let setup = Seq(1);
    assert!(!isolation.defers(setup));
    assert!(!isolation.setup_failed(setup, LOST));
    for is_given_up in [false, true] {
        isolation.connected();
        assert!(isolation.defers(setup));
        assert_eq!(isolation.deferred_setup(), None);
        isolation.proven([Seq(9)]);
        assert!(!isolation.defers(setup));
        assert_eq!(isolation.deferred_setup(), Some(setup));
        assert_eq!(isolation.setup_failed(setup, LOST), is_given_up);
    }
    isolation.proven([Seq(10)]);
    assert!(isolation.defers(setup));
    assert_eq!(isolation.deferred_setup(), None);
}

#[test]
fn the_attempts_are_counted_for_the_status() {
    let shown = |lab: &Lab| {
        let Retrying { attempt, of, .. } = lab.isolation.retrying().unwrap();
        (attempt, of)
    };
    let mut lab = Lab::new();
    lab.fails(&[1]);
    assert_eq!(shown(&lab), (2, 5));
    let mut lab = Lab::overtaking(1);
    assert_eq!(shown(&lab), (4, 5));
    lab.proves(&[2]);
    lab.fails(&[1]);
    assert_eq!(shown(&lab), (5, 5));
    let mut lab = Lab::new();
    lab.isolation.overtaken(one(7, Kind::Frame), Some(Seq(9)), lab.now);
    assert_eq!(shown(&lab), (2, 3));
    assert_eq!(
        lab.isolation.retrying().unwrap().to_string(),
        "the server confirms no delivery of entry 7 (frame); attempt 2 of 3"
    );
}

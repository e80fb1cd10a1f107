//! Entries that a server can neither store nor refuse: its handler raises, disconnects or stops
//! reading. Each becomes a dead letter with the reason, and the rest is delivered. A server that
//! takes nothing at all is an outage, and nothing becomes a dead letter.

use std::time::Duration;

use pitwire::entry::{Kind, Seq, Situation};
use pitwire::queue::Content;
use pitwire::source::Sample;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, within};
use crate::hostile::{Pit, laps};
use crate::peers::{self, Peer};
use crate::server::{Faults, POISON, Poison};
use crate::session::{MINUTE, World, up_to};

/// JSON of an entry that the server cannot process.
fn poison_json() -> String {
    format!(r#"{{"driver":"{POISON}"}}"#)
}

async fn append_poison(world: &mut World, kind: Kind) {
    let content = match kind {
        Kind::Frame => Content::Frame(Situation::default()),
        Kind::Setup => Content::Setup { fingerprint: 666 },
    };
    world.append(content, &poison_json()).await;
}

/// Stores `before` frames, a poison entry and ten more frames while the server is down; then the
/// server comes up.
async fn deliver_around(kind: Kind, before: u32, faults: Faults) -> World {
    let mut world = World::with(Faults { down: true, ..Faults::default() });
    world.frames(before).await;
    append_poison(&mut world, kind).await;
    world.frames(10).await;
    sleep(Duration::from_secs(1)).await;
    world.server.behave(faults);
    world
}

fn all_but(poison: u64, last: u64) -> Vec<u64> {
    up_to(last).into_iter().filter(|&seq| seq != poison).collect()
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_gets_no_answer_becomes_a_dead_letter_and_the_rest_is_delivered() {
    for poison in Poison::ALL {
        for kind in [Kind::Frame, Kind::Setup] {
            for before in [0, 1, 7, 40] {
                let started = Instant::now();
                let faults = Faults { poison: Some(poison), ..Faults::default() };
                let world = deliver_around(kind, before, faults).await;
                world.drain(2 * MINUTE).await;
                let case = format!("{poison:?} {kind:?} after {before}");
                assert!(started.elapsed() >= Duration::from_secs(5), "{case}");
                let seq = u64::from(before) + 1;
                assert_eq!(world.seen(), all_but(seq, seq + 10), "{case}");
                let ledger = world.queue().server().ledger;
                assert_eq!((ledger.delivered, ledger.dead_letters), (seq + 9, 1), "{case}");
                assert_eq!(world.server.seen().len(), 1, "one page: {case}");
                assert!(world.server.state().requests <= 1, "one session: {case}");
                assert_eq!(world.status().retrying, None, "{case}");
                let letters = world.dead_letters();
                let reason = letters[0]["reason"].as_str().unwrap();
                let expected = match poison {
                    Poison::Disconnects => "connection lost: the server closed it",
                    Poison::Raises | Poison::Stalls => "no proof of delivery within 5s",
                };
                assert_eq!((letters.len(), reason), (1, expected), "{case}");
                assert_eq!(letters[0]["seq"], seq, "{case}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_breaks_the_connection_is_isolated_without_echoes_too() {
    for (never_acks, no_join) in [(false, false), (false, true), (true, false), (true, true)] {
        // A stalled connection of a server that answers nothing looks like any other.
        let answers_nothing = never_acks && no_join;
        let all: &[Poison] = if answers_nothing {
            &[Poison::Disconnects]
        } else {
            &[Poison::Disconnects, Poison::Stalls]
        };
        for &poison in all {
            let faults = Faults {
                poison: Some(poison),
                no_echo: true,
                never_acks,
                no_join,
                ..Faults::default()
            };
            let case = format!("{faults:?}");
            let world = deliver_around(Kind::Frame, 7, faults).await;
            // A server that answers nothing proves an entry by 90 s of connection.
            world.drain(60 * MINUTE).await;
            let mut seen = world.seen();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, all_but(8, 18), "{case}");
            assert_eq!(world.queue().server().ledger.dead_letters, 1, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lap_of_poison_becomes_dead_letters() {
    for poison in Poison::ALL {
        let mut world = World::new(|delivery| delivery.backoff_max = Duration::from_secs(5));
        world.server.behave(Faults { poison: Some(poison), ..Faults::default() });
        world.frames(5).await;
        world.drain(MINUTE).await;
        for _ in 0..20 {
            append_poison(&mut world, Kind::Frame).await;
        }
        world.frames(100).await;
        world.drain(30 * MINUTE).await;
        let expected: Vec<_> = (1..=5).chain(26..=125).collect();
        // The entries that showed that the server works came before the first ones after the lap.
        let mut seen = world.seen();
        seen.sort_unstable();
        assert_eq!(seen, expected, "{poison:?}");
        assert_eq!(world.queue().server().ledger.dead_letters, 20, "{poison:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_is_an_outage() {
    for poison in Poison::ALL {
        // Outages of many lengths, so that some end between a try of the oldest entry and the
        // probe with the next one.
        for seconds in (1..120).step_by(3) {
            let mut world = World::with(Faults::default());
            world.frames(5).await;
            world.drain(MINUTE).await;
            world.server.behave(Faults { poison: Some(poison), ..Faults::default() });
            // Every frame is poison now, and good again once the server is repaired.
            for _ in 0..40 {
                append_poison(&mut world, Kind::Frame).await;
            }
            sleep(Duration::from_secs(seconds)).await;
            assert_eq!(world.queue().server().ledger.dead_letters, 0, "{poison:?} {seconds}");
            world.server.behave(Faults::default());
            world.drain(2 * MINUTE).await;
            let ledger = world.queue().server().ledger;
            let case = format!("{poison:?} {seconds} s");
            assert_eq!((ledger.delivered, ledger.dead_letters), (45, 0), "{case}");
            let mut seen = world.seen();
            // The probe may arrive before the entry that failed.
            let late = seen.windows(2).filter(|pair| pair[1] < pair[0]).count();
            assert!(late <= 1, "{case}: {seen:?}");
            seen.sort_unstable();
            assert_eq!(seen, up_to(45), "{case}");
            assert_eq!(world.server.seen().len(), 1, "one page: {case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_entry_is_kept_until_another_shows_whether_the_server_works() {
    let mut world = World::with(Faults { poison: Some(Poison::Raises), ..Faults::default() });
    append_poison(&mut world, Kind::Frame).await;
    sleep(10 * MINUTE).await;
    assert_eq!((world.queue().entries, world.queue().server().ledger.dead_letters), (1, 0));
    let retrying = world.status().retrying.expect("the entry is named");
    assert_eq!((retrying.seq, retrying.kind), (Seq(1), Kind::Frame));
    world.frames(3).await;
    world.drain(2 * MINUTE).await;
    assert_eq!(world.seen(), [2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_setup_in_force_that_cannot_be_sent_again_does_not_stop_the_frames() {
    for poison in Poison::ALL {
        let mut world = World::with(Faults::default());
        append_poison(&mut world, Kind::Setup).await;
        world.frames(5).await;
        world.drain(MINUTE).await;
        // The new page gets the setup in force first, which the new server cannot process.
        world.server.forget();
        world.server.behave(Faults { poison: Some(poison), ..Faults::default() });
        world.server.cut();
        world.frames(10).await;
        world.drain(2 * MINUTE).await;
        assert_eq!(world.seen(), up_to(16), "{poison:?}");
        assert_eq!(world.queue().server().ledger.dead_letters, 0, "{poison:?}");
        assert_eq!(world.server.seen().len(), 2, "{poison:?}");
        world.frames(10).await;
        world.drain(2 * MINUTE).await;
        sleep(MINUTE).await;
        assert!(world.status().connected, "{poison:?}: {:?}", world.status());
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_names_the_entry_and_the_attempt() {
    let faults = Faults { poison: Some(Poison::Raises), ..Faults::default() };
    let world = deliver_around(Kind::Setup, 0, faults).await;
    let mut attempts = Vec::new();
    while world.queue().entries > 0 {
        if let Some(retrying) = world.status().retrying {
            assert_eq!((retrying.seq, retrying.kind), (Seq(1), Kind::Setup));
            attempts.push((retrying.attempt, retrying.of));
        }
        sleep(Duration::from_millis(50)).await;
    }
    attempts.dedup();
    assert_eq!(attempts, [(2, 5), (3, 5), (4, 5), (5, 5)]);
}

// Real servers.

/// Waits until the queue is empty: several tries of up to 6 s each.
async fn drained(pit: &Pit) {
    let empty = async || (pit.publisher.queue_status().entries == 0).then_some(());
    let drained = within(Duration::from_secs(120), empty).await;
    assert!(drained.is_some(), "{:?} {:?}", pit.publisher.queue_status(), pit.status());
    assert_eq!(pit.publisher.queue_status().server().imbalance, 0);
}

async fn store_setup(pit: &Pit, setup: Value) {
    let intake = pit.publisher.intake("file", 0.0);
    intake.take(vec![Sample::setup(&setup)]).await.unwrap();
}

#[tokio::test]
async fn a_handler_that_raises_or_disconnects_on_one_frame_costs_that_frame_only() {
    let cases = [
        (peers::Kind::Flask, "--raise-on", "eventlet"),
        (peers::Kind::Flask, "--raise-on", "threading"),
        (peers::Kind::Flask, "--disconnect-on", "threading"),
        (peers::Kind::Asgi, "--raise-on", ""),
        (peers::Kind::Asgi, "--disconnect-on", ""),
    ];
    let cases = cases.map(|(kind, fault, mode)| async move {
        let mode = if mode.is_empty() { vec![] } else { vec!["--async-mode", mode] };
        let server = Peer::start(kind, &[&[fault, "poison"][..], &mode].concat());
        let pit = Pit::new(&server.url(), &[]);
        pit.store(1..=6, "Ana").await;
        pit.store(7..=7, "poison").await;
        pit.store(8..=40, "Ana").await;
        drained(&pit).await;
        let mut laps = laps(&server.url()).await;
        if kind == peers::Kind::Flask {
            // Threads may reorder the frames of a batch.
            laps.sort_unstable();
        }
        let case = format!("{kind:?} {fault} {mode:?}");
        assert_eq!(laps, all_but(7, 40), "{case}");
        assert_eq!(pit.refused(), [(7, 7)], "{case}");
        assert_eq!(server.sessions().await.len(), 1, "{case}");
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn a_handler_that_raises_on_the_setup_does_not_stop_the_frames() {
    let server = Peer::start(peers::Kind::Flask, &["--raise-on", "poison"]);
    let pit = Pit::new(&server.url(), &[]);
    store_setup(&pit, json!({"name": "poison"})).await;
    pit.store(1..=40, "Ana").await;
    drained(&pit).await;
    assert_eq!(laps(&server.url()).await, up_to(40));
    assert_eq!(pit.publisher.queue_status().server().ledger.dead_letters, 1);
    assert_eq!(server.sessions().await.len(), 1);
}

#[tokio::test]
async fn a_setup_above_the_message_limit_of_the_server_does_not_stop_the_frames() {
    let cases = [
        (peers::Kind::Flask, &["--async-mode", "eventlet"][..]),
        (peers::Kind::Flask, &["--async-mode", "threading"]),
        (peers::Kind::Asgi, &[]),
        (peers::Kind::Node, &[]),
    ];
    let cases = cases.map(|(kind, mode)| async move {
        let server = Peer::start(kind, &[&["--max-message", "100000"][..], mode].concat());
        let pit = Pit::new(&server.url(), &[]);
        pit.store(1..=10, "Ana").await;
        let setup = (0..1200).map(|n| (format!("S{n}"), Value::from("x".repeat(100))));
        store_setup(&pit, Value::Object(setup.collect())).await;
        pit.store(11..=20, "Ana").await;
        drained(&pit).await;
        let mut laps = laps(&server.url()).await;
        laps.sort_unstable();
        let case = format!("{kind:?} {mode:?}");
        let expected = pit.publisher.queue_status().server().ledger;
        assert_eq!(laps, up_to(20), "{case}");
        // uvicorn's own limit is 16 MiB: there the setup arrives.
        let setups = peers::setups(&server.url(), &server.sessions().await[0]).await.len() as u64;
        assert_eq!(
            (setups + expected.dead_letters, expected.delivered),
            (1, 20 + setups),
            "{case}"
        );
        assert_eq!(server.sessions().await.len(), 1, "{case}");
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn readyz_the_status_page_and_the_log_name_the_entry_that_is_retried() {
    let queue = tempfile::tempdir().unwrap();
    let server = Peer::start(peers::Kind::Asgi, &["--raise-on", "poison"]);
    let agent = Agent::start(queue.path(), &server.url(), &[]);
    let line = |lap, driver| json!({"lap": lap, "player_name": driver}).to_string();
    agent.feed(&[line(1, "poison")]);
    let named = async || {
        let (code, text) = agent.page("/readyz").await;
        (code == 503 && text.contains("no delivery of entry 1 (frame); attempt 3")).then_some(())
    };
    within(Duration::from_secs(60), named).await.expect("/readyz names the entry");
    let status: Value = serde_json::from_str(&agent.page("/status").await.1).unwrap();
    let shown = status["destinations"][0]["retrying"].as_str().unwrap();
    assert!(shown.contains("entry 1 (frame)"), "{status}");
    let badge = status["badge"]["text"].as_str().unwrap();
    assert!(badge.starts_with("Retrying frame 1, attempt "), "{badge}");
    agent.feed(&[line(2, "Ana"), line(3, "Ana"), line(4, "Ana")]);
    let quarantined = r#"pitwire_ledger_entries{state="dead_letters"}"#;
    let is_set_aside = async || (agent.metric(quarantined).await == 1.0).then_some(());
    within(Duration::from_secs(120), is_set_aside).await.expect("it becomes a dead letter");
    let ready = async || (agent.page("/readyz").await.0 == 200).then_some(());
    within(Duration::from_secs(30), ready).await.expect("ready again");
    assert_eq!(laps(&server.url()).await, [2, 3, 4]);
}

//! The delivery loop against a misbehaving in-memory server, in paused time.

use std::time::Duration;

use pitwire::backoff::Backoff;
use pitwire::config::{Config, DeliveryConfig, ProofChoice, SessionChoice};
use pitwire::entry::{Kind, Seq, Situation};
use pitwire::queue::storage::{Options, SegmentStore};
use pitwire::queue::{Appended, Content, Limits, NewEntry, QueueStatus, Stamps, Writer};
use pitwire::session::{Session, SessionStatus};
use pitwire::sink::Proof;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::server::{Faults, History, Server};
use crate::single;

/// The agent without its sources: a queue, a session and a server.
pub struct World {
    pub server: Server,
    writer: Writer,
    status: watch::Receiver<SessionStatus>,
    frames: i64,
    tasks: JoinSet<()>,
    folder: tempfile::TempDir,
}

impl World {
    pub fn new(adjust: impl FnOnce(&mut DeliveryConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::open(folder, Server::default(), SessionChoice::Auto, 1, adjust)
    }

    /// An agent with the queue in `folder`, whose delays follow from `seed`.
    fn open(
        folder: tempfile::TempDir,
        server: Server,
        choice: SessionChoice,
        seed: u64,
        adjust: impl FnOnce(&mut DeliveryConfig),
    ) -> Self {
        let mut config = Config::default();
        adjust(&mut config.delivery);
        let options = Options::new(config.queue.max_entries, config.queue.max_bytes);
        let store = SegmentStore::open(folder.path(), options).unwrap();
        let limits = Limits::new(&config.queue, &config.stint);
        let ((writer, reader), worker) = single::with_store(store, limits, single::at(0)).unwrap();
        let (sender, status) = watch::channel(SessionStatus::default());
        let backoff = Backoff::new(
            config.delivery.backoff_min,
            config.delivery.backoff_max,
            SmallRng::seed_from_u64(seed),
        );
        let mut session =
            Session::new(choice, config.delivery, reader, server.clone(), backoff, sender);
        let mut tasks = JoinSet::new();
        tasks.spawn(worker);
        tasks.spawn(async move { drop(session.run().await) });
        Self { server, writer, status, frames: 0, tasks, folder }
    }

    /// Stops the agent, and starts it again on the same queue.
    async fn restart(self) -> Self {
        let Self { server, mut tasks, folder, frames, writer, .. } = self;
        drop(writer);
        tasks.shutdown().await;
        let world = Self::open(folder, server, SessionChoice::Auto, 2, |_| {});
        Self { frames, ..world }
    }

    pub fn with(faults: Faults) -> Self {
        let world = Self::new(|_| {});
        world.server.behave(faults);
        world
    }

    pub async fn append(&mut self, content: Content, json: &str) -> Appended {
        self.frames += 1;
        let at = single::reading(self.frames * 500);
        let make =
            |stamps: &mut Stamps| vec![NewEntry::new(stamps.stamp_at(at), content, json.into())];
        self.writer.append(make).await.unwrap()[0]
    }

    pub async fn frames(&mut self, count: u32) {
        for _ in 0..count {
            self.append(Content::Frame(Situation::default()), "{}").await;
        }
    }

    /// Appends frames in one step, which is faster than one by one.
    async fn backlog(&mut self, count: i64) {
        let numbers = self.frames + 1..=self.frames + count;
        self.frames += count;
        let make = |stamps: &mut Stamps| {
            let frame = |number: i64| {
                let stamp = stamps.stamp_at(single::reading(number * 500));
                NewEntry::new(stamp, Content::Frame(Situation::default()), "{}".into())
            };
            numbers.map(frame).collect()
        };
        self.writer.append(make).await.unwrap();
    }

    pub async fn setup(&mut self, fingerprint: u64) {
        self.append(Content::Setup { fingerprint }, "{}").await;
    }

    /// Waits until the queue is empty; fails after `limit` of virtual time.
    pub async fn drain(&self, limit: Duration) {
        let drained = async {
            while self.queue().entries > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let drained = timeout(limit, drained).await;
        assert!(
            drained.is_ok(),
            "not drained in {limit:?}: {:?} {:?}",
            self.queue(),
            self.status()
        );
        assert_eq!(self.queue().server().imbalance, 0);
    }

    pub fn queue(&self) -> QueueStatus {
        self.writer.status()
    }

    pub fn status(&self) -> SessionStatus {
        self.status.borrow().clone()
    }

    /// The dead letters, oldest first.
    pub fn dead_letters(&self) -> Vec<serde_json::Value> {
        let file = self.folder.path().join("quarantine/dead-letters.ndjson");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The entries that viewers saw in all sessions, in the order of the sessions.
    pub fn seen(&self) -> Vec<u64> {
        self.server.seen().iter().flat_map(|(_, history)| seqs(history)).collect()
    }
}

fn seqs(history: &History) -> Vec<u64> {
    history.iter().map(|(_, Seq(seq), _)| *seq).collect()
}

pub fn up_to(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

pub const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn the_best_proof_a_server_offers_is_used() {
    for (faults, proof) in [
        (Faults::default(), Proof::Echo),
        (Faults { never_acks: true, ..Faults::default() }, Proof::Echo),
        (Faults { no_join: true, ..Faults::default() }, Proof::Echo),
        (Faults { no_echo: true, ..Faults::default() }, Proof::Ack),
        (Faults { no_echo: true, no_join: true, ..Faults::default() }, Proof::Ack),
        (Faults { no_echo: true, never_acks: true, ..Faults::default() }, Proof::Ack),
        (
            Faults { no_echo: true, never_acks: true, no_join: true, ..Faults::default() },
            Proof::Written,
        ),
    ] {
        let mut world = World::with(faults.clone());
        world.frames(300).await;
        world.drain(10 * MINUTE).await;
        assert_eq!(world.status().proof, Some(proof), "{faults:?}");
        let mut seen = world.seen();
        seen.dedup();
        // Without any proof, entries sent on earlier links are sent again.
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, up_to(300), "{faults:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn entries_that_only_time_proves_are_delivered_without_verification() {
    let mut world = World::new(|delivery| {
        delivery.proof = ProofChoice::Written;
        delivery.verify_interval = Duration::ZERO;
    });
    world.frames(300).await;
    world.drain(3 * MINUTE).await;
    assert_eq!((world.status().connects, world.status().failures), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_maximum_rate_applies_to_every_kind_of_proof() {
    for no_echo in [false, true] {
        let mut world = World::new(|delivery| delivery.max_rate = 10.0);
        world.server.behave(Faults { no_echo, ..Faults::default() });
        let began = Instant::now();
        world.frames(300).await;
        world.drain(2 * MINUTE).await;
        assert!(began.elapsed() > Duration::from_secs(28), "{no_echo}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_is_noticed_while_a_replay_is_slowed_down() {
    let mut world = World::new(|delivery| delivery.max_rate = 0.01);
    world.frames(3).await;
    while world.queue().entries == 3 {
        sleep(Duration::from_millis(20)).await;
    }
    let cut_at = Instant::now();
    world.server.cut();
    while world.status().failures == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(cut_at.elapsed() < MINUTE, "{:?}", cut_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_give_the_configured_proof_is_refused() {
    let mut world = World::new(|delivery| delivery.proof = ProofChoice::Echo);
    world.server.behave(Faults { no_echo: true, ..Faults::default() });
    world.frames(10).await;
    sleep(3 * MINUTE).await;
    // Entries that the server shows when the session is joined still count as delivered.
    assert!(world.queue().entries >= 4, "{:?}", world.queue());
    let error = world.status().last_error.unwrap();
    assert!(error.contains("delivery.proof = \"echo\""), "{error}");
    let user_message = world.status().user_message.unwrap();
    assert!(user_message.contains("cannot confirm"), "{user_message}");
}

#[tokio::test(start_paused = true)]
async fn a_session_forgotten_while_connected_is_replaced_by_a_new_one() {
    for no_echo in [false, true] {
        let mut world = World::with(Faults { no_echo, ..Faults::default() });
        world.setup(1).await;
        world.frames(100).await;
        world.drain(MINUTE).await;
        world.server.forget();
        let forgotten = Instant::now();
        for _ in 0..40 {
            world.frames(1).await;
            sleep(Duration::from_millis(500)).await;
        }
        world.drain(MINUTE).await;
        let seen = world.server.seen();
        let [(_, first), (_, second)] = &seen[..] else { panic!("no_echo {no_echo}: {seen:?}") };
        assert_eq!(seqs(first), up_to(101));
        // The setup in force is the first entry on the new page.
        assert_eq!(second[0].0, Kind::Setup);
        assert_eq!(seqs(second)[1..], (102..=141).collect::<Vec<_>>(), "no_echo {no_echo}");
        assert_eq!(world.server.state().requests, 2);
        assert!(forgotten.elapsed() < MINUTE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_session_is_noticed_within_ten_seconds_when_idle() {
    let mut world = World::with(Faults::default());
    world.frames(3).await;
    world.drain(MINUTE).await;
    let before = world.status();
    assert_eq!(before.forgotten_at, None);
    let called = Instant::now();
    world.server.forget();
    sleep(Duration::from_secs(10)).await;
    let after = world.status();
    assert_ne!(after.session, before.session);
    assert!(after.forgotten_at >= Some(called), "{after:?}");
    // An outage clears the time: its message is more important.
    world.frames(1).await;
    world.drain(MINUTE).await;
    world.server.cut();
    sleep(MINUTE).await;
    assert_eq!((world.status().forgotten_at, world.status().connected), (None, true));
}

#[tokio::test(start_paused = true)]
async fn a_session_continues_after_an_outage_without_duplicates() {
    let mut world = World::with(Faults::default());
    world.setup(1).await;
    for _ in 0..20 {
        world.frames(30).await;
        sleep(Duration::from_millis(3)).await;
        world.server.cut();
        world.frames(5).await;
    }
    world.drain(10 * MINUTE).await;
    let seen = world.server.seen();
    assert_eq!(seen.len(), 1, "one page");
    assert_eq!(seqs(&seen[0].1), up_to(701));
}

/// A server may still be reading the entries of a killed agent while the next agent asks it.
#[tokio::test(start_paused = true)]
async fn entries_of_a_killed_agent_that_are_stored_late_are_not_sent_again() {
    let mut world = World::with(Faults::default());
    world.frames(5).await;
    world.drain(MINUTE).await;
    world.server.behave(Faults { down: true, ..Faults::default() });
    world.frames(25).await;
    let world = world.restart().await;
    world.server.store_late(6..=10);
    let links = world.server.state().links;
    world.server.behave(Faults::default());
    while world.server.state().links == links {
        sleep(Duration::from_millis(10)).await;
    }
    for last in [15, 20] {
        sleep(Duration::from_millis(200)).await;
        world.server.store_late(last - 4..=last);
    }
    world.drain(MINUTE).await;
    assert_eq!(world.seen(), up_to(30));
}

#[tokio::test(start_paused = true)]
async fn a_refused_entry_becomes_a_dead_letter_and_the_rest_is_delivered() {
    for objects in [false, true] {
        let mut world = World::with(Faults::default());
        world.frames(5).await;
        world.drain(MINUTE).await;
        world.server.behave(Faults { refuses: Some("poison"), objects, ..Faults::default() });
        let started = Instant::now();
        world.frames(20).await;
        world.append(Content::Frame(Situation::default()), r#"{"driver":"poison"}"#).await;
        world.frames(20).await;
        world.drain(2 * MINUTE).await;
        assert!(started.elapsed() >= Duration::from_secs(5), "three tries over five seconds");
        assert_eq!(world.queue().server().ledger.dead_letters, 1);
        assert_eq!(world.queue().server().ledger.delivered, 45);
        let mut seen = world.seen();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, up_to(46).into_iter().filter(|&seq| seq != 26).collect::<Vec<_>>());
        assert_eq!(world.server.state().requests, 1, "the page stays");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_entry_is_identified_despite_slow_acknowledgements() {
    let mut world = World::new(|delivery| delivery.proof_timeout = Duration::from_millis(500));
    let delay = Duration::from_millis(400);
    world.server.behave(Faults { refuses: Some("poison"), delay, ..Faults::default() });
    world.frames(5).await;
    world.append(Content::Frame(Situation::default()), r#"{"driver":"poison"}"#).await;
    world.frames(5).await;
    world.drain(MINUTE).await;
    assert_eq!(world.queue().server().ledger.dead_letters, 1);
    assert_eq!(world.status().failures, 0, "{:?}", world.status().last_error);
}

#[tokio::test(start_paused = true)]
async fn an_entry_skipped_before_a_disconnect_is_retried_and_dead_lettered() {
    let poison = Faults { refuses: Some("poison"), ..Faults::default() };
    for stalls in [false, true] {
        let mut world = World::with(Faults::default());
        world.frames(1).await;
        world.drain(MINUTE).await;
        world.server.behave(Faults { down: true, ..Faults::default() });
        world.frames(9).await;
        world.append(Content::Frame(Situation::default()), r#"{"driver":"poison"}"#).await;
        world.frames(10).await;
        sleep(Duration::from_secs(1)).await;
        // One entry to determine the proof, then the batch: cut in the middle or between two tries.
        let stalls_after = stalls.then_some(15);
        world.server.behave(Faults { stalls_after, ..poison.clone() });
        let shown = async {
            while world.seen().len() < 16 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(MINUTE, shown).await.expect("the batch is shown");
        sleep(Duration::from_secs(3)).await;
        world.server.cut();
        world.server.behave(poison.clone());
        world.drain(MINUTE).await;
        assert_eq!(world.queue().server().ledger.dead_letters, 1, "stalls {stalls}");
        assert_eq!(world.queue().server().ledger.delivered, 20, "stalls {stalls}");
        let shown: Vec<_> = up_to(21).into_iter().filter(|&seq| seq != 11).collect();
        assert_eq!(world.seen(), shown, "stalls {stalls}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_refused_entry_of_a_batch_becomes_a_dead_letter() {
    let mut world = World::with(Faults::default());
    world.frames(1).await;
    world.drain(MINUTE).await;
    let poison = Faults { refuses: Some("poison"), ..Faults::default() };
    world.server.behave(Faults { down: true, ..poison.clone() });
    for _ in 0..3 {
        world.frames(2).await;
        world.append(Content::Frame(Situation::default()), r#"{"driver":"poison"}"#).await;
    }
    sleep(Duration::from_secs(1)).await;
    world.server.behave(poison);
    world.drain(2 * MINUTE).await;
    let ledger = world.queue().server().ledger;
    assert_eq!((ledger.delivered, ledger.dead_letters), (7, 3), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_poison_entry_at_the_start_of_a_session_does_not_block_it() {
    let mut world = World::with(Faults { refuses: Some("poison"), ..Faults::default() });
    world.append(Content::Frame(Situation::default()), r#"{"driver":"poison"}"#).await;
    world.frames(5).await;
    world.drain(5 * MINUTE).await;
    assert_eq!(world.queue().server().ledger.dead_letters, 1);
    let mut seen = world.seen();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [2, 3, 4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stores_nothing_leaves_the_queue_untouched() {
    let mut world = World::with(Faults { keeps_nothing: true, ..Faults::default() });
    world.frames(20).await;
    sleep(10 * MINUTE).await;
    let queue = world.queue();
    assert_eq!((queue.entries, queue.server().ledger.gone()), (20, 0));
    let error = world.status().last_error.unwrap();
    assert!(error.contains("acknowledges entries that it does not store"), "{error}");
    world.server.behave(Faults::default());
    world.drain(5 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn a_reordering_server_gets_one_entry_at_a_time() {
    let mut world = World::with(Faults { down: true, ..Faults::default() });
    world.frames(600).await;
    world.server.behave(Faults { swaps: true, ..Faults::default() });
    world.drain(10 * MINUTE).await;
    let seen = world.seen();
    let inversions = seen.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert_eq!(inversions, 1, "no inversion once the first was noticed");
    assert_eq!(seen.len(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_disconnected_after_the_proof_timeout() {
    let mut world = World::with(Faults::default());
    world.frames(3).await;
    world.drain(MINUTE).await;
    world.server.behave(Faults { silent: true, ..Faults::default() });
    world.frames(1).await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(world.status().failures, 1);
    world.server.behave(Faults::default());
    world.drain(2 * MINUTE).await;
    assert_eq!(world.seen(), up_to(4));
}

#[tokio::test(start_paused = true)]
async fn acknowledged_entries_stay_queued_until_they_are_verified() {
    let mut world = World::with(Faults { no_echo: true, ..Faults::default() });
    world.frames(50).await;
    world.drain(MINUTE).await;
    world.frames(10).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(world.queue().entries, 10);
    world.drain(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn acknowledged_but_unstored_entries_do_not_count_as_delivered() {
    let no_echo = Faults { no_echo: true, ..Faults::default() };
    let mut world = World::with(no_echo.clone());
    world.frames(50).await;
    world.drain(MINUTE).await;
    world.server.behave(Faults { keeps_nothing: true, ..no_echo });
    world.frames(10).await;
    sleep(MINUTE).await;
    assert_eq!(world.queue().server().ledger.delivered, 50, "{:?}", world.queue());
}

#[tokio::test(start_paused = true)]
async fn proof_ack_verifies_on_a_separate_connection() {
    for no_join in [false, true] {
        let mut world = World::new(|delivery| delivery.proof = ProofChoice::Ack);
        world.server.behave(Faults { no_join, ..Faults::default() });
        world.frames(500).await;
        world.drain(MINUTE).await;
        world.frames(10).await;
        world.drain(MINUTE).await;
        assert_eq!(world.seen(), up_to(510), "no_join {no_join}");
        assert!(world.server.state().links > 1);
        world.server.forget();
        world.frames(10).await;
        world.drain(MINUTE).await;
        let seen = world.server.seen();
        assert_eq!(seen.len(), if no_join { 1 } else { 2 }, "no_join {no_join}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_unanswered_join_does_not_make_proof_ack_skip_verification() {
    let mut world = World::new(|delivery| delivery.proof = ProofChoice::Ack);
    sleep(Duration::from_secs(1)).await;
    world.server.behave(Faults { no_join: true, ..Faults::default() });
    world.frames(10).await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(world.queue().entries, 10);
    world.server.forget();
    world.server.behave(Faults::default());
    world.drain(MINUTE).await;
    // Entries acknowledged before the server forgot them are on the new page too.
    let seen = world.server.seen();
    assert_eq!(seqs(&seen[1].1), up_to(10));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_joins_again_is_verified_again() {
    let no_echo = Faults { no_echo: true, ..Faults::default() };
    let mut world = World::with(no_echo.clone());
    world.frames(10).await;
    world.drain(MINUTE).await;
    world.server.behave(Faults { no_join: true, ..no_echo.clone() });
    world.server.cut();
    let page = async {
        while world.server.state().requests < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(MINUTE, page).await.expect("a new page");
    world.server.behave(no_echo);
    world.frames(10).await;
    world.drain(MINUTE).await;
    world.server.forget();
    world.frames(10).await;
    world.drain(MINUTE).await;
    assert_eq!(world.seen(), up_to(30));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_frame_on_the_page_does_not_confirm_our_entries() {
    for faults in [
        Faults::default(),
        Faults { no_echo: true, ..Faults::default() },
        Faults { never_acks: true, ..Faults::default() },
    ] {
        let mut world = World::with(faults.clone());
        world.frames(10).await;
        world.drain(MINUTE).await;
        for outage in 0..5 {
            world.server.behave(Faults { down: true, ..faults.clone() });
            world.server.cut();
            world.frames(40).await;
            world.server.store_a_foreign_frame();
            sleep(Duration::from_secs(outage)).await;
            world.server.behave(faults.clone());
            world.drain(2 * MINUTE).await;
        }
        let mut seen = world.seen();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, up_to(210), "{faults:?}");
        assert_eq!(world.server.seen().len(), 1, "one page: {faults:?}");
        let ledger = world.queue().server().ledger;
        assert_eq!((ledger.delivered, ledger.dead_letters), (210, 0), "{faults:?}");
    }
}

/// Entries echoed before the connection ended are not sent again, regardless of the page's content.
#[tokio::test(start_paused = true)]
async fn an_echoed_entry_stays_confirmed_despite_a_foreign_frame() {
    let mut world = World::with(Faults::default());
    world.frames(1).await;
    world.drain(MINUTE).await;
    world.server.behave(Faults { down: true, ..Faults::default() });
    world.frames(20).await;
    sleep(Duration::from_secs(1)).await;
    // One entry to determine the proof, then a batch of which ten are echoed.
    world.server.behave(Faults { stalls_after: Some(10), ..Faults::default() });
    sleep(Duration::from_secs(3)).await;
    world.server.store_a_foreign_frame();
    world.server.behave(Faults::default());
    world.server.cut();
    world.drain(MINUTE).await;
    assert_eq!(world.seen(), up_to(21));
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_delays_entries_but_loses_none() {
    let mut world = World::with(Faults { delay: Duration::from_millis(1500), ..Faults::default() });
    world.frames(1000).await;
    world.drain(10 * MINUTE).await;
    assert_eq!(world.seen(), up_to(1000));
}

// Pace.

/// After an outage of any length, delivery resumes within the longest wait.
#[tokio::test(start_paused = true)]
async fn an_outage_of_any_length_is_over_within_seconds_of_the_networks_return() {
    let mut waits = Vec::new();
    for (seed, outage) in (0..45).zip([12, 300, 3_000].into_iter().cycle()) {
        let folder = tempfile::tempdir().unwrap();
        let (server, choice) = (Server::default(), SessionChoice::Auto);
        let mut world = World::open(folder, server, choice, seed, |_| {});
        world.frames(1).await;
        world.drain(MINUTE).await;
        world.server.behave(Faults { down: true, ..Faults::default() });
        world.server.cut();
        world.frames(1).await;
        sleep(Duration::from_secs(outage)).await;
        world.server.behave(Faults::default());
        let returned = Instant::now();
        while world.seen().len() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
        waits.push(returned.elapsed());
    }
    waits.sort();
    let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(median < Duration::from_millis(2_500), "{median:?} {waits:?}");
    // Binding the session takes a moment more.
    assert!(longest < Duration::from_millis(5_500), "{longest:?}");
}

/// While the network drops packets, an attempt lasts up to `open_timeout`, which counts as waiting.
#[tokio::test(start_paused = true)]
async fn a_slow_failure_to_connect_is_followed_by_a_short_wait() {
    let mut world = World::with(Faults { delay: Duration::from_secs(3600), ..Faults::default() });
    for _ in 0..20 {
        world.status.wait_for(|status| status.retry_in.is_some()).await.unwrap();
        let status = world.status();
        let wait = status.retry_in.unwrap();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        assert_eq!(status.retry_at, Some(Instant::now() + wait));
        world.status.wait_for(|status| status.retry_in.is_none()).await.unwrap();
        assert_eq!(world.status().retry_at, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stores_nothing_is_not_given_a_new_session_every_few_seconds() {
    let mut world = World::with(Faults { keeps_nothing: true, ..Faults::default() });
    world.frames(20).await;
    sleep(10 * MINUTE).await;
    let requests = world.server.state().requests;
    assert!((2..=30).contains(&requests), "{requests}");
}

// A server that changes the order.

/// A server that swapped two entries and has 50 ms of round trip, with a backlog of 3,600 entries.
async fn swapped_once() -> World {
    let far = Faults { delay: Duration::from_millis(50), ..Faults::default() };
    let mut world = World::with(far.clone());
    world.frames(1).await;
    world.drain(MINUTE).await;
    world.server.behave(Faults { down: true, ..far.clone() });
    world.server.cut();
    world.backlog(3_600).await;
    sleep(Duration::from_secs(1)).await;
    world.server.behave(Faults { swaps: true, ..far.clone() });
    while inversions(&world) == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    world.server.behave(far);
    world
}

/// The number of entries that a page showed after a newer one.
fn inversions(world: &World) -> usize {
    world.seen().windows(2).filter(|pair| pair[1] < pair[0]).count()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_the_order_again_gets_batches_after_a_clean_minute() {
    let world = swapped_once().await;
    let swapped = Instant::now();
    sleep(Duration::from_secs(58)).await;
    let left = world.queue().entries;
    assert!(left > 2_048 && world.server.state().probes == 0, "one at a time: {left}");
    world.drain(MINUTE).await;
    assert!(swapped.elapsed() < Duration::from_secs(90), "{:?}", swapped.elapsed());
    assert_eq!((inversions(&world), world.seen().len()), (1, 3_601));
    let state = world.server.state();
    assert_eq!((state.probes, state.requests), (2_048, 2), "one probe in a separate session");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_still_changes_the_order_shows_no_second_inversion() {
    let world = swapped_once().await;
    let delay = Duration::from_millis(250);
    world.server.behave(Faults { swaps: true, delay, ..Faults::default() });
    world.drain(60 * MINUTE).await;
    assert_eq!((inversions(&world), world.seen().len()), (1, 3_601));
    let state = world.server.state();
    // After 1 and 2 minutes; 4 minutes later the backlog is too small.
    assert_eq!(state.probes, 2 * 64);
    assert_eq!(state.requests, 2, "the probes share a session");
}

#[tokio::test(start_paused = true)]
async fn an_inversion_after_a_probe_in_order_is_the_last_one() {
    let mut world = swapped_once().await;
    world.drain(2 * MINUTE).await;
    let probes = world.server.state().probes;
    assert!(probes > 0, "a probe was in order");
    let delay = Duration::from_millis(100);
    world.server.behave(Faults { swaps: true, delay, ..Faults::default() });
    world.backlog(3_000).await;
    world.drain(60 * MINUTE).await;
    assert_eq!((inversions(&world), world.seen().len()), (2, 6_601));
    assert_eq!(world.server.state().probes, probes, "it is not probed again");
}

/// An acknowledgement of each entry would delay the echo of the next one by up to 40 ms.
#[tokio::test(start_paused = true)]
async fn a_backlog_that_is_sent_one_at_a_time_requests_no_acknowledgements() {
    let mut world = one_at_a_time().await;
    sleep(Duration::from_secs(1)).await;
    let before = world.server.state().acks_requested;
    world.backlog(500).await;
    world.drain(MINUTE).await;
    let requested = world.server.state().acks_requested - before;
    assert!((1..=2).contains(&requested), "of a backlog, only the first: {requested}");
    for _ in 0..10 {
        sleep(Duration::from_millis(500)).await;
        world.frames(1).await;
    }
    world.drain(MINUTE).await;
    assert_eq!(world.server.state().acks_requested - before, requested + 10, "of a live source");
}

/// The next link requests an acknowledgement of the entry, which was sent without one.
#[tokio::test(start_paused = true)]
async fn a_refused_entry_of_a_server_that_takes_one_at_a_time_is_set_aside() {
    let mut world = one_at_a_time().await;
    let poison = Faults { refuses: Some("poison"), ..Faults::default() };
    world.server.behave(Faults { down: true, ..poison.clone() });
    world.server.cut();
    world.frames(50).await;
    world.append(Content::Frame(Situation::default()), r#"{"driver":"poison"}"#).await;
    world.frames(50).await;
    sleep(Duration::from_secs(1)).await;
    world.server.behave(poison);
    world.drain(MINUTE).await;
    let ledger = world.queue().server().ledger;
    assert_eq!((ledger.dead_letters, ledger.delivered), (1, 221), "{ledger:?}");
    assert_eq!(world.server.state().requests, 1, "the page stays");
}

/// A server that has swapped two of 121 entries, all of which are delivered.
async fn one_at_a_time() -> World {
    let mut world = World::with(Faults { down: true, ..Faults::default() });
    world.frames(121).await;
    world.server.behave(Faults { swaps: true, ..Faults::default() });
    world.drain(MINUTE).await;
    assert_eq!(inversions(&world), 1);
    world
}

// Sessions.

#[tokio::test(start_paused = true)]
async fn an_unknown_fixed_session_is_named_and_shows_no_page() {
    for proof in [ProofChoice::Auto, ProofChoice::Ack] {
        let folder = tempfile::tempdir().unwrap();
        let choice = SessionChoice::Fixed("mistyped".into());
        let mut world =
            World::open(folder, Server::default(), choice, 1, |delivery| delivery.proof = proof);
        world.setup(1).await;
        world.frames(5).await;
        for _ in 0..100 {
            sleep(Duration::from_millis(700)).await;
            let SessionStatus { page, pages, .. } = world.status();
            assert_eq!((page, pages), (None, Vec::new()), "{proof:?}");
        }
        let status = world.status();
        let error = status.last_error.unwrap();
        assert!(error.contains("does not know the session in server.session_id"), "{error}");
        let user_message = status.user_message.unwrap();
        assert!(user_message.contains("server.session_id"), "{user_message}");
        assert_eq!((status.forgotten_at, world.queue().entries), (None, 6), "{proof:?}");
        assert!(world.server.state().links < 12, "retried slowly: {}", world.server.state().links);
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_fixed_session_shows_its_page_once_it_stores_an_entry() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::default();
    server.create("race");
    let choice = SessionChoice::Fixed("race".into());
    let mut world = World::open(folder, server, choice, 1, |_| {});
    sleep(Duration::from_secs(20)).await;
    assert_eq!((world.status().page, world.status().last_error), (None, None));
    world.frames(5).await;
    world.drain(MINUTE).await;
    assert_eq!(world.status().page.as_deref(), Some("memory/dashboard/race"));
    assert_eq!(world.status().pages.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_session_that_the_server_forgets_is_no_longer_linked() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::default();
    server.create("race");
    let choice = SessionChoice::Fixed("race".into());
    let mut world = World::open(folder, server, choice, 1, |_| {});
    world.frames(5).await;
    world.drain(MINUTE).await;
    world.server.forget();
    world.frames(5).await;
    sleep(Duration::from_secs(20)).await;
    let status = world.status();
    assert_eq!((status.page, status.forgotten_at), (None, None));
    assert!(status.last_error.unwrap().contains("server.session_id"));
    assert_eq!(world.queue().entries, 5);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_still_empty_keeps_its_page_over_a_restart() {
    for has_setup in [false, true] {
        let mut world = World::with(Faults::default());
        sleep(Duration::from_secs(1)).await;
        let page = world.status().page.unwrap();
        for _ in 0..3 {
            world = world.restart().await;
            sleep(Duration::from_secs(20)).await;
            let status = world.status();
            assert_eq!((status.page.as_ref(), status.forgotten_at), (Some(&page), None));
        }
        if has_setup {
            world.setup(1).await;
        }
        world.frames(5).await;
        world.drain(MINUTE).await;
        assert_eq!(world.status().page, Some(page));
        assert_eq!(world.server.state().requests, 1, "has_setup {has_setup}");
        assert_eq!(world.status().failures, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_forgotten_while_the_agent_was_down_is_replaced_by_its_first_entry() {
    for has_setup in [false, true] {
        let mut world = World::with(Faults::default());
        if has_setup {
            world.setup(1).await;
        }
        world.frames(5).await;
        world.drain(MINUTE).await;
        world.server.forget();
        let mut world = world.restart().await;
        world.frames(5).await;
        world.drain(MINUTE).await;
        let (seen, last) = (world.server.seen(), 10 + u64::from(has_setup));
        assert_eq!((seen.len(), world.server.state().requests), (2, 2), "has_setup {has_setup}");
        let newest: Vec<u64> = seqs(&seen[1].1).into_iter().rev().take(5).rev().collect();
        assert_eq!(newest, (last - 4..=last).collect::<Vec<_>>(), "has_setup {has_setup}");
        assert_eq!(seen[1].1[0].0 == Kind::Setup, has_setup);
        assert_eq!(world.status().failures, 0, "{:?}", world.status().last_error);
    }
}

#[tokio::test(start_paused = true)]
async fn with_proof_ack_workers_behind_one_address_do_not_cost_the_page() {
    for workers in 2..=4 {
        let mut world = World::new(|delivery| delivery.proof = ProofChoice::Ack);
        world.server.behave(Faults { workers, ..Faults::default() });
        for _ in 0..240 {
            world.frames(1).await;
            sleep(Duration::from_millis(500)).await;
        }
        world.drain(MINUTE).await;
        assert_eq!(world.seen(), up_to(240), "{workers} workers");
        let state = world.server.state();
        assert_eq!((state.requests, &state.needless_pages[..]), (1, &[][..]), "{workers} workers");
        drop(state);
        assert_eq!(world.status().failures, 0, "{:?}", world.status().last_error);
    }
}

/// A fault in the agent's own code must not end the delivery until the next start.
#[tokio::test(start_paused = true)]
async fn delivery_continues_after_a_panic() {
    let mut world = World::with(Faults::default());
    world.frames(3).await;
    world.drain(MINUTE).await;
    world.server.behave(Faults { panics: true, ..Faults::default() });
    world.frames(3).await;
    sleep(MINUTE).await;
    let shown = world.status().user_message;
    assert!(shown.is_some_and(|text| text.contains("Internal error")), "{:?}", world.status());
    world.server.behave(Faults::default());
    world.drain(MINUTE).await;
    assert_eq!(world.seen(), up_to(6));
    assert_eq!(world.server.state().requests, 1);
}

//! One run of the agent, from its start to a crash, a power cut or the end of the simulation.

use std::time::Duration;

use pitwire::backoff::Backoff;
use pitwire::config::{DeliveryConfig, SERVER, SessionChoice, WhenFull};
use pitwire::entry::{CapturedAt, CarId, Situation};
use pitwire::queue::ledger::DropReason;
use pitwire::queue::{
    self, APPEND_TIMEOUT, Appended, Content, Destinations, Limits, NewEntry, QueueStatus, Writer,
};
use pitwire::session::{AUTH_RETRY_INTERVAL, Session, SessionStatus};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::promises::{Frame, Promises};
use super::world::{LONGEST_HANG, SECOND, Second, World};
use crate::server::POISON;

/// Virtual time limit for draining the queue once all faults are healed.
const DRAIN: Duration = Duration::from_secs(600);
/// The same if the server confirms nothing for poison entries: each is isolated over several
/// connections, for about half a minute.
const DRAIN_WITH_POISON: Duration = Duration::from_secs(3600);
/// How often a car sends a frame meanwhile: a poison entry is only recognized by others that the
/// server takes.
const FRAME_INTERVAL: Duration = Duration::from_secs(20);
/// Limit from an append to its delivery without faults. Shorter than the verification interval, so
/// a delivery that only verification completes is too late.
const PROMPT: Duration = Duration::from_secs(3);

/// One run of the agent.
pub struct Life {
    pub writer: Writer,
    pub status: watch::Receiver<SessionStatus>,
    /// The wait before each attempt, and the number of entries delivered before it.
    retries: mpsc::UnboundedReceiver<(Duration, u64)>,
    /// The number of failures since the last delivery, and the number of entries delivered by then.
    failures: (u32, u64),
    delivery: DeliveryConfig,
    tasks: JoinSet<()>,
}

impl Life {
    pub async fn begin(world: &mut World) -> Self {
        let limits = Limits::new(&world.config.queue, &world.config.stint);
        // While the disk fails, the agent retries opening the queue, as the process does.
        let mut names = vec![SERVER.to_owned()];
        names.extend(world.second.iter().map(|_| SECOND.to_owned()));
        let ((writer, mut readers), worker) = loop {
            let (store, limits) = (world.disk.clone(), limits.clone());
            let destinations = Destinations::Configured(&names);
            match queue::with_store(Box::new(store), limits, destinations, world.clock(), |_| {}) {
                Ok(opened) => break opened,
                Err(_) => sleep(Duration::from_secs(1)).await,
            }
            world.mend_disk();
        };
        let delivery = world.config.delivery.clone();
        let rng = SmallRng::seed_from_u64(world.rng.random());
        let backoff = Backoff::new(delivery.backoff_min, delivery.backoff_max, rng);
        let (sender, status) = watch::channel(SessionStatus::default());
        let mut session = Session::new(
            SessionChoice::Auto,
            delivery.clone(),
            readers.remove(0),
            world.server.clone(),
            backoff,
            sender,
        );
        let mut tasks = JoinSet::new();
        for (reader, second) in readers.into_iter().zip(&world.second) {
            let mut session = Session::new(
                SessionChoice::Auto,
                delivery.clone(),
                reader,
                second.server.clone(),
                Backoff::new(
                    delivery.backoff_min,
                    delivery.backoff_max,
                    SmallRng::seed_from_u64(1),
                ),
                watch::channel(SessionStatus::default()).0,
            );
            tasks.spawn(async move { drop(session.run().await) });
        }
        tasks.spawn(world.disk.clone().hold_up(worker));
        tasks.spawn(async move { drop(session.run().await) });
        let (note, retries) = mpsc::unbounded_channel();
        tasks.spawn(note_retries(status.clone(), writer.clone(), note));
        world.each_promise().for_each(Promises::life_begins);
        Self { writer, status, retries, failures: (0, 0), delivery, tasks }
    }

    /// Appends entries for a while and injects faults.
    pub async fn go_through(&mut self, world: &mut World) {
        let rounds = world.rng.random_range(5..60);
        let outage = if world.swarm.narrow { world.rng.random_range(0..rounds) } else { 0 };
        if outage > 0 {
            world.begin_outage();
        }
        for round in 0..rounds {
            if round == outage && outage > 0 {
                world.heal();
            }
            if round >= outage && world.rng.random_bool(0.3) {
                world.misfortune().await;
            }
            world.second_misfortune();
            for _ in 0..world.rng.random_range(0..20) {
                self.append(world).await;
                sleep(Duration::from_millis(world.rng.random_range(0..700))).await;
                self.check(world);
            }
            let pause = match world.rng.random_range(0..40) {
                0 if world.swarm.stints => Duration::from_secs(2000),
                1 => Duration::from_secs(120),
                _ => Duration::from_secs(world.rng.random_range(0..8)),
            };
            sleep(pause).await;
            self.check(world);
        }
    }

    async fn append(&self, world: &mut World) -> Appended {
        let is_setup = world.swarm.setups && world.rng.random_bool(0.05);
        let may_be_poison = !is_setup || world.swarm.poison_kind.is_some();
        let is_poison = world.swarm.poison && may_be_poison && world.rng.random_bool(0.01);
        let car = if world.swarm.streams { world.rng.random_range(0..3) } else { 0 };
        if world.rng.random_bool(0.05) {
            world.laps[car] += 1;
        }
        let lap = world.laps[car];
        let stream = ["", "second", "third"].map(CarId::from)[car].clone();
        let situation = Situation { lap: Some(lap), ..Situation::default() };
        let content = match is_setup {
            true if is_poison => Content::Setup { fingerprint: 3 },
            true => Content::Setup { fingerprint: world.rng.random_range(0..3) },
            false => Content::Frame(situation),
        };
        let json = if is_poison { format!(r#"{{"x":"{POISON}"}}"#) } else { "{}".into() };
        let (mut at, mut captured_at) = (CapturedAt(0), CapturedAt(0));
        let started = Instant::now();
        let append = self.writer.append_from(&stream, |stamps| {
            let read = world.read();
            let stamp = stamps.stamp_at(read);
            // New timestamps follow the wall clock, whatever it showed before.
            assert!((stamp.wall.0 - read.wall.0).abs() < 2000, "{stamp:?} at {read:?}");
            at = CapturedAt(stamp.queued_at.0);
            captured_at = world.source_clocks.captured_at(car, at);
            vec![NewEntry { captured_at, ..NewEntry::new(stamp, content, json) }]
        });
        let appended = timeout(APPEND_TIMEOUT * 2, append).await.expect("an answer in time");
        let waited = started.elapsed();
        assert!(waited <= APPEND_TIMEOUT + Duration::from_millis(2), "the car waits: {waited:?}");
        let lap = (!is_setup).then_some(lap);
        let frame = Frame { at, captured_at, car, lap, may_be_refused: is_poison };
        let drops_newest = world.config.queue.when_full == WhenFull::DropNewest;
        let [appended] = appended.unwrap()[..] else { panic!("not one answer for one entry") };
        match appended {
            Appended::Stored(seq) => world.each_promise().for_each(|all| all.stored(seq, frame)),
            Appended::Buffered => world.each_promise().for_each(|all| all.buffered(frame)),
            Appended::Unchanged if is_setup => {}
            Appended::Dropped(DropReason::QueueFull) if drops_newest => {}
            outcome => panic!("{outcome:?}"),
        }
        if matches!(appended, Appended::Stored(_)) {
            let stints = self.writer.status().stints;
            let stint = stints.iter().find(|(known, _)| *known == stream).map(|(_, stint)| *stint);
            world.drove(car, stint.expect("the stint of a stored entry"));
        }
        appended
    }

    /// Checks the invariants that must hold at any time.
    pub fn check(&mut self, world: &mut World) {
        let queue = self.writer.status();
        world.promises.look(&world.server, &queue);
        if let Some(Second { promises, server, .. }) = &mut world.second {
            promises.look(server, &queue);
        }
        while let Ok((delay, delivered)) = self.retries.try_recv() {
            let (failures, before) = &mut self.failures;
            let DeliveryConfig { backoff_min: min, backoff_max: max, .. } = self.delivery;
            let ceiling = |failures: u32| (min * 2).saturating_mul(1 << failures.min(20)).min(max);
            // A hanging disk delays the ledger: the previous failure may have been the first one
            // after a delivery.
            if delivered > std::mem::replace(before, delivered) {
                *failures = if delay <= ceiling(0) { 0 } else { (*failures).min(1) };
            }
            let nth = *failures;
            let ceiling = ceiling(nth);
            // Servers that store nothing of several new sessions in a row are retried slowly.
            let is_slow = delay == AUTH_RETRY_INTERVAL;
            assert!(
                is_slow || (min..=ceiling).contains(&delay),
                "wait after failure {nth}: {delay:?}"
            );
            *failures += 1;
        }
    }

    /// Ends the run with a crash or a power cut.
    pub async fn end(mut self, world: &mut World) {
        self.check(world);
        self.tasks.shutdown().await;
        world.disk.fail(0);
        if world.swarm.power_cuts && world.rng.random_bool(0.5) {
            let survivors = world.rng.random_range(0..10);
            world.disk.cut_power(survivors);
            world.reboot();
        }
        world.each_promise().for_each(Promises::life_ends);
        world.server.cut();
        world.second.iter().for_each(|second| second.server.cut());
        sleep(Duration::from_secs(world.rng.random_range(0..60))).await;
    }

    /// Waits until the queue is empty; all faults must be healed.
    pub async fn drain(&mut self, world: &mut World) {
        let has_poison = world.swarm.poison && world.swarm.poison_kind.is_some();
        let limit = if has_poison { DRAIN_WITH_POISON } else { DRAIN };
        let mut next_frame = Instant::now() + FRAME_INTERVAL;
        let drained = timeout(limit, async {
            // The storage error persists until the queue retries the healed disk.
            let waits = |status: QueueStatus| {
                status.entries + status.buffered > 0 || status.storage_error.is_some()
            };
            while waits(self.writer.status()) {
                sleep(Duration::from_millis(100)).await;
                if has_poison && Instant::now() >= next_frame {
                    world.swarm.poison = false;
                    self.append(world).await;
                    next_frame = Instant::now() + FRAME_INTERVAL;
                }
            }
        });
        if drained.await.is_err() {
            let (queue, session) = (self.writer.status(), self.status.borrow().clone());
            panic!("not drained: {queue:?} {session:?} {:?}", world.swarm);
        }
        self.check(world);
    }

    /// Checks that one more frame is stored at once, and delivered promptly if the server echoes.
    pub async fn is_prompt(&mut self, world: &mut World) {
        sleep(LONGEST_HANG).await;
        (world.swarm.poison, world.swarm.setups) = (false, false);
        let appended = self.append(world).await;
        assert!(matches!(appended, Appended::Stored(_)), "{appended:?}");
        if world.server.state().faults.no_echo {
            return self.drain(world).await;
        }
        let delivered = timeout(PROMPT, async {
            while self.writer.status().server().queued > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        });
        let is_prompt = delivered.await.is_ok();
        assert!(is_prompt, "{:?} {:?}", self.writer.status(), self.status.borrow());
        // A second server that was unreachable gets its entries only at the next attempt.
        self.drain(world).await;
    }
}

async fn note_retries(
    mut status: watch::Receiver<SessionStatus>,
    writer: Writer,
    note: mpsc::UnboundedSender<(Duration, u64)>,
) {
    while status.changed().await.is_ok() {
        let retry_in = status.borrow_and_update().retry_in;
        if let Some(delay) = retry_in {
            let _ = note.send((delay, writer.status().server().ledger.delivered));
        }
    }
}

//! The whole agent but its sources' sockets, between a disk and a server that fail on purpose, in
//! virtual time. Everything that happens follows from one number, the seed.
//!
//! Each fault is on or off by the seed. Several lives end in a crash or a power cut; in the last
//! one all faults are healed, and the queue must drain within ten virtual minutes.
//! `SIM_SEED=7 cargo test --test it simulation` repeats seed 7; `SIM_SEEDS=10000` runs so many.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pitwire::backoff::Backoff;
use pitwire::config::{Config, Durability, SessionChoice};
use pitwire::entry::{CapturedAt, Kind, Seq, Situation};
use pitwire::queue::{self, Appended, Content, Limits, NewEntry, QueueStatus, Writer};
use pitwire::session::{Session, SessionStatus};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::disk::Disk;
use crate::server::{Faults, Server};

/// Virtual time within which a healed world must have drained.
const DRAIN: Duration = Duration::from_secs(600);
/// Frames in 100 whose JSON says so are refused by a server that refuses.
const POISON: &str = "poison";

#[test]
fn whatever_fails_nothing_is_lost_or_reordered_and_it_heals() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SIM_SEED") {
        Some(seed) => {
            let _ = tracing_subscriber::fmt().with_env_filter("pitwire=debug").try_init();
            seed..seed + 1
        }
        None => 0..number("SIM_SEEDS").unwrap_or(60),
    };
    let (started, count) = (std::time::Instant::now(), seeds.end - seeds.start);
    let mut virtual_time = Duration::ZERO;
    for seed in seeds {
        println!("SIM_SEED={seed} cargo test --test it simulation");
        virtual_time += simulate(seed).time;
    }
    let hours = virtual_time.as_secs_f64() / 3600.0;
    println!("{count} seeds, {hours:.1} virtual hours in {:.1?}", started.elapsed());
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..20 {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}

/// What happened, to be compared.
#[derive(Debug, PartialEq)]
struct Story {
    time: Duration,
    seen: Vec<(String, crate::server::History)>,
    delivered: u64,
}

fn simulate(seed: u64) -> Story {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed);
        let lives = world.rng.random_range(1..=4);
        for _ in 0..lives {
            let life = Life::begin(&world).await;
            life.go_through(&mut world).await;
            life.end(&mut world).await;
        }
        let life = Life::begin(&world).await;
        life.go_through(&mut world).await;
        world.heal();
        life.drain(&world).await;
        world.check(&life)
    })
}

/// Which faults this seed has.
#[derive(Debug)]
struct Swarm {
    cuts: bool,
    outages: bool,
    forgets: bool,
    silences: bool,
    deaf: bool,
    slow: bool,
    disk_fails: bool,
    flush_fails: bool,
    power_cuts: bool,
    clock_jumps: bool,
    poison: bool,
    setups: bool,
    stints: bool,
}

/// What outlives the lives of the agent.
struct World {
    rng: SmallRng,
    swarm: Swarm,
    /// What the server does all the time.
    nature: Faults,
    server: Server,
    disk: Disk,
    config: Config,
    start: Instant,
    clock_offset_ms: i64,
    /// Everything that was reported stored: position, moment, whether the server may refuse it.
    stored: Vec<(Seq, CapturedAt, bool)>,
    /// Frames that were taken into memory in this life, as the disk failed.
    buffered: Vec<(CapturedAt, bool)>,
    forgets: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut coin = || rng.random_bool(0.5);
        let swarm = Swarm {
            cuts: coin(),
            outages: coin(),
            forgets: coin(),
            silences: coin(),
            deaf: coin(),
            slow: coin(),
            disk_fails: coin(),
            flush_fails: coin(),
            power_cuts: coin(),
            clock_jumps: coin(),
            poison: coin(),
            setups: coin(),
            stints: coin(),
        };
        // What loses nothing by its nature: proof by echo, or by asking for what is stored.
        let nature = Faults {
            no_echo: coin(),
            objects: coin(),
            refuses: swarm.poison.then_some(POISON),
            delay: if swarm.slow { Duration::from_millis(40) } else { Duration::ZERO },
            ..Faults::default()
        };
        // A server that refuses without a word and shows nothing back cannot be found out.
        let nature = Faults { objects: nature.objects || nature.no_echo, ..nature };
        let mut config = Config::default();
        config.queue.durability = match coin() {
            true if !swarm.power_cuts => Durability::Within(Duration::from_millis(200)),
            _ => Durability::Entry,
        };
        let server = Server::default();
        server.behave(nature.clone());
        Self {
            rng,
            swarm,
            nature,
            server,
            disk: Disk::default(),
            config,
            start: Instant::now(),
            clock_offset_ms: 0,
            stored: Vec::new(),
            buffered: Vec::new(),
            forgets: 0,
        }
    }

    fn now(&self) -> CapturedAt {
        let elapsed = self.start.elapsed().as_millis() as i64;
        CapturedAt(1_763_821_822_000 + elapsed + self.clock_offset_ms)
    }

    /// One thing goes wrong, or right again.
    fn misfortune(&mut self) {
        let Self { rng, swarm, server, disk, nature, .. } = self;
        match rng.random_range(0..10) {
            0 if swarm.cuts => server.cut(),
            1 if swarm.outages => server.behave(Faults { down: true, ..nature.clone() }),
            2 if swarm.silences => server.behave(Faults { silent: true, ..nature.clone() }),
            3 if swarm.forgets => {
                server.forget();
                self.forgets += 1;
            }
            4 if swarm.disk_fails => disk.fail(rng.random_range(1..20)),
            5 if swarm.flush_fails => disk.fail_flushes(true),
            6 if swarm.clock_jumps => {
                self.clock_offset_ms += rng.random_range(-3_600_000..3_600_000_i64);
            }
            // One that forgets meanwhile cannot be found out.
            7 if swarm.deaf && !swarm.forgets => {
                server.behave(Faults { no_join: true, ..nature.clone() });
            }
            _ => self.heal(),
        }
    }

    fn heal(&mut self) {
        self.server.behave(self.nature.clone());
        self.disk.fail(0);
        self.disk.fail_flushes(false);
    }

    /// The promises, at the end of the story.
    fn check(&self, life: &Life) -> Story {
        let status = life.writer.status();
        let seen = self.server.seen();
        let mut names: BTreeMap<Seq, CapturedAt> = BTreeMap::new();
        let everything = seen.iter().flat_map(|(_, history)| history);
        let kept: BTreeSet<CapturedAt> = everything.clone().map(|(_, _, at)| *at).collect();
        let named = everything.map(|(_, seq, at)| (*seq, *at));
        for (seq, at) in named.chain(self.stored.iter().map(|(seq, at, _)| (*seq, *at))) {
            let before = *names.entry(seq).or_insert(at);
            assert_eq!(before, at, "position {seq} names two entries");
        }
        for (seq, at, may_be_refused) in &self.stored {
            assert!(
                *may_be_refused || kept.contains(at),
                "{seq} was stored and is lost: {:?} {:?}",
                self.swarm,
                self.nature
            );
        }
        for (at, may_be_refused) in &self.buffered {
            assert!(*may_be_refused || kept.contains(at), "{at} was in memory and is lost");
        }
        for (session, history) in &seen {
            let mut first = BTreeSet::new();
            // A setup is sent once more at the start of a page; frames never go back.
            let frames = history.iter().filter(|(kind, ..)| *kind == Kind::Frame);
            let order: Vec<_> =
                frames.map(|(_, _, at)| *at).filter(|at| first.insert(*at)).collect();
            assert!(order.is_sorted(), "{session} goes back: {order:?}");
        }
        Story { time: self.start.elapsed(), seen, delivered: status.ledger.delivered }
    }
}

/// One run of the agent.
struct Life {
    writer: Writer,
    status: watch::Receiver<SessionStatus>,
    tasks: JoinSet<()>,
}

impl Life {
    async fn begin(world: &World) -> Self {
        let limits = Limits::new(&world.config.queue, &world.config.stint);
        // A disk that fails lets the agent wait for it, as the process does.
        let ((writer, reader), keeper) = loop {
            match queue::with_store(world.disk.clone(), limits.clone(), world.now()) {
                Ok(opened) => break opened,
                Err(_) => sleep(Duration::from_secs(1)).await,
            }
            world.disk.fail(0);
            world.disk.fail_flushes(false);
        };
        let delivery = world.config.delivery.clone();
        let rng = SmallRng::seed_from_u64(world.stored.len() as u64);
        let backoff = Backoff::new(delivery.backoff_min, delivery.backoff_max, rng);
        let (sender, status) = watch::channel(SessionStatus::default());
        let mut session = Session::new(
            SessionChoice::Auto,
            delivery,
            reader,
            world.server.clone(),
            backoff,
            sender,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper);
        tasks.spawn(async move { drop(session.run().await) });
        Self { writer, status, tasks }
    }

    /// Drives for a while, with misfortunes on the way.
    async fn go_through(&self, world: &mut World) {
        for _ in 0..world.rng.random_range(5..60) {
            if world.rng.random_bool(0.3) {
                world.misfortune();
            }
            for _ in 0..world.rng.random_range(0..20) {
                self.append(world).await;
                sleep(Duration::from_millis(world.rng.random_range(0..700))).await;
            }
            let pause = match world.rng.random_range(0..40) {
                0 if world.swarm.stints => Duration::from_secs(2000),
                1 => Duration::from_secs(120),
                _ => Duration::from_secs(world.rng.random_range(0..8)),
            };
            sleep(pause).await;
            assert_eq!(self.writer.status().imbalance, 0);
        }
    }

    async fn append(&self, world: &mut World) {
        let is_setup = world.swarm.setups && world.rng.random_bool(0.05);
        let is_poison = world.swarm.poison && !is_setup && world.rng.random_bool(0.01);
        let content = match is_setup {
            true => Content::Setup { fingerprint: world.rng.random_range(0..3) },
            false => Content::Frame(Situation::default()),
        };
        let json = if is_poison { format!(r#"{{"x":"{POISON}"}}"#) } else { "{}".into() };
        let now = world.now();
        let mut stamped = now;
        let append = self.writer.append(|stamps| {
            stamped = stamps.next(now);
            vec![NewEntry { captured_at: stamped, content, json }]
        });
        let appended = timeout(Duration::from_secs(60), append).await.expect("an answer in time");
        match appended.unwrap()[..] {
            [Appended::Stored(seq)] => world.stored.push((seq, stamped, is_poison)),
            [Appended::Buffered] if is_setup => {}
            [Appended::Buffered] => world.buffered.push((stamped, is_poison)),
            [Appended::Unchanged] => {}
            ref outcome => panic!("{outcome:?}"),
        }
    }

    /// A crash, or the power goes.
    async fn end(mut self, world: &mut World) {
        self.tasks.shutdown().await;
        world.buffered.clear();
        world.disk.fail(0);
        if world.swarm.power_cuts && world.rng.random_bool(0.5) {
            let survivors = world.rng.random_range(0..10);
            world.disk.cut_power(survivors);
        }
        world.server.cut();
        sleep(Duration::from_secs(world.rng.random_range(0..60))).await;
    }

    async fn drain(&self, world: &World) {
        let drained = timeout(DRAIN, async {
            let waits = |status: QueueStatus| status.entries + status.buffered > 0;
            while waits(self.writer.status()) {
                sleep(Duration::from_millis(100)).await;
            }
        });
        if drained.await.is_err() {
            let (queue, session) = (self.writer.status(), self.status.borrow().clone());
            panic!("not drained: {queue:?} {session:?} {:?} {:?}", world.swarm, world.nature);
        }
    }
}

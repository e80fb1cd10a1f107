//! The disk, the server and the clock, which outlive the agent, and their faults.

use std::collections::BTreeSet;
use std::time::Duration;

use pitwire::config::{Config, Durability, WhenFull};
use pitwire::entry::{CapturedAt, StintId};
use pitwire::platform::clock::{Clock, Reading};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, advance};

use super::promises::Promises;
use crate::disk::Disk;
use crate::server::{Faults, POISON, Poison, Server};

/// The wall clock at the start, in ms since 1970.
const NOON: i64 = 1_796_040_000_000;

/// The length of a suspend overnight.
const NIGHT: Duration = Duration::from_hours(8);

/// The longest time that the disk hangs.
pub const LONGEST_HANG: Duration = Duration::from_secs(5);

/// The faults that are enabled by the seed.
#[derive(Clone, Debug)]
pub struct Swarm {
    pub cuts: bool,
    pub outages: bool,
    pub restarts: bool,
    pub forgets: bool,
    pub silences: bool,
    pub deaf: bool,
    pub lies: bool,
    pub drops: bool,
    pub swaps: bool,
    pub slow: bool,
    pub disk_fails: bool,
    pub read_fails: bool,
    pub flush_fails: bool,
    pub disk_fills: bool,
    pub disk_hangs: bool,
    pub power_cuts: bool,
    pub clock_jumps: bool,
    pub nights: bool,
    pub poison: bool,
    /// The reaction of the server to poison instead of refusing it.
    pub poison_kind: Option<Poison>,
    pub setups: bool,
    pub stints: bool,
    /// Three cars drive at the same time.
    pub streams: bool,
    /// The queue is small.
    pub narrow: bool,
    /// Another publisher sends to our pages.
    pub shares_pages: bool,
}

/// The environment of the agent.
pub struct World {
    pub rng: SmallRng,
    pub swarm: Swarm,
    /// The server's permanent faults.
    nature: Faults,
    pub server: Server,
    pub disk: Disk,
    pub config: Config,
    pub start: Instant,
    /// The sum of all steps of the wall clock.
    clock_offset_ms: i64,
    /// How long the machine was suspended while the timers' clock stood still.
    suspended_ms: i64,
    boots: u32,
    /// The boot, true time and stint of the last stored entry of each car.
    drove: [Option<(u32, i64, StintId)>; 3],
    /// The true time of the last boot.
    booted_ms: i64,
    /// The clocks of the programs that read the cars' telemetry.
    pub source_clocks: SourceClocks,
    /// The current lap of each car.
    pub laps: [i64; 3],
    pub promises: Promises,
    /// A second destination with independent faults, in half of the seeds.
    pub second: Option<Second>,
}

/// The second destination.
pub struct Second {
    rng: SmallRng,
    pub server: Server,
    pub promises: Promises,
}

/// The name of the second destination.
pub const SECOND: &str = "second";

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut coin = || rng.random_bool(0.5);
        let swarm = Swarm {
            cuts: coin(),
            outages: coin(),
            restarts: coin(),
            forgets: coin(),
            silences: coin(),
            deaf: coin(),
            lies: coin(),
            drops: coin(),
            swaps: coin(),
            slow: coin(),
            disk_fails: coin(),
            read_fails: coin(),
            flush_fails: coin(),
            disk_fills: coin(),
            disk_hangs: coin(),
            power_cuts: coin(),
            clock_jumps: coin(),
            nights: coin(),
            poison: coin(),
            // Does not draw from `rng`, so that existing seeds keep their behavior.
            poison_kind: match seed % 7 {
                2 => Some(Poison::Raises),
                4 => Some(Poison::Disconnects),
                6 => Some(Poison::Stalls),
                _ => None,
            },
            setups: coin(),
            stints: coin(),
            streams: coin(),
            narrow: coin(),
            // Does not draw from `rng`, so that existing seeds keep their behavior.
            shares_pages: seed % 3 == 2,
        };
        // Silent refusals cannot be detected without echoes, so such a server reports them.
        let no_echo = coin();
        let ms = |slow: bool, ms| Duration::from_millis(if slow { ms } else { 0 });
        // Without echoes, another publisher's frames hide discarded entries.
        let swarm = Swarm { shares_pages: swarm.shares_pages && !no_echo, ..swarm };
        let nature = Faults {
            no_echo,
            objects: coin() || no_echo,
            refuses: (swarm.poison && swarm.poison_kind.is_none()).then_some(POISON),
            poison: swarm.poison_kind.filter(|_| swarm.poison),
            // Without echoes, the order on the server cannot be observed.
            swaps: swarm.swaps && !no_echo,
            duplicates: if coin() { 5 } else { 0 },
            delay: ms(swarm.slow, 40),
            jitter: ms(swarm.slow, 100),
            ..Faults::default()
        };
        let mut config = Config::default();
        config.queue.durability = match coin() {
            true if !swarm.power_cuts => Durability::Within(Duration::from_millis(200)),
            _ => Durability::Entry,
        };
        if swarm.narrow {
            narrow(&mut rng, &mut config);
        }
        let server = Server::default();
        server.seed(seed);
        server.behave(nature.clone());
        let disk = Disk::default();
        // Uses a separate random generator, so that existing seeds keep their behavior.
        let second = (seed % 2 == 1).then(|| {
            let server = Server::named(SECOND);
            server.seed(!seed);
            server.behave(nature.clone());
            let promises = Promises::of(1, &swarm, &config, &disk);
            Second { rng: SmallRng::seed_from_u64(!seed), server, promises }
        });
        Self {
            second,
            promises: Promises::new(&swarm, &config, &disk),
            rng,
            swarm,
            nature,
            server,
            disk,
            config,
            start: Instant::now(),
            clock_offset_ms: 0,
            suspended_ms: 0,
            boots: 0,
            booted_ms: 0,
            drove: [None; 3],
            source_clocks: SourceClocks::new(seed),
            laps: [1; 3],
        }
    }

    /// The number of runs of the agent before the last one.
    pub fn lives(&mut self) -> u32 {
        self.rng.random_range(1..=4)
    }

    /// The readings of the machine's clocks.
    pub fn read(&self) -> Reading {
        let elapsed = self.elapsed_ms();
        let wall = CapturedAt(NOON + elapsed + self.clock_offset_ms);
        Reading { wall, uptime_ms: elapsed - self.booted_ms }
    }

    /// The true time since the start of the simulation.
    fn elapsed_ms(&self) -> i64 {
        self.start.elapsed().as_millis() as i64 + self.suspended_ms
    }

    /// Records the stint of a stored entry. Within a boot, a car's stint lasts until it really pauses,
    /// whatever the wall clock shows.
    pub fn drove(&mut self, car: usize, stint: StintId) {
        let now = (self.boots, self.elapsed_ms(), stint);
        let before = self.drove[car].replace(now);
        let Some((boots, at, known)) = before else { return };
        let pause = Duration::from_millis((now.1 - at) as u64);
        if boots == now.0 && pause <= self.config.stint.resume_after {
            assert_eq!(stint, known, "car {car} begins a stint after {pause:?}");
        }
    }

    pub fn reboot(&mut self) {
        self.boots += 1;
        self.booted_ms = self.elapsed_ms();
    }

    /// The clocks at a start of the agent, in the current boot of the machine.
    pub fn clock(&self) -> Clock {
        let read = self.read();
        Clock::new(&self.boots.to_string(), move || read)
    }

    /// Starts an outage of the server, long enough to fill a small queue.
    pub fn begin_outage(&self) {
        self.server.behave(Faults { down: true, ..self.nature.clone() });
    }

    /// Injects a random fault, or heals all of them.
    pub async fn misfortune(&mut self) {
        let Self { rng, swarm, server, disk, nature, .. } = self;
        if swarm.shares_pages {
            server.store_a_foreign_frame();
        }
        let faulty = |faults: Faults| server.behave(faults);
        match rng.random_range(0..16) {
            0 if swarm.cuts => server.cut(),
            1 if swarm.outages => faulty(Faults { down: true, ..nature.clone() }),
            2 if swarm.restarts => {
                server.forget();
                server.cut();
                faulty(Faults { down: true, ..nature.clone() });
            }
            3 if swarm.forgets => server.forget(),
            4 if swarm.silences => faulty(Faults { silent: true, ..nature.clone() }),
            5 if swarm.lies => faulty(Faults { keeps_nothing: true, ..nature.clone() }),
            // Entries dropped within a batch are detected by later echoes, so this needs echoes.
            6 if swarm.drops && !nature.no_echo => {
                faulty(Faults { drops: 20, ..nature.clone() });
            }
            // A deaf server that also forgets its sessions cannot be detected.
            7 if swarm.deaf && !swarm.forgets && !swarm.restarts && !swarm.lies => {
                faulty(Faults { no_join: true, ..nature.clone() });
            }
            8 if swarm.disk_fails => disk.fail(rng.random_range(1..20)),
            9 if swarm.flush_fails => disk.fail_flushes(true),
            10 if swarm.read_fails => disk.fail_reads(true),
            11 if swarm.disk_fills => disk.fill(true),
            12 if swarm.disk_hangs => {
                let hang = rng.random_range(Duration::ZERO..LONGEST_HANG);
                disk.hang_until(Instant::now() + hang);
            }
            13 if swarm.clock_jumps => {
                self.clock_offset_ms += clock_step(rng);
            }
            14 if swarm.nights => self.sleep_a_night().await,
            _ => self.heal(),
        }
    }

    /// Injects a random fault into the second server, or heals it.
    pub fn second_misfortune(&mut self) {
        let Self { second: Some(Second { rng, server, .. }), swarm, nature, .. } = self else {
            return;
        };
        match rng.random_range(0..10) {
            0 | 1 => server.behave(Faults { down: true, ..nature.clone() }),
            2 if swarm.cuts => server.cut(),
            3 if swarm.forgets => server.forget(),
            4 if swarm.restarts => {
                server.forget();
                server.cut();
            }
            5 if swarm.silences => server.behave(Faults { silent: true, ..nature.clone() }),
            6..=8 => server.behave(nature.clone()),
            _ => {}
        }
    }

    /// The promises of each destination.
    pub fn each_promise(&mut self) -> impl Iterator<Item = &mut Promises> {
        let second = self.second.iter_mut().map(|second| &mut second.promises);
        [&mut self.promises].into_iter().chain(second)
    }

    /// Suspends the machine until the next morning. Whether the timers' clock advances meanwhile
    /// depends on the system.
    async fn sleep_a_night(&mut self) {
        if self.rng.random_bool(0.5) {
            self.server.cut();
        }
        match self.rng.random_bool(0.5) {
            true => advance(NIGHT).await,
            false => self.suspended_ms += NIGHT.as_millis() as i64,
        }
    }

    pub fn heal(&mut self) {
        // Entries discarded by a lying server are detected when a new link queries it.
        if self.server.state().faults.keeps_nothing {
            self.server.cut();
        }
        self.server.behave(self.nature.clone());
        if let Some(second) = &self.second {
            second.server.behave(self.nature.clone());
        }
        self.mend_disk();
    }

    pub fn mend_disk(&self) {
        self.disk.fail(0);
        self.disk.fail_flushes(false);
        self.disk.fail_reads(false);
        self.disk.fill(false);
    }
}

/// The clocks of the cars' sources, each of which may run on another computer. In a third of the
/// seeds they are wrong, and are set now and then.
pub struct SourceClocks {
    /// A separate generator, so that existing seeds keep their behavior.
    rng: SmallRng,
    are_set: bool,
    /// How far each one is ahead of queue time.
    ahead_ms: [i64; 3],
    given: BTreeSet<CapturedAt>,
}

impl SourceClocks {
    fn new(seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed.rotate_left(32)),
            are_set: seed % 3 == 1,
            ahead_ms: [0; 3],
            given: BTreeSet::new(),
        }
    }

    /// The capture time of an entry of this car that is queued at `at`; a different one for each
    /// entry, by which the viewers tell them apart.
    pub fn captured_at(&mut self, car: usize, at: CapturedAt) -> CapturedAt {
        if self.are_set && self.rng.random_bool(0.05) {
            self.ahead_ms[car] = clock_step(&mut self.rng);
        }
        let mut captured_at = CapturedAt(at.0 + self.ahead_ms[car]);
        while !self.given.insert(captured_at) {
            captured_at.0 += 1;
        }
        captured_at
    }
}

/// A step of a clock by seconds, hours or years, in ms.
fn clock_step(rng: &mut SmallRng) -> i64 {
    let step = rng.random_range(-21_600_000..21_600_000_i64);
    [step / 1000, step, step * 5000][step.unsigned_abs() as usize % 3]
}

/// Limits the queue by entries, bytes or age.
fn narrow(rng: &mut SmallRng, config: &mut Config) {
    let queue = &mut config.queue;
    queue.when_full = match rng.random_range(0..6) {
        0 => WhenFull::DropOldest,
        1 => WhenFull::DropNewest,
        2 => WhenFull::Block,
        _ => WhenFull::Thin,
    };
    match rng.random_range(0..4) {
        0 => queue.max_bytes = rng.random_range(2_000..5_000),
        1 => queue.max_age = Duration::from_secs(rng.random_range(60..1800)),
        _ => queue.max_entries = rng.random_range(110..250),
    }
}

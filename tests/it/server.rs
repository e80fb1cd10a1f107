//! An in-memory server that implements `Sink`. It can delay, refuse, forget its sessions, stop
//! answering, and acknowledge entries that it discards. It uses tokio's clock, so a test can pause
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pitwire::entry::{CapturedAt, Entry, Kind, Seq, StintId};
use pitwire::session::PROBE_STINT;
use pitwire::sink::{
    Ack, Addressed, EntryId, JoinWait, Joined, Link, Proof, Receipt, Shown, Sink, SinkError,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::sleep;

/// The server's faults; by default it follows the dashboard contract.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Refuses connections.
    pub down: bool,
    /// Accepts all data and never answers a publish.
    pub silent: bool,
    pub no_echo: bool,
    pub never_acks: bool,
    /// Has no `join_session`.
    pub no_join: bool,
    /// Acknowledges but discards frames whose JSON contains this text.
    pub refuses: Option<&'static str>,
    /// Reports refused frames as an error in the acknowledgement.
    pub objects: bool,
    /// The behaviour at entries whose JSON contains [`POISON`].
    pub poison: Option<Poison>,
    /// Swaps two adjacent entries of a batch.
    pub swaps: bool,
    /// The agent's own code panics while it publishes.
    pub panics: bool,
    /// Stops reading after this number of entries of a batch.
    pub stalls_after: Option<usize>,
    /// Acknowledges all entries and stores none.
    pub keeps_nothing: bool,
    /// Percentage of entries that are acknowledged but discarded.
    pub drops: u32,
    /// Percentage of entries that are stored twice.
    pub duplicates: u32,
    /// Number of processes behind the address, each with its own sessions; connections go to each in
    /// turn. 0 means one.
    pub workers: u32,
    pub delay: Duration,
    /// Maximum random delay in addition to `delay`.
    pub jitter: Duration,
}

/// Maximum number of entries that the agent sends ahead of an unconfirmed one.
const MAX_PROBE_DISTANCE: u64 = 512;

/// The text in the JSON of an entry that the server's handler cannot process.
pub const POISON: &str = "poison";

/// The reaction of a server's handler to an entry that it cannot process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// It raises: the entry is neither stored nor acknowledged.
    Raises,
    /// It ends the connection, as most servers do at a message above their size limit.
    Disconnects,
    /// It reads nothing more from the connection, as Werkzeug does at a message above its limit.
    Stalls,
}

impl Poison {
    pub const ALL: [Self; 3] = [Self::Raises, Self::Disconnects, Self::Stalls];
}

/// The entries of a session, in the order in which they were stored.
pub type History = Vec<(Kind, Seq, CapturedAt)>;

#[derive(Debug, Default)]
pub struct State {
    pub faults: Faults,
    /// The currently stored entries.
    pub sessions: BTreeMap<String, History>,
    /// Everything that viewers ever saw, by session, including forgotten sessions.
    pub seen: BTreeMap<String, History>,
    /// How often an entry arrived alone and was not echoed.
    unanswered: BTreeMap<Seq, u32>,
    /// Entries that were acknowledged and then discarded.
    pub dropped: BTreeSet<CapturedAt>,
    /// The page of each stint; `needless_pages` lists the changes that the server did not cause.
    pages: BTreeMap<StintId, String>,
    pub needless_pages: Vec<String>,
    pub requests: u32,
    /// Number of probe frames that were received.
    pub probes: u32,
    /// Number of publications that waited for echoes and requested an acknowledgement too.
    pub acks_requested: u32,
    /// The process that each session was requested from.
    homes: BTreeMap<String, u32>,
    pub links: u32,
    /// Counts the times that all links were cut.
    cuts: u32,
    next_id: u32,
    /// Number of frames of another publisher so far.
    foreign_frames: u64,
    dice: Dice,
    /// Notified when links were cut or the faults changed.
    changed: Arc<Notify>,
}

/// The source of the server's random decisions.
#[derive(Debug)]
struct Dice(SmallRng);

impl Default for Dice {
    fn default() -> Self {
        Self(SmallRng::seed_from_u64(0))
    }
}

impl Dice {
    fn says(&mut self, percent: u32) -> bool {
        percent > 0 && self.0.random_range(0..100) < percent
    }
}

/// The server; its links share the state.
#[derive(Clone, Debug, Default)]
pub struct Server {
    name: &'static str,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// A server with this name, which is the key for remembered sessions.
    pub fn named(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn behave(&self, faults: Faults) {
        let mut state = self.state();
        state.faults = faults;
        state.changed.notify_waiters();
    }

    /// Cuts every link.
    pub fn cut(&self) {
        let mut state = self.state();
        state.cuts += 1;
        state.changed.notify_waiters();
    }

    /// Forgets every session, as a restart does, without cutting links.
    pub fn forget(&self) {
        self.state().sessions.clear();
    }

    /// Creates an empty session with this id, as another program does.
    pub fn create(&self, session: &str) {
        self.state().sessions.insert(session.into(), Vec::new());
    }

    /// Stores a frame of another publisher on every page. It becomes the newest frame there.
    pub fn store_a_foreign_frame(&self) {
        let mut state = self.state();
        state.foreign_frames += 1;
        let seq = Seq(u64::MAX - state.foreign_frames);
        let pages = state.sessions.values_mut().filter(|page| !page.is_empty());
        pages.for_each(|page| page.push((Kind::Frame, seq, CapturedAt(i64::MAX))));
    }

    /// Stores frames on every page that a link which has ended had already sent.
    pub fn store_late(&self, seqs: std::ops::RangeInclusive<u64>) {
        let mut state = self.state();
        let State { sessions, seen, .. } = &mut *state;
        for (session, page) in sessions {
            let frames = seqs.clone().map(|seq| (Kind::Frame, Seq(seq), CapturedAt(0)));
            page.extend(frames.clone());
            seen.entry(session.clone()).or_default().extend(frames);
        }
    }

    /// Seeds the random decisions from now on.
    pub fn seed(&self, seed: u64) {
        self.state().dice = Dice(SmallRng::seed_from_u64(seed));
    }

    /// Everything that viewers saw, by session.
    pub fn seen(&self) -> Vec<(String, History)> {
        self.state().seen.iter().map(|(id, history)| (id.clone(), history.clone())).collect()
    }
}

impl Sink for Server {
    type Link = ServerLink;

    async fn open(&mut self) -> Result<ServerLink, SinkError> {
        let delay = self.state().delay();
        sleep(delay).await;
        let mut state = self.state();
        if state.faults.down {
            return Err(SinkError::Refused("down".into()));
        }
        let worker = state.links % state.faults.workers.max(1);
        state.links += 1;
        Ok(ServerLink {
            server: self.clone(),
            worker,
            requests_acks: true,
            cuts: state.cuts,
            joined: BTreeSet::new(),
            passed_over: Vec::new(),
            came_back: Vec::new(),
            broken_by: None,
        })
    }

    fn server(&self) -> &str {
        self.name
    }

    fn page(&self, session: &str) -> Option<String> {
        Some(format!("memory/dashboard/{session}"))
    }

    fn identify(&self, entry: &Entry) -> EntryId {
        EntryId(entry.seq.0)
    }

    fn strongest_proof(&self) -> Proof {
        Proof::Echo
    }
}

#[derive(Debug)]
pub struct ServerLink {
    server: Server,
    /// The process that this link is connected to.
    worker: u32,
    requests_acks: bool,
    cuts: u32,
    /// The joined sessions, whose stored entries are echoed on this link.
    joined: BTreeSet<String>,
    passed_over: Vec<Seq>,
    came_back: Vec<Seq>,
    /// An entry made the server end the connection, or stop reading from it.
    broken_by: Option<Poison>,
}

impl ServerLink {
    /// A round trip to the server; fails if the link was cut or the server is down.
    async fn trip(&self) -> Result<(), SinkError> {
        let delay = self.server.state().delay();
        sleep(delay.max(Duration::from_millis(1))).await;
        let state = self.server.state();
        let is_closed = self.broken_by == Some(Poison::Disconnects);
        if state.cuts != self.cuts || state.faults.down || is_closed {
            return Err(SinkError::Lost("cut".into()));
        }
        Ok(())
    }
}

impl Link for ServerLink {
    async fn request_session(&mut self, _stint: StintId) -> Result<String, SinkError> {
        self.trip().await?;
        let mut state = self.server.state();
        state.requests += 1;
        state.next_id += 1;
        let id = format!("s{:04}", state.next_id);
        state.homes.insert(id.clone(), self.worker);
        if !state.faults.keeps_nothing {
            state.sessions.insert(id.clone(), Vec::new());
        }
        Ok(id)
    }

    async fn join(&mut self, session: &str, answer: JoinWait) -> Result<Joined, SinkError> {
        self.trip().await?;
        let state = self.server.state();
        self.joined.insert(session.into());
        if state.faults.no_join {
            return Ok(Joined::Unanswered);
        }
        let history = state.sessions.get(session).filter(|history| !history.is_empty());
        let Some(history) = history.filter(|_| self.is_home(&state, session)) else {
            let acks = answer == JoinWait::Ack && !state.faults.never_acks;
            return Ok(if acks { Joined::Silent } else { Joined::Unanswered });
        };
        let newest = |wanted: Kind| {
            let newest = history.iter().rev().find(|(kind, ..)| *kind == wanted);
            newest.map(|(_, seq, _)| EntryId(seq.0))
        };
        Ok(Joined::Known(Shown { frame: newest(Kind::Frame), setup: newest(Kind::Setup) }))
    }

    async fn publish(
        &mut self,
        entries: &[Addressed<'_>],
        proof: Proof,
        grace: Duration,
    ) -> Result<Receipt, SinkError> {
        let faults = self.server.state().faults.clone();
        if let [Addressed { entry, .. }] = entries {
            // Undone once it is stored.
            *self.server.state().unanswered.entry(entry.seq).or_default() += 1;
        }
        if faults.silent {
            return std::future::pending().await;
        }
        assert!(!faults.panics, "the fault was injected");
        self.trip().await?;
        if proof == Proof::Echo && self.requests_acks {
            self.server.state().acks_requested += 1;
        }
        let mut entries = entries.to_vec();
        if faults.swaps && entries.len() > 1 {
            entries.swap(0, 1);
        }
        let (mut missing, mut refused) = (Vec::new(), false);
        let mut back: BTreeMap<&str, Seq> = BTreeMap::new();
        let mut inversions = 0;
        let mut is_acked = !faults.never_acks;
        self.passed_over.clear();
        self.came_back.clear();
        if self.broken_by == Some(Poison::Stalls) {
            return std::future::pending().await;
        }
        for (index, Addressed { session, entry, .. }) in entries.iter().enumerate() {
            let echoes = self.joined.contains(*session) && !faults.no_echo;
            if faults.stalls_after == Some(index) {
                return std::future::pending().await;
            }
            let is_poison = entry.json.contains(POISON);
            match faults.poison.filter(|_| is_poison) {
                None => {}
                Some(Poison::Raises) => {
                    is_acked &= index + 1 < entries.len();
                    missing.push((*session, entry.seq));
                    continue;
                }
                Some(Poison::Disconnects) => {
                    self.broken_by = faults.poison;
                    return Err(SinkError::Lost("the server closed it".into()));
                }
                Some(Poison::Stalls) => {
                    self.broken_by = faults.poison;
                    return std::future::pending().await;
                }
            }
            let poison = faults.refuses.is_some_and(|poison| entry.json.contains(poison));
            refused |= poison;
            let drop = faults.keeps_nothing || self.server.state().dice.says(faults.drops);
            if drop {
                self.server.state().dropped.insert(entry.captured_at);
            }
            if !self.keep(session, entry, poison || drop) || !echoes {
                missing.push((*session, entry.seq));
            } else {
                self.came_back.push(entry.seq);
                let newest = back.entry(session).or_insert(entry.seq);
                inversions += u64::from(entry.seq < *newest);
                *newest = entry.seq.max(*newest);
                let is_over = |(of, seq): &&(&str, Seq)| back.get(of).is_some_and(|b| seq < b);
                self.passed_over = missing.iter().filter(is_over).map(|(_, seq)| *seq).collect();
            }
        }
        let mut missing: Vec<Seq> = missing.into_iter().map(|(_, seq)| seq).collect();
        missing.sort();
        let waits = match proof {
            Proof::Written => false,
            Proof::Ack => true,
            Proof::Echo => !missing.is_empty(),
        };
        if waits && (!is_acked || (proof == Proof::Echo && !self.requests_acks)) {
            return std::future::pending().await;
        }
        if proof == Proof::Echo && !missing.is_empty() {
            sleep(grace).await;
        }
        if let [Addressed { entry, .. }] = &entries[..]
            && missing.is_empty()
            && let Some(times) = self.server.state().unanswered.get_mut(&entry.seq)
        {
            *times -= 1;
        }
        let ack = match (proof, faults.objects && refused) {
            (Proof::Written, _) => Ack::None,
            (_, true) => Ack::Error("poison".into()),
            (_, false) => Ack::Plain,
        };
        Ok(Receipt { ack, missing, inversions })
    }

    fn request_acks(&mut self, wanted: bool) {
        self.requests_acks = wanted;
    }

    fn skipped(&self) -> Vec<Seq> {
        self.passed_over.clone()
    }

    fn came_back(&self) -> Vec<Seq> {
        self.came_back.clone()
    }

    async fn closed(&mut self) -> SinkError {
        let changed = Arc::clone(&self.server.state().changed);
        loop {
            let change = changed.notified();
            if let Err(error) = self.trip().await {
                return error;
            }
            change.await;
            // The change is noticed after a random delay.
            let later = Duration::from_millis(self.server.state().dice.0.random_range(0..700));
            sleep(later).await;
        }
    }
}

impl ServerLink {
    /// Whether this link is connected to the process that has the session.
    fn is_home(&self, state: &State, session: &str) -> bool {
        state.homes.get(session).is_none_or(|home| *home == self.worker)
    }

    fn keep(&self, session: &str, entry: &Entry, drop: bool) -> bool {
        let mut state = self.server.state();
        if drop || !state.sessions.contains_key(session) || !self.is_home(&state, session) {
            return false;
        }
        if entry.stint == PROBE_STINT {
            // No viewer sees it.
            state.probes += 1;
            let kept = (entry.kind, entry.seq, entry.captured_at);
            state.sessions.entry(session.into()).or_default().push(kept);
            return true;
        }
        let twice = state.faults.duplicates;
        let times = if state.dice.says(twice) { 2 } else { 1 };
        for _ in 0..times {
            state.keep(session, entry);
        }
        true
    }
}

impl State {
    /// Whether the frame may come late: the server did not echo it, or one shortly before it, three
    /// times.
    pub fn may_be_late(&self, seq: Seq) -> bool {
        let before = Seq(seq.0.saturating_sub(MAX_PROBE_DISTANCE))..=seq;
        self.unanswered.range(before).any(|(_, times)| *times >= 3)
    }

    fn delay(&mut self) -> Duration {
        let Faults { delay, jitter, .. } = self.faults;
        delay + jitter.mul_f64(self.dice.0.random_range(0.0..1.0))
    }

    fn keep(&mut self, session: &str, entry: &Entry) {
        let kept = (entry.kind, entry.seq, entry.captured_at);
        self.sessions.entry(session.into()).or_default().push(kept);
        self.seen.entry(session.into()).or_default().push(kept);
        let before = self.pages.insert(entry.stint, session.into());
        let is_known = |id: &String| self.sessions.get(id).is_some_and(|page| !page.is_empty());
        if let Some(before) = before.filter(|before| before != session && is_known(before)) {
            let change = format!("stint {} left {before}, which was known", entry.stint);
            self.needless_pages.push(change);
        }
    }
}

//! A server in memory behind the `Sink` seam: it delays, refuses, forgets its sessions, goes
//! silent, acknowledges what it throws away. Time is tokio's, so a test can pause it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pitwire::entry::{CapturedAt, Entry, Kind, Seq};
use pitwire::sink::{Ack, Answer, Joined, Link, Proof, Receipt, Sink, SinkError};
use tokio::time::sleep;

/// How the server is to behave; the default is by the contract.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// It takes no connection.
    pub down: bool,
    /// It takes everything in and never answers a publish.
    pub silent: bool,
    pub no_echo: bool,
    pub never_acks: bool,
    /// It has no `join_session`.
    pub no_join: bool,
    /// Frames whose JSON holds this text are dropped, and acknowledged.
    pub refuses: Option<&'static str>,
    /// It says so in the acknowledgement.
    pub objects: bool,
    /// Two neighbours of a batch change places.
    pub swaps: bool,
    /// It reads so many entries of a batch, and then nothing more.
    pub stalls_after: Option<usize>,
    /// Keeps nothing at all, and acknowledges.
    pub keeps_nothing: bool,
    pub delay: Duration,
}

/// What the server holds for a session, in the order in which it was kept.
pub type History = Vec<(Kind, Seq, CapturedAt)>;

#[derive(Debug, Default)]
pub struct State {
    pub faults: Faults,
    /// What the server holds now.
    pub sessions: BTreeMap<String, History>,
    /// What viewers ever saw, by session; survives that the server forgets.
    pub seen: BTreeMap<String, History>,
    pub requests: u32,
    pub links: u32,
    /// Grows when all links are cut.
    cuts: u32,
    next_id: u32,
}

/// A server that links share.
#[derive(Clone, Debug, Default)]
pub struct Server(Arc<Mutex<State>>);

impl Server {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn behave(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Cuts every link.
    pub fn cut(&self) {
        self.state().cuts += 1;
    }

    /// Forgets every session, as a restart does, without cutting links.
    pub fn forget(&self) {
        self.state().sessions.clear();
    }

    /// All that viewers of any session saw, session after session.
    pub fn seen(&self) -> Vec<(String, History)> {
        self.state().seen.iter().map(|(id, history)| (id.clone(), history.clone())).collect()
    }
}

impl Sink for Server {
    type Link = ServerLink;

    async fn open(&mut self) -> Result<ServerLink, SinkError> {
        let delay = self.state().faults.delay;
        sleep(delay).await;
        let mut state = self.state();
        if state.faults.down {
            return Err(SinkError::Refused("down".into()));
        }
        state.links += 1;
        Ok(ServerLink {
            server: self.clone(),
            cuts: state.cuts,
            joined: BTreeSet::new(),
            passed_over: Vec::new(),
        })
    }

    fn server(&self) -> &str {
        "memory"
    }

    fn page(&self, session: &str) -> String {
        format!("memory/dashboard/{session}")
    }
}

#[derive(Debug)]
pub struct ServerLink {
    server: Server,
    cuts: u32,
    /// Rooms: what is kept for their sessions comes back on this link.
    joined: BTreeSet<String>,
    passed_over: Vec<Seq>,
}

impl ServerLink {
    /// One way to the server and back.
    async fn trip(&self) -> Result<(), SinkError> {
        let delay = self.server.state().faults.delay;
        sleep(delay.max(Duration::from_millis(1))).await;
        let state = self.server.state();
        if state.cuts != self.cuts || state.faults.down {
            return Err(SinkError::Lost("cut".into()));
        }
        Ok(())
    }
}

impl Link for ServerLink {
    async fn request_session(&mut self) -> Result<String, SinkError> {
        self.trip().await?;
        let mut state = self.server.state();
        state.requests += 1;
        state.next_id += 1;
        let id = format!("s{:04}", state.next_id);
        if !state.faults.keeps_nothing {
            state.sessions.insert(id.clone(), Vec::new());
        }
        Ok(id)
    }

    async fn join(&mut self, session: &str, answer: Answer) -> Result<Joined, SinkError> {
        self.trip().await?;
        let state = self.server.state();
        self.joined.insert(session.into());
        if state.faults.no_join {
            return Ok(Joined::Unanswered);
        }
        let Some(history) = state.sessions.get(session).filter(|history| !history.is_empty())
        else {
            let acks = answer == Answer::Ack && !state.faults.never_acks;
            return Ok(if acks { Joined::Silent } else { Joined::Unanswered });
        };
        let newest = |wanted: Kind| {
            history.iter().rev().find(|(kind, ..)| *kind == wanted).map(|(_, _, at)| *at)
        };
        Ok(Joined::Known { frame: newest(Kind::Frame), setup: newest(Kind::Setup) })
    }

    async fn publish(
        &mut self,
        session: &str,
        entries: &[Entry],
        proof: Proof,
        grace: Duration,
    ) -> Result<Receipt, SinkError> {
        let faults = self.server.state().faults.clone();
        if faults.silent {
            return std::future::pending().await;
        }
        self.trip().await?;
        let mut entries: Vec<&Entry> = entries.iter().collect();
        if faults.swaps && entries.len() > 1 {
            entries.swap(0, 1);
        }
        let echoes = self.joined.contains(session) && !faults.no_echo;
        let (mut missing, mut refused) = (Vec::new(), false);
        self.passed_over.clear();
        for (index, entry) in entries.iter().enumerate() {
            if faults.stalls_after == Some(index) {
                return std::future::pending().await;
            }
            let poison = faults.refuses.is_some_and(|poison| entry.json.contains(poison));
            refused |= poison;
            if !self.keep(session, entry, poison || faults.keeps_nothing) || !echoes {
                missing.push(entry.seq);
            } else {
                self.passed_over.clone_from(&missing);
            }
        }
        missing.sort();
        let inversions = u64::from(faults.swaps && entries.len() > 1 && echoes);
        let waits = match proof {
            Proof::Written => false,
            Proof::Ack => true,
            Proof::Echo => !missing.is_empty(),
        };
        if waits && faults.never_acks {
            return std::future::pending().await;
        }
        if proof == Proof::Echo && !missing.is_empty() {
            sleep(grace).await;
        }
        let ack = match (proof, faults.objects && refused) {
            (Proof::Written, _) => Ack::None,
            (_, true) => Ack::Error("poison".into()),
            (_, false) => Ack::Plain,
        };
        Ok(Receipt { ack, missing, inversions })
    }

    fn passed_over(&self) -> Vec<Seq> {
        self.passed_over.clone()
    }

    async fn closed(&mut self) -> SinkError {
        loop {
            if let Err(error) = self.trip().await {
                return error;
            }
            sleep(Duration::from_millis(700)).await;
        }
    }
}

impl ServerLink {
    fn keep(&self, session: &str, entry: &Entry, drop: bool) -> bool {
        let mut state = self.server.state();
        let kept = (entry.kind, entry.seq, entry.captured_at);
        match state.sessions.get_mut(session) {
            Some(history) if !drop => history.push(kept),
            _ => return false,
        }
        state.seen.entry(session.into()).or_default().push(kept);
        true
    }
}

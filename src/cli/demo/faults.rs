//! The faults of the demo, and when they begin and end: scheduled outages, or random faults of
//! every kind.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::fault_proxy::LinkState;
use super::harness::Harness;

/// The time between two random faults.
const CALM: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(4);
/// The length of a random fault.
const LENGTH: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(8);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    LinkCut,
    LinkStalled,
    ServerReplaced,
    AgentStopped,
}

impl Fault {
    const ALL: [Self; 4] =
        [Self::LinkCut, Self::LinkStalled, Self::ServerReplaced, Self::AgentStopped];

    async fn begin(self, harness: &mut Harness) {
        match self {
            Self::LinkCut => harness.proxy.set(LinkState::Out),
            Self::LinkStalled => harness.proxy.set(LinkState::Stalled),
            Self::ServerReplaced => harness.stop_server(),
            Self::AgentStopped => harness.stop_agent().await,
        }
    }

    fn end(self, harness: &mut Harness) -> Result<(), Box<dyn Error>> {
        match self {
            Self::LinkCut | Self::LinkStalled => harness.proxy.set(LinkState::In),
            Self::ServerReplaced => harness.start_server()?,
            Self::AgentStopped => harness.start_agent()?,
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkCut => "the link is cut",
            Self::LinkStalled => "the link stalls",
            Self::ServerReplaced => "the server and all its sessions are gone",
            Self::AgentStopped => "the agent is stopped",
        })
    }
}

/// A network outage: its start, as time since the start of the demo, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    start: Duration,
    length: Duration,
}

/// Parses an outage.
pub(super) fn outage(text: &str) -> Result<Outage, String> {
    parse_outage(text)
        .ok_or_else(|| format!("{text:?} is not START:LENGTH in whole seconds, such as 10:15"))
}

fn parse_outage(text: &str) -> Option<Outage> {
    let (start, length) = text.split_once(':')?;
    let [start, length] = [start.parse::<u32>().ok()?, length.parse::<u32>().ok()?]
        .map(|seconds| Duration::from_secs(seconds.into()));
    Some(Outage { start, length })
}

/// Injects the faults.
#[derive(Debug)]
pub(super) struct Faults {
    schedule: Schedule,
    active: Option<Fault>,
    counts: BTreeMap<Fault, u64>,
}

#[derive(Debug)]
enum Schedule {
    Outages(Vec<Outage>),
    Random {
        chance: SmallRng,
        /// The faults that remain in this round. A round has each kind of fault once, so that a
        /// short run has all of them.
        round: Vec<Fault>,
        /// When the active fault ends or the next one begins, as time since the start of the demo.
        next_change: Duration,
    },
}

impl Faults {
    /// Network outages at fixed times.
    pub(super) fn outages(outages: Vec<Outage>) -> Self {
        Self::new(Schedule::Outages(outages))
    }

    /// Random faults with calm periods between them; the same seed gives the same ones.
    pub(super) fn random(seed: u64) -> Self {
        let mut chance = SmallRng::seed_from_u64(seed);
        let next_change = chance.random_range(CALM);
        Self::new(Schedule::Random { chance, round: Vec::new(), next_change })
    }

    fn new(schedule: Schedule) -> Self {
        Self { schedule, active: None, counts: BTreeMap::new() }
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// How often each kind of fault occurred.
    pub(super) fn counts(self) -> BTreeMap<Fault, u64> {
        self.counts
    }

    /// Begins or ends a fault if it is due `at` this time since the start of the demo. Returns a
    /// line for the user if a fault began or an outage ended.
    ///
    /// # Errors
    /// If a stopped part cannot be started again.
    pub(super) async fn advance(
        &mut self,
        harness: &mut Harness,
        at: Duration,
    ) -> Result<Option<String>, Box<dyn Error>> {
        let (wanted, news) = match &mut self.schedule {
            Schedule::Outages(outages) => {
                let current = outages
                    .iter()
                    .find(|outage| (outage.start..outage.start + outage.length).contains(&at));
                let news = match (self.active, current) {
                    (None, Some(outage)) => Some(format!(
                        "the network fails for {} s; the page stops and the queue grows",
                        outage.length.as_secs()
                    )),
                    (Some(_), None) => {
                        Some("the network is back; the agent sends the queued frames".to_owned())
                    }
                    (None, None) | (Some(_), Some(_)) => None,
                };
                (current.map(|_| Fault::LinkCut), news)
            }
            Schedule::Random { next_change, .. } if at < *next_change => (self.active, None),
            Schedule::Random { chance, next_change, .. } if self.active.is_some() => {
                *next_change = at + chance.random_range(CALM);
                (None, None)
            }
            Schedule::Random { chance, round, next_change } => {
                if round.is_empty() {
                    round.extend(Fault::ALL);
                    round.shuffle(chance);
                }
                let fault = round.pop();
                let length = chance.random_range(LENGTH);
                *next_change = at + length;
                let news = fault.map(|fault| format!("{fault} for {:.1} s", length.as_secs_f64()));
                (fault, news)
            }
        };
        if wanted != self.active {
            self.end(harness)?;
            if let Some(fault) = wanted {
                fault.begin(harness).await;
                *self.counts.entry(fault).or_default() += 1;
            }
            self.active = wanted;
        }
        Ok(news)
    }

    /// Ends the active fault.
    ///
    /// # Errors
    /// If a stopped part cannot be started again.
    pub(super) fn end(&mut self, harness: &mut Harness) -> Result<(), Box<dyn Error>> {
        self.active.take().map_or(Ok(()), |fault| fault.end(harness))
    }
}

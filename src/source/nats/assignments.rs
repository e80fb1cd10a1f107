//! The assignment table of the hubs that share a name: which hub takes which agent, and from which
//! position. Pure.
//!
//! - The table is read, changed and written back as a whole, and only if no other hub has written
//!   in between. An agent therefore never has two hubs.
//! - Each hub sends heartbeats: it periodically increments a number beside its name. A hub whose
//!   number has not changed for [`HUB_LEASE`], by the observer's clock, is dead; the hub itself
//!   stops earlier, by its own clock.
//! - A position advances once dashboards have everything before it. A hub that takes over starts
//!   there and needs nothing from the dead hub's disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::HUB_LEASE;
use crate::entry::MAX_STREAMS;
use crate::nats::STREAM_PREFIX;

/// How long a hub leaves an unassigned agent to a hub with fewer agents.
const HUB_PATIENCE: Duration = Duration::from_secs(10);

/// The newest stints of an agent whose pages are in the assignment table; older ones are delivered.
const HUB_STINTS: usize = 2;

/// A hub without agents expires from the assignment table after this long without a heartbeat.
const HUB_FORGOTTEN: Duration = Duration::from_hours(1);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct AssignmentTable {
    /// The heartbeat number of each hub: how often it has written.
    pub(super) hubs: BTreeMap<String, u64>,
    /// The assignments, by the name of the agent's stream.
    pub(super) agents: BTreeMap<String, Assignment>,
}

/// The assignment of an agent's stream to a hub, and its delivered position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Assignment {
    /// `None` if the hub released it for another one.
    pub(super) hub: Option<String>,
    /// Dashboards have everything up to this position of the stream.
    pub(super) after: u64,
    /// The pages of its stints, newest last.
    pub(super) pages: Vec<StintPage>,
}

/// The session that a server assigned to a stint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StintPage {
    /// The agent's name, a dot, and the stint's name on NATS.
    pub(super) stint: String,
    pub(super) server: String,
    pub(super) session: String,
}

impl StintPage {
    /// The stream of the agent whose stint this is.
    fn stream(&self) -> Option<String> {
        let (agent, _) = self.stint.split_once('.')?;
        Some(format!("{STREAM_PREFIX}{agent}"))
    }
}

/// One hub's update of the table.
#[derive(Debug, Default)]
pub(super) struct HubUpdate<'a> {
    pub(super) me: &'a str,
    /// The existing streams of the agents that this hub is configured for.
    pub(super) meant: &'a [String],
    /// The delivered position of each stream that it holds.
    pub(super) after: BTreeMap<String, u64>,
    /// The streams that it releases.
    pub(super) given_up: BTreeSet<String>,
    pub(super) pages: Vec<StintPage>,
    /// Whether it takes agents that have no live hub.
    pub(super) takes_new: bool,
}

/// Liveness of the other hubs as one hub observes it, by its own clock.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// The last heartbeat number of each hub, and when it was first seen.
    hubs: BTreeMap<String, (u64, Instant)>,
    /// When each agent lost its live hub.
    free: BTreeMap<String, Instant>,
}

impl Liveness {
    pub(super) fn observe(&mut self, table: &AssignmentTable, now: Instant) {
        self.hubs.retain(|hub, _| table.hubs.contains_key(hub));
        for (hub, count) in &table.hubs {
            let liveness = self.hubs.entry(hub.clone()).or_insert((*count, now));
            if liveness.0 != *count {
                *liveness = (*count, now);
            }
        }
    }

    /// Whether the hub's heartbeat is recent. A hub counts as alive for one lease after it is first
    /// seen.
    fn is_alive(&self, hub: &str, now: Instant) -> bool {
        self.silence(hub, now).is_some_and(|silence| silence < HUB_LEASE)
    }

    /// How long ago the hub's last heartbeat was seen.
    fn silence(&self, hub: &str, now: Instant) -> Option<Duration> {
        self.hubs.get(hub).map(|(_, since)| now - *since)
    }

    /// Whether any other hub is alive.
    pub(super) fn others(&self, me: &str, now: Instant) -> bool {
        self.hubs.keys().any(|hub| hub != me && self.is_alive(hub, now))
    }
}

impl AssignmentTable {
    /// Applies a hub's update and assigns it free agents up to its fair share. Returns how many
    /// agents it holds beyond that share.
    pub(super) fn write(
        &mut self,
        entry: HubUpdate<'_>,
        liveness: &mut Liveness,
        now: Instant,
    ) -> usize {
        let me = entry.me;
        *self.hubs.entry(me.into()).or_default() += 1;
        self.expire(me, liveness, now);
        for (agent, assignment) in &mut self.agents {
            if assignment.hub.as_deref() == Some(me) {
                assignment.after = entry.after.get(agent).copied().unwrap_or(assignment.after);
                assignment.learn(agent, &entry.pages);
                assignment.hub = assignment.hub.take().filter(|_| !entry.given_up.contains(agent));
            }
        }
        let living =
            self.hubs.keys().filter(|hub| *hub == me || liveness.is_alive(hub, now)).count();
        let fair = entry.meant.len().div_ceil(living.max(1)).min(MAX_STREAMS);
        for agent in entry.meant {
            if self.taker(agent).is_some_and(|hub| hub == me || liveness.is_alive(hub, now)) {
                liveness.free.remove(agent);
                continue;
            }
            let since = *liveness.free.entry(agent.clone()).or_insert(now);
            let is_given_up = entry.given_up.contains(agent);
            let mine = self.taken_by(me);
            let may = mine < fair || (now - since >= HUB_PATIENCE && mine < MAX_STREAMS);
            if may && entry.takes_new && !is_given_up {
                self.agents.entry(agent.clone()).or_default().hub = Some(me.into());
                liveness.free.remove(agent);
            }
        }
        liveness.free.retain(|agent, _| entry.meant.contains(agent));
        if living > 1 { self.taken_by(me).saturating_sub(fair) } else { 0 }
    }

    /// The streams assigned to a hub.
    pub(super) fn of<'a>(
        &'a self,
        hub: &'a str,
    ) -> impl Iterator<Item = (&'a String, &'a Assignment)> {
        self.agents.iter().filter(move |(_, assignment)| assignment.hub.as_deref() == Some(hub))
    }

    pub(super) fn taker(&self, agent: &str) -> Option<&str> {
        self.agents.get(agent)?.hub.as_deref()
    }

    fn taken_by(&self, hub: &str) -> usize {
        self.of(hub).count()
    }

    /// Expires hubs without a heartbeat for [`HUB_FORGOTTEN`] that hold no agents.
    fn expire(&mut self, me: &str, liveness: &Liveness, now: Instant) {
        let silent: Vec<String> = self
            .hubs
            .keys()
            .filter(|hub| {
                *hub != me
                    && liveness.silence(hub, now).is_some_and(|silence| silence >= HUB_FORGOTTEN)
            })
            .cloned()
            .collect();
        for hub in silent {
            if self.taken_by(&hub) == 0 {
                self.hubs.remove(&hub);
            }
        }
    }
}

impl Assignment {
    /// Merges the pages of the agent's stints, given newest stint last; keeps those of the newest
    /// stints.
    fn learn(&mut self, agent: &str, pages: &[StintPage]) {
        for page in pages.iter().filter(|page| page.stream().as_deref() == Some(agent)) {
            let known = self
                .pages
                .iter_mut()
                .find(|known| known.stint == page.stint && known.server == page.server);
            match known {
                Some(known) => known.session.clone_from(&page.session),
                None => self.pages.push(page.clone()),
            }
        }
        let mut stints: Vec<&str> = Vec::new();
        for page in self.pages.iter().rev() {
            if !stints.contains(&page.stint.as_str()) {
                stints.push(&page.stint);
            }
        }
        let kept: Vec<String> = stints.into_iter().take(HUB_STINTS).map(str::to_owned).collect();
        self.pages.retain(|page| kept.contains(&page.stint));
    }

    /// The stints with known pages, each with its servers and sessions.
    pub(super) fn sessions(&self) -> BTreeMap<&str, Vec<(String, String)>> {
        let mut sessions = BTreeMap::<_, Vec<_>>::new();
        for page in &self.pages {
            let of_stint = sessions.entry(page.stint.as_str()).or_default();
            of_stint.push((page.server.clone(), page.session.clone()));
        }
        sessions
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::HUB_BEAT;
    use super::*;

    fn agents(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("PITWIRE_pc-{number}")).collect()
    }

    /// A simulated hub. In its first turn it takes no new agents.
    #[derive(Default)]
    struct SimulatedHub {
        name: String,
        seen: Liveness,
        is_new: bool,
    }

    impl SimulatedHub {
        fn named(name: &str) -> Self {
            Self { name: name.into(), is_new: true, ..Self::default() }
        }

        fn turn(
            &mut self,
            table: &mut AssignmentTable,
            meant: &[String],
            give_up: usize,
            now: Instant,
        ) -> usize {
            self.seen.observe(table, now);
            let given_up = table.of(&self.name).map(|(agent, _)| agent.clone()).take(give_up);
            let entry = HubUpdate {
                me: &self.name,
                meant,
                given_up: given_up.collect(),
                takes_new: !std::mem::take(&mut self.is_new),
                ..HubUpdate::default()
            };
            table.write(entry, &mut self.seen, now)
        }
    }

    #[test]
    fn hubs_share_agents_and_take_over_those_of_an_expired_hub() {
        let (mut table, meant, mut now) = (AssignmentTable::default(), agents(7), Instant::now());
        let mut hubs = [SimulatedHub::named("a"), SimulatedHub::named("b")];
        for _ in 0..3 {
            hubs.iter_mut().for_each(|hub| {
                hub.turn(&mut table, &meant, 0, now);
            });
            now += HUB_BEAT;
        }
        assert_eq!((table.taken_by("a"), table.taken_by("b")), (4, 3));
        let killed_at = now;
        while table.taken_by("a") < 7 {
            hubs[0].turn(&mut table, &meant, 0, now);
            now += HUB_BEAT;
        }
        assert!(now - killed_at >= HUB_LEASE && now - killed_at <= HUB_LEASE + 3 * HUB_BEAT);
    }

    #[test]
    fn an_overloaded_hub_hands_agents_over_to_a_new_hub() {
        let (mut table, meant, mut now) = (AssignmentTable::default(), agents(4), Instant::now());
        let (mut old, mut new) = (SimulatedHub::named("a"), SimulatedHub::named("b"));
        old.turn(&mut table, &meant, 0, now);
        assert_eq!(old.turn(&mut table, &meant, 0, now), 0);
        assert_eq!(table.taken_by("a"), 4);
        new.turn(&mut table, &meant, 0, now);
        new.turn(&mut table, &meant, 0, now);
        assert_eq!(table.taken_by("b"), 0, "an ongoing stint stays with its hub");
        assert_eq!(old.turn(&mut table, &meant, 0, now), 2);
        assert_eq!(old.turn(&mut table, &meant, 1, now), 1);
        new.turn(&mut table, &meant, 0, now);
        assert_eq!((table.taken_by("a"), table.taken_by("b")), (3, 1));
        // Released agents that no other hub takes are taken back.
        old.turn(&mut table, &meant, 2, now);
        assert_eq!(table.taken_by("a"), 1);
        old.turn(&mut table, &meant, 0, now);
        now += HUB_PATIENCE;
        old.turn(&mut table, &meant, 0, now);
        assert_eq!(table.taken_by("a"), 3);
    }

    fn page(stint: &str, server: &str, session: &str) -> StintPage {
        StintPage { stint: stint.into(), server: server.into(), session: session.into() }
    }

    #[test]
    fn only_the_pages_of_the_two_newest_stints_are_kept() {
        let mut assignment = Assignment::default();
        assignment.learn("PITWIRE_pc", &[page("pc.1", "x", "1"), page("other.1", "x", "2")]);
        assignment.learn("PITWIRE_pc", &[page("pc.1", "y", "3"), page("pc.2", "x", "4")]);
        assignment.learn("PITWIRE_pc", &[page("pc.2", "x", "5"), page("pc.2", "y", "6")]);
        assert_eq!(assignment.sessions().keys().copied().collect::<Vec<_>>(), ["pc.1", "pc.2"]);
        assert_eq!(
            assignment.sessions()["pc.2"],
            [("x".into(), "5".into()), ("y".into(), "6".into())]
        );
        assignment.learn("PITWIRE_pc", &[page("pc.3", "x", "7")]);
        assert_eq!(assignment.sessions().keys().copied().collect::<Vec<_>>(), ["pc.2", "pc.3"]);
    }

    proptest! {
        /// For any interleaving of hubs and any pauses, a hub loses an agent to another hub only
        /// after its lease has expired. In the end all agents are assigned.
        #[test]
        fn no_agent_is_taken_over_before_its_hub_lease_expires(
            turns in proptest::collection::vec((0_usize..3, 0_u64..8000, 0_usize..2), 1..200),
        ) {
            let (mut table, meant, mut now) = (AssignmentTable::default(), agents(5), Instant::now());
            let mut hubs = [SimulatedHub::named("a"), SimulatedHub::named("b"), SimulatedHub::named("c")];
            let mut wrote = [now; 3];
            for (who, pause, give_up) in turns {
                now += Duration::from_millis(pause);
                let before = table.clone();
                hubs[who].turn(&mut table, &meant, give_up, now);
                wrote[who] = now;
                for (other, hub) in hubs.iter().enumerate().filter(|(other, _)| *other != who) {
                    for (agent, _) in before.of(&hub.name) {
                        let lost = table.taker(agent) != Some(&hub.name);
                        prop_assert!(!lost || now - wrote[other] >= HUB_LEASE, "{agent}");
                    }
                }
            }
            for _ in 0..20 {
                now += HUB_BEAT;
                hubs[0].turn(&mut table, &meant, 0, now);
            }
            prop_assert!(meant.iter().all(|agent| table.taker(agent) == Some("a")));
        }
    }
}

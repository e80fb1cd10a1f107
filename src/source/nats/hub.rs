//! One of the hubs that share a name: it sends heartbeats to their assignment table and follows the
//! streams that the table assigns to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use rand::Rng;
use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::Intake;
use super::assignments::{Assignment, AssignmentTable, HubUpdate, Liveness, StintPage};
use super::bucket::{Bucket, PutOutcome};
use super::delivery_gate::{DeliveryGate, GateCommand};
use super::follow::{Follower, FollowerEnd, FollowerProgress};
use super::{FILE, HUB_BEAT, HUB_LEASE, HubError, NAME, NATS_TIMEOUT, Newest, SharedNewest};
use crate::backoff::Backoff;
use crate::config::{AgentName, NatsConfig};
use crate::entry::{CarId, Seq};
use crate::metrics;
use crate::nats::{NatsConnection, NatsError, NatsOptions, STREAM_PREFIX};

use crate::queue::{DeliveredElsewhere, Writer};
use crate::remote_text::{RemoteText, Secrets};

/// How often a hub looks for streams of new agents, and the first and longest wait before it
/// reconnects: well within [`HUB_LEASE`].
const NATS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
const HUB_MARGIN: Duration = Duration::from_secs(2);

/// How often an update of the assignment table is retried after a conflicting write, and the pause
/// before a retry. Each hub writes once per [`HUB_BEAT`].
const HUB_TRIES: u32 = 8;
const HUB_RETRY: Range<Duration> = Duration::from_millis(5)..Duration::from_millis(100);

pub(super) struct Hub {
    me: String,
    intake: Arc<Intake>,
    writer: Writer,
    newest_stored: SharedNewest,
    config: NatsConfig,
    gate: DeliveryGate,
    elsewhere: DeliveredElsewhere,
    liveness: Liveness,
    /// Until when the assignments that this hub wrote last are certainly valid: the end of its
    /// lease.
    until: watch::Sender<Instant>,
    /// This hub's last heartbeat number; `None` if it is not known whether the write succeeded.
    count: Option<u64>,
    /// How many agents this hub should release for other hubs.
    surplus: Arc<AtomicUsize>,
    /// Whether the queue may be delivered.
    settling: Settling,
}

/// Whether another hub may be delivering entries of this queue.
enum Settling {
    /// Not known yet.
    Unknown,
    /// Other hubs may be, until each of these streams is delivered up to its position.
    Until(BTreeMap<String, u64>),
    /// No other hub is; this one delivers its queue.
    Done,
}

/// The followers of this hub, by stream.
#[derive(Default)]
struct Followed {
    followers: JoinSet<(String, FollowerEnd)>,
    by_name: HashMap<String, Following>,
    given_up: BTreeSet<String>,
}

/// The task of a follower.
struct Following {
    task: AbortHandle,
    progress: Arc<FollowerProgress>,
}

impl Followed {
    /// Waits until the queue has everything that the streams held when their followers started, for
    /// at most one heartbeat: the queue may be full.
    async fn caught_up(&self) {
        let _ = timeout(HUB_BEAT, async {
            for following in self.by_name.values() {
                while !following.progress.has_caught_up.load(Ordering::Acquire) {
                    sleep(HUB_BEAT / 100).await;
                }
            }
        })
        .await;
    }

    /// The number of entries in the streams that have not been received yet.
    fn behind(&self) -> u64 {
        self.by_name
            .values()
            .map(|following| following.progress.behind.load(Ordering::Relaxed))
            .sum()
    }

    /// The stream sequence up to which each stream is delivered, if the queue starts at `head`.
    fn delivered(&self, head: Seq) -> BTreeMap<String, u64> {
        self.by_name
            .iter()
            .map(|(name, following)| (name.clone(), following.progress.acks().delivered(head)))
            .collect()
    }

    fn end(&mut self, name: &str) {
        if let Some(following) = self.by_name.remove(name) {
            following.task.abort();
        }
    }
}

impl Hub {
    pub(super) fn new(
        me: String,
        intake: Intake,
        writer: Writer,
        stored: Newest,
        config: NatsConfig,
        gate: DeliveryGate,
        elsewhere: DeliveredElsewhere,
    ) -> Self {
        Self {
            me,
            intake: Arc::new(intake),
            writer,
            newest_stored: SharedNewest::new(Mutex::new(stored)),
            config,
            gate,
            elsewhere,
            liveness: Liveness::default(),
            until: watch::Sender::new(Instant::now()),
            count: None,
            surplus: Arc::default(),
            settling: Settling::Unknown,
        }
    }

    pub(super) fn url(&self) -> &str {
        self.config.url.as_str()
    }

    /// Opens a connection and serves it until it ends; returns why.
    pub(super) async fn serve(&mut self, backoff: &mut Backoff) -> HubError {
        let Err(error) = self.take_part(backoff).await;
        error
    }

    async fn take_part(&mut self, backoff: &mut Backoff) -> Result<Infallible, HubError> {
        let mut connection = NatsConnection::open(nats_options(&self.config)).await?;
        let streams = self.first_streams(&mut connection).await?;
        let replicas = replicas(&mut connection, &streams).await?;
        let durable = self.config.durable.to_string();
        let bucket = Bucket::open(&mut connection, &durable, replicas).await?;
        tracing::info!(url = self.url(), hub = self.me, "connected to NATS as a hub");
        metrics::source_connected(NAME, true);
        backoff.reset();
        self.check_lease().await;
        // Other hubs may have been disconnected too: do not count that time as missed heartbeats.
        self.liveness = Liveness::default();
        self.send_heartbeats(&mut connection, &bucket, streams).await
    }

    /// Waits for the first stream, because the table is replicated as often as the agents' streams.
    async fn first_streams(
        &mut self,
        connection: &mut NatsConnection,
    ) -> Result<Vec<String>, HubError> {
        loop {
            let streams = self.streams(connection).await?;
            if !streams.is_empty() {
                return Ok(streams);
            }
            metrics::source_connected(NAME, true);
            self.deliver().await;
            connection.wait_for(sleep(NATS_LOOK_INTERVAL)).await?;
        }
    }

    /// Sends a heartbeat every [`HUB_BEAT`], and at once when a follower has released its agent.
    async fn send_heartbeats(
        &mut self,
        connection: &mut NatsConnection,
        bucket: &Bucket,
        mut streams: Vec<String>,
    ) -> Result<Infallible, HubError> {
        let mut followed = Followed::default();
        let (mut looked, mut is_first) = (Instant::now(), true);
        loop {
            if looked.elapsed() >= NATS_LOOK_INTERVAL {
                (streams, looked) = (self.streams(connection).await?, Instant::now());
            }
            let next = Instant::now() + HUB_BEAT;
            self.check_lease().await;
            self.turn(connection, bucket, &streams, &mut followed, is_first).await?;
            is_first = false;
            metrics::source_behind(NAME, followed.behind());
            metrics::source_agents(NAME, followed.by_name.len());
            tokio::select! {
                biased;
                error = connection.closed() => return Err(error.into()),
                Some(ended) = followed.followers.join_next() => match ended {
                    Ok((name, FollowerEnd::GivenUp)) => {
                        tracing::info!(car = name, "released the agent for another hub");
                        followed.given_up.insert(name);
                    }
                    Ok((_, FollowerEnd::Queue(error))) => return Err(error.into()),
                    Ok((name, error)) => {
                        tracing::warn!(car = name, %error, "the stream failed; retrying");
                        followed.by_name.remove(&name);
                        // Retry a deleted or faulty stream at the heartbeat's rate.
                        sleep_until(next).await;
                    }
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => return Err(NatsError::Lost(connection.remote_text(error)).into()),
                },
                () = sleep_until(next) => {}
            }
        }
    }

    /// Sends a heartbeat to the assignment table and applies the resulting assignments.
    async fn turn(
        &mut self,
        connection: &mut NatsConnection,
        bucket: &Bucket,
        streams: &[String],
        followed: &mut Followed,
        is_first: bool,
    ) -> Result<(), HubError> {
        let pages = self.pages().await?;
        for _ in 0..HUB_TRIES {
            let asked = Instant::now();
            let (before, version) = bucket.read(connection).await?;
            self.check_name(&before).await?;
            let now = Instant::now();
            self.liveness.observe(&before, now);
            let entry = HubUpdate {
                me: &self.me,
                meant: streams,
                after: followed.delivered(self.writer.status().head),
                given_up: followed.given_up.clone(),
                pages: pages.clone(),
                takes_new: !is_first,
            };
            let mut table = before.clone();
            let surplus = table.write(entry, &mut self.liveness, now);
            let count = self.count.take();
            if bucket.write(connection, &table, version).await? == PutOutcome::Yes {
                self.count = table.hubs.get(&self.me).copied();
                self.until.send_replace(asked + HUB_LEASE - HUB_MARGIN);
                self.surplus.store(surplus, Ordering::Release);
                for name in std::mem::take(&mut followed.given_up) {
                    followed.end(&name);
                }
                return self.apply(connection, &before, &table, streams, followed).await;
            }
            self.count = count;
            let pause = rand::rng().random_range(HUB_RETRY);
            sleep(pause).await;
        }
        Err(NatsError::Lost("other hubs keep changing the assignments".into()).into())
    }

    /// Applies the assignments that this hub has written; `before` are the previous ones.
    async fn apply(
        &mut self,
        connection: &mut NatsConnection,
        before: &AssignmentTable,
        table: &AssignmentTable,
        streams: &[String],
        followed: &mut Followed,
    ) -> Result<(), HubError> {
        let is_settled = self.settle(connection, table).await?;
        self.take_over(connection, before, table, streams, followed).await?;
        if is_settled && !matches!(self.settling, Settling::Done) {
            // The server delivers again what reached the page after the position in the table. The
            // delivery recognizes it only if, when it binds the page, the queue has the entry that
            // the page shows.
            followed.caught_up().await;
            self.deliver().await;
        }
        Ok(())
    }

    /// Fails if another hub writes under this hub's name. Of two such hubs, one stays disconnected
    /// while the other runs.
    async fn check_name(&mut self, table: &AssignmentTable) -> Result<(), NatsError> {
        let written = table.hubs.get(&self.me).copied().unwrap_or_default();
        if self.count.is_none_or(|count| count == written) {
            return Ok(());
        }
        self.count = Some(written);
        // Give the other hub time for its next heartbeat, so that a retry shows whether it still
        // runs.
        sleep(2 * HUB_BEAT).await;
        let me = RemoteText::new(&self.me, &Secrets::default());
        Err(NatsError::Unfit(me.within(
            "another hub has the name ",
            &format!(
                ", as its queue folder is a copy; stop one and delete the file {FILE:?} in its \
                 queue folder"
            ),
        )))
    }

    /// Starts followers for newly assigned streams and stops those of lost ones.
    async fn take_over(
        &self,
        connection: &mut NatsConnection,
        before: &AssignmentTable,
        table: &AssignmentTable,
        streams: &[String],
        followed: &mut Followed,
    ) -> Result<(), HubError> {
        let lost: Vec<String> = followed
            .by_name
            .keys()
            .filter(|name| table.taker(name) != Some(&self.me))
            .cloned()
            .collect();
        for name in lost {
            tracing::warn!(car = name, "another hub has taken over the agent");
            followed.end(&name);
        }
        let new: Vec<_> = table
            .of(&self.me)
            .filter(|(name, _)| !followed.by_name.contains_key(*name) && streams.contains(name))
            .collect();
        let taken_over = new.iter().filter(|(name, _)| before.taker(name) != Some(&self.me));
        self.go_on(taken_over.map(|(_, assignment)| *assignment)).await?;
        for (name, assignment) in new {
            self.follow(connection, name, assignment.after, followed);
        }
        Ok(())
    }

    /// Starts to receive a stream after the stream sequence `after`.
    fn follow(&self, connection: &NatsConnection, name: &str, after: u64, followed: &mut Followed) {
        tracing::info!(car = name, after, "receiving from the agent");
        let progress = Arc::new(FollowerProgress::new(after, &self.writer));
        let follower = Follower {
            context: connection.context(),
            secrets: connection.secrets().clone(),
            name: name.to_owned(),
            after,
            intake: Arc::clone(&self.intake),
            writer: self.writer.clone(),
            newest_stored: Arc::clone(&self.newest_stored),
            progress: Arc::clone(&progress),
            until: self.until.subscribe(),
            surplus: Arc::clone(&self.surplus),
        };
        let task = followed.followers.spawn(follower.run());
        followed.by_name.insert(name.to_owned(), Following { task, progress });
    }

    /// Assigns the stints of agents that were taken over to their existing pages.
    async fn go_on(&self, assignments: impl Iterator<Item = &Assignment>) -> Result<(), HubError> {
        let mut has_any = false;
        for (stint, sessions) in assignments.flat_map(Assignment::sessions) {
            has_any = true;
            let (stint, at) = (CarId::from(stint), self.writer.now());
            self.writer.operator().continue_stint(&stint, at, sessions).await?;
        }
        if has_any {
            // The open session may be another page, or may not know what the page has received
            // since.
            self.gate.give(GateCommand::Renew).await;
        }
        Ok(())
    }

    /// The pages of the stints in this queue, newest stint last.
    async fn pages(&self) -> Result<Vec<StintPage>, HubError> {
        let sessions = self.writer.operator().sessions().await?;
        let mut pages = Vec::new();
        for (car, stint) in self.writer.status().stints.iter() {
            pages.extend(sessions.iter().filter(|known| known.stint == *stint).map(|known| {
                StintPage {
                    stint: car.0.to_string(),
                    server: known.server.clone(),
                    session: known.session.clone(),
                }
            }));
        }
        Ok(pages)
    }

    /// Pauses the delivery if the lease has expired while other hubs are alive: they may have taken
    /// over. [`Hub::turn`] resumes it.
    pub(super) async fn check_lease(&mut self) {
        let now = Instant::now();
        let is_over = now >= *self.until.borrow();
        if matches!(self.settling, Settling::Done) && is_over && self.liveness.others(&self.me, now)
        {
            tracing::warn!("hub lease expired; another hub may have taken over; delivery paused");
            self.settling = Settling::Unknown;
            self.gate.give(GateCommand::Hold).await;
        }
    }

    /// Returns whether no other hub delivers entries that are in this queue.
    async fn settle(
        &mut self,
        connection: &mut NatsConnection,
        table: &AssignmentTable,
    ) -> Result<bool, HubError> {
        if let Settling::Unknown = self.settling {
            self.settling = Settling::Until(self.left(connection, table).await?);
        }
        let Settling::Until(left) = &mut self.settling else { return Ok(true) };
        let status = self.writer.status();
        left.retain(|name, position| {
            let Some(assignment) = table.agents.get(name) else { return false };
            if assignment.after >= *position {
                // Another hub has delivered all that this queue has of the agent.
                for (car, stint) in status.stints.iter() {
                    if car.0.split_once('.').map(|(agent, _)| agent)
                        == name.strip_prefix(STREAM_PREFIX)
                    {
                        self.elsewhere.note(*stint, Seq(status.tail.0.saturating_sub(1)));
                    }
                }
                return false;
            }
            assignment.hub.as_ref().is_some_and(|hub| *hub != self.me)
        });
        Ok(left.is_empty())
    }

    async fn deliver(&mut self) {
        if !matches!(self.settling, Settling::Done) {
            self.settling = Settling::Done;
            self.gate.give(GateCommand::Deliver).await;
        }
    }

    /// The streams that may have entries in this queue but are assigned to another hub, each with
    /// its last sequence.
    async fn left(
        &self,
        connection: &mut NatsConnection,
        table: &AssignmentTable,
    ) -> Result<BTreeMap<String, u64>, HubError> {
        let status = self.writer.status();
        if status.entries == 0 {
            return Ok(BTreeMap::new());
        }
        let agents = status.stints.iter().filter_map(|(car, _)| car.0.split_once('.'));
        let names: BTreeSet<String> =
            agents.map(|(agent, _)| format!("{STREAM_PREFIX}{agent}")).collect();
        let mut left = BTreeMap::new();
        for name in names {
            if table.taker(&name).is_none_or(|hub| hub == self.me) {
                continue;
            }
            let car = connection.context();
            let asked = connection.wait_for(car.get_stream(&name)).await?;
            // Do not wait for a stream that was deleted.
            if let Ok(car) = asked {
                left.insert(name, car.cached_info().state.last_sequence);
            }
        }
        Ok(left)
    }

    /// The streams on the server of the agents that this hub is configured for.
    async fn streams(&self, connection: &mut NatsConnection) -> Result<Vec<String>, NatsError> {
        let names = connection.context().stream_names();
        let all = timeout(NATS_TIMEOUT, names.try_collect::<Vec<String>>());
        match connection.wait_for(all).await? {
            Ok(Ok(names)) => Ok(names.into_iter().filter(|name| self.is_meant(name)).collect()),
            Ok(Err(error)) => Err(NatsError::Unfit(
                connection.remote_text(error).within("it lists no streams: ", ""),
            )),
            Err(_) => Err(NatsError::Timeout(NATS_TIMEOUT, "it lists no streams")),
        }
    }

    /// Whether the hub receives from the agent of this stream.
    fn is_meant(&self, stream: &str) -> bool {
        // A stream whose name is not a valid agent name was not created by an agent.
        stream.strip_prefix(STREAM_PREFIX).is_some_and(|agent| {
            agent.parse::<AgentName>().is_ok() && self.config.agents.has(agent)
        })
    }
}

/// The replica count of the agents' streams, which is also used for the assignment table.
async fn replicas(connection: &mut NatsConnection, streams: &[String]) -> Result<usize, NatsError> {
    let Some(name) = streams.first() else { return Ok(1) };
    let context = connection.context();
    let asked = connection.wait_for(context.get_stream(name)).await?;
    Ok(asked.map_or(1, |car| car.cached_info().config.num_replicas))
}

fn nats_options(config: &NatsConfig) -> NatsOptions {
    let NatsConfig { url, token, token_file, credentials_file, ca_file, .. } = config.clone();
    let (open_timeout, request_timeout) = (NATS_TIMEOUT, NATS_TIMEOUT);
    let secrets = Secrets::new(token.reveal().map(str::to_owned));
    NatsOptions {
        table: "source.nats",
        url,
        token,
        token_file,
        credentials_file,
        ca_file,
        open_timeout,
        request_timeout,
        secrets,
    }
}

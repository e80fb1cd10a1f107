//! The hub source: receives the entries that the agents of a league publish to a NATS server, and
//! queues them for the dashboards.
//!
//! - Each agent has a NATS stream. The hub lists the streams periodically and follows all of its
//!   own concurrently.
//! - Each agent's stint becomes a separate [`CarId`] here, and therefore gets its own page.
//! - Hubs with the same name share the agents; an assignment table on the server maps each agent to
//!   one hub. Its position for an agent advances once a dashboard has everything before it; a hub
//!   that takes over an agent resumes at that position, on the same page.
//! - Timestamps increase strictly within a stint, so an entry that is received twice is recognized
//!   by its timestamp: here if it is still queued, by the dashboard if it was delivered.
//!
//! [`CarId`]: crate::entry::CarId

mod ack_tracker;
mod assignments;
mod bucket;
mod delivery_gate;
mod follow;
mod hub;
mod message;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

pub(crate) use self::delivery_gate::{DeliveryGate, GateCommand, GateRequest, delivery_gate};
use self::hub::Hub;
use super::Intake;
use crate::backoff::Backoff;
use crate::config::NatsConfig;
use crate::entry::{CarId, MAX_STREAMS, Seq};
use crate::metrics;
use crate::nats::NatsError;
use crate::queue::operator::Peeked;
use crate::queue::{
    DeliveredElsewhere, PAGE_ENTRIES, QueueError, STORAGE_OPEN_INTERVAL, Writer, replace_undurably,
};

/// The maximum time for a NATS server to answer a hub's request, and to accept a connection.
pub(super) const NATS_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const NATS_BACKOFF: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(5);

/// Entries at the end of the queue that a hub scans at its start to find what it has of each agent,
/// because the server delivers those entries again.
const NATS_LOOK_BACK_ENTRIES: u64 = 32_768;

/// How often a hub writes a heartbeat and its delivery progress into the assignment table.
pub(super) const HUB_BEAT: Duration = Duration::from_secs(2);

/// A hub's lease: without a heartbeat for this long, other hubs take over. Longer than a restart or
/// a leader election takes. The hub itself stops [`HUB_MARGIN`] earlier.
pub(super) const HUB_LEASE: Duration = Duration::from_secs(20);

/// The longest time that a returning hub withholds its queued entries until its successor has
/// delivered them, and that a new stint is held back for a handover.
pub(super) const HUB_HOLD: Duration = Duration::from_secs(30);

/// The label of this source in metrics.
pub(crate) const NAME: &str = "nats";

/// The file beside the queue that holds the random part of the hub's name.
const FILE: &str = "hub";

/// The newest stored entry of each stream.
type Newest = HashMap<CarId, NewestStored>;

#[derive(Clone, Copy, Debug)]
struct NewestStored {
    /// Its position in the queue of the agent that captured it.
    origin: Seq,
    used_at: Instant,
}

/// Locked while an agent's entries are appended to the queue. Only one agent appends at a time, so
/// that no other agent uses up the room that it waited for.
type SharedNewest = Arc<Mutex<Newest>>;

/// Why a hub cannot connect, or why its connection ended.
#[derive(Debug, thiserror::Error)]
enum HubError {
    #[error("{0}")]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// The arguments of [`run`].
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub intake: Intake,
    pub writer: Writer,
    pub config: NatsConfig,
    pub agent: &'a str,
    /// The queue's folder.
    pub folder: &'a Path,
    pub gate: DeliveryGate,
    pub(crate) elsewhere: DeliveredElsewhere,
}

/// Runs the hub until the queue is closed.
pub(crate) fn run(parts: Parts<'_>) -> impl Future<Output = ()> + Send + use<> {
    let me = name(parts.agent, parts.folder);
    let Parts { intake, writer, config, gate, elsewhere, .. } = parts;
    async move {
        let Some(newest_stored) = stored_at_last(&writer).await else { return };
        let mut hub = Hub::new(me, intake, writer, newest_stored, config, gate, elsewhere);
        let mut backoff =
            Backoff::new(NATS_BACKOFF.start, NATS_BACKOFF.end, SmallRng::from_os_rng());
        let mut said = String::new();
        loop {
            let error = match hub.serve(&mut backoff).await {
                HubError::Queue(QueueError::Closed) => return,
                error => error,
            };
            metrics::source_connected(NAME, false);
            metrics::source_agents(NAME, 0);
            let (delay, text) = (backoff.next_delay(), error.to_string());
            let url = hub.url();
            if text == said {
                tracing::debug!(url, %error, retry_in = ?delay, "NATS hub still fails; retrying");
            } else {
                tracing::warn!(url, %error, retry_in = ?delay, "NATS hub failed; retrying");
            }
            said = text;
            sleep(delay).await;
            hub.check_lease().await;
        }
    }
}

/// The hub's unique name, which survives a restart: the agent's name, and a random part from a file
/// beside the queue, because two agents on one PC have the same name.
fn name(agent: &str, folder: &Path) -> String {
    let file = folder.join(FILE);
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    let known = known.trim();
    if !known.is_empty() && known.chars().all(|c| c.is_ascii_hexdigit()) {
        return format!("{agent}-{known:.16}");
    }
    let number = format!("{:08x}", rand::random::<u32>());
    if let Err(error) = replace_undurably(&file, number.as_bytes()) {
        let file = file.display();
        tracing::warn!(%file, %error, "cannot save the hub's name; a restart changes it");
    }
    format!("{agent}-{number}")
}

/// Calls [`stored`] until the disk answers; `None` when the queue is closed.
async fn stored_at_last(writer: &Writer) -> Option<Newest> {
    loop {
        match newest_stored(writer).await {
            Ok(newest_stored) => return Some(newest_stored),
            Err(QueueError::Closed) => return None,
            Err(error) => {
                tracing::error!(%error, "the hub cannot read its queue yet; retrying");
                sleep(STORAGE_OPEN_INTERVAL).await;
            }
        }
    }
}

/// The newest entry of each stream among the last entries of the queue. The dashboard detects
/// duplicates of entries that have left the queue.
async fn newest_stored(writer: &Writer) -> Result<Newest, QueueError> {
    let (status, operator) = (writer.status(), writer.operator());
    let streams: HashMap<_, _> =
        status.stints.iter().map(|(car, stint)| (*stint, car.clone())).collect();
    let mut newest = Newest::new();
    let mut from = Seq(status.tail.0.saturating_sub(NATS_LOOK_BACK_ENTRIES)).max(status.head);
    loop {
        let peeked = operator.peek(from, PAGE_ENTRIES).await?;
        let Some(last) = peeked.last() else { return Ok(newest) };
        from = Seq(last.seq.0 + 1);
        for Peeked { origin, entry, .. } in peeked {
            let stint = entry.map(|entry| entry.stint);
            if let Some(car) = stint.ok().and_then(|stint| streams.get(&stint)) {
                remember(&mut newest, car.clone(), origin);
            }
        }
    }
}

/// Records a stream's newest entry, and forgets the streams that have been idle the longest.
fn remember(newest_stored: &mut Newest, car: CarId, origin: Option<Seq>) {
    let Some(origin) = origin else { return };
    let known = newest_stored.get(&car).map_or(origin, |known| known.origin.max(origin));
    newest_stored.insert(car, NewestStored { origin: known, used_at: Instant::now() });
    if newest_stored.len() > 2 * MAX_STREAMS {
        let mut moments: Vec<_> = newest_stored.values().map(|newest| newest.used_at).collect();
        moments.sort_unstable();
        let oldest_kept = moments[moments.len() - MAX_STREAMS];
        newest_stored.retain(|_, newest| newest.used_at >= oldest_kept);
    }
}

//! What the agents of a league publish to a NATS server: this agent is a hub, which feeds
//! dashboards.
//!
//! - Each agent has a stream; they are looked for again and again, and followed one beside the other.
//! - Each agent's stint is a [`Stream`] of its own here, and so gets a page of its own.
//! - Hubs of one name share the agents; a book on the server says who takes from whom. A position
//!   in it moves when a dashboard has what is before it: whoever takes over goes on there, on the same
//!   page.
//! - What is taken a second time is known by its moment, which within a stint is later with each entry:
//!   here if it is queued, by the dashboard if it has it.
//!
//! [`Stream`]: crate::entry::Stream

mod book;
mod bucket;
mod follow;
mod hub;
mod marks;
mod message;
mod orders;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::Mutex;
use tokio::time::sleep;

use self::hub::Hub;
pub use self::orders::{Commander, Order, Ordered, Orders, orders};
use super::Intake;
use crate::backoff::Backoff;
use crate::config::{
    MAX_STREAMS, NATS_BACKOFF, NATS_LOOK_BACK_ENTRIES, NatsConfig, PAGE_ENTRIES,
    STORAGE_OPEN_INTERVAL,
};
use crate::entry::{CapturedAt, Seq, Stream};
use crate::metrics;
use crate::nats::NatsError;
use crate::queue::{QueueError, Writer, replace_undurably};

/// The label in metrics.
pub const NAME: &str = "nats";

/// The file beside the queue with what tells this hub from others.
const FILE: &str = "hub";

/// The newest moment that was stored of each stream.
type Newest = HashMap<Stream, CapturedAt>;

/// Locked while entries are on their way to the queue: of all agents one at a time, so that each finds
/// the room that it waited for.
type Stored = Arc<Mutex<Newest>>;

/// Why a hub is not connected, or not any more.
#[derive(Debug, thiserror::Error)]
enum HubError {
    #[error("{0}")]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// What a hub is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    pub intake: Intake,
    pub writer: Writer,
    pub config: NatsConfig,
    pub agent: &'a str,
    /// The queue's folder.
    pub folder: &'a Path,
    pub commander: Commander,
}

/// Takes entries for as long as the queue is open.
pub fn run(parts: Parts<'_>) -> impl Future<Output = ()> + Send + use<> {
    let me = name(parts.agent, parts.folder);
    let Parts { intake, writer, config, commander, .. } = parts;
    async move {
        let Some(stored) = stored_at_last(&writer).await else { return };
        let mut hub = Hub::new(me, intake, writer, stored, config, commander);
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
                tracing::debug!(url, %error, retry_in = ?delay, "still nothing from the league");
            } else {
                tracing::warn!(url, %error, retry_in = ?delay, "nothing from the league: no NATS server");
            }
            said = text;
            sleep(delay).await;
            hub.look_at_lease().await;
        }
    }
}

/// What tells this hub from others, also after a restart: the agent's name, and a random part beside
/// its queue. Two on one PC have the same name.
fn name(agent: &str, folder: &Path) -> String {
    let file = folder.join(FILE);
    let is_good = |text: &String| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    let known = std::fs::read_to_string(&file).map(|text| text.trim().to_owned());
    let number = known.ok().filter(is_good).unwrap_or_else(|| {
        let number = format!("{:08x}", rand::random::<u32>());
        if let Err(error) = replace_undurably(&file, number.as_bytes()) {
            let file = file.display();
            tracing::warn!(%file, %error, "after a restart this hub will pass for another one");
        }
        number
    });
    format!("{agent}-{number:.16}")
}

/// What is [`stored`], when the disk shows it; `None` when the queue is closed.
async fn stored_at_last(writer: &Writer) -> Option<Newest> {
    loop {
        match stored(writer).await {
            Ok(stored) => return Some(stored),
            Err(QueueError::Closed) => return None,
            Err(error) => {
                tracing::error!(%error, "a hub takes nothing before it can read its queue");
                sleep(STORAGE_OPEN_INTERVAL).await;
            }
        }
    }
}

/// The newest moment of each stream among the last entries of the queue. Of what has left it, the
/// dashboard knows.
async fn stored(writer: &Writer) -> Result<Newest, QueueError> {
    let (status, operator) = (writer.status(), writer.operator());
    let streams: HashMap<_, _> =
        status.stints.iter().map(|(stream, stint)| (*stint, stream.clone())).collect();
    let mut newest = Newest::new();
    let mut from = Seq(status.tail.0.saturating_sub(NATS_LOOK_BACK_ENTRIES)).max(status.head);
    loop {
        let peeked = operator.peek(from, PAGE_ENTRIES).await?;
        let Some(last) = peeked.last() else { return Ok(newest) };
        from = Seq(last.seq.0 + 1);
        for entry in peeked.into_iter().filter_map(|peeked| peeked.entry.ok()) {
            if let Some(stream) = streams.get(&entry.stint) {
                let known = newest.entry(stream.clone()).or_insert(entry.captured_at);
                *known = entry.captured_at.max(*known);
            }
        }
    }
}

/// Of the streams those that drove last are remembered.
fn remember(stored: &mut Newest, stream: Stream, at: Option<CapturedAt>) {
    let Some(at) = at else { return };
    let known = stored.entry(stream).or_insert(at);
    *known = at.max(*known);
    if stored.len() > 2 * MAX_STREAMS {
        let mut moments: Vec<_> = stored.values().copied().collect();
        moments.sort_unstable();
        let oldest_kept = moments[moments.len() - MAX_STREAMS];
        stored.retain(|_, at| *at >= oldest_kept);
    }
}

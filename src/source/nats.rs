//! What the agents of a league publish to a NATS server: this agent is a hub, which feeds
//! dashboards.
//!
//! - Each agent has a stream; they are looked for again and again, and followed one beside the other.
//! - Each agent's stint is a [`Stream`] of its own here, and so gets a page of its own.
//! - The server remembers what was taken, by a durable consumer a stream. An entry is acknowledged
//!   once the queue has it, or has dropped it by name.
//! - An entry of before a crash may have been stored and not acknowledged. It is given out again, and
//!   known by its moment, which within a stint is later with each entry.
//!
//! [`Stream`]: crate::entry::Stream

mod follow;
mod message;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::TryStreamExt;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::follow::Follower;
use super::Intake;
use crate::backoff::Backoff;
use crate::config::{
    MAX_STREAMS, NATS_BACKOFF, NATS_LOOK_BACK_ENTRIES, NATS_LOOK_INTERVAL, NATS_TIMEOUT,
    NatsConfig, PAGE_ENTRIES, STORAGE_OPEN_INTERVAL,
};
use crate::entry::{CapturedAt, Seq, Stream};
use crate::metrics;
use crate::nats::{Connection, Door, NatsError, STREAM_PREFIX};
use crate::queue::{QueueError, Writer};

/// The label in metrics.
pub const NAME: &str = "nats";

/// The newest moment that was stored of each stream.
type Newest = HashMap<Stream, CapturedAt>;

/// Locked while entries are on their way to the queue: of all agents one at a time, so that each finds
/// the room that it waited for.
type Stored = Arc<Mutex<Newest>>;

/// How many entries each agent's stream has that were not taken yet.
type Behind = HashMap<String, Arc<AtomicU64>>;

/// Why a hub is not connected, or not any more.
#[derive(Debug, thiserror::Error)]
enum HubError {
    #[error("{0}")]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Takes entries for as long as the queue is open.
pub async fn run(intake: Intake, writer: Writer, config: NatsConfig) {
    let intake = Arc::new(intake);
    let stored = loop {
        // Of what has left the queue the dashboard knows.
        match stored(&writer).await {
            Ok(stored) => break Stored::new(Mutex::new(stored)),
            Err(QueueError::Closed) => return,
            Err(error) => {
                tracing::error!(%error, "a hub takes nothing before it can read its queue");
                sleep(STORAGE_OPEN_INTERVAL).await;
            }
        }
    };
    let mut backoff = Backoff::new(NATS_BACKOFF.start, NATS_BACKOFF.end, SmallRng::from_os_rng());
    let mut said = String::new();
    loop {
        let error = match serve(&intake, &stored, &config, &mut backoff).await {
            HubError::Queue(QueueError::Closed) => return,
            error => error,
        };
        metrics::source_connected(NAME, false);
        let (delay, text) = (backoff.next_delay(), error.to_string());
        let url = config.url.as_str();
        if text == said {
            tracing::debug!(url, %error, retry_in = ?delay, "still nothing from the league");
        } else {
            tracing::warn!(url, %error, retry_in = ?delay, "nothing from the league: no NATS server");
        }
        said = text;
        sleep(delay).await;
    }
}

/// One connection, from open to end.
async fn serve(
    intake: &Arc<Intake>,
    stored: &Stored,
    config: &NatsConfig,
    backoff: &mut Backoff,
) -> HubError {
    let mut connection = match Connection::open(door(config)).await {
        Ok(connection) => connection,
        Err(error) => return error.into(),
    };
    tracing::info!(url = config.url.as_str(), "taking what the league publishes");
    metrics::source_connected(NAME, true);
    backoff.reset();
    let mut followed = Behind::new();
    let mut followers = JoinSet::new();
    loop {
        match streams(&mut connection, config).await {
            Ok(streams) => {
                for name in streams {
                    if followed.contains_key(&name) {
                        continue;
                    }
                    if followed.len() >= MAX_STREAMS {
                        tracing::warn!(
                            stream = name,
                            "more agents than {MAX_STREAMS}: this one is left out; give a part of \
                             them to another hub with source.nats.agents"
                        );
                        break;
                    }
                    let behind = Arc::<AtomicU64>::default();
                    followed.insert(name.clone(), Arc::clone(&behind));
                    let follower = Follower {
                        context: connection.context(),
                        name,
                        durable: config.durable.to_string(),
                        intake: Arc::clone(intake),
                        stored: Arc::clone(stored),
                        behind,
                    };
                    followers.spawn(follower.run());
                }
            }
            Err(error) => return error.into(),
        }
        let behind = followed.values().map(|entries| entries.load(Ordering::Relaxed)).sum();
        metrics::source_behind(NAME, behind);
        tokio::select! {
            biased;
            error = connection.closed() => return error.into(),
            Some(ended) = followers.join_next() => {
                let (name, error) = match ended {
                    Ok(ended) => ended,
                    Err(error) => return NatsError::Lost(error.to_string()).into(),
                };
                if let follow::Ended::Queue(error) = error {
                    return error.into();
                }
                tracing::warn!(stream = name, %error, "nothing more from this agent, trying again");
                followed.remove(&name);
                // A stream that is gone, or no good, is not asked all the time.
                sleep(NATS_LOOK_INTERVAL).await;
            }
            () = sleep(NATS_LOOK_INTERVAL) => {}
        }
    }
}

fn door(config: &NatsConfig) -> Door {
    let NatsConfig { url, token, token_file, credentials_file, ca_file, .. } = config.clone();
    let (open_timeout, request_timeout) = (NATS_TIMEOUT, NATS_TIMEOUT);
    Door { url, token, token_file, credentials_file, ca_file, open_timeout, request_timeout }
}

/// The streams of the agents that are meant.
async fn streams(
    connection: &mut Connection,
    config: &NatsConfig,
) -> Result<Vec<String>, NatsError> {
    let names = connection.context().stream_names();
    let is_meant = |name: &String| {
        name.strip_prefix(STREAM_PREFIX).is_some_and(|agent| config.agents.has(agent))
    };
    let all = timeout(NATS_TIMEOUT, names.try_collect::<Vec<String>>());
    match connection.wait_for(all).await? {
        Ok(Ok(names)) => Ok(names.into_iter().filter(is_meant).collect()),
        Ok(Err(error)) => Err(NatsError::Unfit(format!("it shows no streams: {error}"))),
        Err(_) => Err(NatsError::Timeout(NATS_TIMEOUT, "it shows no streams")),
    }
}

/// The newest moment of each stream among the last entries of the queue. What is further back was
/// acknowledged long ago.
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

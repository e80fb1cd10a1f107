//! One agent's stream, followed from where the server says that it was left.
//!
//! The server gives out again what was taken and not acknowledged, once it has waited for that. New
//! entries would come in between: so nothing is asked for until that wait is over, and then the old
//! come first.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::jetstream::consumer::pull::{Batch, Config};
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::{Context, Message};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep};

use super::super::Intake;
use super::super::intake::Relayed;
use super::{Newest, Stored, message, remember};
use crate::config::{
    NATS_ACK_WAIT, NATS_BACKOFF, NATS_FETCH_EXPIRES, NATS_LOOK_INTERVAL, NATS_UNACKNOWLEDGED,
};
use crate::entry::Stream;
use crate::nats::STREAM_PREFIX;
use crate::planted::planted;
use crate::queue::QueueError;

/// Why a stream is not followed any more.
#[derive(Debug)]
pub(super) enum Ended {
    Queue(QueueError),
    /// The server, or the library, says so.
    Stream(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(error) => error.fmt(f),
            Self::Stream(text) => f.write_str(text),
        }
    }
}

impl From<QueueError> for Ended {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl<Kind> From<async_nats::error::Error<Kind>> for Ended
where
    Kind: Clone + fmt::Debug + fmt::Display + PartialEq,
{
    fn from(error: async_nats::error::Error<Kind>) -> Self {
        Self::Stream(error.to_string())
    }
}

pub(super) struct Follower {
    pub(super) context: Context,
    /// Of the stream.
    pub(super) name: String,
    pub(super) durable: String,
    pub(super) intake: Arc<Intake>,
    pub(super) stored: Stored,
    /// Entries that the stream has and that were not taken yet.
    pub(super) behind: Arc<AtomicU64>,
}

impl Follower {
    /// Takes entries until something is wrong, and says what.
    pub(super) async fn run(self) -> (String, Ended) {
        let Err(ended) = self.follow().await;
        (self.name, ended)
    }

    async fn follow(&self) -> Result<std::convert::Infallible, Ended> {
        let consumer = self.consumer().await?;
        // What was taken before may be on its way to the queue still: this waits for it.
        let before = self.stored.lock().await.clone();
        self.behind.store(consumer.cached_info().num_pending, Ordering::Relaxed);
        if consumer.cached_info().num_ack_pending > 0 && !planted("the_new_before_the_old") {
            sleep(NATS_ACK_WAIT + NATS_LOOK_INTERVAL).await;
        }
        let mut taken = BTreeSet::new();
        loop {
            let asked = Instant::now();
            let batch = consumer
                .batch()
                .max_messages(NATS_UNACKNOWLEDGED)
                .expires(NATS_FETCH_EXPIRES)
                .messages()
                .await?;
            if !self.take_all(batch, &before, &mut taken).await?
                && asked.elapsed() < NATS_BACKOFF.start
            {
                sleep(NATS_BACKOFF.start).await;
            }
        }
    }

    async fn consumer(&self) -> Result<Consumer<Config>, Ended> {
        let stream = self.context.get_stream(&self.name).await?;
        let config = Config {
            durable_name: Some(self.durable.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: NATS_ACK_WAIT,
            max_ack_pending: NATS_UNACKNOWLEDGED as i64,
            ..Config::default()
        };
        Ok(stream.get_or_create_consumer(&self.durable, config).await?)
    }

    /// Takes a batch to its end; says whether there was anything in it.
    async fn take_all(
        &self,
        batch: Batch,
        before: &Newest,
        taken: &mut BTreeSet<u64>,
    ) -> Result<bool, Ended> {
        let mut has_any = false;
        let mut chunks = batch.ready_chunks(NATS_UNACKNOWLEDGED);
        while let Some(chunk) = chunks.next().await {
            has_any = true;
            let chunk: Result<Vec<Message>, _> = chunk.into_iter().collect();
            let chunk = chunk.map_err(|error| Ended::Stream(error.to_string()))?;
            self.take(chunk, before, taken).await?;
        }
        Ok(has_any)
    }

    /// Stores what is new in these messages, and acknowledges all of them.
    async fn take(
        &self,
        messages: Vec<Message>,
        before: &Newest,
        taken: &mut BTreeSet<u64>,
    ) -> Result<(), Ended> {
        let mut positions = Vec::with_capacity(messages.len());
        let mut runs: Vec<(Stream, Vec<Relayed>)> = Vec::new();
        for message in &messages {
            let info = message.info().map_err(|error| Ended::Stream(error.to_string()))?;
            self.behind.store(info.pending, Ordering::Relaxed);
            positions.push(info.stream_sequence);
            if taken.contains(&info.stream_sequence) {
                continue;
            }
            let Some((stream, entry)) = self.new_entry(message, before) else { continue };
            match runs.last_mut() {
                Some((of, entries)) if *of == stream => entries.push(entry),
                _ => runs.push((stream, vec![entry])),
            }
        }
        if planted("acknowledged_before_it_is_stored") {
            acknowledge(&messages).await?;
            sleep(NATS_BACKOFF.start).await;
        }
        for (stream, entries) in runs {
            self.relay(stream, entries).await?;
        }
        taken.extend(positions);
        while taken.len() > 4 * NATS_UNACKNOWLEDGED {
            taken.pop_first();
        }
        acknowledge(&messages).await
    }

    /// The entry of a message, unless that has none or it was stored `before`: as a stint's moments
    /// grow, all of it is stored that is no newer than the newest that is.
    fn new_entry(&self, message: &Message, before: &Newest) -> Option<(Stream, Relayed)> {
        let read = message::read(&message.subject, message.headers.as_ref(), &message.payload);
        let (stream, entry) = match read {
            Ok((stream, entry)) if self.is_of_this_agent(&stream) => (stream, entry),
            Ok((stream, _)) => {
                self.intake.refuse(message::of_another(&self.name, &stream));
                return None;
            }
            Err(refused) => {
                self.intake.refuse(refused);
                return None;
            }
        };
        let is_stored = before.get(&stream) >= Some(&entry.driven_at);
        (!is_stored || planted("given_out_again_stored_again")).then_some((stream, entry))
    }

    /// Goes on to its end though the connection ends meanwhile: else nobody would know whether the
    /// queue has the entries.
    ///
    /// When it ends, each entry is stored, or was dropped and counted by the queue.
    async fn relay(&self, stream: Stream, entries: Vec<Relayed>) -> Result<(), Ended> {
        let intake = Arc::clone(&self.intake);
        let mut stored = Arc::clone(&self.stored).lock_owned().await;
        let relayed = tokio::spawn(async move {
            let newest = entries.iter().map(|entry| entry.driven_at).max();
            intake.relay(&stream, entries).await?;
            remember(&mut stored, stream, newest);
            Ok::<_, QueueError>(())
        });
        Ok(relayed.await.map_err(|error| Ended::Stream(error.to_string()))??)
    }

    fn is_of_this_agent(&self, stream: &Stream) -> bool {
        let agent = self.name.strip_prefix(STREAM_PREFIX);
        stream.0.split_once('.').map(|(of, _)| of) == agent
    }
}

async fn acknowledge(messages: &[Message]) -> Result<(), Ended> {
    for message in messages {
        message.ack().await.map_err(|error| Ended::Stream(error.to_string()))?;
    }
    Ok(())
}

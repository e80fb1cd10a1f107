//! One agent's stream, followed from where the server says that it was left.
//!
//! The server gives out again what was taken and not acknowledged, once it has waited for that. New
//! entries would come in between: so nothing is asked for until that wait is over, and then the old
//! come first.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::jetstream::consumer::pull::{Batch, Config};
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::{Context, Message};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep};

use super::super::intake::Relayed;
use super::super::{Intake, Taken};
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
    /// What was stored before this connection.
    pub(super) before: Arc<Newest>,
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
        let left = consumer.cached_info().delivered.stream_sequence;
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
            if !self.take_all(batch, left, &mut taken).await?
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
        left: u64,
        taken: &mut BTreeSet<u64>,
    ) -> Result<bool, Ended> {
        let mut has_any = false;
        let mut chunks = batch.ready_chunks(NATS_UNACKNOWLEDGED);
        while let Some(chunk) = chunks.next().await {
            has_any = true;
            let chunk: Result<Vec<Message>, _> = chunk.into_iter().collect();
            let chunk = chunk.map_err(|error| Ended::Stream(error.to_string()))?;
            self.take(chunk, left, taken).await?;
        }
        Ok(has_any)
    }

    /// Stores what is new in these messages, and acknowledges what is stored. Up to the position
    /// `left` an earlier connection had them, and may have stored them.
    async fn take(
        &self,
        messages: Vec<Message>,
        left: u64,
        taken: &mut BTreeSet<u64>,
    ) -> Result<(), Ended> {
        let mut runs: Vec<(Stream, Vec<Relayed>, Vec<usize>)> = Vec::new();
        let mut unfinished = HashSet::new();
        for (index, message) in messages.iter().enumerate() {
            let info = message.info().map_err(|error| Ended::Stream(error.to_string()))?;
            let position = info.stream_sequence;
            self.behind.store(info.pending, Ordering::Relaxed);
            if taken.contains(&position) {
                continue;
            }
            let read = message::read(&message.subject, message.headers.as_ref(), &message.payload);
            let (stream, entry) = match read {
                Ok((stream, entry)) if self.is_of_this_agent(&stream) => (stream, entry),
                Ok((stream, _)) => {
                    self.intake.refuse(message::of_another(&self.name, &stream));
                    continue;
                }
                Err(refused) => {
                    self.intake.refuse(refused);
                    continue;
                }
            };
            if position <= left
                && !planted("given_out_again_stored_again")
                && self.before.get(&stream) >= Some(&entry.driven_at)
            {
                continue;
            }
            match runs.last_mut() {
                Some((of, entries, indices)) if *of == stream => {
                    entries.push(entry);
                    indices.push(index);
                }
                _ => runs.push((stream, vec![entry], vec![index])),
            }
        }
        if planted("acknowledged_before_it_is_stored") {
            for message in &messages {
                let _ = message.ack().await;
            }
            sleep(NATS_BACKOFF.start).await;
        }
        for (stream, entries, indices) in runs {
            let outcomes = self.relay(stream, entries).await?;
            let waits =
                outcomes.iter().zip(indices).filter(|(taken, _)| **taken == Taken::Buffered);
            unfinished.extend(waits.map(|(_, index)| index));
        }
        for (_, message) in
            messages.iter().enumerate().filter(|(index, _)| !unfinished.contains(index))
        {
            if let Ok(info) = message.info() {
                taken.insert(info.stream_sequence);
            }
            message.ack().await.map_err(|error| Ended::Stream(error.to_string()))?;
        }
        while taken.len() > 4 * NATS_UNACKNOWLEDGED {
            taken.pop_first();
        }
        Ok(())
    }

    /// Goes on to its end though the connection ends meanwhile: else nobody would know whether the
    /// queue has the entries.
    async fn relay(&self, stream: Stream, entries: Vec<Relayed>) -> Result<Vec<Taken>, Ended> {
        let (intake, stored) = (Arc::clone(&self.intake), Arc::clone(&self.stored));
        let relayed = tokio::spawn(async move {
            let mut stored = stored.lock().await;
            let newest = entries.iter().map(|entry| entry.driven_at).max();
            let taken = intake.relay(&stream, entries).await?;
            remember(&mut stored, stream, newest);
            Ok::<_, QueueError>(taken)
        });
        Ok(relayed.await.map_err(|error| Ended::Stream(error.to_string()))??)
    }

    fn is_of_this_agent(&self, stream: &Stream) -> bool {
        let agent = self.name.strip_prefix(STREAM_PREFIX);
        stream.0.split_once('.').map(|(of, _)| of) == agent
    }
}

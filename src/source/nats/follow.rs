//! Follows one agent's stream from the delivered position in the assignment table.
//!
//! The follower reads through an ephemeral consumer without acknowledgements, so it leaves no state
//! on the server: another hub can read the same messages again, and a lost message is never
//! redelivered out of order. If a message is missing, the follower ends, and is restarted from the
//! position in the table.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Batch, Config};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::{Context, Message, stream};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::super::Intake;
use super::super::intake::Relayed;
use super::ack_tracker::AckTracker;
use super::{HUB_BEAT, HUB_HOLD, NATS_BACKOFF, Newest, SharedNewest, message, remember};
use crate::entry::{CarId, Seq};
use crate::nats::{SETUP, STREAM_PREFIX};
use crate::queue::{QueueError, Writer};
use crate::remote_text::{RemoteText, Secrets};

/// Entries of one agent that a hub fetches at once; an entry typically has 700 bytes, at most 1 MB.
const NATS_FETCH_ENTRIES: usize = 128;

/// How long a fetch waits before it is repeated. If the cluster node that should answer dies, the
/// hub notices after this long.
const NATS_FETCH_EXPIRES: Duration = Duration::from_secs(10);

/// The server deletes a hub's consumer after this long without a request.
const NATS_READER_FORGOTTEN: Duration = Duration::from_secs(60);

/// The maximum size of the messages that one fetch returns, in bytes: two of the largest that an
/// agent publishes. A larger message is fetched on its own.
const FETCH_BYTES: usize = 2_000_000;

/// Why a follower ended.
#[derive(Debug)]
pub(super) enum FollowerEnd {
    Queue(QueueError),
    /// The server or the library reported an error.
    Stream(RemoteText),
    /// Released for another hub: a new stint starts, and everything before it is delivered.
    GivenUp,
}

impl fmt::Display for FollowerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(error) => error.fmt(f),
            Self::Stream(text) => text.fmt(f),
            Self::GivenUp => f.write_str("released for another hub"),
        }
    }
}

impl From<QueueError> for FollowerEnd {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

/// The progress of a follower, for the task that writes the assignment table.
#[derive(Debug)]
pub(super) struct FollowerProgress {
    /// Entries in the stream that have not been received yet.
    pub(super) behind: AtomicU64,
    /// Whether the queue has everything that the stream held when the follower started.
    pub(super) has_caught_up: AtomicBool,
    acks: Mutex<AckTracker>,
}

impl FollowerProgress {
    pub(super) fn new(after: u64, writer: &Writer) -> Self {
        let marks = Mutex::new(AckTracker::new(after, writer.status().tail));
        Self { behind: AtomicU64::default(), has_caught_up: AtomicBool::default(), acks: marks }
    }

    pub(super) fn acks(&self) -> MutexGuard<'_, AckTracker> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Follower {
    pub(super) context: Context,
    /// Secrets to redact from the server's texts.
    pub(super) secrets: Secrets,
    /// The name of the stream.
    pub(super) name: String,
    /// Dashboards have every message up to this stream sequence.
    pub(super) after: u64,
    pub(super) intake: Arc<Intake>,
    pub(super) writer: Writer,
    pub(super) newest_stored: SharedNewest,
    pub(super) progress: Arc<FollowerProgress>,
    /// Until when this hub certainly holds the agent in the assignment table.
    pub(super) until: watch::Receiver<Instant>,
    /// How many agents this hub should release for other hubs.
    pub(super) surplus: Arc<AtomicUsize>,
}

/// The outcome of one fetch.
#[derive(Clone, Copy, Debug)]
struct Fetched {
    has_any: bool,
    /// The next message would have exceeded [`FETCH_BYTES`].
    ended_by_size: bool,
}

/// The read position of a follower.
struct ReadPosition {
    /// The newest timestamps stored before the follower started; entries up to them are duplicates.
    before: Newest,
    /// The stint of the newest message; `None` if it is not known.
    stint: Option<CarId>,
    /// The consumer sequence of the newest message, from 1. A gap means a lost message.
    consumed: u64,
    /// The last message that the stream held when the follower started.
    held_at_start: u64,
}

impl Follower {
    /// Follows the stream until it ends; returns the stream's name and the reason.
    pub(super) async fn run(mut self) -> (String, FollowerEnd) {
        let Err(ended) = self.follow().await;
        (self.name, ended)
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, FollowerEnd> {
        let car = self.context.get_stream(&self.name).await;
        let car = car.map_err(|error| self.ended(error))?;
        if car.cached_info().state.last_sequence < self.after {
            tracing::warn!(
                car = self.name,
                "the stream was recreated; following it from its beginning"
            );
            self.after = 0;
            *self.progress.acks() = AckTracker::new(0, self.writer.status().tail);
        }
        let consumer = self.consumer(&car).await?;
        self.progress.behind.store(consumer.cached_info().num_pending, Ordering::Relaxed);
        // A previous follower may still be appending to the queue; the lock waits for it.
        let before = self.newest_stored.lock().await.clone();
        let held_at_start = car.cached_info().state.last_sequence;
        let stint = self.stint_before(&car).await;
        let mut place = ReadPosition { before, stint, consumed: 0, held_at_start };
        self.take_setup(&car, &place).await?;
        if consumer.cached_info().num_pending == 0 {
            self.progress.has_caught_up.store(true, Ordering::Release);
        }
        let mut next_is_large = false;
        loop {
            let asked = Instant::now();
            let batch = consumer.batch().expires(NATS_FETCH_EXPIRES);
            let batch = if next_is_large {
                batch.max_messages(1)
            } else {
                batch.max_messages(NATS_FETCH_ENTRIES).max_bytes(FETCH_BYTES)
            };
            let batch = batch.messages().await.map_err(|error| self.ended(error))?;
            let Fetched { has_any, ended_by_size } = self.take_all(batch, &mut place).await?;
            next_is_large = ended_by_size && !has_any;
            if !has_any && !ended_by_size && asked.elapsed() < NATS_BACKOFF.start {
                sleep(NATS_BACKOFF.start).await;
            }
        }
    }

    async fn consumer(
        &self,
        car: &stream::Stream<stream::Info>,
    ) -> Result<Consumer<Config>, FollowerEnd> {
        let config = Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.after + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: NATS_READER_FORGOTTEN,
            ..Config::default()
        };
        car.create_consumer(config).await.map_err(|error| self.ended(error))
    }

    /// The stint of the last delivered message.
    async fn stint_before(&self, car: &stream::Stream<stream::Info>) -> Option<CarId> {
        let last = car.get_raw_message(self.after).await.ok()?;
        message::stint(&last.subject)
    }

    /// Stores the setup of a stint that another hub started. If the server has forgotten the page,
    /// the new page must start with the setup.
    async fn take_setup(
        &mut self,
        car: &stream::Stream<stream::Info>,
        place: &ReadPosition,
    ) -> Result<(), FollowerEnd> {
        let Some(stint) = place.stint.as_ref().filter(|stint| !place.before.contains_key(stint))
        else {
            return Ok(());
        };
        let subject = format!("pitwire.{}.{SETUP}", stint.0);
        let Ok(setup) = car.get_last_raw_message_by_subject(&subject).await else {
            return Ok(());
        };
        let read = message::read(setup.subject, Some(setup.headers), setup.payload).await;
        // A setup after `self.after` is delivered by the consumer.
        if let Ok((stint, entry)) = read
            && setup.sequence <= self.after
        {
            self.is_ours().await;
            self.relay(stint, vec![entry]).await?;
        }
        Ok(())
    }

    /// Stores all messages of a batch.
    async fn take_all(
        &mut self,
        batch: Batch,
        place: &mut ReadPosition,
    ) -> Result<Fetched, FollowerEnd> {
        let mut fetched = Fetched { has_any: false, ended_by_size: false };
        let mut chunks = batch.ready_chunks(NATS_FETCH_ENTRIES);
        while let Some(results) = chunks.next().await {
            let mut chunk = Vec::new();
            let mut failed = Ok(());
            for result in results {
                match result {
                    Ok(message) => chunk.push(message),
                    Err(error) if is_end_by_size(&error) => fetched.ended_by_size = true,
                    Err(error) => failed = Err(self.ended(error)),
                }
            }
            fetched.has_any |= !chunk.is_empty();
            while let Some(begins) = place.next_stint(&chunk) {
                let next = chunk.split_off(begins);
                self.take(chunk, place).await?;
                self.give_up().await?;
                place.stint = None;
                chunk = next;
            }
            self.take(chunk, place).await?;
            failed?;
        }
        Ok(fetched)
    }

    /// Stores the new entries of these messages.
    async fn take(
        &mut self,
        messages: Vec<Message>,
        place: &mut ReadPosition,
    ) -> Result<(), FollowerEnd> {
        let mut last = None;
        let mut runs: Vec<(CarId, Vec<Relayed>)> = Vec::new();
        for message in &messages {
            let info = message.info().map_err(|error| self.ended(error))?;
            place.consumed += 1;
            if info.consumer_sequence != place.consumed {
                return Err(FollowerEnd::Stream("a message was lost in transit".into()));
            }
            self.progress.behind.store(info.pending, Ordering::Relaxed);
            last = Some(info.stream_sequence);
            place.stint = message::stint(&message.subject).or(place.stint.take());
            let Some((car, entry)) = self.new_entry(message, &place.before).await else {
                continue;
            };
            match runs.last_mut() {
                Some((of, entries)) if *of == car => entries.push(entry),
                _ => runs.push((car, vec![entry])),
            }
        }
        let Some(last) = last else { return Ok(()) };
        let mut newest = None;
        for (car, entries) in runs {
            self.is_ours().await;
            newest = self.relay(car, entries).await?.or(newest);
        }
        self.progress.acks().taken(last, newest);
        if last >= place.held_at_start {
            self.progress.has_caught_up.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Waits until this hub certainly holds the agent in the assignment table. If another hub holds
    /// it, the hub aborts this follower meanwhile.
    async fn is_ours(&mut self) {
        // An error means that the hub has ended; it aborts this follower.
        let _ = self.until.wait_for(|until| Instant::now() < *until).await;
    }

    /// Ends the follower if this hub has too many agents, once all entries of this one are
    /// delivered. If the dashboard is unreachable for [`HUB_HOLD`], the hub keeps the agent.
    async fn give_up(&self) -> Result<(), FollowerEnd> {
        let since = Instant::now();
        while self.surplus.load(Ordering::Acquire) > 0 {
            if self.progress.acks().is_all_delivered(self.writer.status().head) {
                let taken =
                    self.surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| {
                        surplus.checked_sub(1)
                    });
                return taken.map_or(Ok(()), |_| Err(FollowerEnd::GivenUp));
            }
            if since.elapsed() >= HUB_HOLD {
                break;
            }
            sleep(HUB_BEAT / 10).await;
        }
        Ok(())
    }

    /// The entry of a message; `None` if the message is invalid or the entry was stored `before`.
    /// An agent sends the entries of a stint in order, so every entry up to the newest stored one is
    /// stored.
    async fn new_entry(&self, message: &Message, before: &Newest) -> Option<(CarId, Relayed)> {
        let async_nats::Message { subject, headers, payload, .. } = message.message.clone();
        let read = message::read(subject, headers, payload).await;
        let (car, entry) = match read {
            Ok((car, entry)) if self.is_of_this_agent(&car) => (car, entry),
            Ok((car, _)) => {
                self.intake.refuse(message::of_another(&self.name, &car));
                return None;
            }
            Err(refused) => {
                self.intake.refuse(refused);
                return None;
            }
        };
        let is_stored = before.get(&car).is_some_and(|newest| entry.origin <= newest.origin);
        (!is_stored).then_some((car, entry))
    }

    /// Appends entries to the queue and returns the position of the newest stored one. On return,
    /// each entry is stored, or was dropped and counted by the queue.
    ///
    /// It runs as a separate task, so that the append finishes even if the connection ends;
    /// otherwise it would be unknown whether the queue has the entries.
    async fn relay(&self, car: CarId, entries: Vec<Relayed>) -> Result<Option<Seq>, FollowerEnd> {
        let intake = Arc::clone(&self.intake);
        let mut newest_stored = Arc::clone(&self.newest_stored).lock_owned().await;
        let relayed = tokio::spawn(async move {
            let newest = entries.iter().map(|entry| entry.origin).max();
            let position = intake.relay(&car, entries).await?;
            remember(&mut newest_stored, car, newest);
            Ok::<_, QueueError>(position)
        });
        Ok(relayed.await.map_err(|error| self.ended(error))??)
    }

    /// The end of the follower for an error of the server or the library.
    fn ended(&self, error: impl fmt::Display) -> FollowerEnd {
        FollowerEnd::Stream(RemoteText::new(error, &self.secrets))
    }

    fn is_of_this_agent(&self, car: &CarId) -> bool {
        let agent = self.name.strip_prefix(STREAM_PREFIX);
        car.0.split_once('.').map(|(of, _)| of) == agent
    }
}

impl ReadPosition {
    /// The index of the first message of another stint; `None` if the current stint is not known.
    fn next_stint(&self, messages: &[Message]) -> Option<usize> {
        let known = self.stint.as_ref()?;
        messages.iter().position(|message| {
            message::stint(&message.subject).is_some_and(|stint| stint != *known)
        })
    }
}

/// Whether an error only means that the next message would exceed the size of the fetch. The library
/// gives the server's status as text.
fn is_end_by_size(error: &async_nats::Error) -> bool {
    error.to_string().contains("Message Size Exceeds MaxBytes")
}

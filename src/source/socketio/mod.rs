//! The agent in the place of a dashboard server: an existing publisher changes its `server_url`,
//! and its entries go into the queue.
//!
//! A publisher gets a session id at once, whether or not the dashboard server is reachable. Its
//! first entry assigns it a [`CarId`]; `/dashboard/<id>` redirects to the page of that stream's
//! stint. Concurrent publishers have separate streams.
//!
//! - A frame or a setup is stored as it was sent, with its extra keys and without further fields:
//!   see `Sample::parse_event`. Values that the other sources refuse or omit are refused or omitted
//!   here too.
//! - An acknowledged entry is stored. The one exception is an entry that has no session id, or whose
//!   telemetry or setup is not an object: it is acknowledged without an echo, as the dashboard server
//!   does.
//! - An entry is not acknowledged when it is refused as a sample, the disk is too slow, the queue is
//!   full, the agent did not assign the session id, or too many publishers send at the same time.
//! - Every entry that is not stored is counted under a reason and logged.
//! - An id works from any connection, and after a restart of the agent. A new publisher never
//!   evicts the id or the stream of a connected one: at the limit, the new publisher is refused.

mod page;
mod streams;

use std::collections::{HashMap, VecDeque};
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::middleware::from_fn_with_state;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

use self::streams::{Availability, Sender, StateChange, Streams};
use super::{Intake, Sample, Taken};
use crate::config::StintConfig;
use crate::contract::{
    self, ClientId, ClientLimits, Event, Host, Refusal, SetupEvent, new_session_id,
};
use crate::entry::{CarId, MAX_STREAMS, StintId};
use crate::fields::{self, Omissions, Reason, Refused, Setup as CarSetup};
use crate::net::Connections;
use crate::net::loopback_guard::{Access, guard};
use crate::platform::offload;

/// The number of cars whose newest frame and setup are kept for joining clients: the ones that sent
/// most recently.
const MAX_LATEST: usize = 8;

/// Concurrent connections. A publisher has one, and a second while it upgrades from polling. Each
/// may buffer an incomplete message of 1 MB.
const MAX_CONNECTIONS: usize = 32;

/// How many of a connected client's most recent session ids are protected from eviction. A
/// publisher uses one for each car.
const MAX_IDS_PER_CLIENT: usize = 8;

/// Streams that received an entry within `stint.resume_after`. It is half of `MAX_STREAMS`, so that
/// the least recently used stream, the first to be evicted, is never a live one.
const MAX_LIVE_STREAMS: usize = MAX_STREAMS / 2;

/// Bytes of the latest setups and frames, which a viewer receives when it joins; the two largest
/// pairs fit.
const MAX_LATEST_BYTES: usize = 4 << 20;

/// The publishers that use this agent as their dashboard server.
#[derive(Debug)]
pub struct Publishers {
    intake: Intake,
    /// The longest pause after which a stream still continues its stint.
    resume_after: Duration,
    /// The file that persists `Memory::streams`; locked while it is written.
    file: tokio::sync::Mutex<PathBuf>,
    memory: Mutex<PublisherMemory>,
    connections: Connections,
}

#[derive(Debug)]
struct PublisherMemory {
    streams: Streams,
    /// The stream that each connection sent to last.
    feeds: HashMap<ClientId, CarId>,
    /// The session ids of each connection, most recently used last.
    ids: HashMap<ClientId, VecDeque<String>>,
    /// When each stream last received an entry; only streams used since the start.
    used: HashMap<CarId, Instant>,
    /// The latest entries of the most recently used streams, newest last.
    latest: Vec<(CarId, Latest)>,
}

/// The newest accepted setup and frame of a stream, for viewers that join it.
#[derive(Clone, Debug, Default)]
struct Latest {
    setup: Option<SetupEvent>,
    frame: Option<Box<RawValue>>,
}

impl Latest {
    fn bytes(&self) -> usize {
        let setup = self.setup.as_ref().map_or(0, |setup| setup.setup.get().len());
        setup + self.frame.as_ref().map_or(0, |frame| frame.get().len())
    }
}

impl Publishers {
    /// Publishers whose samples go through `intake` to the queue in the folder `queue`.
    pub fn new(intake: Intake, queue: &Path, stint: &StintConfig) -> Self {
        let file = queue.join("streams.json");
        let memory = PublisherMemory {
            streams: Streams::load(&file),
            feeds: HashMap::new(),
            ids: HashMap::new(),
            used: HashMap::new(),
            latest: Vec::new(),
        };
        let resume_after = stint.resume_after;
        let connections = Connections::new("publishers", MAX_CONNECTIONS);
        Self { intake, resume_after, file: file.into(), memory: Mutex::new(memory), connections }
    }

    /// Serves publishers that have `access` until this future is dropped. Open connections outlive
    /// it.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, access: Access) {
        // The guard is the outermost layer, so that it also guards the events.
        let guard = from_fn_with_state(access, guard);
        contract::serve(
            &self,
            listener,
            &self.connections,
            |events| page::routes(&self).layer(events).layer(guard),
            std::future::pending(),
        )
        .await;
    }

    pub(crate) fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Records the page that the dashboard server assigned to a stint.
    pub async fn show(&self, stint: StintId, url: &str) {
        let change = self.memory().streams.show(stint, url);
        self.save(change).await;
    }

    /// Locks the in-memory state. The guard must not be held across an `.await`.
    fn memory(&self) -> MutexGuard<'_, PublisherMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves the streams to the file if they changed. Waits for the disk.
    async fn save(&self, change: StateChange) {
        if change == StateChange::None {
            return;
        }
        let file = self.file.lock().await;
        let text = self.memory().streams.to_json();
        if let Err(error) = streams::save(&file, text).await {
            let file = file.display();
            tracing::warn!(%file, %error, "cannot save the publishers' ids; a restart loses them");
        }
    }

    /// Stores samples in the queue. Returns for each its stream, or why it is not stored.
    async fn keep(
        &self,
        client: ClientId,
        id: &str,
        samples: Vec<Result<Sample, Refused>>,
        sender: Sender,
    ) -> Vec<Result<CarId, Refusal>> {
        let (car, change) = match self.fed(client, id, sender) {
            Ok(fed) => fed,
            Err(refused) => {
                samples.iter().for_each(|_| self.intake.refuse(refused.clone()));
                return samples.iter().map(|_| Err(Refusal::Unsure(refused.to_string()))).collect();
            }
        };
        let count = samples.len();
        let taken = self.intake.take_from(&car, samples).await;
        let stint = self.intake.stint(&car);
        let moved = stint.map(|stint| self.memory().streams.is_in(&car, stint));
        self.save(moved.unwrap_or(change).max(change)).await;
        match taken {
            Ok(taken) => {
                taken.into_iter().map(|taken| stored(taken).map(|()| car.clone())).collect()
            }
            Err(_) => (0..count).map(|_| Err(Refusal::Cut)).collect(),
        }
    }

    /// Returns the stream of that id and records that the connection feeds it.
    fn fed(
        &self,
        client: ClientId,
        id: &str,
        sender: Sender,
    ) -> Result<(CarId, StateChange), Refused> {
        let memory = &mut *self.memory();
        memory.used.retain(|_, used| used.elapsed() <= self.resume_after);
        if !memory.streams.is_known(id) {
            return Err(unknown_session());
        }
        if !memory.streams.is_used(id) && memory.used.len() >= MAX_LIVE_STREAMS {
            return Err(too_many_publishers());
        }
        memory.hold(client, id);
        let PublisherMemory { streams, feeds, used, .. } = memory;
        let fed = streams.used(id, sender, |car| {
            if feeds.iter().any(|(of, fed)| *of != client && fed == car) {
                Availability::Fed
            } else if self.intake.stint(car).is_some()
                && used.get(car).is_none_or(|used| used.elapsed() <= self.resume_after)
            {
                Availability::Left
            } else {
                Availability::Over
            }
        });
        let (car, change) = fed.ok_or_else(unknown_session)?;
        used.insert(car.clone(), Instant::now());
        feeds.insert(client, car.clone());
        Ok((car, change))
    }
}

impl Host for Publishers {
    /// Sized for a few publishers and viewers on this PC. Unhandled events take at most 1.5 MB of
    /// each, because a publisher that sends a backlog is slowed down. Even if each client is halfway
    /// through the longest message, the agent stays below 64 MB.
    const CLIENT_LIMITS: ClientLimits =
        ClientLimits { clients: 10, bytes_per_client: 12 << 20, bytes: 16 << 20 };

    async fn assign(&self, client: ClientId) -> Result<String, Refusal> {
        let id = new_session_id();
        if !self.memory().give(client, &id) {
            let refused = too_many_publishers();
            let why = refused.to_string();
            self.intake.refuse(refused);
            return Err(Refusal::Unsure(why));
        }
        // Persist the id before the publisher learns it, so that it stays valid if the agent is
        // killed.
        self.save(StateChange::Changed).await;
        Ok(id)
    }

    fn admit(&self, _: Event, _: &RawValue) -> Result<(), Refusal> {
        Ok(())
    }

    const MAX_FRAMES_TOGETHER: usize = 128;

    async fn keep_frames(
        &self,
        client: ClientId,
        id: &str,
        frames: &[&RawValue],
        omissions: Omissions,
    ) -> Vec<Result<(), Refusal>> {
        let texts: Vec<Box<RawValue>> = frames.iter().map(|&frame| frame.to_owned()).collect();
        let bytes = texts.iter().map(|text| text.get().len()).sum();
        let (samples, driver) = offload::parse(bytes, move || {
            let driver = texts.first().and_then(|text| driver(text));
            let omissions = iter::once(omissions).chain(iter::repeat_with(Omissions::default));
            let samples = texts.iter().zip(omissions);
            let samples = samples
                .map(|(text, omissions)| Sample::parse_event(text.get().as_bytes(), omissions));
            Ok((samples.collect::<Vec<_>>(), driver))
        })
        .await
        .unwrap_or_else(|refused| (vec![Err(refused); frames.len()], None));
        let kept = self.keep(client, id, samples, Sender { driver, setup: None }).await;
        let newest = kept.iter().zip(frames).rev().find(|(kept, _)| kept.is_ok());
        if let Some((Ok(car), frame)) = newest {
            let frame = Some((*frame).to_owned());
            self.memory().keep_latest(car.clone(), Latest { setup: None, frame });
        }
        kept.into_iter().map(|kept| kept.map(drop)).collect()
    }

    async fn keep_setup(
        &self,
        client: ClientId,
        id: &str,
        setup: SetupEvent,
        omissions: Omissions,
    ) -> Result<(), Refusal> {
        self.intake.note_omissions(&omissions);
        let text = setup.clone();
        let parsed = offload::parse(setup.setup.get().len(), move || {
            let timestamp = text.timestamp.as_deref().map_or("null", RawValue::get);
            CarSetup::parse(text.setup.get().as_bytes())?.with_timestamp(timestamp)
        })
        .await;
        let fingerprint = parsed.as_ref().ok().map(CarSetup::fingerprint);
        let sender = Sender { driver: None, setup: fingerprint };
        let sample = parsed.map(Sample::Setup);
        let kept = self.keep(client, id, vec![sample], sender).await;
        for car in kept.into_iter().collect::<Result<Vec<_>, _>>()? {
            let setup = Some(setup.clone());
            self.memory().keep_latest(car, Latest { setup, frame: None });
        }
        Ok(())
    }

    fn latest(&self, id: &str) -> (Option<SetupEvent>, Option<Box<RawValue>>) {
        let memory = self.memory();
        let car = memory.streams.car(id);
        let found = memory.latest.iter().find(|(known, _)| Some(known) == car);
        let Latest { setup, frame } = found.map(|(_, latest)| latest.clone()).unwrap_or_default();
        (setup, frame)
    }

    fn unreadable(&self, message: &str, refusal: &Refusal) {
        let finite = fields::without_non_finite(message);
        let parsed = fields::parse(finite.as_deref().unwrap_or(message));
        let refused = parsed.err().unwrap_or_else(|| Refused {
            reason: Reason::WrongType,
            message: format!("{refusal}; send session_id and telemetry, or session_id and setup"),
        });
        self.intake.refuse(refused);
    }

    fn left(&self, client: ClientId) {
        let mut memory = self.memory();
        memory.feeds.remove(&client);
        memory.ids.remove(&client);
    }
}

/// Whether the sample is stored, or why it is not.
fn stored(taken: Taken) -> Result<(), Refusal> {
    match taken {
        Taken::Stored(_) | Taken::Unchanged | Taken::RateLimited => Ok(()),
        Taken::Buffered => Err(Refusal::Unsure("the disk is too slow".into())),
        Taken::Dropped(reason) => Err(Refusal::Unsure(reason.as_str().into())),
        Taken::Refused(refused) if refused.reason == Reason::NotObject => {
            Err(Refusal::NotKept(refused.to_string()))
        }
        Taken::Refused(refused) => Err(Refusal::Unsure(refused.to_string())),
    }
}

/// The fingerprint of the driver's name, if the frame has one.
fn driver(frame: &RawValue) -> Option<u64> {
    #[derive(Deserialize)]
    struct Driven {
        player_name: String,
    }
    serde_json::from_str(frame.get())
        .ok()
        .map(|driven: Driven| fields::text_fingerprint(&driven.player_name))
}

impl PublisherMemory {
    /// Assigns an id to a client; false if there is no room for another id.
    fn give(&mut self, client: ClientId, id: &str) -> bool {
        let Self { streams, ids, .. } = self;
        let is_given =
            streams.give(id, |id| ids.values().flatten().any(|connected| connected == id));
        if is_given {
            self.hold(client, id);
        }
        is_given
    }

    /// Protects this id from eviction while the client is connected.
    fn hold(&mut self, client: ClientId, id: &str) {
        let ids = self.ids.entry(client).or_default();
        if ids.back().is_some_and(|newest| newest == id) {
            return;
        }
        ids.retain(|held| held != id);
        ids.push_back(id.to_owned());
        let excess = ids.len().saturating_sub(MAX_IDS_PER_CLIENT);
        ids.drain(..excess);
    }

    /// Keeps the latest setup or frame of a stream, and evicts those of streams that sent less
    /// recently.
    fn keep_latest(&mut self, car: CarId, newer: Latest) {
        let index = self.latest.iter().position(|(known, _)| *known == car);
        let older = index.map(|index| self.latest.remove(index).1).unwrap_or_default();
        let latest =
            Latest { setup: newer.setup.or(older.setup), frame: newer.frame.or(older.frame) };
        self.latest.push((car, latest));
        let (mut bytes, mut kept) = (0, 0);
        for (_, latest) in self.latest.iter().rev().take(MAX_LATEST) {
            bytes += latest.bytes();
            if bytes > MAX_LATEST_BYTES {
                break;
            }
            kept += 1;
        }
        let excess = self.latest.len() - kept;
        self.latest.drain(..excess);
    }
}

fn too_many_publishers() -> Refused {
    let message = format!(
        "{MAX_LIVE_STREAMS} publishers already send to this agent; stop one of them before another \
         one can send"
    );
    Refused { reason: Reason::TooManyPublishers, message }
}

fn unknown_session() -> Refused {
    let message = "a publisher uses a session_id that this agent did not assign; reconnect it so \
                   that it requests one";
    Refused { reason: Reason::UnknownSession, message: message.into() }
}

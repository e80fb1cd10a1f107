//! The agent in the place of a dashboard server: a publisher that exists already changes its
//! `server_url`, and what it sends goes into the queue.
//!
//! It gets a session id at once, whether the dashboard server can be reached or not, and with the
//! first that it sends a [`Stream`]; `/dashboard/<id>` leads on to the page of the stint that the
//! stream is in. Several publishers at the same time have a stream each.
//!
//! - What is acknowledged is stored, or was refused as the dashboard server would have: without an
//!   echo, counted under a reason, said in the log.
//! - What is not stored yet, as the disk does not keep up, or has no room, is not acknowledged.
//! - An id works from any connection, and after a restart of the agent.

mod page;
mod streams;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

use self::streams::{Change, Sender, State, Streams};
use super::{Intake, Sample, Taken};
use crate::config::{MAX_LATEST, StintConfig};
use crate::contract::{self, Client, Event, Host, Refusal, Setup, new_session_id};
use crate::entry::{CapturedAt, StintId, Stream};
use crate::fields::{self, Frame, Reason, Refused, Setup as CarSetup};
use crate::net::Connections;
use crate::offload;

/// Connections at the same time; a publisher has one, and one more while it upgrades from polling.
const MAX_CONNECTIONS: usize = 256;

/// The publishers that take this agent for their dashboard server.
#[derive(Debug)]
pub struct Publishers {
    intake: Intake,
    /// A silence up to this goes on with a stint.
    resume_after: Duration,
    /// Where the streams are remembered; locked by who writes it.
    file: tokio::sync::Mutex<PathBuf>,
    memory: Mutex<Memory>,
    connections: Connections,
}

#[derive(Debug)]
struct Memory {
    streams: Streams,
    /// The stream that each connection sent to last.
    feeds: HashMap<Client, Stream>,
    /// When a stream was sent to last, of those that were since the start.
    used: HashMap<Stream, Instant>,
    /// Of the streams that sent last; the newest is the last.
    latest: Vec<(Stream, Latest)>,
}

/// The newest setup and frame that were kept, for those who join their stream.
#[derive(Clone, Debug, Default)]
struct Latest {
    setup: Option<Setup>,
    frame: Option<Box<RawValue>>,
}

impl Publishers {
    /// Publishers whose samples go in by `intake`, to the queue that lies in this folder.
    pub fn new(intake: Intake, queue: &Path, stint: &StintConfig) -> Self {
        let file = queue.join("streams.json");
        let memory = Memory {
            streams: Streams::load(&file),
            feeds: HashMap::new(),
            used: HashMap::new(),
            latest: Vec::new(),
        };
        let resume_after = stint.resume_after;
        let connections = Connections::new("publishers", MAX_CONNECTIONS);
        Self { intake, resume_after, file: file.into(), memory: Mutex::new(memory), connections }
    }

    /// Serves publishers until this future is dropped; their connections stay open then.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let routes = |events| page::guarded(page::routes(&self).layer(events));
        let forever = std::future::pending();
        contract::serve(&self, listener, &self.connections, routes, forever).await;
    }

    pub(crate) fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// The dashboard server has given a stint this page.
    pub async fn show(&self, stint: StintId, url: &str) {
        let change = self.memory().streams.show(stint, url);
        self.save(change).await;
    }

    /// What is remembered, locked: never across an `.await`.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is remembered, if it is another than before. Waits for the disk.
    async fn save(&self, change: Change) {
        if change == Change::None {
            return;
        }
        let file = self.file.lock().await;
        let text = self.memory().streams.to_json();
        if let Err(error) = streams::save(&file, text).await {
            let file = file.display();
            tracing::warn!(%file, %error, "publishers' ids will not outlive the agent");
        }
    }

    /// Hands a sample to the queue.
    async fn keep(
        &self,
        client: Client,
        id: &str,
        sample: Result<Sample, Refused>,
        sender: Sender,
    ) -> Result<Stream, Refusal> {
        let Some((stream, change)) = self.fed(client, id, sender) else {
            self.intake.refuse(unknown_session());
            return Err(Refusal::NotKept("unknown session".into()));
        };
        let taken = self.intake.take_from(&stream, vec![sample]).await;
        let stint = self.intake.stint(&stream);
        let moved = stint.map(|stint| self.memory().streams.is_in(&stream, stint));
        self.save(moved.unwrap_or(change).max(change)).await;
        match taken.map_err(|_| Refusal::Cut)?.into_iter().next() {
            Some(Taken::Stored(_) | Taken::Unchanged | Taken::Thinned) => Ok(stream),
            Some(Taken::Buffered) => Err(Refusal::Unsure("the disk does not keep up".into())),
            Some(Taken::Dropped(reason)) => Err(Refusal::Unsure(reason.as_str().into())),
            Some(Taken::Refused(refused)) => Err(Refusal::NotKept(refused.to_string())),
            None => Err(Refusal::Cut),
        }
    }

    /// The stream of that id, if there is one: the connection sends to it from now on.
    fn fed(&self, client: Client, id: &str, sender: Sender) -> Option<(Stream, Change)> {
        let memory = &mut *self.memory();
        let Memory { streams, feeds, used, .. } = memory;
        let silence = |stream: &Stream| used.get(stream).map_or(Duration::ZERO, Instant::elapsed);
        let (stream, change) = streams.used(id, sender, |stream| {
            if feeds.iter().any(|(of, fed)| *of != client && fed == stream) {
                State::Fed
            } else if self.intake.stint(stream).is_some() && silence(stream) <= self.resume_after {
                State::Left
            } else {
                State::Over
            }
        })?;
        used.retain(|_, used| used.elapsed() <= self.resume_after);
        used.insert(stream.clone(), Instant::now());
        feeds.insert(client, stream.clone());
        Some((stream, change))
    }
}

impl Host for Publishers {
    async fn assign(&self) -> String {
        let id = new_session_id();
        self.memory().streams.give(&id);
        // Before the publisher hears of it: it may use it when this agent is killed next.
        self.save(Change::Changed).await;
        id
    }

    fn admit(&self, _: Event, _: &RawValue) -> Result<(), Refusal> {
        Ok(())
    }

    async fn keep_frame(&self, client: Client, id: &str, frame: &RawValue) -> Result<(), Refusal> {
        let frame = frame.to_owned();
        let text = frame.clone();
        let parsed = offload::parse(text.get().len(), move || {
            Ok((Frame::parse(text.get().as_bytes()), driver(&text)))
        });
        let (sample, driver) = parsed.await.unwrap_or_else(|refused| (Err(refused), None));
        let sample = sample.map(Sample::Telemetry);
        let sender = Sender { driver, setup: None };
        let stream = self.keep(client, id, sample, sender).await?;
        self.memory().latest_of(stream).frame = Some(frame);
        Ok(())
    }

    async fn keep_setup(&self, client: Client, id: &str, setup: Setup) -> Result<(), Refusal> {
        let timestamp = setup.timestamp.as_deref();
        let read_at = timestamp
            .and_then(|text| serde_json::from_str(text.get()).ok())
            .and_then(|text: String| CapturedAt::parse(&text));
        let text = setup.setup.clone();
        let parsed =
            offload::parse(text.get().len(), move || CarSetup::parse(text.get().as_bytes()));
        let parsed = parsed.await;
        let fingerprint = parsed.as_ref().ok().map(CarSetup::fingerprint);
        let sender = Sender { driver: None, setup: fingerprint };
        let sample = parsed.map(|setup| Sample::Setup(setup, read_at));
        let stream = self.keep(client, id, sample, sender).await?;
        self.memory().latest_of(stream).setup = Some(setup);
        Ok(())
    }

    fn latest(&self, id: &str) -> (Option<Setup>, Option<Box<RawValue>>) {
        let memory = self.memory();
        let stream = memory.streams.stream(id);
        let found = memory.latest.iter().find(|(known, _)| Some(known) == stream);
        let Latest { setup, frame } = found.map(|(_, latest)| latest.clone()).unwrap_or_default();
        (setup, frame)
    }

    fn unreadable(&self, message: &str, refusal: &Refusal) {
        let refused = fields::read_envelope(message.as_bytes()).err().unwrap_or_else(|| Refused {
            reason: Reason::WrongType,
            message: format!("{refusal}; send session_id and telemetry, or session_id and setup"),
        });
        self.intake.refuse(refused);
    }

    fn left(&self, client: Client) {
        self.memory().feeds.remove(&client);
    }
}

/// Who drives, if the frame says so.
fn driver(frame: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Driven {
        player_name: String,
    }
    serde_json::from_str(frame.get()).ok().map(|driven: Driven| driven.player_name)
}

impl Memory {
    /// What is known of this stream, as the one that sent last.
    fn latest_of(&mut self, stream: Stream) -> &mut Latest {
        let index = self.latest.iter().position(|(known, _)| *known == stream);
        let one = index.map_or((stream, Latest::default()), |index| self.latest.remove(index));
        let excess = (self.latest.len() + 1).saturating_sub(MAX_LATEST);
        self.latest.drain(..excess);
        &mut self.latest.push_mut(one).1
    }
}

fn unknown_session() -> Refused {
    let message = "a publisher uses a session_id that this agent did not give out; connect it \
                   anew, so that it asks for one";
    Refused { reason: Reason::UnknownSession, message: message.into() }
}

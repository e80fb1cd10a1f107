//! Handles the events of the contract.
//!
//! One worker per connection takes an event from the inbox, handles it and acknowledges it before
//! it takes the next one. Consecutive frames of a session are stored together, if the host allows
//! it: a client that sends a backlog is then not slowed down to one frame per disk write.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{task, time};

use super::engineio::{ClientHandle, Inbox, Message};
use super::{Acks, Host, Refusal, ServerBehavior, SetupEvent, packet};
use crate::fields::{self, Omissions};

/// The maximum bytes of events that are taken from the inbox together, unless a single one is
/// larger.
const MAX_BYTES_TOGETHER: usize = 256 << 10;

/// The events that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    RequestSession,
    Join,
    Setup,
    Frame,
}

impl Event {
    const ALL: [Self; 4] = [Self::RequestSession, Self::Join, Self::Setup, Self::Frame];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RequestSession => "request_session_id",
            Self::Join => "join_session",
            Self::Setup => "setup_data",
            Self::Frame => "telemetry_update",
        }
    }
}

/// Handles the events of one connection, one at a time, until it ends.
///
/// Events that arrived before the client left are still handled.
pub(super) async fn work<H: Host>(host: Arc<H>, connection: ClientHandle, mut inbox: Inbox) {
    while let Some(first) = inbox.next().await {
        let messages = with_pending(first, &mut inbox, H::MAX_FRAMES_TOGETHER);
        if handle_all(&*host, &connection, &messages).await.is_break() {
            break;
        }
        // Handling may not wait for anything, and other tasks must run.
        task::yield_now().await;
    }
    host.left(connection.client());
}

/// The event and the pending ones after it, within the limits.
fn with_pending(first: Message, inbox: &mut Inbox, max: usize) -> Vec<Message> {
    let mut bytes = first.arguments().len();
    let mut messages = vec![first];
    while messages.len() < max
        && bytes < MAX_BYTES_TOGETHER
        && let Some(next) = inbox.try_next()
    {
        bytes += next.arguments().len();
        messages.push(next);
    }
    messages
}

async fn handle_all<H: Host>(
    host: &H,
    from: &ClientHandle,
    mut messages: &[Message],
) -> ControlFlow<()> {
    while let [first, rest @ ..] = messages {
        let (session_id, frames) = leading_frames(host, messages);
        if frames.len() < 2 {
            handle(host, from, first).await?;
            messages = rest;
            continue;
        }
        let exchange = Exchange { host, from, behavior: host.behavior() };
        let kept =
            host.keep_frames(from.client(), &session_id, &frames, Omissions::default()).await;
        let (of_frames, rest) = messages.split_at(frames.len());
        for ((message, telemetry), kept) in of_frames.iter().zip(frames).zip(kept) {
            let handled = kept.map(|()| exchange.show_frame(&session_id, telemetry));
            exchange.conclude(message, handled).await?;
        }
        messages = rest;
    }
    ControlFlow::Continue(())
}

/// The frames at the start of these events that belong to one session, and its id.
fn leading_frames<'a, H: Host>(
    host: &H,
    messages: &'a [Message],
) -> (Cow<'a, str>, Vec<&'a RawValue>) {
    let mut session_id = None;
    let mut frames = Vec::new();
    for message in messages {
        let Some((of, telemetry)) = frame_in(host, message) else { break };
        if session_id.get_or_insert_with(|| of.clone()) != &of {
            break;
        }
        frames.push(telemetry);
    }
    (session_id.unwrap_or_default(), frames)
}

/// The session and the telemetry of an event that is a valid frame and that the host admits.
fn frame_in<'a, H: Host>(host: &H, message: &'a Message) -> Option<(Cow<'a, str>, &'a RawValue)> {
    let (name, payload): (&str, &RawValue) = serde_json::from_str(message.arguments()).ok()?;
    if name != Event::Frame.name() || !payload.get().starts_with('{') {
        return None;
    }
    host.admit(Event::Frame, payload).ok()?;
    let envelope: Envelope<'a> = serde_json::from_str(payload.get()).ok()?;
    Some((envelope.session_id, envelope.telemetry?))
}

async fn handle<H: Host>(host: &H, from: &ClientHandle, message: &Message) -> ControlFlow<()> {
    let wait = host.behavior().delay;
    if !wait.is_zero() && from.is_open() {
        time::sleep(wait).await;
    }
    let manners = host.behavior();
    if manners.silent {
        return ControlFlow::Continue(());
    }
    let exchange = Exchange { host, from, behavior: manners };
    let handled = exchange.read_and_handle(message.arguments()).await;
    exchange.conclude(message, handled).await
}

/// Whether an event was handled; only handled events are acknowledged.
enum Handled {
    Yes,
    No,
}

/// The envelope around a client's data; other keys are ignored.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    session_id: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    telemetry: Option<&'a RawValue>,
    #[serde(borrow)]
    setup: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    fn read(payload: &'a RawValue) -> serde_json::Result<Self> {
        serde_json::from_str(payload.get())
    }
}

#[derive(Serialize)]
struct SessionAssigned<'a> {
    session_id: &'a str,
}

#[derive(Serialize)]
struct FrameUpdate<'a> {
    session_id: &'a str,
    telemetry: &'a RawValue,
}

#[derive(Serialize)]
struct SetupUpdate<'a> {
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<&'a RawValue>,
    setup: &'a RawValue,
}

/// The handling of one event of a client by the host.
struct Exchange<'a, H> {
    host: &'a H,
    from: &'a ClientHandle,
    behavior: ServerBehavior,
}

impl<H: Host> Exchange<'_, H> {
    /// Acknowledges an event, unless its outcome forbids it.
    async fn conclude(
        &self,
        message: &Message,
        handled: Result<Handled, Refusal>,
    ) -> ControlFlow<()> {
        match handled {
            Ok(Handled::Yes) => {}
            Ok(Handled::No) => return ControlFlow::Continue(()),
            Err(Refusal::Cut) => {
                self.from.cut();
                return ControlFlow::Break(());
            }
            Err(Refusal::Unsure(why)) => {
                tracing::debug!(why, "an event is not acknowledged");
                return ControlFlow::Continue(());
            }
            Err(refusal @ Refusal::NoEvent(_)) => {
                tracing::debug!(%refusal, "an event is not acknowledged");
                self.host.unreadable(message.arguments(), &refusal);
                return ControlFlow::Continue(());
            }
            Err(refusal) => {
                tracing::debug!(%refusal, "an event is acknowledged and discarded");
                if let Refusal::NoEnvelope(_) | Refusal::Empty = refusal {
                    self.host.unreadable(message.arguments(), &refusal);
                }
            }
        }
        let Some(number) = message.ack else { return ControlFlow::Continue(()) };
        match self.behavior.acks {
            Acks::Never => return ControlFlow::Continue(()),
            Acks::After(wait) if self.from.is_open() => time::sleep(wait).await,
            Acks::After(_) | Acks::AtOnce => {}
        }
        self.from.send(packet::ack(number));
        ControlFlow::Continue(())
    }

    async fn read_and_handle(&self, message: &str) -> Result<Handled, Refusal> {
        let error = match serde_json::from_str::<Vec<&RawValue>>(message) {
            Ok(message) => return self.handle(&message, Omissions::default()).await,
            Err(error) => error,
        };
        let Some((finite, omissions)) = fields::remove_non_finite(message) else {
            return Err(Refusal::NoEvent(error.to_string()));
        };
        let message: Vec<&RawValue> =
            serde_json::from_str(&finite).map_err(|error| Refusal::NoEvent(error.to_string()))?;
        self.handle(&message, omissions).await
    }

    /// Handles an event, from which `omissions` are missing.
    async fn handle(
        &self,
        message: &[&RawValue],
        omissions: Omissions,
    ) -> Result<Handled, Refusal> {
        let name = message.first().map_or("", |name| name.get().trim_matches('"'));
        let Some(event) = Event::ALL.into_iter().find(|event| event.name() == name) else {
            tracing::debug!("unknown event; neither handled nor acknowledged");
            return Ok(Handled::No);
        };
        // Without an object, the handler of the public server fails and sends no acknowledgement.
        let Some(payload) = message.get(1).filter(|payload| payload.get().starts_with('{')) else {
            return match event {
                Event::RequestSession | Event::Join => Ok(Handled::No),
                Event::Setup | Event::Frame => {
                    Err(Refusal::NoEvent(format!("the payload of {name} is not an object")))
                }
            };
        };
        self.host.admit(event, payload)?;
        match event {
            Event::RequestSession => self.assign().await?,
            Event::Join => self.join(&Envelope::read(payload)?.session_id)?,
            Event::Setup => self.keep_setup(&Envelope::read(payload)?, omissions).await?,
            Event::Frame => return self.keep_frame(&Envelope::read(payload)?, omissions).await,
        }
        Ok(Handled::Yes)
    }

    async fn assign(&self) -> Result<(), Refusal> {
        let session_id = self.host.assign(self.from.client()).await?;
        self.send("session_id_assigned", &SessionAssigned { session_id: &session_id });
        Ok(())
    }

    /// Joins the room of a session, even of an unknown one, and sends its latest setup and frame.
    fn join(&self, session_id: &str) -> Result<(), Refusal> {
        if !self.from.join(session_id) {
            return Err(Refusal::TooManyRooms);
        }
        let (setup, frame) = self.host.latest(session_id);
        if let Some(SetupEvent { timestamp, setup }) = setup {
            let timestamp = timestamp.as_deref();
            self.send("setup_update", &SetupUpdate { session_id, timestamp, setup: &setup });
        }
        if let Some(telemetry) = frame {
            self.send("telemetry_update", &FrameUpdate { session_id, telemetry: &telemetry });
        }
        Ok(())
    }

    /// Stores a frame, then sends it to all clients that joined its session.
    async fn keep_frame(
        &self,
        envelope: &Envelope<'_>,
        omissions: Omissions,
    ) -> Result<Handled, Refusal> {
        let session_id = envelope.session_id.as_ref();
        let telemetry = envelope.telemetry.ok_or(Refusal::Empty)?;
        let kept =
            self.host.keep_frames(self.from.client(), session_id, &[telemetry], omissions).await;
        kept.into_iter().collect::<Result<(), Refusal>>()?;
        Ok(self.show_frame(session_id, telemetry))
    }

    /// Sends a stored frame to all clients that joined its session.
    fn show_frame(&self, session_id: &str, telemetry: &RawValue) -> Handled {
        let update = FrameUpdate { session_id, telemetry };
        self.send_to_room(session_id, "telemetry_update", &update);
        Handled::Yes
    }

    /// Stores a setup, then sends it to all clients that joined its session.
    async fn keep_setup(
        &self,
        envelope: &Envelope<'_>,
        omissions: Omissions,
    ) -> Result<(), Refusal> {
        let session_id = envelope.session_id.as_ref();
        let timestamp = envelope.timestamp;
        let setup = envelope.setup.ok_or(Refusal::Empty)?;
        let kept =
            SetupEvent { timestamp: timestamp.map(ToOwned::to_owned), setup: setup.to_owned() };
        self.host.keep_setup(self.from.client(), session_id, kept, omissions).await?;
        let update = SetupUpdate { session_id, timestamp, setup };
        self.send_to_room(session_id, "setup_update", &update);
        Ok(())
    }

    fn send(&self, event: &str, update: &impl Serialize) {
        written(packet::event(event, update), |packet| self.from.send(packet));
    }

    fn send_to_room(&self, session_id: &str, event: &str, update: &impl Serialize) {
        let echoes = !self.behavior.no_echo;
        written(packet::event(event, update), |packet| {
            self.from.send_to_room(session_id, packet, echoes);
        });
    }
}

/// Sends a serialized packet; serialization of text to JSON does not fail in practice.
fn written(packet: serde_json::Result<String>, send: impl FnOnce(String)) {
    match packet {
        Ok(packet) => send(packet),
        Err(error) => tracing::error!(%error, "cannot serialize an event; it is not sent"),
    }
}

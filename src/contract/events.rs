//! Handles the events of the contract.
//!
//! One worker per connection takes an event from the inbox, handles it and acknowledges it before
//! it takes the next one.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time;

use super::engineio::{Connection, Inbox, Message};
use super::{Acks, Host, Manners, Refusal, Setup, packet};
use crate::fields;

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
pub(super) async fn work<H: Host>(host: Arc<H>, connection: Connection, mut inbox: Inbox) {
    while let Some(message) = inbox.next().await {
        if handle(&*host, &connection, &message).await.is_break() {
            break;
        }
    }
    host.left(connection.client());
}

async fn handle<H: Host>(host: &H, from: &Connection, message: &Message) -> ControlFlow<()> {
    let wait = host.manners().delay;
    if !wait.is_zero() && from.is_open() {
        time::sleep(wait).await;
    }
    let manners = host.manners();
    if manners.silent {
        return ControlFlow::Continue(());
    }
    let exchange = Exchange { host, from, manners };
    match exchange.read_and_handle(message.arguments()).await {
        Ok(Handled::Yes) => {}
        Ok(Handled::No) => return ControlFlow::Continue(()),
        Err(Refusal::Cut) => {
            from.cut();
            return ControlFlow::Break(());
        }
        Err(Refusal::Unsure(why)) => {
            tracing::debug!(why, "an event is not acknowledged");
            return ControlFlow::Continue(());
        }
        Err(refusal) => {
            tracing::debug!(%refusal, "an event is acknowledged and discarded");
            if let Refusal::NoEnvelope(_) | Refusal::Empty = refusal {
                host.unreadable(message.arguments(), &refusal);
            }
        }
    }
    let Some(number) = message.ack else { return ControlFlow::Continue(()) };
    match manners.acks {
        Acks::Never => return ControlFlow::Continue(()),
        Acks::After(wait) if from.is_open() => time::sleep(wait).await,
        Acks::After(_) | Acks::AtOnce => {}
    }
    from.send(packet::ack(number));
    ControlFlow::Continue(())
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
    from: &'a Connection,
    manners: Manners,
}

impl<H: Host> Exchange<'_, H> {
    async fn read_and_handle(&self, message: &str) -> Result<Handled, Refusal> {
        match serde_json::from_str::<Vec<&RawValue>>(message) {
            Ok(message) => self.handle(&message).await,
            Err(error) => {
                let mended = fields::null_what_is_not_finite(message).ok_or(error)?;
                self.handle(&serde_json::from_str::<Vec<&RawValue>>(&mended)?).await
            }
        }
    }

    async fn handle(&self, message: &[&RawValue]) -> Result<Handled, Refusal> {
        // Without an object, the handler of the public server fails and sends no acknowledgement.
        let [name, payload, ..] = *message else { return Ok(Handled::No) };
        let is_name = |event: &Event| event.name() == name.get().trim_matches('"');
        let event = Event::ALL.into_iter().find(is_name);
        let (Some(event), true) = (event, payload.get().starts_with('{')) else {
            tracing::debug!("unknown event or no object; neither handled nor acknowledged");
            return Ok(Handled::No);
        };
        self.host.admit(event, payload)?;
        let envelope = || serde_json::from_str::<Envelope<'_>>(payload.get());
        match event {
            Event::RequestSession => self.assign().await?,
            Event::Join => self.join(&envelope()?.session_id)?,
            Event::Setup => self.keep_setup(&envelope()?).await?,
            Event::Frame => self.keep_frame(&envelope()?).await?,
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
        if let Some(Setup { timestamp, setup }) = setup {
            let timestamp = timestamp.as_deref();
            self.send("setup_update", &SetupUpdate { session_id, timestamp, setup: &setup });
        }
        if let Some(telemetry) = frame {
            self.send("telemetry_update", &FrameUpdate { session_id, telemetry: &telemetry });
        }
        Ok(())
    }

    /// Stores a frame, then sends it to all clients that joined its session.
    async fn keep_frame(&self, envelope: &Envelope<'_>) -> Result<(), Refusal> {
        let session_id = envelope.session_id.as_ref();
        let telemetry = envelope.telemetry.ok_or(Refusal::Empty)?;
        self.host.keep_frame(self.from.client(), session_id, telemetry).await?;
        let update = FrameUpdate { session_id, telemetry };
        self.send_to_room(session_id, "telemetry_update", &update);
        Ok(())
    }

    /// Stores a setup, then sends it to all clients that joined its session.
    async fn keep_setup(&self, envelope: &Envelope<'_>) -> Result<(), Refusal> {
        let session_id = envelope.session_id.as_ref();
        let timestamp = envelope.timestamp;
        let setup = envelope.setup.ok_or(Refusal::Empty)?;
        let kept = Setup { timestamp: timestamp.map(ToOwned::to_owned), setup: setup.to_owned() };
        self.host.keep_setup(self.from.client(), session_id, kept).await?;
        let update = SetupUpdate { session_id, timestamp, setup };
        self.send_to_room(session_id, "setup_update", &update);
        Ok(())
    }

    fn send(&self, event: &str, update: &impl Serialize) {
        written(packet::event(event, update), |packet| self.from.send(packet));
    }

    fn send_to_room(&self, session_id: &str, event: &str, update: &impl Serialize) {
        let echoes = !self.manners.no_echo;
        let send = |packet| self.from.send_to_room(session_id, packet, echoes);
        written(packet::event(event, update), send);
    }
}

/// Sends a serialized packet; serialization of text to JSON does not fail in practice.
fn written(packet: serde_json::Result<String>, send: impl FnOnce(String)) {
    match packet {
        Ok(packet) => send(packet),
        Err(error) => tracing::error!(%error, "cannot serialize an event; it is not sent"),
    }
}

//! The Socket.IO side: the contract's events and what the server does with each.
//!
//! socketioxide calls a plain closure as a task of its own for each event, and acknowledges
//! nothing by itself. Here each connection has an inbox instead: the connection's reader puts an
//! event in, one worker takes it out, handles it, acknowledges it, and only then takes the next.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::ConnectInfo;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use socketioxide::adapter::LocalAdapter;
use socketioxide::extract::{AckSender, SocketRef};
use socketioxide::handler::{ConnectHandler, FromMessageParts, MessageHandler, Value};
use socketioxide::layer::SocketIoLayer;
use socketioxide::socket::Socket;
use socketioxide::{SendError, SocketError, SocketIo};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time;

use super::plug::Plug;
use super::sessions::{Setup, UnknownSession};
use super::{Acks, Behaviour, Hub, schema};

/// A longer message ends its connection, as on the public server.
const MESSAGE_BYTES: usize = 1_000_000;

/// A client that has more than this unhandled, in bytes, is cut off.
const INBOX_BYTES: usize = 64 << 20;

/// A client that leaves more than this unread, in messages, is cut off: a frame that is silently
/// left out on a connection that stands would look like a frame that was lost.
const OUTBOX_MESSAGES: usize = 65_536;

/// A client may join this many rooms, each of a name of at most [`ROOM_NAME_BYTES`].
const ROOMS: usize = 1_000;

/// More than enough for a UUID.
const ROOM_NAME_BYTES: usize = 100;

/// The layer that answers `/socket.io/`, and the handle that closes it.
pub(super) fn layer(hub: &Arc<Hub>) -> (SocketIoLayer, SocketIo) {
    let (layer, io) = SocketIo::builder()
        .max_payload(MESSAGE_BYTES as u64)
        .ws_max_message_size(MESSAGE_BYTES)
        .ws_max_frame_size(MESSAGE_BYTES)
        .max_buffer_size(OUTBOX_MESSAGES)
        .ping_interval(Duration::from_secs(25))
        .ping_timeout(Duration::from_secs(20))
        .build_layer();
    io.ns("/", Door { hub: hub.clone() });
    (layer, io)
}

/// The events a client may send.
#[derive(Clone, Copy, Debug)]
enum Event {
    RequestSession,
    Join,
    Setup,
    Frame,
}

impl Event {
    const ALL: [Self; 4] = [Self::RequestSession, Self::Join, Self::Setup, Self::Frame];

    fn name(self) -> &'static str {
        match self {
            Self::RequestSession => "request_session_id",
            Self::Join => "join_session",
            Self::Setup => "setup_data",
            Self::Frame => "telemetry_update",
        }
    }
}

/// Gives each client that connects an inbox.
#[derive(Clone)]
struct Door {
    hub: Arc<Hub>,
}

impl ConnectHandler<LocalAdapter, Door> for Door {
    fn call(&self, socket: Arc<Socket>, _auth: Option<Value>) {
        // Unbounded in number: its bound is the space in bytes that each event takes along.
        let (sender, received) = mpsc::unbounded_channel();
        let space = Arc::new(Semaphore::new(INBOX_BYTES));
        for event in Event::ALL {
            let inbox = Inbox { event, sender: sender.clone(), space: space.clone() };
            socket.on(event.name(), inbox);
        }
        tokio::spawn(work(self.hub.clone(), received));
    }
}

/// The entrance of one connection's inbox for one kind of event.
struct Inbox {
    event: Event,
    sender: mpsc::UnboundedSender<Received>,
    space: Arc<Semaphore>,
}

/// An event that waits to be handled.
///
/// It brings the socket along: a worker that held it would keep it alive, and with it the sender
/// that the worker waits for.
struct Received {
    event: Event,
    socket: SocketRef,
    /// The event as text: `["telemetry_update",{…}]`.
    message: Value,
    ack: AckSender,
    wants_ack: bool,
    _space: OwnedSemaphorePermit,
}

impl MessageHandler<LocalAdapter, Inbox> for Inbox {
    /// Called by the connection's reader, in order.
    fn call(&self, socket: Arc<Socket>, mut message: Value, ack_id: Option<i64>) {
        let Ok(ack) = AckSender::from_message_parts(&socket, &mut message, &ack_id);
        let socket = SocketRef::from(socket);
        let length = message.as_str().map_or(0, |text| text.len());
        let size = u32::try_from(length).unwrap_or(u32::MAX);
        let Ok(space) = self.space.clone().try_acquire_many_owned(size) else {
            tracing::warn!(socket = %socket.id, "too much unhandled: client cut off");
            return cut(&socket);
        };
        let wants_ack = ack_id.is_some();
        let event = self.event;
        // The worker is gone once the connection was cut: then nobody is to handle this.
        self.sender.send(Received { event, socket, message, ack, wants_ack, _space: space }).ok();
    }
}

/// Handles the events of one connection, one after the other, until it ends.
///
/// What was read before a client left is still handled.
async fn work(hub: Arc<Hub>, mut inbox: mpsc::UnboundedReceiver<Received>) {
    while let Some(received) = inbox.recv().await {
        if handle(&hub, received).await.is_break() {
            return;
        }
    }
}

async fn handle(hub: &Hub, received: Received) -> ControlFlow<()> {
    let Received { event, socket, message, ack, wants_ack, .. } = received;
    let wait = hub.behaviour.borrow().delay;
    if !wait.is_zero() && socket.connected() {
        time::sleep(wait).await;
    }
    let behaviour = hub.behaviour.borrow().clone();
    if behaviour.silent {
        return ControlFlow::Continue(());
    }
    // Without an object to handle, the public server's handler fails and acknowledges nothing.
    let Some(payload) = message.as_str().and_then(|text| payload(text)) else {
        tracing::debug!(event = event.name(), "not an object: neither handled nor acknowledged");
        return ControlFlow::Continue(());
    };

    let accepted = match event {
        Event::RequestSession => {
            assign(hub, &socket);
            Ok(())
        }
        Event::Join => join(hub, &socket, payload),
        Event::Setup => accept_setup(hub, &behaviour, &socket, payload),
        Event::Frame => {
            let count = hub.frames_received.fetch_add(1, Ordering::Relaxed) + 1;
            if is_nth(count, behaviour.close_every) {
                cut(&socket);
                return ControlFlow::Break(());
            }
            if is_nth(count, behaviour.refuse_every) {
                Err(Refusal::Chosen)
            } else {
                accept_frame(hub, &behaviour, &socket, payload)
            }
        }
    };
    if let Err(reason) = accepted {
        tracing::debug!(event = event.name(), %reason, "acknowledged and thrown away");
    }

    match behaviour.acks {
        Acks::Never => return ControlFlow::Continue(()),
        Acks::After(wait) if wants_ack && socket.connected() => time::sleep(wait).await,
        Acks::After(_) | Acks::AtOnce => {}
    }
    // An empty array, not `()`, which would be sent as one argument that is null.
    sent(&socket, ack.send(&[(); 0]));
    ControlFlow::Continue(())
}

fn is_nth(count: u64, every: Option<NonZeroU64>) -> bool {
    every.is_some_and(|every| count.is_multiple_of(every.get()))
}

/// The one argument of an event, if it is an object.
fn payload(message: &str) -> Option<&RawValue> {
    let (_, payload): (IgnoredAny, &RawValue) = serde_json::from_str(message).ok()?;
    payload.get().starts_with('{').then_some(payload)
}

/// What a client wraps its data in; other keys are ignored.
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

fn assign(hub: &Hub, socket: &SocketRef) {
    let session_id = hub.sessions().assign();
    tracing::info!(session = %session_id, "session assigned");
    emit(socket, "session_id_assigned", &SessionAssigned { session_id: &session_id });
}

/// Joins the room, also that of a session nobody knows, and sends what is stored.
fn join(hub: &Hub, socket: &SocketRef, payload: &RawValue) -> Result<(), Refusal> {
    let envelope: Envelope<'_> = serde_json::from_str(payload.get())?;
    let session_id = envelope.session_id.as_ref();
    if session_id.len() > ROOM_NAME_BYTES || socket.rooms().len() >= ROOMS {
        return Err(Refusal::TooManyRooms);
    }
    socket.join(session_id.to_owned());
    let (setup, frame) = hub.sessions().latest(session_id);
    if let Some(Setup { timestamp, setup }) = setup {
        let timestamp = timestamp.as_deref();
        emit(socket, "setup_update", &SetupUpdate { session_id, timestamp, setup: &setup });
    }
    if let Some(telemetry) = frame {
        emit(socket, "telemetry_update", &FrameUpdate { session_id, telemetry: &telemetry });
    }
    Ok(())
}

/// Stores a frame, then sends it to all who joined its session.
fn accept_frame(
    hub: &Hub,
    behaviour: &Behaviour,
    socket: &SocketRef,
    payload: &RawValue,
) -> Result<(), Refusal> {
    let envelope = open(behaviour, Event::Frame, payload)?;
    let session_id = envelope.session_id.as_ref();
    let telemetry = envelope.telemetry.ok_or(Refusal::Empty)?;
    hub.sessions().store_frame(session_id, telemetry)?;
    let update = FrameUpdate { session_id, telemetry };
    send_to_room(behaviour, socket, session_id, "telemetry_update", &update);
    Ok(())
}

/// Stores a setup, then sends it to all who joined its session.
fn accept_setup(
    hub: &Hub,
    behaviour: &Behaviour,
    socket: &SocketRef,
    payload: &RawValue,
) -> Result<(), Refusal> {
    let envelope = open(behaviour, Event::Setup, payload)?;
    let session_id = envelope.session_id.as_ref();
    let timestamp = envelope.timestamp;
    let setup = envelope.setup.ok_or(Refusal::Empty)?;
    let stored = Setup { timestamp: timestamp.map(ToOwned::to_owned), setup: setup.to_owned() };
    hub.sessions().store_setup(session_id, stored)?;
    let update = SetupUpdate { session_id, timestamp, setup };
    send_to_room(behaviour, socket, session_id, "setup_update", &update);
    Ok(())
}

/// Why an event is thrown away.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    UnknownSession(#[from] UnknownSession),
    #[error("not an envelope: {0}")]
    NoEnvelope(#[from] serde_json::Error),
    #[error("schema: {0}")]
    Schema(String),
    #[error("nothing in the envelope")]
    Empty,
    #[error("too long a name, or too many rooms")]
    TooManyRooms,
    #[error("one of those that are to be refused")]
    Chosen,
}

fn open<'a>(
    behaviour: &Behaviour,
    event: Event,
    payload: &'a RawValue,
) -> Result<Envelope<'a>, Refusal> {
    if behaviour.schema
        && let Some(reason) = schema::refuses(event.name(), &serde_json::from_str(payload.get())?)
    {
        return Err(Refusal::Schema(reason));
    }
    Ok(serde_json::from_str(payload.get())?)
}

fn send_to_room<T: Serialize>(
    behaviour: &Behaviour,
    sender: &SocketRef,
    session_id: &str,
    event: &str,
    update: &T,
) {
    let room = session_id.to_owned();
    let viewers = if behaviour.no_echo { sender.to(room) } else { sender.within(room) };
    for viewer in viewers.sockets() {
        emit(&viewer, event, update);
    }
}

fn emit<T: Serialize>(socket: &SocketRef, event: &str, update: &T) {
    sent(socket, socket.emit(event, update));
}

/// Cuts off a client that did not take what was sent because it does not read; that one has left
/// is no matter.
fn sent(socket: &SocketRef, result: Result<(), SendError>) {
    if let Err(SendError::Socket(SocketError::InternalChannelFull)) = result {
        tracing::warn!(socket = %socket.id, "too much unread: client cut off");
        cut(socket);
    }
}

/// Breaks a client's connection, with what is still on its way in it.
fn cut(socket: &SocketRef) {
    if let Some(ConnectInfo(plug)) = socket.req_parts().extensions.get::<ConnectInfo<Plug>>() {
        plug.pull();
    }
    // A client that began with polling may by now be on another connection than its first one.
    socket.clone().disconnect().ok();
}

//! Connections over Engine.IO, each with an inbox: the only file that names engineioxide.
//!
//! The Socket.IO library of the same family is not used: it ends a connection for one bare `NaN` in
//! an event, which clients in Python send and servers in Python take.
//!
//! The reader of a connection calls [`Door`] for each packet, in order. It puts events into the
//! connection's inbox and goes on; who takes them out has the time that it needs.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use engineioxide::config::EngineIoConfig;
use engineioxide::handler::EngineIoHandler;
use engineioxide::layer::EngineIoLayer;
use engineioxide::socket::Sid;
use engineioxide::{DisconnectReason, Socket, Str};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time;

use super::packet::{self, Packet};
use crate::config::{
    HELLO_TIMEOUT, MAX_INBOX_BYTES, MAX_MESSAGE_BYTES, MAX_OUTBOX_MESSAGES, MAX_ROOM_NAME_BYTES,
    MAX_ROOMS, PING_INTERVAL, PING_TIMEOUT,
};
use crate::net::KillSwitch;

/// What one connection is to the library.
type Line = Arc<Socket<Mailbox>>;

/// Names one connection for as long as the server lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client(Sid);

/// All clients of one server and the rooms that they are in. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Hall(Arc<Mutex<HashMap<Sid, Seat>>>);

struct Seat {
    line: Line,
    rooms: HashSet<String>,
}

impl Hall {
    /// The layer that answers `/socket.io/`, and calls `enter` with each client that connects.
    pub(super) fn layer(&self, enter: Enter) -> Events {
        let config = EngineIoConfig::builder()
            .req_path("/socket.io")
            .max_payload(MAX_MESSAGE_BYTES as u64)
            .ws_max_message_size(MAX_MESSAGE_BYTES)
            .ws_max_frame_size(MAX_MESSAGE_BYTES)
            .max_buffer_size(MAX_OUTBOX_MESSAGES)
            .ping_interval(PING_INTERVAL)
            .ping_timeout(PING_TIMEOUT)
            .build();
        let door = Door { hall: self.clone(), enter };
        EngineIoLayer::from_config(Arc::new(door), config)
    }

    /// Sends to all who are in the room, but not to `except`.
    pub(super) fn send(&self, room: &str, packet: String, except: Option<Client>) {
        let packet = Str::from(packet);
        for seat in self.seats().values() {
            if seat.rooms.contains(room) && except != Some(Client(seat.line.id)) {
                send(&seat.line, packet.clone());
            }
        }
    }

    /// Tells all clients that the server closes, and waits until they have heard it.
    pub(super) async fn close(&self) {
        let lines: Vec<Line> = self.seats().values().map(|seat| Arc::clone(&seat.line)).collect();
        lines.iter().for_each(|line| line.close(DisconnectReason::ClosingServer));
        for line in lines {
            line.closed().await;
        }
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<Sid, Seat>> {
        lock(&self.0)
    }
}

/// What answers `/socket.io/`, as a layer around other paths.
pub(crate) type Events = EngineIoLayer<Door>;

/// What becomes of a client that has connected.
pub(super) type Enter = Arc<dyn Fn(Connection, Inbox) + Send + Sync>;

/// Lets clients in.
#[derive(Clone)]
pub(crate) struct Door {
    hall: Hall,
    enter: Enter,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl EngineIoHandler for Door {
    type Data = Mailbox;

    fn on_connect(self: Arc<Self>, line: Line) {
        tokio::spawn(async move {
            let silent = time::timeout(HELLO_TIMEOUT, line.closed()).await.is_err();
            if silent && lock(&line.data.0).is_none() {
                line.close(DisconnectReason::TransportClose);
            }
        });
    }

    fn on_message(self: &Arc<Self>, message: Str, line: Line) {
        match packet::read(&message) {
            Packet::Connect => self.let_in(line),
            Packet::ConnectElsewhere(namespace) => {
                send(&line, packet::no_such_namespace(namespace));
            }
            Packet::Disconnect => line.data.close(),
            Packet::Event { ack, arguments } => {
                let arguments = message.slice(message.len() - arguments.len()..);
                if line.data.put(arguments, ack).is_err() {
                    tracing::warn!(client = %line.id, "too much unhandled: client cut off");
                    cut(&line);
                }
            }
            Packet::Other => {}
            Packet::Broken => line.close(DisconnectReason::PacketParsingError),
        }
    }

    /// Attachments of events that are not handled anyway.
    fn on_binary(self: &Arc<Self>, _: Bytes, _: Line) {}

    fn on_disconnect(&self, line: Line, _: DisconnectReason) {
        line.data.close();
    }
}

impl Door {
    fn let_in(&self, line: Line) {
        let Some(inbox) = line.data.open() else { return };
        send(&line, packet::connected(line.id));
        let seat = Seat { line: Arc::clone(&line), rooms: HashSet::new() };
        self.hall.seats().insert(line.id, seat);
        (self.enter)(Connection { hall: self.hall.clone(), line }, inbox);
    }
}

/// The entrance of a connection's inbox, while it is open.
#[derive(Debug, Default)]
pub(crate) struct Mailbox(Mutex<Option<Slot>>);

#[derive(Debug)]
struct Slot {
    /// Unbounded in number: its bound is the space in bytes that each event takes along.
    sender: mpsc::UnboundedSender<Message>,
    space: Arc<Semaphore>,
}

struct Full;

impl Mailbox {
    /// Opens it, unless it is open.
    fn open(&self) -> Option<Inbox> {
        let mut slot = lock(&self.0);
        if slot.is_some() {
            return None;
        }
        let (sender, received) = mpsc::unbounded_channel();
        *slot = Some(Slot { sender, space: Arc::new(Semaphore::new(MAX_INBOX_BYTES)) });
        Some(Inbox(received))
    }

    /// What is in it can still be taken out.
    fn close(&self) {
        *lock(&self.0) = None;
    }

    fn put(&self, arguments: Str, ack: Option<u64>) -> Result<(), Full> {
        let slot = lock(&self.0);
        // Not let in yet, or gone already: the event is nobody's.
        let Some(Slot { sender, space }) = &*slot else { return Ok(()) };
        let size = u32::try_from(arguments.len()).unwrap_or(u32::MAX);
        let space = space.clone().try_acquire_many_owned(size).map_err(|_| Full)?;
        // Whoever took them out is gone once the connection was cut.
        sender.send(Message { arguments, ack, _space: space }).ok();
        Ok(())
    }
}

/// The events of one connection, in the order in which they came.
#[derive(Debug)]
pub(super) struct Inbox(mpsc::UnboundedReceiver<Message>);

impl Inbox {
    /// The next event; `None` when the client has left and everything is taken out.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.0.recv().await
    }
}

/// An event that waits to be handled.
#[derive(Debug)]
pub(super) struct Message {
    arguments: Str,
    /// The number to acknowledge it under, if that is wanted.
    pub(super) ack: Option<u64>,
    _space: OwnedSemaphorePermit,
}

impl Message {
    /// `["telemetry_update",{…}]`, if the client sends what it should.
    pub(super) fn arguments(&self) -> &str {
        &self.arguments
    }
}

/// A client that has connected. It leaves its rooms when this is dropped.
pub(super) struct Connection {
    hall: Hall,
    line: Line,
}

impl Connection {
    pub(super) fn client(&self) -> Client {
        Client(self.line.id)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.line.is_closed()
    }

    pub(super) fn send(&self, packet: String) {
        send(&self.line, packet);
    }

    /// Breaks the connection, with what is still on its way in it.
    pub(super) fn cut(&self) {
        cut(&self.line);
    }

    /// Enters a room; `false` if its name is too long or the client is in too many already.
    pub(super) fn join(&self, room: &str) -> bool {
        let mut seats = self.hall.seats();
        let Some(Seat { rooms, .. }) = seats.get_mut(&self.line.id) else { return false };
        let fits =
            room.len() <= MAX_ROOM_NAME_BYTES && (rooms.len() < MAX_ROOMS || rooms.contains(room));
        if fits {
            rooms.insert(room.to_owned());
        }
        fits
    }

    /// Sends to all who are in the room, to itself too unless told otherwise.
    pub(super) fn send_to_room(&self, room: &str, packet: String, echoes: bool) {
        self.hall.send(room, packet, (!echoes).then(|| self.client()));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.hall.seats().remove(&self.line.id);
    }
}

/// Cuts off a client that did not take what was sent because it does not read; that one has left
/// is no matter.
fn send(line: &Line, packet: impl Into<Str>) {
    if let Err(TrySendError::Full(_)) = line.emit(packet) {
        tracing::warn!(client = %line.id, "too much unread: client cut off");
        cut(line);
    }
}

fn cut(line: &Line) {
    if let Some(kill_switch) = line.req_parts.extensions.get::<KillSwitch>() {
        kill_switch.kill();
    }
    // A client that began with polling may by now be on another connection than its first one.
    line.close(DisconnectReason::TransportClose);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

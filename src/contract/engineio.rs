//! Engine.IO connections, each with an inbox. No other file uses engineioxide.
//!
//! Its companion library socketioxide is not used, because it closes a connection for a bare `NaN`
//! in an event. Python clients send them and Python servers accept them.
//!
//! The reader of a connection calls [`Acceptor`] for each packet, in order. It puts events into the
//! connection's inbox and returns at once; a worker handles them at its own speed.
//!
//! Unhandled events, unread packets and rooms are charged to the client's [`ClientMemory`] in bytes.
//! A client whose events arrive faster than they are handled is slowed down ([`Backlog`]): its
//! WebSocket is not read any further, and the answers to its POST requests are delayed.
//!
//! Traps of the crate:
//! - Its outbox is bounded in packets, not in bytes, and does not report when a packet leaves.
//!   Therefore each packet carries its charge, which ends when the library drops the packet.
//! - Pongs wait in the WebSocket library's buffer, whose size cannot be limited from here, and a
//!   blocked writer does not end with its session. `net` bounds both.
//! - A slice of a message keeps the whole read buffer alive, which other messages share. Therefore
//!   events are copied into the inbox.
//! - Each polling handshake creates a session that outlives its TCP connection. Therefore sessions
//!   are limited here, in addition to the limit for connections in `net`.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State as Shared};
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use engineioxide::config::EngineIoConfig;
use engineioxide::handler::EngineIoHandler;
use engineioxide::layer::EngineIoLayer;
use engineioxide::socket::Sid;
use engineioxide::{DisconnectReason, Socket, Str, TransportType};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{self, Instant};

use super::backlog::{Backlog, Unhandled};
use super::memory::{Charge, ClientLimits, ClientMemory, Pool};
use super::packet::{self, Packet};
use crate::net::{KillSwitch, LOG_REPEAT_INTERVAL, ReadGate};

/// The longest message that pitwire accepts as a server; a longer one ends the connection, as on
/// the public server.
const MAX_MESSAGE_BYTES: usize = 1_000_000;

/// A client with more unread messages than this is disconnected: silently skipping a frame on an
/// open connection would look like a lost frame.
const MAX_OUTBOX_MESSAGES: usize = 65_536;

/// The maximum number of rooms of a client, and the maximum length of a name; a UUID has 36 bytes.
const MAX_ROOMS: usize = 1_000;
const MAX_ROOM_NAME_BYTES: usize = 100;

/// The maximum time from a client's connection to its first packet.
const HELLO_TIMEOUT: Duration = Duration::from_secs(45);

/// How often a server pings its clients, and how long a client has to answer: the values of the
/// public server.
const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the answer to a POST request is delayed while the client has too many unhandled events.
/// python-engineio's client gives up a request after 5 s.
const MAX_POST_DELAY: Duration = Duration::from_secs(3);

/// Memory of an event in the inbox, a packet in the outbox or a room in addition to its text,
/// rounded up: channel slots, reference counts, allocator overhead.
const OVERHEAD_BYTES: usize = 256;

/// The library's handle of a connection.
type ClientSocket = Arc<Socket<ClientInbox>>;

/// Identifies a connection, uniquely for the life of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientId(Sid);

/// All clients of a server and their rooms. Clones share them.
#[derive(Clone)]
pub(super) struct Clients(Arc<ClientTable>);

struct ClientTable {
    clients: Mutex<HashMap<Sid, ConnectedClient>>,
    /// One permit for each client that may still be admitted.
    vacancies: Arc<Semaphore>,
    /// Sessions that have not sent a CONNECT packet yet, oldest first.
    silent: Mutex<VecDeque<Weak<Socket<ClientInbox>>>>,
    max_silent: usize,
    memory: Arc<Pool>,
    /// When a refused or disconnected client was last logged.
    last_warning: Mutex<Option<Instant>>,
}

struct ConnectedClient {
    socket: ClientSocket,
    rooms: HashMap<String, Charge>,
}

impl Clients {
    pub(super) fn new(limits: ClientLimits) -> Self {
        Self(Arc::new(ClientTable {
            clients: Mutex::default(),
            vacancies: Arc::new(Semaphore::new(limits.clients)),
            silent: Mutex::default(),
            max_silent: limits.clients,
            memory: Arc::new(Pool::new(limits)),
            last_warning: Mutex::default(),
        }))
    }

    /// Tracks a new session until its CONNECT packet, and closes the oldest such sessions when
    /// there are too many.
    fn expect_hello(&self, socket: &ClientSocket) {
        let mut silent = lock(&self.0.silent);
        silent.retain(|socket| {
            socket.upgrade().is_some_and(|socket| !socket.is_closed() && !socket.data.is_open())
        });
        while silent.len() >= self.0.max_silent {
            if let Some(oldest) = silent.pop_front().and_then(|socket| socket.upgrade()) {
                let why = "too many sessions without a CONNECT packet; the oldest is closed";
                self.warn(&oldest, why);
                // With polling, other clients may share the network connection.
                oldest.close(DisconnectReason::TransportClose);
            }
        }
        silent.push_back(Arc::downgrade(socket));
    }

    /// Logs that a client is refused or disconnected, at most once per [`LOG_REPEAT_INTERVAL`],
    /// because a hostile client reconnects at once.
    fn warn(&self, socket: &ClientSocket, why: &str) {
        let mut last = lock(&self.0.last_warning);
        if last.is_none_or(|last| last.elapsed() >= LOG_REPEAT_INTERVAL) {
            *last = Some(Instant::now());
            tracing::warn!(client = %socket.id, "{why}");
        }
    }

    /// The layer that serves `/socket.io/` and calls `enter` with each client that connects.
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
        let acceptor = Acceptor { clients: self.clone(), enter };
        EngineIoLayer::from_config(Arc::new(acceptor), config)
    }

    /// Sends a packet to all clients in the room except `except`.
    pub(super) fn send(&self, room: &str, packet: String, except: Option<ClientId>) {
        let packet = Str::from(packet);
        for client in self.clients().values() {
            if client.rooms.contains_key(room) && except != Some(ClientId(client.socket.id)) {
                self.send_to(&client.socket, packet.clone());
            }
        }
    }

    /// Slows down clients whose events arrive faster than they are handled. Runs before each request
    /// of a client reaches the library.
    pub(super) async fn slow_down(clients: Shared<Self>, request: Request, next: Next) -> Response {
        if let Some(socket) = clients.session_of(request.uri()) {
            let backlog = &socket.data.backlog;
            if request.method() == Method::POST {
                // After the delay, the events are charged to the account.
                let _ = time::timeout(MAX_POST_DELAY, backlog.has_room()).await;
            } else if is_websocket(request.uri())
                && let Some(gate) = request.extensions().get::<ReadGate>()
            {
                backlog.set_gate(gate.clone());
            }
        }
        next.run(request).await
    }

    /// The session that a request names in its query.
    fn session_of(&self, uri: &Uri) -> Option<ClientSocket> {
        let sid: Sid = query(uri, "sid")?.parse().ok()?;
        if let Some(client) = self.clients().get(&sid) {
            return Some(Arc::clone(&client.socket));
        }
        lock(&self.0.silent).iter().filter_map(Weak::upgrade).find(|socket| socket.id == sid)
    }

    /// Notifies all clients that the server closes, and waits until their connections are closed.
    pub(super) async fn close(&self) {
        let lines: Vec<ClientSocket> =
            self.clients().values().map(|client| Arc::clone(&client.socket)).collect();
        lines.iter().for_each(|socket| socket.close(DisconnectReason::ClosingServer));
        for socket in lines {
            socket.closed().await;
        }
    }

    /// Sends a packet to one client. Closes the connection if the client holds too many unread
    /// packets; a client that has left is not an error.
    fn send_to(&self, socket: &ClientSocket, packet: impl Into<Str>) {
        let packet = packet.into();
        let is_sent = match socket.data.charge(packet.len()) {
            Some(charge) => {
                !matches!(socket.emit(charged(packet, charge)), Err(TrySendError::Full(_)))
            }
            None => socket.is_closed(),
        };
        if !is_sent {
            self.warn(socket, "a client does not read its packets; its connection is closed");
            cut(socket);
        }
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Sid, ConnectedClient>> {
        lock(&self.0.clients)
    }
}

/// The layer that serves `/socket.io/` around other routes.
pub(crate) type Events = EngineIoLayer<Acceptor>;

/// Called with each client that has connected.
pub(super) type Enter = Arc<dyn Fn(ClientHandle, Inbox) + Send + Sync>;

/// Admits clients and receives their packets.
#[derive(Clone)]
pub(crate) struct Acceptor {
    clients: Clients,
    enter: Enter,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl EngineIoHandler for Acceptor {
    type Data = ClientInbox;

    fn on_connect(self: Arc<Self>, socket: ClientSocket) {
        // The library calls this once for each connection, before it reads from it.
        let _ = socket.data.account.set(ClientMemory::new(Arc::clone(&self.clients.0.memory)));
        if socket.transport_type() == TransportType::Websocket
            && let Some(gate) = socket.req_parts.extensions.get::<ReadGate>()
        {
            socket.data.backlog.set_gate(gate.clone());
        }
        self.clients.expect_hello(&socket);
        tokio::spawn(async move {
            let silent = time::timeout(HELLO_TIMEOUT, socket.closed()).await.is_err();
            if silent && !socket.data.is_open() {
                socket.close(DisconnectReason::TransportClose);
            }
        });
    }

    fn on_message(self: &Arc<Self>, message: Str, socket: ClientSocket) {
        match packet::read(&message) {
            Packet::Connect => self.admit(socket),
            Packet::ConnectElsewhere(namespace) => {
                self.clients.send_to(&socket, packet::no_such_namespace(namespace));
            }
            Packet::Disconnect => socket.data.close(),
            Packet::Event { ack, arguments } => self.deliver(&socket, arguments, ack),
            // Not handled, but the host must count it.
            Packet::EventWithAttachments => self.deliver(&socket, &message, None),
            Packet::Other => {}
            Packet::Broken => socket.close(DisconnectReason::PacketParsingError),
        }
    }

    /// Ignores attachments: the events that carry them are counted as refused.
    fn on_binary(self: &Arc<Self>, _: Bytes, _: ClientSocket) {}

    fn on_disconnect(&self, socket: ClientSocket, _: DisconnectReason) {
        socket.data.close();
    }
}

impl Acceptor {
    fn deliver(&self, socket: &ClientSocket, arguments: &str, ack: Option<u64>) {
        if socket.data.put(arguments, ack).is_err() {
            let why =
                "the clients' unhandled events exceed the memory limit; a connection is closed";
            self.clients.warn(socket, why);
            // Ignore the packets that the library has read already.
            socket.data.close();
            cut(socket);
        }
    }

    fn admit(&self, line: ClientSocket) {
        if line.data.is_open() {
            return;
        }
        let Ok(vacancy) = Arc::clone(&self.clients.0.vacancies).try_acquire_owned() else {
            // Only closed: after a CONNECT_ERROR packet, the JavaScript client never reconnects.
            self.clients.warn(&line, "too many clients are connected; a new one is refused");
            line.close(DisconnectReason::TransportClose);
            return;
        };
        let Some(inbox) = line.data.open(vacancy) else { return };
        self.clients.send_to(&line, packet::connected(line.id));
        let client = ConnectedClient { socket: Arc::clone(&line), rooms: HashMap::new() };
        self.clients.clients().insert(line.id, client);
        (self.enter)(ClientHandle { clients: self.clients.clone(), socket: line }, inbox);
    }
}

/// The sending half of a connection's inbox while that is open, and the client's account.
#[derive(Debug, Default)]
pub(crate) struct ClientInbox {
    account: OnceLock<Arc<ClientMemory>>,
    /// Set when the client is admitted; released with the connection.
    vacancy: OnceLock<OwnedSemaphorePermit>,
    backlog: Arc<Backlog>,
    /// Not bounded in number, because each event is charged to the account.
    inbox: Mutex<Option<mpsc::UnboundedSender<Message>>>,
}

struct Full;

impl ClientInbox {
    /// Opens the inbox; `None` if it was opened before.
    fn open(&self, vacancy: OwnedSemaphorePermit) -> Option<Inbox> {
        self.vacancy.set(vacancy).ok()?;
        let (sender, received) = mpsc::unbounded_channel();
        *lock(&self.inbox) = Some(sender);
        Some(Inbox(received))
    }

    /// Whether the client was ever admitted.
    fn is_open(&self) -> bool {
        self.vacancy.get().is_some()
    }

    /// Closes the inbox for new events; the worker can still take out the pending ones.
    fn close(&self) {
        *lock(&self.inbox) = None;
    }

    /// Charges a text of this length; `None` if that exceeds the client's limit.
    fn charge(&self, bytes: usize) -> Option<Charge> {
        self.account.get()?.charge(bytes + OVERHEAD_BYTES)
    }

    fn put(&self, arguments: &str, ack: Option<u64>) -> Result<(), Full> {
        let inbox = lock(&self.inbox);
        // The client is not admitted yet or has already left: ignore the event.
        let Some(sender) = &*inbox else { return Ok(()) };
        let charge = self.charge(arguments.len()).ok_or(Full)?;
        let unhandled = self.backlog.add(arguments.len() + OVERHEAD_BYTES);
        let arguments = arguments.into();
        // Fails only if the worker has ended because the connection was cut.
        sender.send(Message { arguments, ack, _charge: charge, _unhandled: unhandled }).ok();
        Ok(())
    }
}

/// The events of one connection, in order of arrival.
#[derive(Debug)]
pub(super) struct Inbox(mpsc::UnboundedReceiver<Message>);

impl Inbox {
    /// The next event; `None` when the client has left and no event is pending.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.0.recv().await
    }

    /// The next event, if one is pending.
    pub(super) fn try_next(&mut self) -> Option<Message> {
        self.0.try_recv().ok()
    }
}

/// A pending event.
#[derive(Debug)]
pub(super) struct Message {
    arguments: Box<str>,
    /// The acknowledgement id, if the client requests an acknowledgement.
    pub(super) ack: Option<u64>,
    _charge: Charge,
    _unhandled: Unhandled,
}

impl Message {
    /// The arguments as text, such as `["telemetry_update",{…}]`; not validated.
    pub(super) fn arguments(&self) -> &str {
        &self.arguments
    }
}

/// A connected client. Dropping this removes it from its rooms.
pub(super) struct ClientHandle {
    clients: Clients,
    socket: ClientSocket,
}

impl ClientHandle {
    pub(super) fn client(&self) -> ClientId {
        ClientId(self.socket.id)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.socket.is_closed()
    }

    pub(super) fn send(&self, packet: String) {
        self.clients.send_to(&self.socket, packet);
    }

    /// Breaks the connection and discards unsent packets.
    pub(super) fn cut(&self) {
        cut(&self.socket);
    }

    /// Joins a room; `false` if its name is too long or the client is in too many rooms.
    pub(super) fn join(&self, room: &str) -> bool {
        let mut clients = self.clients.clients();
        let Some(ConnectedClient { rooms, .. }) = clients.get_mut(&self.socket.id) else {
            return false;
        };
        if rooms.contains_key(room) {
            return true;
        }
        if room.len() > MAX_ROOM_NAME_BYTES || rooms.len() >= MAX_ROOMS {
            return false;
        }
        let Some(charge) = self.socket.data.charge(room.len()) else { return false };
        rooms.insert(room.to_owned(), charge);
        true
    }

    /// Sends a packet to all clients in the room; to this client only if `echoes`.
    pub(super) fn send_to_room(&self, room: &str, packet: String, echoes: bool) {
        self.clients.send(room, packet, (!echoes).then(|| self.client()));
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        self.clients.clients().remove(&self.socket.id);
    }
}

/// Attaches a charge to a packet. The charge ends when the library drops the packet.
#[allow(unsafe_code, reason = "the library makes a text of shared bytes in no other way")]
fn charged(packet: Str, charge: Charge) -> Str {
    struct Charged {
        packet: Str,
        _charge: Charge,
    }

    impl AsRef<[u8]> for Charged {
        fn as_ref(&self) -> &[u8] {
            self.packet.as_bytes()
        }
    }

    let bytes = Bytes::from_owner(Charged { packet, _charge: charge });
    // SAFETY: the bytes are those of a `Str`, which is UTF-8.
    unsafe { Str::from_bytes_unchecked(bytes) }
}

fn is_websocket(uri: &Uri) -> bool {
    query(uri, "transport") == Some("websocket")
}

/// The value of a key in the query. Session ids and transports need no decoding.
fn query<'a>(uri: &'a Uri, key: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next()
}

fn cut(socket: &ClientSocket) {
    if let Some(kill_switch) = socket.req_parts.extensions.get::<KillSwitch>() {
        kill_switch.kill();
    }
    // A client that began with polling may have moved to another connection since.
    socket.close(DisconnectReason::TransportClose);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

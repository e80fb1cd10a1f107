//! A disposable Socket.IO connection.
//!
//! Each connection is a new client in its own runtime on its own thread, because dropping that
//! runtime is the only way to close a connection immediately. [`client`] runs on that thread.
//!
//! WebSocket is tried first. Where a server or a proxy does not let it through, the same client
//! uses HTTP long-polling for this connection; the next connection tries WebSocket again.

mod client;
mod error_text;

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout_at};

use super::{SinkError, Transport};
use crate::config::{Proxy, TransportChoice};
use crate::remote_text::{RemoteText, Secrets};

/// The maximum server events that wait for the session; more is a flood and ends the connection.
/// The echo of a full batch fits four times.
const CONNECTION_EVENTS: usize = 4096;

/// How long WebSocket is tried before long-polling is tried at the same time: some proxies swallow
/// the handshake. The first that the server accepts is used.
const WEBSOCKET_HEAD_START: Duration = Duration::from_secs(3);

/// The parameters for opening a connection. Contains secrets, so `Debug` prints only the URL.
#[derive(Clone)]
pub(crate) struct Address {
    /// `http://` or `https://` with the Socket.IO path, e.g. `http://localhost:5000/socket.io/`.
    pub url: String,
    /// Time limit for the server to accept the connection.
    pub open_timeout: Duration,
    /// HTTP headers of the opening request.
    pub headers: Vec<(String, String)>,
    /// The payload of the connect packet.
    pub auth: Option<Value>,
    /// A certificate authority to trust in addition to the system's, as PEM.
    pub ca: Option<Vec<u8>>,
    pub proxy: Option<Proxy>,
    pub transport: TransportChoice,
    /// Strings to redact from remote texts before they are logged, including all secrets above.
    pub secrets: Secrets,
}

/// Omits the fields that may be secret.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("url", &self.url).finish_non_exhaustive()
    }
}

/// An event to emit, with its argument as JSON text.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub name: &'static str,
    pub json: String,
}

/// Resolves to the arguments of an acknowledgement, or to an error when the connection ended
/// before it came.
pub(crate) type AckReceiver = oneshot::Receiver<Value>;

struct Emit {
    events: Vec<Outgoing>,
    /// Receives the acknowledgement of the last event, if requested.
    ack: Option<oneshot::Sender<Value>>,
}

/// An open connection, with the parsed events of the server. Dropping it ends the connection and
/// its thread at once.
#[derive(Debug)]
pub(crate) struct Connection<E> {
    transport: Transport,
    emits: mpsc::Sender<Emit>,
    incoming: mpsc::Receiver<E>,
    ended: oneshot::Receiver<SinkError>,
    end: Option<SinkError>,
    /// Dropped with the connection, which stops the thread at any point.
    _stop: oneshot::Sender<()>,
}

impl<E: Send + 'static> Connection<E> {
    /// Connects, and returns once the server has accepted the connection.
    ///
    /// `read` parses an event's name and first argument, or returns `None` to drop the event. The
    /// result should be small, because a server may send any number of events.
    pub(crate) async fn open(
        address: Address,
        read: impl Fn(&str, &RawValue) -> Option<E> + Send + Sync + 'static,
    ) -> Result<Self, SinkError> {
        let read: Read<E> = Arc::new(read);
        let limit = address.open_timeout;
        let deadline = Instant::now() + limit;
        let opening = async {
            match address.transport {
                TransportChoice::Auto => Self::open_any(address, read, deadline).await,
                TransportChoice::Websocket => {
                    Self::open_with(Transport::Websocket, address, read).await.map_err(Into::into)
                }
                TransportChoice::Polling => {
                    Self::open_with(Transport::Polling, address, read).await.map_err(Into::into)
                }
            }
        };
        timeout_at(deadline, opening)
            .await
            .map_err(|_| SinkError::Timeout(limit, "it accepts no Socket.IO connection"))?
    }

    /// Tries WebSocket, and long-polling once WebSocket fails or takes long.
    async fn open_any(
        address: Address,
        read: Read<E>,
        deadline: Instant,
    ) -> Result<Self, SinkError> {
        // Early enough that the caller learns the error of WebSocket rather than a timeout.
        let polling_deadline = deadline - address.open_timeout / 10;
        let websocket = Self::open_with(Transport::Websocket, address.clone(), Arc::clone(&read));
        tokio::pin!(websocket);
        let failure = tokio::select! {
            biased;
            opened = &mut websocket => match opened {
                Ok(connection) => return Ok(connection),
                Err(failure) if !failure.polling_may_work => return Err(failure.error),
                Err(failure) => Some(failure.error),
            },
            () = sleep(WEBSOCKET_HEAD_START) => None,
        };
        let polling = Self::open_with(Transport::Polling, address, read);
        tokio::pin!(polling);
        if let Some(websocket_error) = failure {
            return polled_after(websocket_error, timeout_at(polling_deadline, polling).await);
        }
        tokio::select! {
            biased;
            opened = &mut websocket => match opened {
                Ok(connection) => Ok(connection),
                Err(failure) if !failure.polling_may_work => Err(failure.error),
                Err(failure) => {
                    polled_after(failure.error, timeout_at(polling_deadline, polling).await)
                }
            },
            opened = &mut polling => match opened {
                Ok(connection) => Ok(connection),
                Err(other) => {
                    websocket.await.map_err(|failure| choose_error(failure.error, other.error))
                }
            },
        }
    }

    async fn open_with(
        transport: Transport,
        address: Address,
        read: Read<E>,
    ) -> Result<Self, Failure> {
        let (emits, emits_inbox) = mpsc::channel(1);
        let (events, incoming) = mpsc::channel(CONNECTION_EVENTS);
        let (opened, opening) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new()
            .name("pitwire-link".into())
            .spawn(move || {
                let hand_on = client::forwarder(read, events);
                client::run(transport, address, hand_on, emits_inbox, opened, stopped, end);
            })
            .map_err(|error| own(format_args!("cannot start the connection's thread: {error}")))?;
        match opening.await {
            Ok(Ok(())) => Ok(Self { transport, emits, incoming, ended, end: None, _stop: stop }),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(SinkError::Protocol("the client library ended early".into()).into()),
        }
    }

    /// How this connection sends and receives packets.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// Queues events for the connection, which emits them in this order.
    pub(crate) async fn emit(&mut self, events: Vec<Outgoing>) -> Result<(), SinkError> {
        self.send(Emit { events, ack: None }).await
    }

    /// Like [`Connection::emit`], but requests an acknowledgement of the last event.
    ///
    /// At most one may be pending on a connection: wait for it before requesting the next.
    pub(crate) async fn emit_with_ack(
        &mut self,
        events: Vec<Outgoing>,
    ) -> Result<AckReceiver, SinkError> {
        let (ack, receiver) = oneshot::channel();
        self.send(Emit { events, ack: Some(ack) }).await?;
        Ok(receiver)
    }

    /// The next event of the server. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<E, SinkError> {
        tokio::select! {
            biased;
            Some(incoming) = self.incoming.recv() => Ok(incoming),
            error = ended(&mut self.ended, &mut self.end) => Err(error),
        }
    }

    /// The next event that has already arrived.
    pub(crate) fn try_next(&mut self) -> Option<E> {
        self.incoming.try_recv().ok()
    }

    /// Returns when the connection has ended. Cancel-safe.
    pub(crate) async fn closed(&mut self) -> SinkError {
        ended(&mut self.ended, &mut self.end).await
    }

    async fn send(&mut self, emit: Emit) -> Result<(), SinkError> {
        if self.emits.send(emit).await.is_err() {
            return Err(self.closed().await);
        }
        Ok(())
    }
}

/// Parses an event's name and first argument.
type Read<E> = Arc<dyn Fn(&str, &RawValue) -> Option<E> + Send + Sync>;

/// Why one transport did not connect.
struct Failure {
    error: SinkError,
    /// Whether the server was reached, so that another transport may get through.
    polling_may_work: bool,
}

impl From<SinkError> for Failure {
    fn from(error: SinkError) -> Self {
        Self { error, polling_may_work: false }
    }
}

impl From<Failure> for SinkError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// The outcome of long-polling, which was tried after WebSocket failed with `websocket`.
fn polled_after<E>(
    websocket: SinkError,
    polled: Result<Result<Connection<E>, Failure>, Elapsed>,
) -> Result<Connection<E>, SinkError> {
    match polled {
        Ok(opened) => opened.map_err(|polling| choose_error(websocket, polling.error)),
        Err(_) => Err(websocket),
    }
}

/// The error to report when both transports failed: that of plain HTTP, which shows what the server
/// answers, unless the server rejected the credentials of the WebSocket handshake.
fn choose_error(websocket: SinkError, polling: SinkError) -> SinkError {
    if matches!(websocket, SinkError::Auth(_)) { websocket } else { polling }
}

async fn ended(ended: &mut oneshot::Receiver<SinkError>, end: &mut Option<SinkError>) -> SinkError {
    if end.is_none() {
        let error = ended.await;
        *end =
            Some(error.unwrap_or_else(|_| SinkError::Lost("the connection's thread died".into())));
    }
    end.clone().unwrap_or_else(|| SinkError::Lost("ended".into()))
}

/// The error for a connection that failed on this side.
fn own(text: fmt::Arguments<'_>) -> SinkError {
    SinkError::Lost(RemoteText::new(text, &Secrets::default()))
}

/// A TLS connector that trusts the system's certificate authorities and `ca`.
pub(super) fn tls_connector(ca: Option<&[u8]>) -> Result<native_tls::TlsConnector, SinkError> {
    let mut builder = native_tls::TlsConnector::builder();
    if let Some(ca) = ca {
        builder.add_root_certificate(native_tls::Certificate::from_pem(ca).map_err(no_tls)?);
    }
    builder.build().map_err(no_tls)
}

fn no_tls(error: native_tls::Error) -> SinkError {
    SinkError::Tls(RemoteText::new(error, &Secrets::default()))
}

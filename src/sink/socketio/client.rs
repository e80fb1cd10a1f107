//! The thread of a connection; the only file that uses `rust_socketio` 0.6.
//!
//! The traps of the crate:
//! - `Ok` from `emit` means "written to the kernel" or, with long-polling, "queued for a request";
//!   a failed request ends the connection.
//! - The crate mixes up two or more pending acknowledgements, so at most one may be pending.
//! - A timed-out acknowledgement is never cleaned up: the caller ends the connection instead.
//! - The list of acknowledgements is locked while a callback runs, so a callback only completes a
//!   channel.
//! - Emitting before `Event::Connect` ends the connection on some servers, so opening waits for it.
//! - The client ends silently on a clean close, a malformed packet or an internal panic, and a
//!   server can fake the client's events. The reliable signal is whether the reader task still
//!   runs.
//! - A disconnect packet for any namespace ends the client, including `41/other,`.
//! - A binary event treats the next packets as its attachments, regardless of their type. The
//!   bounded transport discards such events; the dashboard's protocol has none.
//! - The published version bounds nothing that a server sends: pongs queued for a server that does
//!   not read, messages of 64 MB, 255 attachments; and TCP_NODELAY is off. This repository contains
//!   a copy of the transport with bounds and with TCP_NODELAY: see
//!   `src/vendor/rust_engineio/README.md`. Events are counted here ([`EventRate`]).
//! - A string payload is sent unmodified; a tree of values costs three times more. For an event it
//!   parses such a tree, copies it and drops both, so events are taken from the transport as text.
//! - Its own long-polling repeats failed requests in a loop; the copy's polling does not.

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::header::{HeaderValue, PROXY_AUTHORIZATION};
use rust_engineio::asynchronous::async_transports::{self, Duplex, Purpose, Route};
use rust_socketio::asynchronous::{Client, ClientBuilder};
use rust_socketio::{Event, Payload, TransportType};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use url::Url;

use super::error_text::{in_plain_words, is_ended};
use super::{Address, Emit, Failure, Outgoing, Read, own, tls_connector};
use crate::fields::MAX_SAMPLE_BYTES;
use crate::net::http_client::USER_AGENT;
use crate::remote_text::{RemoteText, Secrets};
use crate::sink::dial::{DialError, DialedStream, Dialer, ProxyStatus, Through};
use crate::sink::{SinkError, Transport};

/// How often to check that the client library still reads: it can stop without an error.
const READER_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The library drops an acknowledgement after this long; the caller's own limit is far below.
const ACK_LIBRARY_TIMEOUT: Duration = Duration::from_secs(3600);

// An echo may be up to three times as long as the entry: `é` becomes `\u00e9`.
const _: () = assert!(async_transports::MAX_MESSAGE_BYTES > 4 * MAX_SAMPLE_BYTES);

/// Maximum number of events of a server within one second; more is a flood and ends the connection.
/// The fastest measured echo rate was 28,000 per second.
const MAX_EVENTS_PER_SECOND: u32 = 100_000;

/// Maximum number of events of other sessions within one second. A server may broadcast all
/// sessions to every client: 100 cars at 100 Hz.
const MAX_STRAY_EVENTS_PER_SECOND: u32 = 10_000;

/// Maximum number of pending signals of the library, genuine or faked by the server. Each may be as
/// long as a message, 4 MB. Further ones are dropped: the pending ones are enough to act on.
const MAX_SIGNALS: usize = 4;

/// The names of the client's own events, which a server may also send.
const CLIENT_EVENTS: [&str; 4] = ["message", "error", "open", "close"];

/// Counts events per second.
#[derive(Debug)]
struct EventRate {
    second_began: Instant,
    events: u32,
    stray: u32,
}

impl EventRate {
    fn new() -> Self {
        Self { second_began: Instant::now(), events: 0, stray: 0 }
    }

    /// Counts an event; returns true if there were too many in this second.
    fn is_flooded_by(&mut self, is_for_us: bool) -> bool {
        if self.second_began.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        self.events += 1;
        self.stray += u32::from(!is_for_us);
        self.events > MAX_EVENTS_PER_SECOND || self.stray > MAX_STRAY_EVENTS_PER_SECOND
    }
}

/// Forwards an event's name and first argument; returns false if the channel is full or there are
/// too many events.
pub(super) type HandOn = Arc<dyn Fn(&str, &RawValue) -> bool + Send + Sync>;

/// Parses events and sends the ones that `read` keeps to a channel.
pub(super) fn forwarder<E: Send + 'static>(read: Read<E>, events: mpsc::Sender<E>) -> HandOn {
    let rate = Mutex::new(EventRate::new());
    Arc::new(move |name, payload| {
        let event = read(name, payload);
        let mut rate = rate.lock().unwrap_or_else(PoisonError::into_inner);
        if rate.is_flooded_by(event.is_some()) {
            return false;
        }
        match event {
            Some(event) => events.try_send(event).is_ok() || events.is_closed(),
            None => true,
        }
    })
}

/// Runs a connection from open to end, on its own thread.
pub(super) fn run(
    transport: Transport,
    address: Address,
    hand_on: HandOn,
    emits: mpsc::Receiver<Emit>,
    opened: oneshot::Sender<Result<(), Failure>>,
    stopped: oneshot::Receiver<()>,
    end: oneshot::Sender<SinkError>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = own(format_args!("cannot start a runtime: {error}"));
            let _ = opened.send(Err(error.into()));
            return;
        }
    };
    let error = runtime.block_on(async {
        tokio::select! {
            biased;
            _ = stopped => SinkError::Lost("closed by us".into()),
            error = live(transport, address, hand_on, emits, opened) => error,
        }
    });
    // A plain drop would wait for a hanging name look-up.
    runtime.shutdown_background();
    let _ = end.send(error);
}

async fn live(
    transport: Transport,
    address: Address,
    hand_on: HandOn,
    mut emits: mpsc::Receiver<Emit>,
    opened: oneshot::Sender<Result<(), Failure>>,
) -> SinkError {
    let (signals, mut inbox) = mpsc::channel(MAX_SIGNALS);
    let secrets = address.secrets.clone();
    match connect(transport, address, hand_on, signals, &mut inbox, &secrets).await {
        Ok(client) => {
            let _ = opened.send(Ok(()));
            emit_until_closed(&client, &mut emits, &mut inbox, &secrets).await
        }
        Err(failure) => {
            let error = failure.error.clone();
            let _ = opened.send(Err(failure));
            error
        }
    }
}

/// Emits events until the connection ends, and returns why.
async fn emit_until_closed(
    client: &Client,
    emits: &mut mpsc::Receiver<Emit>,
    inbox: &mut mpsc::Receiver<Signal>,
    secrets: &Secrets,
) -> SinkError {
    let mut has_reported = false;
    let mut reports = EventRate::new();
    let mut check = interval(READER_CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(signal) = inbox.recv() => match signal {
                Signal::Closed => return SinkError::Lost("the server closed it".into()),
                Signal::Flooded => {
                    return SinkError::Protocol("it sends events faster than they are read".into());
                }
                Signal::Error(error) => {
                    // Either the server's own event `error` or the end of the connection: only the
                    // reader task shows which.
                    tokio::task::yield_now().await;
                    if reader_ended() {
                        return SinkError::Lost(RemoteText::new(error.reason(), secrets));
                    }
                    if reports.is_flooded_by(false) {
                        return SinkError::Protocol("it reports too many errors".into());
                    }
                    // Log once per connection: a server may send any number of errors.
                    if !std::mem::replace(&mut has_reported, true) {
                        let error = RemoteText::new(error.text, secrets);
                        tracing::warn!(%error, "the server reports an error");
                    }
                }
                Signal::Connected | Signal::Named => {}
            },
            _ = check.tick() => if reader_ended() {
                return SinkError::Lost("the server closed it".into());
            },
            emit = emits.recv() => {
                let Some(emit) = emit else { return SinkError::Lost("closed by us".into()) };
                if let Err(error) = send(client, emit).await {
                    let text = last_error().unwrap_or_else(|| chain(&error));
                    return SinkError::Lost(RemoteText::new(text, secrets));
                }
            }
        }
    }
}

/// The library's text for a connection that the server refused, in front of the server's JSON.
const CONNECT_ERROR: &str = "Received an ConnectError frame: ";
/// The library's text for a transport that failed, in front of the cause if it knows one.
const TRANSPORT_ERROR: &str = "EngineIO Error";

/// The server's reason for refusing a connection: the `message` of its JSON object, or all of it.
fn refusal_text(json: &str) -> String {
    let reason = serde_json::from_str(json).ok().and_then(|value: Value| match value {
        Value::String(text) => Some(text),
        value => value["message"].as_str().map(str::to_owned),
    });
    reason.unwrap_or_else(|| json.to_owned())
}

/// An event `error`, of the library or of the server.
struct ErrorEvent {
    origin: ErrorOrigin,
    text: String,
}

enum ErrorOrigin {
    /// The server refused the connect packet.
    Connect,
    /// The transport failed; the library's text names no cause.
    Transport,
    /// The server sent an event of that name.
    Server,
}

impl ErrorEvent {
    fn of(payload: &Payload) -> Self {
        let text = text(payload);
        if let Some(refusal) = text.strip_prefix(CONNECT_ERROR) {
            return Self { origin: ErrorOrigin::Connect, text: refusal_text(refusal) };
        }
        if text.contains(TRANSPORT_ERROR) || is_ended(&text) {
            let text = "the connection failed".to_owned();
            return Self { origin: ErrorOrigin::Transport, text };
        }
        Self { origin: ErrorOrigin::Server, text }
    }

    /// Why the connection ended, if it did.
    fn reason(self) -> String {
        match self.origin {
            ErrorOrigin::Transport => last_error().unwrap_or(self.text),
            ErrorOrigin::Connect | ErrorOrigin::Server => self.text,
        }
    }
}

/// Why the connection of this thread ended, if the transport knows it.
fn last_error() -> Option<String> {
    async_transports::take_last_error().map(|text| in_plain_words(&text))
}

/// Whether the client's reader has ended: the only task in this runtime besides the polling
/// transport's sender.
fn reader_ended() -> bool {
    Handle::current().metrics().num_alive_tasks() <= async_transports::sender_tasks()
}

enum Signal {
    Connected,
    Closed,
    /// An event of the server that happens to be named `close`.
    Named,
    Flooded,
    Error(ErrorEvent),
}

/// Connects, and returns once the server has accepted the connect packet.
async fn connect(
    transport: Transport,
    address: Address,
    hand_on: HandOn,
    signals: mpsc::Sender<Signal>,
    inbox: &mut mpsc::Receiver<Signal>,
    secrets: &Secrets,
) -> Result<Client, Failure> {
    install_dialer(&address)?;
    install_event_tap(Arc::clone(&hand_on), signals.clone());
    let client = client_builder(transport, address, hand_on, signals)
        .connect()
        .await
        .map_err(|error| classify(&error, secrets))?;
    let mut check = interval(READER_CHECK_INTERVAL);
    loop {
        tokio::select! {
            biased;
            Some(signal) = inbox.recv() => match signal {
                Signal::Connected => return Ok(client),
                Signal::Error(ErrorEvent { origin: ErrorOrigin::Connect, text }) => {
                    return Err(SinkError::Auth(RemoteText::new(text, secrets)).into());
                }
                Signal::Error(error) => {
                    let error = SinkError::Protocol(RemoteText::new(error.reason(), secrets));
                    return Err(Failure { error, polling_may_work: true });
                }
                Signal::Named => {}
                Signal::Closed | Signal::Flooded => return Err(closed_early()),
            },
            _ = check.tick() => if reader_ended() {
                return Err(closed_early());
            },
        }
    }
}

fn client_builder(
    transport: Transport,
    address: Address,
    hand_on: HandOn,
    signals: mpsc::Sender<Signal>,
) -> ClientBuilder {
    let mut builder = ClientBuilder::new(address.url).opening_header("User-Agent", USER_AGENT);
    for (name, value) in address.headers {
        builder = builder.opening_header(name, value.as_str());
    }
    if let Some(auth) = address.auth {
        builder = builder.auth(auth);
    }
    let transport_type = match transport {
        Transport::Websocket => TransportType::Websocket,
        Transport::Polling => TransportType::Polling,
    };
    builder
        .transport_type(transport_type)
        .reconnect(false)
        .on(Event::Connect, signaller(signals.clone(), |_| Signal::Connected))
        .on(Event::Close, signaller(signals.clone(), closing))
        .on(
            Event::Error,
            signaller(signals.clone(), |payload| Signal::Error(ErrorEvent::of(payload))),
        )
        // The tap has left these events: they are only counted.
        .on_any(move |_, _, _| {
            forward(&hand_on, &signals, "", RawValue::NULL);
            async {}.boxed()
        })
}

/// Takes the server's events, except malformed ones and ones with the name of a client event.
fn install_event_tap(hand_on: HandOn, signals: mpsc::Sender<Signal>) {
    async_transports::set_event_tap(Box::new(move |event| {
        let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(event) else { return false };
        let [name, payload, ..] = parts[..] else { return false };
        let Ok(name) = serde_json::from_str::<Cow<'_, str>>(name.get()) else { return false };
        if CLIENT_EVENTS.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return false;
        }
        forward(&hand_on, &signals, &name, payload);
        true
    }));
}

fn forward(hand_on: &HandOn, signals: &mpsc::Sender<Signal>, name: &str, payload: &RawValue) {
    if !hand_on(name, payload) {
        let _ = signals.try_send(Signal::Flooded);
    }
}

/// A callback of the library that sends a signal.
fn signaller(
    signals: mpsc::Sender<Signal>,
    make: fn(&Payload) -> Signal,
) -> impl FnMut(Payload, Client) -> BoxFuture<'static, ()> {
    move |payload, _| {
        // A full channel already holds enough signals to act on.
        let _ = signals.try_send(make(&payload));
        async {}.boxed()
    }
}

fn closed_early() -> Failure {
    let error = SinkError::Protocol("it closed before accepting".into());
    Failure { error, polling_may_work: true }
}

/// Installs the dialer for the client that runs on this thread.
fn install_dialer(address: &Address) -> Result<(), SinkError> {
    let is_secure = Url::parse(&address.url).is_ok_and(|url| url.scheme() == "https");
    let tls = if is_secure { Some(tls_connector(address.ca.as_deref())?) } else { None };
    let dialer = Arc::new(Dialer::new(tls, address.proxy.clone()));
    async_transports::set_dialer(Arc::new(move |url, purpose| {
        let dialer = Arc::clone(&dialer);
        async move { route(&dialer, &url, purpose).await.map_err(io::Error::other) }.boxed()
    }));
    Ok(())
}

async fn route(dialer: &Dialer, url: &Url, purpose: Purpose) -> Result<Route, DialError> {
    let through = match purpose {
        Purpose::Websocket => Through::Tunnel,
        Purpose::Http => Through::Forwarding,
    };
    let stream: Box<dyn Duplex> = match dialer.dial(url, through).await? {
        DialedStream::Plain(stream) => Box::new(stream),
        DialedStream::Tls(stream) => Box::new(stream),
    };
    let proxy = dialer.forwarding_proxy().filter(|_| through == Through::Forwarding);
    let forward_headers = proxy.map(|proxy| {
        let value = proxy.authorization().and_then(|value| HeaderValue::try_from(value).ok());
        value.map(|value| (PROXY_AUTHORIZATION, value)).into_iter().collect()
    });
    Ok(Route { stream, forward_headers })
}

/// Distinguishes the client's own `close`, which has an empty text, from an event of that name.
fn closing(payload: &Payload) -> Signal {
    match payload {
        Payload::Text(values) if matches!(&values[..], [Value::String(text)] if text.is_empty()) => {
            Signal::Closed
        }
        _ => Signal::Named,
    }
}

async fn send(client: &Client, emit: Emit) -> Result<(), rust_socketio::Error> {
    let mut ack = emit.ack;
    let mut events = emit.events.into_iter().peekable();
    while let Some(Outgoing { name, json }) = events.next() {
        #[allow(deprecated, reason = "the only way to send JSON text unmodified")]
        let payload = Payload::String(json);
        match ack.take_if(|_| events.peek().is_none()) {
            None => client.emit(name, payload).await?,
            Some(ack) => {
                let mut ack = Some(ack);
                client
                    .emit_with_ack(name, payload, ACK_LIBRARY_TIMEOUT, move |payload, _| {
                        if let Some(ack) = ack.take() {
                            let _ = ack.send(acked_arguments(payload));
                        }
                        async {}.boxed()
                    })
                    .await?;
            }
        }
    }
    Ok(())
}

/// The arguments of an acknowledgement, which the library nests: `[[arguments…]]`.
fn acked_arguments(payload: Payload) -> Value {
    match payload {
        Payload::Text(mut values) => values.pop().unwrap_or(Value::Null),
        _ => Value::Null,
    }
}

/// Classifies an error of the library. The kinds are hidden in a chain of causes, so this matches
/// on the texts.
fn classify(error: &rust_socketio::Error, secrets: &Secrets) -> Failure {
    let text = chain(error);
    let shown = RemoteText::new(&text, secrets);
    if let Some(dial) = cause::<DialError>(error) {
        return unreachable(dial, secrets);
    }
    let error = if cause::<io::Error>(error).is_some() {
        SinkError::Refused(shown)
    } else if ["401", "403"].iter().any(|code| text.contains(&format!("HTTP error: {code}"))) {
        SinkError::Auth(shown)
    } else {
        SinkError::Protocol(shown)
    };
    // The server would reject the same credentials again.
    let polling_may_work = !text.contains("HTTP error: 401");
    Failure { error, polling_may_work }
}

/// Classifies why no connection to the server was established.
fn unreachable(error: &DialError, secrets: &Secrets) -> Failure {
    let text = RemoteText::new(error, secrets);
    match error {
        DialError::Unreachable(_) | DialError::Timeout(_) => SinkError::Refused(text).into(),
        DialError::ProxyUnreachable { .. } => SinkError::Proxy(text).into(),
        DialError::ProxyRefuses { status: ProxyStatus(502..=504), .. } => {
            Failure { error: SinkError::Refused(text), polling_may_work: true }
        }
        DialError::ProxyRefuses { status, .. } => Failure {
            error: SinkError::Proxy(text),
            // A proxy may allow CONNECT to port 443 only, but forward requests to any.
            polling_may_work: *status != ProxyStatus(407),
        },
        DialError::Tls(_) => SinkError::Tls(text).into(),
    }
}

/// The first cause of this type. `io::Error::source` skips the error inside it, so that is tested
/// separately.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = error.downcast_ref().or_else(|| inner?.downcast_ref());
        if found.is_some() {
            return found;
        }
        cause = error.source();
    }
    None
}

/// The error and its causes in one line and in plain words, without duplicate texts and without the
/// library's name for its transport.
fn chain(error: &(dyn Error + 'static)) -> String {
    if let (TRANSPORT_ERROR, Some(cause)) = (&*error.to_string(), error.source()) {
        return chain(cause);
    }
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    in_plain_words(&line)
}

fn text(payload: &Payload) -> String {
    match payload {
        Payload::Text(values) => match values.first() {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        },
        _ => "binary data".into(),
    }
}

#[cfg(test)]
mod tests {
    use rust_engineio::Error as TransportError;
    use rust_socketio::Error as LibraryError;
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_of_the_library_are_described_in_plain_words() {
        let ended = "the connection ended unexpectedly";
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        for (error, expected) in [
            (LibraryError::IllegalActionBeforeOpen(), ended),
            (LibraryError::StoppedEngineIoSocket, ended),
            (TransportError::IllegalActionBeforeOpen().into(), ended),
            (TransportError::IncompleteIo(reset()).into(), "connection reset"),
            (TransportError::PingTimeout().into(), "the server sent no heartbeat in time"),
            (TransportError::IncompleteHttp(404).into(), "HTTP status 404"),
        ] {
            assert_eq!(chain(&error), expected);
        }
    }

    #[test]
    fn the_library_s_error_for_an_ended_connection_is_not_taken_for_the_server_s() {
        let text = TransportError::IllegalActionBeforeOpen().to_string();
        let event = ErrorEvent::of(&Payload::Text(vec![json!(text)]));
        assert_eq!(event.reason(), "the connection failed");
    }
}

//! One connection to a NATS server, for the sink and for the source. Traps of `async_nats` 0.51:
//! - It reconnects automatically and then sends pending messages, although the caller cannot know
//!   which messages the old connection delivered. The reconnect delay is therefore set to a year,
//!   and a lost connection is final.
//! - Its background tasks, such as the reconnect or a pending acknowledgement, outlive the client.
//!   Each connection therefore has its own runtime and thread; dropping that runtime is a hard
//!   close.
//! - It reports a refusal by the server as an event, not as the result of a call. Such an event
//!   ends the connection here.
//! - It also logs the errors that it returns; `cli/log.rs` turns these log lines off.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use rand::seq::SliceRandom;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::config::{CredentialFile, FileFault, Secret, ServerUrl, read_ca};
use crate::remote_text::{RemoteText, Secrets};

/// How often a NATS server is pinged. A connection that was silent for three intervals is lost.
const NATS_PING_INTERVAL: Duration = Duration::from_secs(5);

/// Message headers. With them, the subject (agent, stint and kind) and the JSON payload, a hub
/// restores the original entry.
pub(crate) const SEQ: &str = "Pitwire-Seq";
pub(crate) const CAPTURED_AT: &str = "Pitwire-Captured-At";

/// The last token of a subject: the kind of the entry.
pub(crate) const TELEMETRY: &str = "telemetry";
pub(crate) const SETUP: &str = "setup";

/// The names of the agents' streams are this prefix followed by the agent's name.
pub(crate) const STREAM_PREFIX: &str = "PITWIRE_";

/// Longer than any race, but short enough that adding it to the current time cannot overflow.
const NEVER: Duration = Duration::from_hours(365 * 24);

/// The server's addresses and the credentials. The files are read for every new connection.
#[derive(Clone, Debug)]
pub(crate) struct NatsOptions {
    /// The table of the configuration that these options come from.
    pub(crate) table: &'static str,
    /// `nats://` or `tls://`, a host and an optional port; several addresses for a cluster.
    pub(crate) url: ServerUrl,
    pub(crate) token: Secret,
    pub(crate) token_file: Option<CredentialFile>,
    /// A `.creds` file.
    pub(crate) credentials_file: Option<CredentialFile>,
    /// A certificate authority in PEM that replaces the system's.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) open_timeout: Duration,
    /// The time limit for the answer to a request.
    pub(crate) request_timeout: Duration,
    /// Secrets to redact from the server's texts, without those in the files.
    pub(crate) secrets: Secrets,
}

/// The credentials of one connection.
struct Login {
    token: Option<String>,
    /// The text of a `.creds` file.
    credentials: Option<String>,
    /// Secrets to redact from the server's texts.
    secrets: Secrets,
}

impl NatsOptions {
    /// Reads the credential files.
    fn login(&self) -> Result<Login, NatsError> {
        let read = |key: &str, file: &CredentialFile| {
            file.read().map_err(|fault| self.unusable(key, &fault))
        };
        let file = self.token_file.as_ref().map(|file| read("token_file", file)).transpose()?;
        let file = file.map(|text| Secret::from(text.as_str()));
        let token = file.as_ref().unwrap_or(&self.token).reveal().map(str::to_owned);
        let credentials = self.credentials_file.as_ref();
        let credentials = credentials.map(|file| read("credentials_file", file)).transpose()?;
        if let Some(path) = &self.ca_file {
            read_ca(path).map_err(|fault| self.unusable("ca_file", &fault))?;
        }
        // The JWT and the seed are one line each, between lines of dashes.
        let lines = credentials.iter().flat_map(|text| text.lines());
        let keys = lines.map(str::trim).filter(|line| !line.starts_with("---"));
        let secrets = self.secrets.and(token.iter().cloned().chain(keys.map(str::to_owned)));
        Ok(Login { token, credentials, secrets })
    }

    fn unusable(&self, key: &str, fault: &FileFault) -> NatsError {
        let text = format_args!("{}.{key}: {fault}", self.table);
        NatsError::Configuration(RemoteText::new(text, &self.secrets))
    }
}

/// Why a connection could not be opened, or why it ended.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NatsError {
    #[error("{0}")]
    Refused(RemoteText),
    #[error("no answer within {0:?}: {1}")]
    Timeout(Duration, &'static str),
    #[error("{0}")]
    Tls(RemoteText),
    /// The server at this `tls://` address does not speak TLS.
    #[error("{0} speaks no TLS; write nats:// instead of tls://, or the port that has TLS")]
    NoTls(RemoteText),
    #[error("{0}")]
    Auth(RemoteText),
    /// A file that the configuration names cannot be used; the text names the key.
    #[error("{0}")]
    Configuration(RemoteText),
    /// The peer is not a NATS server with JetStream, or its configuration does not fit.
    #[error("{0}")]
    Unfit(RemoteText),
    #[error("{0}")]
    Lost(RemoteText),
}

/// An open connection. Dropping it closes it and stops its thread immediately.
pub(crate) struct NatsConnection {
    context: Context,
    secrets: Secrets,
    ended: watch::Receiver<Option<NatsError>>,
    /// Stops the thread, at any point, when it is dropped with the connection.
    _stop: oneshot::Sender<()>,
}

impl fmt::Debug for NatsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl NatsConnection {
    /// Connects, and returns once the server has accepted the credentials.
    pub(crate) async fn open(server: NatsOptions) -> Result<Self, NatsError> {
        let (opened, opening) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let limit = server.open_timeout;
        thread::Builder::new()
            .name("pitwire-nats".into())
            .spawn(move || run(server, opened, stopped, end))
            .map_err(|error| own(format_args!("cannot start the connection's thread: {error}")))?;
        match timeout(limit, opening).await {
            Ok(Ok(opened)) => {
                let (context, secrets) = opened?;
                Ok(Self { context, secrets, ended, _stop: stop })
            }
            Ok(Err(_)) => Err(NatsError::Lost("the connection's thread died".into())),
            Err(_) => Err(NatsError::Timeout(limit, "it accepts no NATS connection")),
        }
    }

    /// JetStream on this connection.
    pub(crate) fn context(&self) -> Context {
        self.context.clone()
    }

    /// Makes a text from the server or the library safe to log.
    pub(crate) fn remote_text(&self, text: impl fmt::Display) -> RemoteText {
        RemoteText::new(text, &self.secrets)
    }

    /// Secrets to redact from the server's texts.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Returns when the connection has ended. Safe to cancel.
    pub(crate) async fn closed(&mut self) -> NatsError {
        match self.ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(|| NatsError::Lost("ended".into())),
            Err(_) => NatsError::Lost("the connection's thread died".into()),
        }
    }

    /// Waits for a future that uses this connection, or for the end of the connection.
    pub(crate) async fn wait_for<T>(
        &mut self,
        something: impl Future<Output = T>,
    ) -> Result<T, NatsError> {
        tokio::select! {
            biased;
            done = something => Ok(done),
            error = self.closed() => Err(error),
        }
    }
}

/// An error on this side of the connection.
fn own(text: fmt::Arguments<'_>) -> NatsError {
    NatsError::Lost(RemoteText::new(text, &Secrets::default()))
}

/// Runs a connection on its own thread until it is stopped.
fn run(
    server: NatsOptions,
    opened: oneshot::Sender<Result<(Context, Secrets), NatsError>>,
    stopped: oneshot::Receiver<()>,
    end: watch::Sender<Option<NatsError>>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = opened.send(Err(own(format_args!("cannot start the runtime: {error}"))));
            return;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            _ = stopped => {}
            () = live(server, opened, end) => {}
        }
    });
    // A plain drop would wait for a DNS look-up that hangs.
    runtime.shutdown_background();
}

async fn live(
    server: NatsOptions,
    opened: oneshot::Sender<Result<(Context, Secrets), NatsError>>,
    end: watch::Sender<Option<NatsError>>,
) {
    let request_timeout = server.request_timeout;
    let connected = connect(&server, end).await;
    let is_open = connected.is_ok();
    let _ = opened.send(connected.map(|(client, secrets)| {
        (ContextBuilder::new().timeout(request_timeout).build(client), secrets)
    }));
    if is_open {
        std::future::pending().await
    }
}

/// Tries the nodes one after the other until one accepts the connection; fails with the last node's
/// error. The order is random, so that a fleet spreads over the nodes.
async fn connect(
    server: &NatsOptions,
    end: watch::Sender<Option<NatsError>>,
) -> Result<(async_nats::Client, Secrets), NatsError> {
    let login = server.login()?;
    let mut nodes: Vec<&str> = server.url.addresses().collect();
    nodes.shuffle(&mut rand::rng());
    // A node that is switched off does not answer: leave time for the others.
    let limit = server.open_timeout / nodes.len().max(1) as u32;
    let mut last = NatsError::Refused("no address".into());
    for node in nodes {
        let options = options(server, &login, limit, end.clone())?;
        match timeout(limit, options.connect(node)).await {
            Ok(Ok(client)) => return Ok((client, login.secrets)),
            Ok(Err(error)) if node.starts_with("tls://") && is_plain(&error) => {
                last = NatsError::NoTls(RemoteText::new(node, &login.secrets));
            }
            Ok(Err(error)) => last = classify(&error, &login.secrets),
            Err(_) => last = NatsError::Timeout(limit, "it accepts no NATS connection"),
        }
        end.send_replace(None);
    }
    Err(last)
}

fn options(
    server: &NatsOptions,
    login: &Login,
    limit: Duration,
    end: watch::Sender<Option<NatsError>>,
) -> Result<ConnectOptions, NatsError> {
    let is_first = AtomicBool::new(true);
    let secrets = login.secrets.clone();
    let mut options = ConnectOptions::new()
        .name("pitwire")
        .connection_timeout(limit)
        .request_timeout(Some(server.request_timeout))
        .ping_interval(NATS_PING_INTERVAL)
        .ignore_discovered_servers()
        .reconnect_delay_callback(move |_| {
            if is_first.swap(false, Ordering::Relaxed) { Duration::ZERO } else { NEVER }
        })
        .event_callback(move |event| {
            if let Some(reason) = ending(&event, &secrets) {
                end.send_if_modified(|end| {
                    let is_first = end.is_none();
                    end.get_or_insert(reason);
                    is_first
                });
            }
            async {}
        });
    if let Some(token) = login.token.clone() {
        options = options.token(token);
    }
    if let Some(credentials) = &login.credentials {
        options = options.credentials(credentials).map_err(|error| {
            let text = RemoteText::new(error, &login.secrets);
            let fault = format!("{}.credentials_file: ", server.table);
            NatsError::Configuration(text.within(&fault, "; download the .creds file again"))
        })?;
    }
    if let Some(ca_file) = &server.ca_file {
        options = options.add_root_certificates(ca_file.clone());
    }
    Ok(options)
}

/// The reason, if this event ends the connection.
fn ending(event: &Event, secrets: &Secrets) -> Option<NatsError> {
    match event {
        Event::Disconnected | Event::Closed | Event::Draining => {
            Some(NatsError::Lost("the server closed it".into()))
        }
        Event::SlowConsumer(_) => {
            Some(NatsError::Lost("its messages are not read fast enough".into()))
        }
        Event::ServerError(error) => Some(refusal(error, secrets)),
        Event::Connected | Event::LameDuckMode | Event::ClientError(_) => None,
    }
}

fn refusal(error: &ServerError, secrets: &Secrets) -> NatsError {
    let text = error.to_string();
    let shown = RemoteText::new(&text, secrets);
    let is_about_access = ["authorization", "authentication", "permissions"]
        .iter()
        .any(|word| text.to_lowercase().contains(word));
    if is_about_access { NatsError::Auth(shown) } else { NatsError::Lost(shown) }
}

/// The library's words in front of the system's error.
const LIBRARY_IO_ERROR: &str = "IO error: ";

/// Classifies an error of the library by the reaction of the caller. The actual cause is in the source
/// chain.
fn classify(error: &ConnectError, secrets: &Secrets) -> NatsError {
    let text = error.to_string();
    let shown = RemoteText::new(text.strip_prefix(LIBRARY_IO_ERROR).unwrap_or(&text), secrets);
    let io = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    let server = error.source().and_then(|cause| cause.downcast_ref::<ServerError>());
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            NatsError::Auth(shown)
        }
        ConnectErrorKind::Tls => NatsError::Tls(shown),
        ConnectErrorKind::ServerParse => NatsError::Unfit(shown),
        ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::MaxReconnects => {
            NatsError::Refused(shown)
        }
        ConnectErrorKind::Io => match (io, server) {
            (_, Some(server)) => refusal(server, secrets),
            (Some(io), _) if is_tls(io) => NatsError::Tls(shown),
            (Some(io), _) if io.kind() == io::ErrorKind::InvalidInput => NatsError::Unfit(shown),
            (Some(_), _) => NatsError::Refused(shown),
            // A server that is just starting answers this way, or a proxy whose server is down.
            (None, None) if text.contains("got nothing") => NatsError::Refused(shown),
            (None, None) => NatsError::Unfit(shown),
        },
    }
}

fn is_tls(error: &io::Error) -> bool {
    tls_error(error).is_some()
}

/// Whether the server answered the TLS handshake in another protocol.
fn is_plain(error: &ConnectError) -> bool {
    let io = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    matches!(io.and_then(tls_error), Some(async_nats::rustls::Error::InvalidMessage(_)))
}

fn tls_error(error: &io::Error) -> Option<&async_nats::rustls::Error> {
    error.get_ref()?.downcast_ref()
}

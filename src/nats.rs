//! One connection to a NATS server, for the sink and for the source. The traps of `async_nats` 0.51:
//! - It connects again by itself, and sends what waits on a connection of which nobody here knows
//!   what went before: that is put off for ever, and the end of a connection is the end.
//! - Its tasks outlive what they are for: one that connects again, or an acknowledgement that nobody
//!   waits for. So each connection has a runtime and a thread of its own; dropping that runtime is a
//!   hard close.
//! - A refusal of the server is an event and no answer: it ends the connection here.
//! - It logs what it gives back as errors too: `cli/log.rs` turns that off.

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

use crate::config::{CredentialFile, NATS_PING_INTERVAL, Secret, ServerUrl};
use crate::remote_text::{RemoteText, Secrets};

/// What each entry has besides its JSON and its subject, which names agent, stint and kind: with
/// them a hub makes the same entry of it again.
pub(crate) const SEQ: &str = "Pitwire-Seq";
pub(crate) const CAPTURED_AT: &str = "Pitwire-Captured-At";

/// The last part of a subject.
pub(crate) const TELEMETRY: &str = "telemetry";
pub(crate) const SETUP: &str = "setup";

/// How the streams of agents are called.
pub(crate) const STREAM_PREFIX: &str = "PITWIRE_";

/// Longer than any race; far enough from the end of time to be added to now.
const NEVER: Duration = Duration::from_hours(365 * 24);

/// Where to connect, and what opens the door there. Its files are read anew for each connection.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// `nats://` or `tls://`, a host, perhaps a port; several where there is a cluster.
    pub(crate) url: ServerUrl,
    pub(crate) token: Secret,
    pub(crate) token_file: Option<CredentialFile>,
    /// A `.creds` file.
    pub(crate) credentials_file: Option<CredentialFile>,
    /// A certificate authority to trust in the place of the system's, PEM.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) open_timeout: Duration,
    /// From a request to its answer.
    pub(crate) request_timeout: Duration,
    /// What the server may not repeat into our log, but for what the files hold.
    pub(crate) secrets: Secrets,
}

/// What a connection logs in with.
struct Login {
    token: Option<String>,
    /// The text of a `.creds` file.
    credentials: Option<String>,
    /// What the server may not repeat into our log.
    secrets: Secrets,
}

impl Door {
    /// Reads the files.
    fn login(&self) -> Result<Login, NatsError> {
        let file = self.token_file.as_ref().map(read).transpose()?;
        let file = file.map(|text| Secret::from(text.as_str()));
        let token = file.as_ref().unwrap_or(&self.token).reveal().map(str::to_owned);
        let credentials = self.credentials_file.as_ref().map(read).transpose()?;
        // The JWT and the seed have a line each, between lines of dashes.
        let lines = credentials.iter().flat_map(|text| text.lines());
        let keys = lines.map(str::trim).filter(|line| !line.starts_with("---"));
        let secrets = self.secrets.and(token.iter().cloned().chain(keys.map(str::to_owned)));
        Ok(Login { token, credentials, secrets })
    }
}

fn read(file: &CredentialFile) -> Result<String, NatsError> {
    file.read().map_err(|error| {
        let text = format_args!("{file}: {error}");
        NatsError::Auth(RemoteText::new(text, &Secrets::default()))
    })
}

/// Why there is no connection, or none any more.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NatsError {
    #[error("{0}")]
    Refused(RemoteText),
    #[error("no answer within {0:?}: {1}")]
    Timeout(Duration, &'static str),
    #[error("{0}")]
    Tls(RemoteText),
    #[error("{0}")]
    Auth(RemoteText),
    /// Something else than a NATS server with JetStream.
    #[error("{0}")]
    Unfit(RemoteText),
    #[error("{0}")]
    Lost(RemoteText),
}

/// A connection that is open. Dropping it ends it and its thread at once.
pub(crate) struct Connection {
    context: Context,
    secrets: Secrets,
    ended: watch::Receiver<Option<NatsError>>,
    /// Dropped with the connection, which stops the thread wherever it is.
    _stop: oneshot::Sender<()>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, and returns once the server has let us in.
    pub(crate) async fn open(door: Door) -> Result<Self, NatsError> {
        let (opened, opening) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let limit = door.open_timeout;
        thread::Builder::new()
            .name("pitwire-nats".into())
            .spawn(move || run(door, opened, stopped, end))
            .map_err(|error| own(format_args!("no thread for the connection: {error}")))?;
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

    /// A text of the server or of the library, safe to log.
    pub(crate) fn remote_text(&self, text: impl fmt::Display) -> RemoteText {
        RemoteText::new(text, &self.secrets)
    }

    /// What the server may not repeat into our log.
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

    /// Waits for something on this connection, for as long as that stands.
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

/// The connection failed on this side.
fn own(text: fmt::Arguments<'_>) -> NatsError {
    NatsError::Lost(RemoteText::new(text, &Secrets::default()))
}

/// The life of a connection, on its own thread.
fn run(
    door: Door,
    opened: oneshot::Sender<Result<(Context, Secrets), NatsError>>,
    stopped: oneshot::Receiver<()>,
    end: watch::Sender<Option<NatsError>>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = opened.send(Err(own(format_args!("no runtime: {error}"))));
            return;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            _ = stopped => {}
            () = live(door, opened, end) => {}
        }
    });
    // Not a plain drop: that would wait for a name look-up that hangs.
    runtime.shutdown_background();
}

async fn live(
    door: Door,
    opened: oneshot::Sender<Result<(Context, Secrets), NatsError>>,
    end: watch::Sender<Option<NatsError>>,
) {
    let request_timeout = door.request_timeout;
    let connected = connect(&door, end).await;
    let is_open = connected.is_ok();
    let _ = opened.send(connected.map(|(client, secrets)| {
        (ContextBuilder::new().timeout(request_timeout).build(client), secrets)
    }));
    if is_open {
        std::future::pending().await
    }
}

/// Connects to one node after the other, in any order, so that a fleet is spread over them, until one
/// lets us in; or gives what the last one said.
async fn connect(
    door: &Door,
    end: watch::Sender<Option<NatsError>>,
) -> Result<(async_nats::Client, Secrets), NatsError> {
    let login = door.login()?;
    let mut nodes: Vec<&str> = door.url.addresses().collect();
    nodes.shuffle(&mut rand::rng());
    // One that is switched off says nothing.
    let limit = door.open_timeout / nodes.len().max(1) as u32;
    let mut last = NatsError::Refused("no address".into());
    for node in nodes {
        let options = options(door, &login, limit, end.clone())?;
        match timeout(limit, options.connect(node)).await {
            Ok(Ok(client)) => return Ok((client, login.secrets)),
            Ok(Err(error)) => last = classify(&error, &login.secrets),
            Err(_) => last = NatsError::Timeout(limit, "it accepts no NATS connection"),
        }
        end.send_replace(None);
    }
    Err(last)
}

fn options(
    door: &Door,
    login: &Login,
    limit: Duration,
    end: watch::Sender<Option<NatsError>>,
) -> Result<ConnectOptions, NatsError> {
    let is_first = AtomicBool::new(true);
    let secrets = login.secrets.clone();
    let mut options = ConnectOptions::new()
        .name("pitwire")
        .connection_timeout(limit)
        .request_timeout(Some(door.request_timeout))
        .ping_interval(NATS_PING_INTERVAL)
        .ignore_discovered_servers()
        .reconnect_delay_callback(move |_| match is_first.swap(false, Ordering::Relaxed) {
            true => Duration::ZERO,
            false => NEVER,
        })
        .event_callback(move |event| {
            let ending = ending(&event, &secrets);
            end.send_if_modified(|end| {
                let is_news = end.is_none() && ending.is_some();
                if is_news {
                    *end = ending;
                }
                is_news
            });
            async {}
        });
    if let Some(token) = login.token.clone() {
        options = options.token(token);
    }
    if let Some(credentials) = &login.credentials {
        options = options.credentials(credentials).map_err(|error| {
            let text = RemoteText::new(error, &login.secrets);
            NatsError::Auth(text.within("the credentials file: ", ""))
        })?;
    }
    if let Some(ca_file) = &door.ca_file {
        options = options.add_root_certificates(ca_file.clone());
    }
    Ok(options)
}

/// Why the connection ends, if it does.
fn ending(event: &Event, secrets: &Secrets) -> Option<NatsError> {
    match event {
        Event::Disconnected | Event::Closed | Event::Draining => {
            Some(NatsError::Lost("the server closed it".into()))
        }
        Event::SlowConsumer(_) => {
            Some(NatsError::Lost("what it sends is not read fast enough".into()))
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

/// What an error of the library means for the caller. What broke is hidden in a chain of causes.
fn classify(error: &ConnectError, secrets: &Secrets) -> NatsError {
    let text = error.to_string();
    let shown = RemoteText::new(&text, secrets);
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
            // As one does that is just starting, or a relay to a server that is away.
            (None, None) if text.contains("got nothing") => NatsError::Refused(shown),
            (None, None) => NatsError::Unfit(shown),
        },
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<async_nats::rustls::Error>())
}

//! The publisher: the handle with which a program publishes telemetry and setups, online or
//! offline.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::Instrument;

use crate::backoff::Backoff;
use crate::config::{Config, DeliveryConfig, ParseError, SessionChoice};
use crate::delivered_elsewhere::DeliveredElsewhere;
use crate::fields::Refused;
use crate::metrics;
use crate::platform::clock;
use crate::queue::{
    self, APPEND_TIMEOUT, Closed, Destinations, DiskEvent, Limits, OpenError, QueueError,
    QueueStatus, Reader, Writer,
};
use crate::session::{DestinationWatch, Session, SessionStatus};
use crate::sink::server::Server;
use crate::source::{Intake, Sample, Taken};

/// The maximum time from the request to stop to the end of the process, however slow disk and
/// network are.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Stores telemetry and setups in the queue and delivers them once the dashboard server is
/// reachable.
///
/// `publish_*` return as soon as the entry is stored, with or without a connection. Entries that
/// are not sent when the program ends or crashes are sent by the next publisher on the same queue.
///
/// ```
/// # use std::error::Error;
/// # use std::net::Ipv4Addr;
/// # use pitwire::dashboard::{Behaviour, Server};
/// # fn main() -> Result<(), Box<dyn Error>> {
/// #     let folder = tempfile::tempdir()?;
/// #     // The default queue is below these variables. No other thread reads them yet.
/// #     unsafe { std::env::set_var("XDG_DATA_HOME", folder.path()) };
/// #     unsafe { std::env::set_var("LOCALAPPDATA", folder.path()) };
/// #     let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), Behaviour::default())?;
/// #     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// #     runtime.block_on(example(&server.url()))?;
/// #     let session = server.sessions().remove(0);
/// #     assert_eq!((session.setups, session.frames), (1, 1));
/// #     Ok(())
/// # }
/// # async fn example(server_url: &str) -> Result<(), Box<dyn Error>> {
/// use serde_json::json;
///
/// let publisher = pitwire::DashboardPublisher::new(server_url, "auto")?;
/// if let Err(error) = publisher.connect().await {
///     eprintln!("{error}; entries are queued until the server is reachable");
/// }
/// publisher.publish_setup(json!({"VM_REAR_WING": 7})).await?;
/// publisher.publish_telemetry(json!({"lap": 1, "speed": 212.5})).await?;
/// # while publisher.queue_status().entries > 0 {
/// #     tokio::time::sleep(std::time::Duration::from_millis(5)).await;
/// # }
/// println!("{:?}", publisher.dashboard_url());
/// publisher.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DashboardPublisher {
    config: watch::Sender<Arc<Config>>,
    rate: watch::Sender<f64>,
    writer: Writer,
    intake: Intake,
    destinations: Vec<Destination>,
    work: Mutex<Option<Work>>,
    elsewhere: DeliveredElsewhere,
    closed: Closed,
}

/// A server and the session that delivers the queue to it.
#[derive(Debug)]
struct Destination {
    watch: DestinationWatch,
    session: SharedSession,
}

/// Locked by the task that runs the session.
type SharedSession = Arc<tokio::sync::Mutex<Session<Server>>>;

impl Destination {
    fn new(config: &Config, reader: Reader, elsewhere: DeliveredElsewhere) -> Self {
        let name = reader.destination().to_owned();
        let config = config.towards(&name);
        let (sender, status) = watch::channel(SessionStatus::default());
        let (choice, delivery) = (config.server.session_id.clone(), config.delivery.clone());
        let sink = Server::new(&config);
        let mut session = Session::new(choice, delivery, reader, sink, backoff(&config), sender);
        session.share_deliveries(elsewhere);
        let watch = DestinationWatch { name, session: status, latencies: session.latencies() };
        Self { watch, session: Arc::new(tokio::sync::Mutex::new(session)) }
    }

    /// Gives the session a new configuration, which takes effect at its next run.
    async fn renew(&self, config: &Config) {
        let config = config.towards(&self.watch.name);
        let (choice, delivery) = (config.server.session_id.clone(), config.delivery.clone());
        let sink = Server::new(&config);
        self.session.lock().await.renew(choice, delivery, sink, backoff(&config));
    }
}

/// The task that runs the sessions until `stop` is dropped.
#[derive(Debug)]
struct Work {
    stop: oneshot::Sender<Infallible>,
    task: JoinHandle<()>,
}

/// Why a publisher could not be created.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    #[error("server_url: {0:?} {1}; write one such as http://localhost:5000")]
    Url(String, ParseError),
    #[error("session_id: {0:?} {1}; write auto, or 1 to 128 of A-Z a-z 0-9 _ -")]
    SessionId(String, ParseError),
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Why the first attempt to connect failed. Retries continue until
/// [`DashboardPublisher::disconnect`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(String);

impl DashboardPublisher {
    /// Creates a publisher to `server_url` with the default configuration. `session_id` is a fixed
    /// id or `"auto"`, which requests one from the server.
    ///
    /// Opens the queue, so it blocks on the disk and fails if another process has the queue open.
    pub fn new(server_url: &str, session_id: &str) -> Result<Self, NewError> {
        let mut config = Config::default();
        config.server.url =
            server_url.parse().map_err(|wrong| NewError::Url(server_url.into(), wrong))?;
        config.server.session_id =
            session_id.parse().map_err(|wrong| NewError::SessionId(session_id.into(), wrong))?;
        Ok(Self::open(config)?)
    }

    /// Creates a publisher with a custom configuration, for example with another `queue.path`.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let limits = Limits::new(&config.queue, &config.stint);
        let names = config.destination_names();
        let destinations = Destinations::Configured(&names);
        let (writer, readers, closed) =
            queue::open(&config.queue, limits, destinations, clock::now(), count_disk_event)?;
        let elsewhere = DeliveredElsewhere::default();
        let destination = |reader| Destination::new(&config, reader, elsewhere.clone());
        let destinations = readers.into_iter().map(destination).collect();
        let rate = watch::Sender::new(config.update_rate_hz);
        let intake = Intake::new(writer.clone(), "publisher", config.update_rate_hz);
        Ok(Self {
            intake: intake.following(rate.subscribe()),
            rate,
            config: watch::Sender::new(Arc::new(config)),
            writer,
            destinations,
            work: Mutex::new(None),
            elsewhere,
            closed,
        })
    }

    /// Starts to connect, and waits until the first attempt at each destination has succeeded or
    /// failed.
    ///
    /// After a failure, retries continue in the background, without end and with growing pauses.
    /// Does nothing if the connections exist.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        let sessions = self.destinations.iter().map(|destination| &destination.watch.session);
        let attempts: Vec<_> =
            sessions.map(|session| (session.clone(), session.borrow().failures)).collect();
        self.start();
        for (mut session, failures) in attempts {
            let is_over = |now: &SessionStatus| {
                now.connected || now.failures > failures || self.work().is_none()
            };
            match session.wait_for(is_over).await {
                Ok(now) if now.connected => {}
                Ok(now) if now.failures > failures => {
                    return Err(ConnectError(now.last_error.clone().unwrap_or_default()));
                }
                _ => return Err(ConnectError("disconnect was called while connecting".into())),
            }
        }
        Ok(())
    }

    /// Starts to connect and returns at once. Must be called in a tokio runtime.
    pub fn start(&self) {
        let mut work = self.work();
        if work.as_ref().is_some_and(|work| !work.task.is_finished()) {
            return;
        }
        let (stop, stopped) = oneshot::channel();
        let session = |destination: &Destination| Arc::clone(&destination.session);
        let task = tokio::spawn(carry(self.destinations.iter().map(session).collect(), stopped));
        *work = Some(Work { stop, task });
    }

    /// Where a hub records what other hubs have delivered of this queue.
    pub(crate) fn delivered_elsewhere(&self) -> DeliveredElsewhere {
        self.elsewhere.clone()
    }

    /// Whether the sessions are running: connected or trying to connect.
    pub(crate) fn is_started(&self) -> bool {
        self.work().is_some()
    }

    /// Closes the connection at once, and returns when its task has ended. Unsent entries stay
    /// queued; [`DashboardPublisher::connect`] resumes delivery.
    pub async fn disconnect(&self) {
        let work = self.work().take();
        if let Some(Work { stop, task }) = work {
            drop(stop);
            // Even if the task panics, dropping it resets the session's status.
            let _ = task.await;
        }
    }

    /// Disconnects, flushes and closes the queue, within 5 s. Afterwards, an [`Intake`] or
    /// [`Writer`] of this queue returns [`QueueError::Closed`].
    pub async fn close(self) {
        let writer = self.writer();
        let closing = async {
            self.disconnect().await;
            self.writer.close().await;
            self.closed.wait().await;
        };
        if timeout(SHUTDOWN_TIMEOUT, closing).await.is_err() {
            let QueueStatus { buffered, .. } = writer.status();
            tracing::error!(
                entries = buffered,
                "the queue worker did not end within {} s: ending without its last flush; entries \
                 that are only in memory are lost",
                SHUTDOWN_TIMEOUT.as_secs(),
            );
        }
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a sample or a dashboard frame and returns its disposition.
    ///
    /// Samples that arrive faster than `update_rate_hz` are rate-limited.
    pub async fn publish_telemetry(&self, sample: Value) -> Result<Taken, QueueError> {
        self.publish(Sample::telemetry(&sample)).await
    }

    /// Stores the car's setup and returns its disposition. A setup equal to the previous one is not
    /// stored again.
    pub async fn publish_setup(&self, setup: Value) -> Result<Taken, QueueError> {
        self.publish(Sample::setup(&setup)).await
    }

    async fn publish(&self, sample: Result<Sample, Refused>) -> Result<Taken, QueueError> {
        let taken = self.intake.take(vec![sample]).await?;
        taken.into_iter().next().ok_or(QueueError::Closed)
    }

    /// Whether there is a connection to each destination.
    pub fn is_connected(&self) -> bool {
        let mut destinations = self.destinations.iter();
        destinations.all(|destination| destination.watch.session.borrow().connected)
    }

    /// Whether a session is bound on a connection to each destination.
    pub fn is_ready(&self) -> bool {
        let mut destinations = self.destinations.iter();
        destinations.all(|destination| destination.watch.session.borrow().session.is_some())
    }

    /// The id of the session that is bound at `[server]`, or the fixed id.
    pub fn session_id(&self) -> Option<String> {
        match &self.config().server.session_id {
            SessionChoice::Fixed(id) => Some(id.clone()),
            SessionChoice::Auto => self.session_status().session,
        }
    }

    /// The dashboard page of the newest session at `[server]`.
    pub fn dashboard_url(&self) -> Option<String> {
        self.session_status().page
    }

    /// The current status of the session at `[server]`, the first destination.
    pub fn session_status(&self) -> SessionStatus {
        let server = self.destinations.first();
        server.map(|server| server.watch.session.borrow().clone()).unwrap_or_default()
    }

    /// Watches the session of each destination. `[server]` is the first.
    pub fn watch_destinations(&self) -> Vec<DestinationWatch> {
        self.destinations.iter().map(|destination| destination.watch.clone()).collect()
    }

    /// The current status of the queue.
    pub fn queue_status(&self) -> QueueStatus {
        self.writer.status()
    }

    /// The active configuration.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Applies a new configuration, except for settings that need a restart, such as `queue.path`.
    /// Changes to a destination or to `[delivery]` cause a reconnect; no queued entry is lost.
    pub async fn take_over(&self, config: Config) -> Result<(), QueueError> {
        let before = self.config();
        let config = before.taking_over(config);
        if config.queue != before.queue {
            let limits = Limits::new(&config.queue, &config.stint);
            // A hanging disk must not block the caller.
            timeout(APPEND_TIMEOUT, self.writer.limit(limits)).await.map_err(|_| stalled())??;
        }
        self.rate.send_if_modified(|hz| {
            std::mem::replace(hz, config.update_rate_hz) != config.update_rate_hz
        });
        if config.server != before.server
            || config.destinations != before.destinations
            || config.delivery != before.delivery
        {
            let is_at_work = self.work().is_some();
            self.disconnect().await;
            for destination in &self.destinations {
                destination.renew(&config).await;
            }
            if is_at_work {
                self.start();
            }
        }
        self.config.send_replace(Arc::new(config));
        Ok(())
    }

    /// Watches `update_rate_hz`.
    pub(crate) fn watch_rate(&self) -> watch::Receiver<f64> {
        self.rate.subscribe()
    }

    /// Creates an intake into this queue for another source; `rate_hz` 0 keeps every sample.
    pub fn intake(&self, source: &'static str, rate_hz: f64) -> Intake {
        Intake::new(self.writer.clone(), source, rate_hz)
    }

    /// The writer of the queue.
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }
}

fn count_disk_event(event: DiskEvent) {
    match event {
        DiskEvent::Flushed(took) => metrics::fsync(took),
        DiskEvent::Failed(op) => metrics::storage_error(op),
    }
}

fn stalled() -> QueueError {
    QueueError::from(io::Error::new(io::ErrorKind::TimedOut, "no answer"))
}

fn backoff(config: &Config) -> Backoff {
    let DeliveryConfig { backoff_min, backoff_max, .. } = config.delivery;
    Backoff::new(backoff_min, backoff_max, SmallRng::from_os_rng())
}

/// Runs all sessions concurrently until `stopped` resolves.
async fn carry(sessions: Vec<SharedSession>, stopped: oneshot::Receiver<Infallible>) {
    let mut at_work = Vec::with_capacity(sessions.len());
    for session in sessions {
        at_work.push(AtWork(session.lock_owned().await));
    }
    tokio::select! {
        biased;
        _ = stopped => {}
        _ = join_all(at_work.iter_mut().map(AtWork::run)) => {}
    }
}

/// Runs a session and resets its status when dropped, even if the runtime shuts down.
struct AtWork(tokio::sync::OwnedMutexGuard<Session<Server>>);

impl AtWork {
    /// Runs the session. Its log lines name the destination.
    fn run(&mut self) -> impl Future<Output = QueueError> {
        let span = tracing::error_span!("destination", name = self.0.destination());
        self.0.run().instrument(span)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.disconnect();
    }
}

//! The publisher: the handle with which a program publishes telemetry and setups, online or
//! offline.

mod destination;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use self::destination::Destination;
use crate::config::{Config, ParseError, SessionChoice, quoted};
use crate::fields::Refused;
use crate::metrics;
use crate::platform::clock::Clock;
use crate::queue::{
    self, APPEND_TIMEOUT, Closed, DeliveredElsewhere, Destinations, DiskEvent, Limits, OpenError,
    QueueError, QueueStatus, Writer,
};
use crate::session::{DestinationWatch, SessionStatus};
use crate::source::{Intake, RateCounts, Sample, SourceActivity, Taken};

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
    rate_counts: RateCounts,
    activity: SourceActivity,
    destinations: Vec<Destination>,
    elsewhere: DeliveredElsewhere,
    closed: Closed,
}

/// Why a publisher could not be created.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// The URL is quoted without user name, password and query.
    #[error("server_url: {0} {1}; write one such as http://localhost:5000")]
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
            server_url.parse().map_err(|error| NewError::Url(quoted(server_url), error))?;
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
            queue::open(&config.queue, limits, destinations, Clock::system(), count_disk_event)?;
        let elsewhere = DeliveredElsewhere::default();
        let destinations = readers
            .into_iter()
            .map(|reader| Destination::new(&config, reader, elsewhere.clone()))
            .collect();
        let rate = watch::Sender::new(config.update_rate_hz);
        let rate_counts = RateCounts::default();
        let intake = Intake::new(writer.clone(), "publisher", config.update_rate_hz);
        Ok(Self {
            intake: intake.following(rate.subscribe()).counting(rate_counts.clone()),
            rate_counts,
            activity: SourceActivity::default(),
            rate,
            config: watch::Sender::new(Arc::new(config)),
            writer,
            destinations,
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
        let attempts: Vec<_> = self
            .destinations
            .iter()
            .map(|destination| (destination, destination.watch.session.borrow().failures))
            .collect();
        self.start();
        for (destination, failures) in attempts {
            let mut session = destination.watch.session.clone();
            let over = session.wait_for(|now| {
                now.connected || now.failures > failures || !destination.is_started()
            });
            match over.await {
                Ok(now) if now.connected => {}
                Ok(now) if now.failures > failures => {
                    return Err(ConnectError(now.last_error.clone().unwrap_or_default()));
                }
                Ok(_) => return Err(ConnectError("disconnect was called while connecting".into())),
                Err(_) => return Err(ConnectError("the delivery failed; see the log".into())),
            }
        }
        Ok(())
    }

    /// Starts to connect and returns at once. Must be called in a tokio runtime that lasts as long as
    /// the publisher.
    pub fn start(&self) {
        self.destinations.iter().for_each(Destination::start);
    }

    /// The counts of samples that the rate limit leaves out.
    pub(crate) fn rate_counts(&self) -> RateCounts {
        self.rate_counts.clone()
    }

    /// What each source of the agent is doing.
    pub(crate) fn activity(&self) -> SourceActivity {
        self.activity.clone()
    }

    /// Where a hub records what other hubs have delivered of this queue.
    pub(crate) fn delivered_elsewhere(&self) -> DeliveredElsewhere {
        self.elsewhere.clone()
    }

    /// Whether the sessions are running: connected or trying to connect.
    pub(crate) fn is_started(&self) -> bool {
        self.destinations.iter().any(Destination::is_started)
    }

    /// Closes the connections at once, and returns when their tasks have ended. Unsent entries stay
    /// queued; [`DashboardPublisher::connect`] resumes delivery.
    pub async fn disconnect(&self) {
        join_all(self.destinations.iter().map(Destination::stop)).await;
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
            timeout(APPEND_TIMEOUT, self.writer.limit(limits))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer"))??;
        }
        self.rate.send_if_modified(|hz| {
            std::mem::replace(hz, config.update_rate_hz) != config.update_rate_hz
        });
        if config.server != before.server
            || config.destinations != before.destinations
            || config.delivery != before.delivery
        {
            let is_started = self.is_started();
            self.disconnect().await;
            self.destinations.iter().for_each(|destination| destination.renew(&config));
            if is_started {
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
            .counting(self.rate_counts.clone())
            .reporting(self.activity.clone())
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

//! The delivery loop: open a link, bind a session, publish queued entries, wait for proof of
//! delivery, remove them. Any error ends the link; [`Session::run`] waits and opens the next one.
//!
//! - `bind`: binds a session for each stint, and reuses it while the server knows it.
//! - `capability`: the model of the server; defines what "delivered" means.
//! - `deliver`: delivers one batch, and defines what counts as proof.
//! - `window`: sizes batches.
//! - `refused`: determines what happened to entries without an echo.
//! - `poison`: isolates entries that the server can neither store nor refuse.
//! - `stored`: the entries that the server is known to store, identified by their content.
//! - `probe`: finds out whether a server that changed the order of entries keeps it again.
//!
//! Only proof removes entries from the queue. A batch in flight when the link ends is read again.

mod bind;
mod capability;
mod deliver;
mod latency;
mod poison;
mod probe;
mod refused;
mod stored;
mod user_message;
mod window;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::bind::Bindings;
use self::capability::{Evidence, ServerCapability};
pub use self::latency::{Latencies, Latency};
use self::poison::Isolation;
pub use self::poison::Retrying;
use self::probe::PROBE_BATCH_ENTRIES;
pub use self::probe::PROBE_STINT;
use self::stored::KnownStored;
pub use self::user_message::FORGOTTEN;
use self::window::Window;
use crate::backoff::Backoff;
use crate::config::{DeliveryConfig, SessionChoice};
use crate::delivered_elsewhere::DeliveredElsewhere;
use crate::entry::{MAX_SESSIONS, Seq, StintId};
use crate::fields::MAX_SAMPLE_BYTES;
use crate::metrics::Meter;
use crate::queue::{Limit, QueueError, Reader};
use crate::sink::probe::DIAGNOSIS_TIMEOUT;
use crate::sink::{Proof, Sink, SinkError, Transport};

/// How long to wait for missing echoes after a batch was acknowledged.
pub(crate) const ECHO_GRACE: Duration = Duration::from_millis(500);

/// The maximum number of sent entries that wait for a stronger proof; each takes about 100 bytes of
/// memory.
pub(crate) const MAX_UNPROVEN_ENTRIES: usize = 16_384;

/// With this many unproven entries and nothing left to send, the server is asked after this pause.
const VERIFY_SOON_ENTRIES: usize = 32;
const VERIFY_SOON: Duration = Duration::from_millis(20);

/// The minimum wait after a failure that an operator has to fix, such as a wrong token.
pub const AUTH_RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The status of a session, for the status page and the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionStatus {
    /// A link to the server is open.
    pub connected: bool,
    /// The session of the newest stint bound on this link.
    pub session: Option<String>,
    /// The page of the newest bound stint; remains set while disconnected.
    pub page: Option<String>,
    pub stint: Option<StintId>,
    /// The pages of all bound stints, the most recently bound last.
    pub pages: Vec<(StintId, String)>,
    /// The server has shown on this link that it knows the sessions.
    pub verified: bool,
    /// The proof that this link gives; `None` until determined.
    pub proof: Option<Proof>,
    /// How packets reach the server on this link; `None` while disconnected and for NATS.
    pub transport: Option<Transport>,
    /// Number of links opened so far; `failures` counts links that failed to open or ended.
    pub connects: u64,
    pub failures: u64,
    /// Why connecting failed, or why the previous link ended.
    pub last_error: Option<String>,
    /// The last error as a message for a driver.
    pub user_message: Option<&'static str>,
    /// When the server was last found to have forgotten the session. Cleared when the link is lost,
    /// which is then the more important message.
    pub forgotten_at: Option<Instant>,
    /// The current wait before the next attempt, and when it ends.
    pub retry_in: Option<Duration>,
    /// The entry that is sent again because the server confirmed no delivery of it.
    pub retrying: Option<Retrying>,
    pub retry_at: Option<Instant>,
}

/// Watches the session of a destination.
#[derive(Clone, Debug)]
pub struct DestinationWatch {
    pub name: String,
    pub session: watch::Receiver<SessionStatus>,
    pub latencies: Latencies,
}

/// The pause in publishing after which an acknowledgement is requested from a server that takes one
/// entry at a time and echoes each. The server's kernel holds back the echo that follows an
/// acknowledgement for up to 40 ms (Nagle's algorithm against our delayed TCP ACK). So entries of a
/// live source up to 20 Hz are acknowledged, and those of a backlog are not.
const ACK_AFTER_PAUSE: Duration = Duration::from_millis(50);

impl SessionStatus {
    fn show(&mut self, stint: StintId, page: String) {
        self.pages.retain(|(known, _)| *known != stint);
        let excess = (self.pages.len() + 1).saturating_sub(MAX_SESSIONS);
        self.pages.drain(..excess);
        self.pages.push((stint, page));
    }

    /// The entry that delivery is stuck on. While disconnected, an entry counts only after two
    /// connections ended at it; one may be any loss of the connection.
    pub fn stuck_on(&self) -> Option<Retrying> {
        self.retrying.filter(|retrying| self.connected || retrying.attempt > 2)
    }

    fn unlink(&mut self) {
        self.connected = false;
        self.verified = false;
        self.proof = None;
        self.transport = None;
        self.session = None;
        self.retry_in = None;
        self.retry_at = None;
    }
}

/// Why a link failed to open or ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Neither an echo nor an acknowledgement came in time.
    #[error("no proof of delivery within {0:?}")]
    NoProof(Duration),
    /// The server acknowledges entries that it does not store.
    #[error("the server acknowledges entries that it does not store: {0}")]
    NotKept(&'static str),
    /// The server stores nothing for the configured session id.
    #[error(
        "the server does not know the session in server.session_id, and discards what it receives \
         for it; copy the id from the address of an open dashboard page, or set it to \"auto\""
    )]
    UnknownSession,
    /// The configuration demands a proof that this server does not give.
    #[error(
        "delivery.proof = \"{0}\" but the server gives no {0}; set it to \"auto\" or fix the server"
    )]
    Weak(&'static str),
    /// An internal error: an entry's stint has no bound session.
    #[error("stint {0} has no session")]
    Unbound(StintId),
}

/// Sets the status to disconnected when [`Session::run`] ends or is dropped, even if the runtime
/// shuts down.
struct UnlinkOnDrop(watch::Sender<SessionStatus>);

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        self.0.send_modify(SessionStatus::unlink);
    }
}

/// State learned about the server, on this link and earlier ones.
#[derive(Debug, Default)]
struct Learned {
    capability: ServerCapability,
    /// Entries skipped by the echoes: a newer one was echoed, but the link ended before the cause
    /// was known. A newer stored entry does not prove these.
    skipped: BTreeSet<Seq>,
    /// The entries that the server is known to store.
    stored: KnownStored,
    /// The newest position that was handed to a connection.
    sent: Option<Seq>,
    window: Window,
    isolation: Isolation,
    /// When the server last changed the order of entries, on a page or in a probe.
    reordered_at: Option<Instant>,
    /// The session that probes publish to.
    probe_session: Option<String>,
}

/// Delivers the queue to one server.
#[derive(Debug)]
pub struct Session<S> {
    choice: SessionChoice,
    settings: DeliveryConfig,
    reader: Reader,
    sink: S,
    backoff: Backoff,
    status: watch::Sender<SessionStatus>,
    learned: Learned,
    latencies: Latencies,
    meter: Meter,
    elsewhere: DeliveredElsewhere,
    /// When the last link ended, until the next one is bound.
    lost_at: Option<Instant>,
    /// When the last publication on this link ended.
    published_at: Option<Instant>,
}

impl<S: Sink> Session<S> {
    pub fn new(
        choice: SessionChoice,
        settings: DeliveryConfig,
        reader: Reader,
        sink: S,
        backoff: Backoff,
        status: watch::Sender<SessionStatus>,
    ) -> Self {
        let (learned, latencies) = (Learned::default(), Latencies::default());
        let meter = Meter::new(reader.destination());
        let elsewhere = DeliveredElsewhere::default();
        Self {
            choice,
            settings,
            reader,
            sink,
            backoff,
            status,
            learned,
            latencies,
            meter,
            elsewhere,
            lost_at: None,
            published_at: None,
        }
    }

    /// The name of the destination.
    pub fn destination(&self) -> &str {
        self.reader.destination()
    }

    /// Takes entries that `elsewhere` has as delivered.
    pub(crate) fn share_deliveries(&mut self, elsewhere: DeliveredElsewhere) {
        self.elsewhere = elsewhere;
    }

    /// A handle to the latencies of recent deliveries.
    pub fn latencies(&self) -> Latencies {
        self.latencies.clone()
    }

    /// Replaces the settings, and possibly the server; takes effect with the next [`Session::run`].
    pub fn renew(
        &mut self,
        choice: SessionChoice,
        settings: DeliveryConfig,
        sink: S,
        backoff: Backoff,
    ) {
        if sink.server() != self.sink.server() {
            self.learned = Learned::default();
            self.status.send_modify(|status| status.retrying = None);
        }
        (self.choice, self.settings, self.sink, self.backoff) = (choice, settings, sink, backoff);
    }

    /// Delivers until the queue is closed. Dropping the future ends the link at once; entries in
    /// flight stay in the queue.
    pub async fn run(&mut self) -> QueueError {
        let _unlink = UnlinkOnDrop(self.status.clone());
        loop {
            self.reader.rewind();
            let began = Instant::now();
            let Err(error) = self.serve().await;
            if let SessionError::Queue(QueueError::Closed) = error {
                return QueueError::Closed;
            }
            let was_connected = self.status.borrow().connected;
            self.lost_at.get_or_insert_with(|| if was_connected { Instant::now() } else { began });
            let attempt = if was_connected { Duration::ZERO } else { began.elapsed() };
            let delay = self.delay_after(&error, attempt);
            let text = error.to_string();
            let news = self.status.borrow().last_error.as_deref() != Some(&text);
            if news {
                tracing::warn!(
                    %error, retry_in = ?delay,
                    "cannot reach the server; entries are queued"
                );
            } else {
                tracing::debug!(%error, retry_in = ?delay, "still cannot reach the server");
            }
            self.status.send_modify(|status| {
                status.unlink();
                status.failures += 1;
                status.last_error = Some(text);
                status.user_message = Some(error.user_message());
                if let SessionError::UnknownSession = error {
                    status.page = None;
                    status.pages.clear();
                }
                if !matches!(error, SessionError::NotKept(_)) {
                    status.forgotten_at = None;
                }
                status.retry_in = Some(delay);
                status.retry_at = Some(Instant::now() + delay);
            });
            sleep(delay).await;
            self.status.send_modify(|status| (status.retry_in, status.retry_at) = (None, None));
        }
    }

    /// The wait before the next attempt. Errors that need an operator are retried slowly.
    ///
    /// `attempt` is the time that a failed attempt to connect took. It counts as waiting: while the
    /// network drops packets, an attempt takes up to `open_timeout` and would succeed itself if the
    /// network returned.
    fn delay_after(&mut self, error: &SessionError, attempt: Duration) -> Duration {
        let delay = self.backoff.next_delay();
        match error {
            SessionError::Sink(error) if error.needs_an_operator() => {
                delay.max(AUTH_RETRY_INTERVAL)
            }
            SessionError::Weak(_) | SessionError::UnknownSession => delay.max(AUTH_RETRY_INTERVAL),
            // Each attempt creates a session on the server.
            SessionError::NotKept(_) if self.learned.capability.keeps_nothing_again() => {
                delay.max(AUTH_RETRY_INTERVAL)
            }
            _ => delay.saturating_sub(attempt).max(self.settings.backoff_min.min(delay)),
        }
    }

    /// Runs one link from open to end. Returns only with an error.
    async fn serve(&mut self) -> Result<Infallible, SessionError> {
        let mut link = self.open().await?;
        let mut bindings = Bindings::new(&self.settings);
        self.observe(Evidence::Connected);
        self.learned.isolation.connected();
        self.published_at = None;
        let Err(error) = self.serve_link(&mut link, &mut bindings).await;
        self.note_failure(&link, &bindings, &error);
        Err(error)
    }

    async fn serve_link(
        &mut self,
        link: &mut S::Link,
        bindings: &mut Bindings,
    ) -> Result<Infallible, SessionError> {
        let stint = self.reader.stint().await?;
        self.bind(link, bindings, stint).await?;
        if let Some(lost_at) = self.lost_at.take() {
            let queued = self.reader.queued();
            tracing::info!(downtime = ?lost_at.elapsed(), queued, "reconnected");
        }
        loop {
            if self.is_probe_due() {
                self.probe_order(link).await?;
            }
            let limit = self.limit();
            let batch = tokio::select! {
                biased;
                error = crate::sink::Link::closed(link) => return Err(error.into()),
                () = sleep_until(self.verify_at(bindings)) => {
                    self.verify(link, bindings).await?;
                    continue;
                }
                batch = self.reader.next_batch(limit) => batch?,
            };
            self.deliver(link, bindings, batch).await?;
            if self.learned.isolation.deferred_setup().is_some() {
                for stint in bindings.stints() {
                    self.refresh_setup(link, bindings, stint).await?;
                }
                self.learned.isolation.setup_done();
            }
        }
    }

    async fn open(&mut self) -> Result<S::Link, SessionError> {
        let limit = self.settings.open_timeout;
        // A failed connection is diagnosed before `open` returns.
        let opened = timeout(limit + DIAGNOSIS_TIMEOUT, self.sink.open())
            .await
            .unwrap_or_else(|_| Err(SinkError::Timeout(limit, "it accepts no connection")));
        match &opened {
            Ok(link) => {
                self.meter.connect("ok");
                let transport = crate::sink::Link::transport(link);
                self.status.send_modify(|status| {
                    status.connected = true;
                    status.transport = transport;
                    status.connects += 1;
                });
            }
            Err(error) => self.meter.connect(error.outcome()),
        }
        Ok(opened?)
    }

    /// When to verify next. Many unproven entries, as at the end of a replay, are verified sooner.
    fn verify_at(&self, bindings: &Bindings) -> Instant {
        let proof = self.learned.capability.proof();
        if proof != Some(Proof::Ack) || bindings.unproven_entries() < VERIFY_SOON_ENTRIES {
            return bindings.verify_at;
        }
        bindings.verify_at.min(Instant::now() + VERIFY_SOON)
    }

    /// The limit for the next batch; small until the kind of proof is determined.
    fn limit(&self) -> Limit {
        let DeliveryConfig { batch_max_entries, batch_max_bytes, max_rate, .. } = self.settings;
        let most = self.learned.window.entries().min(batch_max_entries as usize);
        let capability = &self.learned.capability;
        let entries = match capability.proof() {
            None if capability.keeps_nothing() => 16,
            None => 1,
            Some(_) if capability.is_one_at_a_time() => 1,
            Some(_) if capability.is_probed() => most.min(PROBE_BATCH_ENTRIES),
            // At most 0.1 s of entries, so that the pauses between batches stay short.
            Some(_) if max_rate > 0.0 => most.min((max_rate / 10.0).ceil() as usize),
            Some(_) => most,
        };
        let entries = self.learned.isolation.limit(entries).clamp(1, MAX_UNPROVEN_ENTRIES);
        // The largest entry must not hide the one after it.
        let is_overtaking = self.learned.isolation.to_overtake().is_some();
        let more_bytes = if is_overtaking { MAX_SAMPLE_BYTES } else { 0 };
        Limit { entries, bytes: batch_max_bytes as usize + more_bytes }
    }
}

/// The time of the next verification that the server still knows the session.
fn next_verification(settings: &DeliveryConfig) -> Instant {
    // 0 disables verification; a year is far enough away.
    let interval = settings.verify_interval;
    Instant::now() + if interval.is_zero() { Duration::from_hours(24 * 365) } else { interval }
}

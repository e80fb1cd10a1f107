//! The delivery loop: open a link, bind a session, publish queued entries, wait for proof of
//! delivery, remove them. Any error ends the link; [`Session::run`] waits and opens the next one.
//!
//! In the order of a link's life:
//!
//! - `bind`: binds a session for each stint, and reuses it while the server knows it. It uses
//!   `join` to ask the server, `find_stored` to find the deliveries of an earlier link, and `setup` to
//!   send the setup in force.
//! - `probe`: finds out whether a server that changed the order of entries keeps it again.
//! - `deliver`: delivers one batch. It uses `isolate` to publish around a poison entry, `publish`
//!   for what counts as proof, and `refused` for entries without an echo.
//! - `verify`: asks whether the server stores what it only acknowledged.
//!
//! State of the session:
//!
//! - `bindings`: the sessions that are bound on the link, and the entries sent on it.
//! - `capability`: the model of the server; defines what "delivered" means.
//! - `stored`: the entries that the server is known to store, identified by their content.
//! - `poison`: isolates entries that the server can neither store nor refuse; `overtaken`: the
//!   entries that a later one was sent before, as a probe.
//! - `window`: sizes batches.
//! - `status`, `latency`, `error`: shown to the operator and the driver; `retry`: an operator's
//!   request to try again at once.
//!
//! Only proof removes entries from the queue. A batch in flight when the link ends is read again.

mod bind;
mod bindings;
mod capability;
mod deliver;
mod error;
mod find_stored;
mod isolate;
mod join;
mod latency;
mod overtaken;
mod poison;
mod probe;
mod publish;
mod refused;
mod retry;
mod setup;
mod status;
mod stored;
mod verify;
mod window;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use self::bindings::Bindings;
use self::capability::{Evidence, ServerCapability};
pub use self::error::{FORGOTTEN, SessionError};
pub use self::latency::{Latencies, Latency};
use self::overtaken::Overtaken;
use self::poison::Isolation;
pub use self::poison::Retrying;
use self::probe::PROBE_BATCH_ENTRIES;
pub use self::probe::PROBE_STINT;
pub(crate) use self::publish::ECHO_GRACE;
pub use self::retry::RetryRequests;
use self::status::UnlinkOnDrop;
pub use self::status::{DestinationWatch, SessionStatus};
use self::stored::KnownStored;
use self::window::Window;
use crate::backoff::Backoff;
use crate::config::{DeliveryConfig, SessionChoice, with_keys_of};
use crate::entry::Seq;
use crate::fields::MAX_SAMPLE_BYTES;
use crate::metrics::Meter;
use crate::queue::{DeliveredElsewhere, Limit, QueueError, Reader};
use crate::sink::probe::DIAGNOSIS_TIMEOUT;
use crate::sink::{Link, Sink, SinkError};

/// The maximum number of sent entries that wait for a stronger proof; each takes about 100 bytes of
/// memory.
pub(crate) const MAX_UNPROVEN_ENTRIES: usize = 16_384;

/// The minimum wait after a failure that an operator has to fix, such as a wrong token.
pub const AUTH_RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// After this many tries of an entry that leaves each new session empty, it is not the entry but the
/// server that keeps nothing: further tries wait for [`AUTH_RETRY_INTERVAL`].
const MAX_QUICK_TRIES: u32 = 16;

/// State learned about the server, on this link and earlier ones.
#[derive(Debug, Default)]
struct Learned {
    capability: ServerCapability,
    /// Entries skipped by the echoes: a newer one was echoed, but the link ended before the cause
    /// was known. A newer stored entry does not prove these.
    skipped: BTreeSet<Seq>,
    /// The entries that probes overtook, and whether those of an earlier process were read.
    overtaken: Overtaken,
    is_restored: bool,
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
    retry: RetryRequests,
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
            retry: RetryRequests::default(),
            meter,
            elsewhere,
            lost_at: None,
            published_at: None,
        }
    }

    /// Takes entries that `elsewhere` has as delivered.
    pub(crate) fn share_deliveries(&mut self, elsewhere: DeliveredElsewhere) {
        self.elsewhere = elsewhere;
    }

    /// A handle to the latencies of recent deliveries.
    pub fn latencies(&self) -> Latencies {
        self.latencies.clone()
    }

    /// A handle to request an attempt to connect at once.
    pub fn retry_requests(&self) -> RetryRequests {
        self.retry.clone()
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
    pub fn run(&mut self) -> impl Future<Output = QueueError> {
        // Created before the first poll: a caller that waits for a change of the status learns even
        // of a future that was never polled.
        let unlink = UnlinkOnDrop(self.status.clone());
        async move {
            let _unlink = unlink;
            self.serve_links().await
        }
    }

    /// Opens one link after the other until the queue is closed.
    async fn serve_links(&mut self) -> QueueError {
        loop {
            self.reader.rewind();
            let began = Instant::now();
            let error = self.serve_without_panic().await;
            if let SessionError::Queue(QueueError::Closed) = error {
                return QueueError::Closed;
            }
            let was_connected = self.status.borrow().connected;
            self.lost_at.get_or_insert_with(|| if was_connected { Instant::now() } else { began });
            let attempt = if was_connected { Duration::ZERO } else { began.elapsed() };
            let delay = self.delay_after(&error, attempt);
            self.show_failure(&error, delay);
            self.retry.wait(delay).await;
            self.status.send_modify(|status| (status.retry_in, status.retry_at) = (None, None));
        }
    }

    /// Runs one link. After a panic, the session forgets what it learned about the server, as at a
    /// start of the program, because that may be half changed.
    async fn serve_without_panic(&mut self) -> SessionError {
        match AssertUnwindSafe(self.serve()).catch_unwind().await {
            Ok(Err(error)) => error,
            Err(_) => {
                self.learned = Learned::default();
                SessionError::Panicked
            }
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
            SessionError::NotKept(_)
                if self.learned.capability.keeps_nothing_again() && !self.isolates_quickly() =>
            {
                delay.max(AUTH_RETRY_INTERVAL)
            }
            _ => delay.saturating_sub(attempt).max(self.settings.backoff_min.min(delay)),
        }
    }

    /// Whether an entry is being isolated that may be the only one that the server does not keep.
    fn isolates_quickly(&self) -> bool {
        let retrying = self.learned.isolation.retrying();
        retrying.is_some_and(|retrying| retrying.attempt <= MAX_QUICK_TRIES)
    }

    /// Logs why the link failed and shows it in the status.
    fn show_failure(&self, error: &SessionError, delay: Duration) {
        let destination = self.reader.destination();
        let text = with_keys_of(&error.to_string(), destination);
        let user_message = with_keys_of(error.user_message(), destination);
        let (next_try, saved) = (in_seconds(delay), self.reader.queued());
        if self.status.borrow().last_error.as_ref() == Some(&text) {
            tracing::debug!("Still offline: {text}; {saved} saved, next try in {next_try}");
        } else {
            tracing::warn!("Offline: {text}; frames are saved, next try in {next_try}");
        }
        self.status.send_modify(|status| {
            status.unlink();
            status.failures += 1;
            status.last_error = Some(text);
            status.user_message = Some(user_message);
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
    }

    /// Runs one link from open to end. Returns only with an error.
    async fn serve(&mut self) -> Result<Infallible, SessionError> {
        self.restore().await?;
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
            let (downtime, saved) = (in_seconds(lost_at.elapsed()), self.reader.queued());
            tracing::info!("Reconnected after {downtime}; sending what was saved: {saved}");
        }
        loop {
            if self.is_probe_due() {
                self.probe_order(link).await?;
            }
            let limit = self.limit();
            let batch = tokio::select! {
                biased;
                error = link.closed() => return Err(error.into()),
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
        self.status.send_modify(|status| status.connecting = true);
        // A failed connection is diagnosed before `open` returns.
        let opened = timeout(limit + DIAGNOSIS_TIMEOUT, self.sink.open())
            .await
            .unwrap_or_else(|_| Err(SinkError::Timeout(limit, "it accepts no connection")));
        match &opened {
            Ok(link) => {
                self.meter.connect("ok");
                let transport = link.transport();
                self.status.send_modify(|status| {
                    (status.connecting, status.connected) = (false, true);
                    status.transport = transport;
                    status.connects += 1;
                });
            }
            Err(error) => self.meter.connect(error.outcome()),
        }
        Ok(opened?)
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

/// Formats a wait for a log message, such as "0.6 s".
fn in_seconds(wait: Duration) -> String {
    format!("{:.1} s", wait.as_secs_f64())
}

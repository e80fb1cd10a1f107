//! The story of the program: open a link, bind a session, publish what is queued, wait for proof,
//! remove. A straight line; any surprise ends it, and one place waits and starts it again.
//!
//! - `bind`: the session of each stint: keep it while the server knows it.
//! - `capability`: the model of the server; defines what "delivered" means.
//! - `deliver`: what happens to one batch, and what counts as proof.
//! - `window`: how many entries go out together.
//! - `refused`: what it means that an entry did not come back.
//! - `stored`: the entries that the server is known to store, identified by their content.
//!
//! Nothing but proof empties the queue. A batch that is out when the line ends is read again.

mod bind;
mod capability;
mod deliver;
mod latency;
mod plain;
mod refused;
mod stored;
mod window;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::bind::Bindings;
use self::capability::{Evidence, ServerCapability};
pub use self::latency::{Latencies, Latency};
pub use self::plain::FORGOTTEN;
use self::stored::Stored;
use self::window::Window;
use crate::backoff::Backoff;
use crate::config::{
    AUTH_RETRY_INTERVAL, DeliveryConfig, MAX_SESSIONS, MAX_UNPROVEN_ENTRIES, SessionChoice,
    VERIFY_SOON, VERIFY_SOON_ENTRIES,
};
use crate::entry::{Seq, StintId};
use crate::metrics::Meter;
use crate::planted::planted;
use crate::queue::{Limit, QueueError, Reader};
use crate::sink::{Proof, Sink, SinkError};

/// How the session stands, for people and for programs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionStatus {
    /// A link to the server is open.
    pub connected: bool,
    /// The session of the newest stint that is bound on this link.
    pub session: Option<String>,
    /// Its page, also while there is no link.
    pub page: Option<String>,
    pub stint: Option<StintId>,
    /// The pages of all stints that were bound, the one that was bound last at the end.
    pub pages: Vec<(StintId, String)>,
    /// The server has shown on this link that it knows the sessions.
    pub verified: bool,
    /// The proof that this link gives; `None` until it is learned.
    pub proof: Option<Proof>,
    /// Links opened and attempts failed so far.
    pub connects: u64,
    pub failures: u64,
    /// Why there is no link, or was none the last time.
    pub last_error: Option<String>,
    /// The same for a driver.
    pub last_error_plainly: Option<&'static str>,
    /// When the server was last found to have forgotten the session, unless the link has been lost
    /// since: then that is the news.
    pub forgotten_at: Option<Instant>,
    /// The wait that is on before the next attempt.
    pub retry_in: Option<Duration>,
}

/// A session's status, to be watched.
pub type Watched = watch::Receiver<SessionStatus>;

/// Those of the destinations besides `[server]`, by name.
pub type Others = Vec<(String, Watched)>;

impl SessionStatus {
    fn show(&mut self, stint: StintId, page: String) {
        self.pages.retain(|(known, _)| *known != stint);
        let excess = (self.pages.len() + 1).saturating_sub(MAX_SESSIONS);
        self.pages.drain(..excess);
        self.pages.push((stint, page));
    }

    fn unlink(&mut self) {
        self.connected = false;
        self.verified = false;
        self.proof = None;
        self.session = None;
        self.retry_in = None;
    }
}

/// Why the line ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Neither an echo nor an acknowledgement came in time.
    #[error("no proof of delivery within {0:?}")]
    NoProof(Duration),
    /// The server acknowledges and keeps nothing.
    #[error("the server acknowledges what it does not keep: {0}")]
    NotKept(&'static str),
    /// The configuration asks for a proof that this server does not give.
    #[error(
        "delivery.proof = \"{0}\" but the server gives no {0}; set it to \"auto\" or mend the server"
    )]
    Weak(&'static str),
    /// A fault of this program.
    #[error("stint {0} has no session")]
    Unbound(StintId),
}

/// What was learned about the server, on this link and earlier ones.
#[derive(Debug, Default)]
struct Learned {
    capability: ServerCapability,
    /// Entries that did not come back although a newer one did, on a link that ended before it was
    /// known why: that the server holds the newer one says nothing about them.
    passed_over: BTreeSet<Seq>,
    /// What it is known to store.
    stored: Stored,
    /// The newest position that was handed to a connection.
    sent: Option<Seq>,
    window: Window,
}

/// Carries the queue to the server.
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
        Self { choice, settings, reader, sink, backoff, status, learned, latencies, meter }
    }

    /// The name of the destination; none for `[server]`.
    pub fn destination(&self) -> &str {
        self.reader.destination()
    }

    /// How long what was delivered lately took.
    pub fn latencies(&self) -> Latencies {
        self.latencies.clone()
    }

    /// Has other settings, and perhaps another server, from the next [`Session::run`] on.
    pub fn renew(
        &mut self,
        choice: SessionChoice,
        settings: DeliveryConfig,
        sink: S,
        backoff: Backoff,
    ) {
        if sink.server() != self.sink.server() {
            self.learned = Learned::default();
        }
        (self.choice, self.settings, self.sink, self.backoff) = (choice, settings, sink, backoff);
    }

    /// Runs until the queue is closed. Dropping the future ends the link at once; what was out
    /// stays in the queue.
    pub async fn run(&mut self) -> QueueError {
        loop {
            if !planted("new_link_without_what_was_out") {
                self.reader.rewind();
            }
            let Err(error) = self.serve().await;
            if let SessionError::Queue(QueueError::Closed) = error {
                return QueueError::Closed;
            }
            let delay = self.delay_after(&error);
            let text = error.to_string();
            let news = self.status.borrow().last_error.as_deref() != Some(&text);
            if news {
                tracing::warn!(%error, retry_in = ?delay, "the server is out of reach; entries are kept");
            } else {
                tracing::debug!(%error, retry_in = ?delay, "still out of reach");
            }
            self.status.send_modify(|status| {
                status.unlink();
                status.failures += 1;
                status.last_error = Some(text);
                status.last_error_plainly = Some(error.plainly());
                if !matches!(error, SessionError::NotKept(_)) {
                    status.forgotten_at = None;
                }
                status.retry_in = Some(delay);
            });
            sleep(delay).await;
            self.status.send_modify(|status| status.retry_in = None);
        }
    }

    /// Says that there is no link any more, after [`Session::run`] was dropped.
    pub fn rest(&mut self) {
        self.status.send_modify(SessionStatus::unlink);
    }

    /// What needs a person is tried again slowly.
    fn delay_after(&mut self, error: &SessionError) -> Duration {
        let delay = self.backoff.next_delay();
        match error {
            _ if planted("no_backoff") => Duration::from_millis(1),
            SessionError::Sink(SinkError::Auth(_) | SinkError::Tls(_)) | SessionError::Weak(_) => {
                delay.max(AUTH_RETRY_INTERVAL)
            }
            _ => delay,
        }
    }

    /// One link, from open to end. Ends only by an error.
    async fn serve(&mut self) -> Result<Infallible, SessionError> {
        let mut link = self.open().await?;
        let stint = self.reader.stint().await?;
        let mut bindings = Bindings::new(&self.settings);
        self.observe(Evidence::Connected);
        self.bind(&mut link, &mut bindings, stint).await?;
        loop {
            let limit = self.limit();
            let batch = tokio::select! {
                biased;
                error = crate::sink::Link::closed(&mut link) => return Err(error.into()),
                () = sleep_until(self.verify_at(&bindings)) => {
                    self.verify(&mut link, &mut bindings).await?;
                    continue;
                }
                batch = self.reader.next_batch(limit) => batch?,
            };
            self.deliver(&mut link, &mut bindings, batch).await?;
        }
    }

    async fn open(&mut self) -> Result<S::Link, SessionError> {
        let limit = self.settings.open_timeout;
        let opened = timeout(limit, self.sink.open())
            .await
            .unwrap_or_else(|_| Err(SinkError::Timeout(limit, "it accepts no connection")));
        match &opened {
            Ok(_) => {
                self.meter.connect("ok");
                self.status.send_modify(|status| {
                    status.connected = true;
                    status.connects += 1;
                });
            }
            Err(error) => self.meter.connect(error.outcome()),
        }
        Ok(opened?)
    }

    /// When to look next whether the server still knows the session. A replay that waits for it
    /// with the queue read to its end need not wait long.
    fn verify_at(&self, bindings: &Bindings) -> Instant {
        let proof = self.learned.capability.proof();
        if proof != Some(Proof::Ack) || bindings.unproven_entries() < VERIFY_SOON_ENTRIES {
            return bindings.verify_at;
        }
        bindings.verify_at.min(Instant::now() + VERIFY_SOON)
    }

    /// How much may be out next: little while the link is being learned.
    fn limit(&self) -> Limit {
        let DeliveryConfig { batch_max_entries, batch_max_bytes, max_rate, .. } = self.settings;
        let most = self.learned.window.entries().min(batch_max_entries as usize);
        let capability = &self.learned.capability;
        let entries = match capability.proof() {
            None if capability.keeps_nothing() => 16,
            None => 1,
            Some(_) if capability.is_one_at_a_time() => 1,
            // A tenth of a second's worth, so that the pauses between batches stay short.
            Some(_) if max_rate > 0.0 => most.min((max_rate / 10.0).ceil() as usize),
            Some(_) => most,
        };
        Limit { entries: entries.clamp(1, MAX_UNPROVEN_ENTRIES), bytes: batch_max_bytes as usize }
    }
}

/// The next moment to look whether the server still knows the session.
fn next_verification(settings: &DeliveryConfig) -> Instant {
    // 0 is never, which is far enough away.
    let interval = settings.verify_interval;
    Instant::now() + if interval.is_zero() { Duration::from_hours(24 * 365) } else { interval }
}

//! A server and the session that delivers the queue to it.
//!
//! A task runs the session and returns it when it is told to stop. The next task takes the session
//! from the previous one, so [`Destination::start`] never waits and a caller that abandons
//! [`Destination::stop`] loses nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::queue::{DeliveredElsewhere, Reader};
use crate::session::{DestinationWatch, Session, SessionStatus};
use crate::sink::server::AnyServer;

/// A server and the session that delivers the queue to it.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) watch: DestinationWatch,
    /// The only destination: log lines do not have to name it.
    is_only: bool,
    delivery: Mutex<Delivery>,
}

#[derive(Debug, Default)]
struct Delivery {
    holder: SessionHolder,
    /// The configuration for the next run of the session, if it has changed since the last one.
    changed: Option<Config>,
}

/// Who has the session.
#[derive(Debug, Default)]
enum SessionHolder {
    /// The destination: the session does not run.
    Destination(Box<Session<AnyServer>>),
    /// The task that runs the session, or has run it. It stops when `stop` becomes true, and drops
    /// the receiver when it has ended.
    Task { stop: watch::Sender<bool>, task: JoinHandle<Option<Box<Session<AnyServer>>>> },
    /// Nothing: the task panicked, or its runtime was shut down.
    #[default]
    Lost,
}

impl Destination {
    /// Creates the session, which does not run yet.
    pub(super) fn new(config: &Config, reader: Reader, elsewhere: DeliveredElsewhere) -> Self {
        let name = reader.destination().to_owned();
        let is_only = config.destinations.is_empty();
        let config = config.towards(&name);
        let (sender, status) = watch::channel(SessionStatus::default());
        let mut session = Session::new(
            config.server.session_id.clone(),
            config.delivery.clone(),
            reader,
            AnyServer::new(&config),
            backoff(&config),
            sender,
        );
        session.share_deliveries(elsewhere);
        let (latencies, retry) = (session.latencies(), session.retry_requests());
        let watch = DestinationWatch { name, session: status, latencies, retry };
        let holder = SessionHolder::Destination(Box::new(session));
        Self { watch, is_only, delivery: Mutex::new(Delivery { holder, changed: None }) }
    }

    /// Whether the session runs: it is connected or tries to connect.
    pub(super) fn is_started(&self) -> bool {
        match &self.delivery().holder {
            SessionHolder::Task { stop, .. } => !*stop.borrow(),
            SessionHolder::Destination(_) | SessionHolder::Lost => false,
        }
    }

    /// Starts a task that runs the session, unless there is one. Must be called in a tokio runtime.
    pub(super) fn start(&self) {
        let mut delivery = self.delivery();
        if let SessionHolder::Task { stop, task } = &delivery.holder
            && !*stop.borrow()
            && !task.is_finished()
        {
            return;
        }
        let Delivery { holder, changed } = std::mem::take(&mut *delivery);
        let (stop, stopped) = watch::channel(false);
        let span = if self.is_only {
            Span::none()
        } else {
            tracing::error_span!("destination", name = self.watch.name)
        };
        let task = tokio::spawn(run(holder, changed, stopped).instrument(span));
        delivery.holder = SessionHolder::Task { stop, task };
    }

    /// Ends the task that runs the session, and waits until it has ended.
    pub(super) async fn stop(&self) {
        let stop = match &self.delivery().holder {
            SessionHolder::Task { stop, .. } => stop.clone(),
            SessionHolder::Destination(_) | SessionHolder::Lost => return,
        };
        stop.send_replace(true);
        stop.closed().await;
    }

    /// Gives the session a new configuration, which takes effect at its next start.
    pub(super) fn renew(&self, config: &Config) {
        self.delivery().changed = Some(config.towards(&self.watch.name));
    }

    fn delivery(&self) -> MutexGuard<'_, Delivery> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the session from its previous holder, runs it until `stopped` becomes true and returns it.
/// Returns `None` if the session was lost.
async fn run(
    holder: SessionHolder,
    changed: Option<Config>,
    mut stopped: watch::Receiver<bool>,
) -> Option<Box<Session<AnyServer>>> {
    let session = match holder {
        SessionHolder::Destination(session) => Some(session),
        SessionHolder::Task { task, .. } => task.await.ok().flatten(),
        SessionHolder::Lost => None,
    };
    let Some(mut session) = session else {
        tracing::error!(
            "an earlier delivery task panicked, or its runtime has ended; entries are queued until the \
             program restarts"
        );
        return None;
    };
    if let Some(config) = changed {
        session.renew(
            config.server.session_id.clone(),
            config.delivery.clone(),
            AnyServer::new(&config),
            backoff(&config),
        );
    }
    tokio::select! {
        biased;
        // An error means that the publisher was dropped.
        _ = stopped.wait_for(|stopped| *stopped) => {}
        _ = session.run() => {}
    }
    Some(session)
}

fn backoff(config: &Config) -> Backoff {
    let (min, max) = (config.delivery.backoff_min, config.delivery.backoff_max);
    Backoff::new(min, max, SmallRng::from_os_rng())
}

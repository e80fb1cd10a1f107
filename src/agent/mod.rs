//! The long-running agent: a publisher, its sources and its services.
//!
//! - `sources`, `stdin`: read samples and store them.
//! - `services`: listen for samples and for administration.
//! - `monitors`: log and record how delivery and the disk are doing.
//! - `pages`: announce the dashboard pages of new sessions.
//! - `reload`: applies a changed configuration to the running agent.

mod losses;
mod monitors;
mod pages;
pub mod reload;
mod services;
mod sources;
mod stdin;

use std::fmt;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::pages::NewPages;
use self::reload::Reload;
use self::services::Services;
use self::sources::Sources;
use crate::config::Config;
use crate::publisher::DashboardPublisher;
use crate::queue::{OpenError, QueueStatus, STORAGE_OPEN_INTERVAL};
use crate::session::DestinationWatch;
use crate::source::nats::{self, GateCommand, GateRequest};
use crate::source::recording::Report;
use crate::status::{StatusHistory, StatusSnapshot};

/// How often the status line in the terminal is updated.
pub(crate) const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// How often [`Until::Drained`] checks whether the queue is empty.
const DRAINED_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// When [`run`] returns without a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Shutdown,
    /// Once standard input and the file are read and the queue is empty.
    Drained,
}

/// The outcome of a run of the agent.
#[derive(Clone, Debug)]
pub struct AgentReport {
    /// The counts of the recording `source.file.path`; `None` without a recording.
    pub recording: Option<Report>,
    /// The queue when the agent started, and after it was flushed at the end.
    pub queue_before: QueueStatus,
    pub queue: QueueStatus,
}

/// A callback that receives a status snapshot once a second.
pub type SnapshotCallback = Box<dyn FnMut(&StatusSnapshot) + Send>;

/// Where the agent's output goes.
pub struct AgentOutput {
    /// Prints a line for each new dashboard page.
    pub announce: fn(&str),
    /// Prints a receipt for each line of standard input, with `source.stdin.receipts`.
    pub receipt: fn(&str),
    /// Called once a second.
    pub look: Option<SnapshotCallback>,
}

impl fmt::Debug for AgentOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentOutput").finish_non_exhaustive()
    }
}

/// Runs the agent until `shutdown` resolves or, with [`Until::Drained`], its work is done.
///
/// Must run in a tokio runtime. Returns within 5 s of the shutdown; unsent entries stay queued.
/// Returns `None` if the shutdown came before the queue was open.
pub async fn run(
    config: Config,
    until: Until,
    metrics: Option<PrometheusHandle>,
    mut reload: Option<Reload>,
    shutdown: impl Future<Output = ()>,
    output: AgentOutput,
) -> Result<Option<AgentReport>, OpenError> {
    let AgentOutput { announce, receipt, mut look } = output;
    let mut shutdown = pin!(shutdown);
    let publisher = tokio::select! {
        publisher = open(config) => publisher?,
        () = &mut shutdown => return Ok(None),
    };
    let queue_before = publisher.queue_status();
    let (gate, mut gate_requests) = nats::delivery_gate();
    // A hub starts the delivery through the gate, once no other hub delivers the same entries.
    let is_hub = publisher.config().source.nats.enabled;
    if !is_hub {
        publisher.start();
    }
    let mut sources = Sources::start(&publisher, gate, receipt);
    let history = StatusHistory::default();
    let reload_handle = reload.as_ref().map(Reload::handle);
    let services = Services::start(&publisher, metrics, reload_handle, history.clone());
    let destinations = publisher.watch_destinations();
    let mut pages = NewPages::watch(&destinations);
    let recording = sources.recording.clone();
    let snapshot = || {
        let recording_bytes = recording.as_ref().map_or(0, |report| report.borrow().bytes);
        snapshot(&publisher, &history, &destinations, recording_bytes)
    };
    let mut look_due = interval(LINE_INTERVAL);
    look_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut finished = Box::pin(finished(&mut sources, &publisher, until));
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = &mut finished => {
                if let Some(look) = &mut look {
                    look(&snapshot());
                }
                break;
            }
            (reload, reply) = reload::requested(&mut reload) => {
                // The requester may have disconnected.
                let _ = reply.send(reload.apply(&publisher).await);
            }
            request = gate_requests.next(), if is_hub => control(&publisher, request).await,
            Some(line) = pages.next() => announce(&line),
            _ = look_due.tick(), if look.is_some() => {
                if let Some(look) = &mut look {
                    look(&snapshot());
                }
            }
        }
    }
    drop(finished);
    services.end().await;
    let writer = publisher.writer();
    publisher.close().await;
    let recording = recording.map(|report| report.borrow().clone());
    Ok(Some(AgentReport { recording, queue_before, queue: writer.status() }))
}

/// Opens the queue; retries without end while the disk is full or read-only.
async fn open(config: Config) -> Result<DashboardPublisher, OpenError> {
    loop {
        match DashboardPublisher::open(config.clone()) {
            Err(error) if error.may_pass() => {
                tracing::error!(%error, "cannot open the queue; no source starts yet, retrying");
                sleep(STORAGE_OPEN_INTERVAL).await;
            }
            opened => return opened,
        }
    }
}

/// Returns when the agent has nothing left to do.
async fn finished(sources: &mut Sources, publisher: &DashboardPublisher, until: Until) {
    sources.ended().await;
    match until {
        Until::Shutdown => pending().await,
        Until::Drained => {
            let mut check = interval(DRAINED_CHECK_INTERVAL);
            while publisher.queue_status().entries > 0 {
                check.tick().await;
            }
        }
    }
}

/// Pauses, resumes or renews the delivery, as the NATS hub source requests.
async fn control(publisher: &DashboardPublisher, GateRequest { command, done }: GateRequest) {
    match command {
        GateCommand::Hold => publisher.disconnect().await,
        GateCommand::Deliver => publisher.start(),
        GateCommand::Renew if publisher.is_started() => {
            publisher.disconnect().await;
            publisher.start();
        }
        GateCommand::Renew => {}
    }
    // The hub may have stopped waiting.
    done.map(|done| done.send(()));
}

fn snapshot(
    publisher: &DashboardPublisher,
    history: &StatusHistory,
    destinations: &[DestinationWatch],
    recording_bytes: u64,
) -> StatusSnapshot {
    let queue = publisher.queue_status();
    let delivered = queue.destinations.iter().map(|one| one.ledger.delivered).min();
    StatusSnapshot {
        badge: history.badge(&queue, destinations),
        queued: queue.entries,
        appended: queue.appended(),
        delivered: delivered.unwrap_or_default(),
        recording_bytes,
    }
}

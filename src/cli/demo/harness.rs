//! The parts of the demo: a dashboard server, a proxy with faults before it, a simulated car, the
//! agent, and a viewer that counts the frames, all in one process.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::fault_proxy::{FaultProxy, LinkState};
use super::viewer::Viewer;
use crate::config::Config;
use crate::dashboard::{Behaviour, Server};
use crate::fields::Refused;
use crate::publisher::DashboardPublisher;
use crate::queue::ledger::Ledger;
use crate::source::simulator::Car;
use crate::source::{Sample, Taken};

/// How long the demo waits for a session, and at the end for the queue to drain.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest wait before the agent reconnects: users should not have to wait for it.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// How often the counts are read while the queue drains.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The outcome of the frames.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct FrameCounts {
    produced: u64,
    delivered: u64,
    seen: u64,
    lost: u64,
    out_of_order: u64,
    duplicated: u64,
}

impl FrameCounts {
    pub(super) fn is_good(&self) -> bool {
        self.lost == 0 && self.out_of_order == 0
    }
}

impl std::fmt::Display for FrameCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { produced, delivered, seen, lost, out_of_order, duplicated } = self;
        write!(
            f,
            "{produced} produced, {delivered} delivered, {seen} seen by a viewer\n        {lost} lost, \
             {out_of_order} out of order, {duplicated} shown twice"
        )
    }
}

/// The running parts.
#[derive(Debug)]
pub(super) struct Harness {
    pub(super) proxy: FaultProxy,
    config: Config,
    /// The agent; `None` while it is stopped.
    publisher: Option<DashboardPublisher>,
    /// `None` while it is stopped.
    server: Option<Server>,
    address: SocketAddr,
    viewer: Viewer,
    car: Car,
    /// The car's setup, sent with the first sample.
    setup: Option<Result<Sample, Refused>>,
    produced: u64,
    /// The queue's ledger at the last refresh.
    ledger: Ledger,
    _folder: TempDir,
}

impl Harness {
    /// Starts all parts, and waits until a session is bound and the viewer has joined it.
    ///
    /// # Errors
    /// If a port, directory or thread cannot be created, or the parts do not connect in time.
    pub(super) async fn start(seed: u64) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::Builder::new().prefix("pitwire-demo-").tempdir()?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::start(any, Behaviour::default())?;
        let proxy = FaultProxy::start(server.addr()).await?;
        let mut config = Config::default();
        config.server.url = proxy.url().parse()?;
        config.queue.path = folder.path().join("queue");
        config.delivery.backoff_max = BACKOFF_MAX;
        let publisher = DashboardPublisher::open(config.clone())?;
        publisher.connect().await?;
        let session = bound_session(&publisher).await?;
        let viewer = Viewer::start(&server, &session).await?;
        let car = Car::new(seed);
        Ok(Self {
            proxy,
            config,
            publisher: Some(publisher),
            address: server.addr(),
            server: Some(server),
            viewer,
            setup: Some(Sample::setup(&car.setup())),
            car,
            produced: 0,
            ledger: Ledger::default(),
            _folder: folder,
        })
    }

    /// The link to the page of the newest session; it also works on a server that replaces this one.
    pub(super) fn page(&self) -> String {
        format!("http://{}/dashboard/latest", self.address)
    }

    /// Advances the car by `time` and sends one sample to the agent. While the agent is stopped,
    /// the sample is skipped.
    pub(super) async fn step(&mut self, time: Duration) {
        self.car.step(time);
        if let Some(publisher) = &self.publisher {
            let telemetry = Sample::telemetry(&self.car.sample());
            let is_first = self.setup.is_some();
            let samples = self.setup.take().into_iter().chain([telemetry]).collect();
            let intake = publisher.intake("simulator", 0.0);
            let taken = intake.take(samples).await.unwrap_or_default();
            let frames = taken.iter().skip(usize::from(is_first));
            self.produced +=
                frames.filter(|taken| matches!(taken, Taken::Stored(_))).count() as u64;
        }
        self.follow().await;
    }

    /// Moves the viewer to the agent's current session, and refreshes the ledger.
    async fn follow(&mut self) {
        let (Some(publisher), Some(server)) = (&self.publisher, &self.server) else { return };
        self.ledger = publisher.queue_status().server().ledger;
        if publisher.is_ready()
            && let Some(session) = publisher.session_id()
        {
            // A failure is retried with the next step.
            let _ = self.viewer.follow(server, &session).await;
        }
    }

    /// Stops the server, which discards its sessions.
    pub(super) fn stop_server(&mut self) {
        // Cut the agent's link first, so that the viewer reads the final state of the page.
        self.proxy.set(LinkState::Out);
        if let Some(server) = self.server.take() {
            server.cut_connections();
            self.viewer.catch_up(&server);
        }
    }

    /// Starts an empty server at the same address.
    ///
    /// # Errors
    /// If another program has taken the address meanwhile.
    pub(super) fn start_server(&mut self) -> std::io::Result<()> {
        self.server = Some(Server::start(self.address, Behaviour::default())?);
        self.proxy.set(LinkState::In);
        Ok(())
    }

    /// Stops the agent; its queue stays on the disk.
    pub(super) async fn stop_agent(&mut self) {
        if let Some(publisher) = self.publisher.take() {
            publisher.close().await;
        }
    }

    /// Starts another agent on the same queue.
    ///
    /// # Errors
    /// If the queue cannot be opened.
    pub(super) fn start_agent(&mut self) -> Result<(), Box<dyn Error>> {
        let publisher = DashboardPublisher::open(self.config.clone())?;
        publisher.start();
        self.publisher = Some(publisher);
        Ok(())
    }

    pub(super) fn is_live(&self) -> bool {
        self.publisher.as_ref().is_some_and(DashboardPublisher::is_ready)
    }

    pub(super) fn queued(&self) -> u64 {
        self.publisher.as_ref().map_or(0, |publisher| publisher.queue_status().entries)
    }

    pub(super) fn produced(&self) -> u64 {
        self.produced
    }

    pub(super) fn seen(&self) -> u64 {
        self.viewer.seen().frames()
    }

    /// Waits until all frames have arrived and returns the counts. Frames that do not arrive within
    /// the timeout count as lost.
    pub(super) async fn finish(mut self, show: impl Fn(&Self)) -> (FrameCounts, Ledger) {
        self.proxy.set(LinkState::In);
        let drained = async {
            while self.queued() > 0 || self.seen() < self.produced {
                sleep(DRAIN_CHECK_INTERVAL).await;
                self.follow().await;
                show(&self);
            }
        };
        let _ = timeout(DRAIN_TIMEOUT, drained).await;
        self.follow().await;
        self.stop_agent().await;
        let seen = self.viewer.seen();
        let counts = FrameCounts {
            produced: self.produced,
            // The first entry of the queue is the setup, not a frame.
            delivered: self.ledger.delivered.saturating_sub(1),
            seen: seen.frames(),
            lost: self.produced.saturating_sub(seen.frames()),
            out_of_order: seen.out_of_order,
            duplicated: seen.duplicated,
        };
        (counts, self.ledger)
    }
}

async fn bound_session(publisher: &DashboardPublisher) -> Result<String, String> {
    let server = publisher.watch_destinations().into_iter().next().ok_or("no destination")?;
    let mut status = server.session;
    let bound = status.wait_for(|status| status.session.is_some());
    let status = timeout(DRAIN_TIMEOUT, bound).await.map_err(|_| "no session in time")?;
    let status = status.map_err(|_| "the session's task is gone")?;
    status.session.clone().ok_or_else(|| "no session".into())
}

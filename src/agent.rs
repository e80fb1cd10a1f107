//! The long-running agent: a publisher, its sources and its admin pages.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::admin;
use crate::config::Config;
use crate::entry::{MAX_PAGES, StintId};
use crate::metrics;
use crate::net::loopback_guard::Access;
use crate::net::{self, Connections};
use crate::platform::clock;
use crate::publisher::DashboardPublisher;
use crate::queue::{OpenError, STORAGE_OPEN_INTERVAL, Writer};
use crate::reload::{Answer, Asking, Reload};
use crate::session::{self, DestinationWatch, SessionStatus};
use crate::source::lines::{self, Pace, Place};
use crate::source::nats::{DeliveryGate, GateCommand, GateRequest};
use crate::source::simulator::{Car, SIMULATOR_RATE_HZ};
use crate::source::socketio::Publishers;
use crate::source::{Intake, Sample, Taken, http, lmu, nats};
use crate::status::drain::{DRAIN_INTERVAL, Drain, Watch};
use crate::status::{self, StatusHistory, StatusSnapshot};

/// Bytes of one read of standard input, and of the read-ahead while earlier lines are stored.
const STDIN_READ_BYTES: usize = 64 << 10;
const STDIN_BUFFER_BYTES: usize = 256 << 10;

/// The interval between attempts to listen on an address that another program uses.
const LISTEN_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How often the status page's history checks the queue's disk.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(5);

/// How often the status line in the terminal is updated.
pub(crate) const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// How long open requests may take to finish at shutdown: enough for a POST whose samples are being
/// written to disk.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);

/// When [`run`] returns without a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Shutdown,
    /// Once standard input and the file are read and the queue is empty.
    Drained,
}

/// A callback that receives a status snapshot once a second.
pub type Look = Box<dyn FnMut(&StatusSnapshot) + Send>;

/// Runs the agent until `shutdown` resolves or, with [`Until::Drained`], its work is done. Calls
/// `announce` with a line for each new dashboard page, and `look`, if given, once a second.
///
/// Must run in a tokio runtime. Returns within 5 s of the shutdown; unsent entries stay queued.
pub async fn run(
    config: Config,
    until: Until,
    metrics: Option<PrometheusHandle>,
    mut reload: Option<Reload>,
    shutdown: impl Future<Output = ()>,
    mut announce: impl FnMut(&str),
    mut look: Option<Look>,
) -> Result<(), OpenError> {
    tokio::pin!(shutdown);
    let publisher = tokio::select! {
        publisher = open(config) => publisher?,
        () = &mut shutdown => return Ok(()),
    };
    let (commander, mut orders) = nats::delivery_gate();
    let is_hub = publisher.config().source.nats.enabled;
    if !is_hub {
        publisher.start();
    }
    let mut sources = Sources::start(&publisher, commander);
    let asking = reload.as_ref().map(Reload::asking);
    let board = StatusHistory::default();
    let destinations = publisher.watch_destinations();
    let mut services = Services::start(&publisher, metrics, asking, board.clone());
    let recording_bytes = Arc::clone(&sources.recording_bytes);
    let glance = || {
        let queue = publisher.queue_status();
        let delivered = queue.destinations.iter().map(|one| one.ledger.delivered);
        StatusSnapshot {
            pill: board.pill(&queue, &destinations),
            queued: queue.entries,
            appended: queue.appended(),
            delivered: delivered.min().unwrap_or_default(),
            recording_bytes: recording_bytes.load(Ordering::Relaxed),
        }
    };
    let mut due = interval(LINE_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (sender, mut pages) = mpsc::channel(MAX_PAGES);
    for DestinationWatch { name, session, .. } in destinations.clone() {
        let label = if destinations.len() > 1 { format!(" of {name}") } else { String::new() };
        services.tasks.spawn(send_pages(label, session, sender.clone()));
    }
    let finished = async {
        sources.ended().await;
        match until {
            Until::Drained => drained(&publisher).await,
            Until::Shutdown => std::future::pending().await,
        }
    };
    let mut finished = Box::pin(finished);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = &mut finished => {
                look.iter_mut().for_each(|look| look(&glance()));
                break;
            }
            reply = asked(&mut reload) => {
                // The requester may have disconnected.
                let _ = reply.send(take_over(&publisher, reload.as_ref()).await);
            }
            ordered = orders.next(), if is_hub => carry_out(&publisher, ordered).await,
            Some(line) = pages.recv() => announce(&line),
            _ = due.tick(), if look.is_some() => {
                look.iter_mut().for_each(|look| look(&glance()));
            }
        }
    }
    drop(finished);
    services.end().await;
    publisher.close().await;
    Ok(())
}

/// Sends a line for each new dashboard page of a destination.
async fn send_pages(
    label: String,
    mut session: watch::Receiver<SessionStatus>,
    sender: mpsc::Sender<String>,
) {
    let mut known: Vec<(StintId, String)> = Vec::new();
    loop {
        let pages = session.borrow_and_update().pages.clone();
        for (_, page) in pages.iter().filter(|page| !known.contains(page)) {
            // The receiver is dropped when the agent ends.
            let _ = sender.send(format!("dashboard{label}: {page}")).await;
        }
        known = pages;
        if session.changed().await.is_err() {
            return;
        }
    }
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

/// Pauses, resumes or renews delivery, as the NATS hub source requests.
async fn carry_out(
    publisher: &DashboardPublisher,
    GateRequest { command: order, done }: GateRequest,
) {
    match order {
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

async fn asked(reload: &mut Option<Reload>) -> oneshot::Sender<Answer> {
    match reload {
        Some(reload) => reload.asked().await,
        None => std::future::pending().await,
    }
}

/// Reads the configuration again and applies what can change at run time.
async fn take_over(publisher: &DashboardPublisher, reload: Option<&Reload>) -> Answer {
    let taken = async {
        let reload = reload.ok_or("there is no configuration to reload")?;
        let (changes, config) = reload.read(&publisher.config())?;
        publisher.take_over(config.clone()).await.map_err(|error| error.to_string())?;
        reload.taken(&config);
        Ok(changes)
    };
    let answer: Answer = taken.await;
    match &answer {
        Ok(changes) if changes.is_empty() => tracing::info!("the configuration has not changed"),
        Ok(changes) => changes.iter().for_each(|change| tracing::info!("{change}")),
        Err(error) => {
            // Keep the log entry on one line: the error has a line for each problem.
            let error = error.replace('\n', "; ");
            tracing::error!("the new configuration is rejected, the old one stays active: {error}");
        }
    }
    answer
}

/// Waits until the queue is empty.
async fn drained(publisher: &DashboardPublisher) {
    let mut look = interval(Duration::from_millis(100));
    while publisher.queue_status().entries > 0 {
        look.tick().await;
    }
}

/// The tasks of all sources. Standard input and the file end; the others run until shutdown.
struct Sources {
    ending: JoinSet<()>,
    /// Bytes of the file that were read and stored.
    recording_bytes: Arc<AtomicU64>,
    _endless: JoinSet<()>,
}

impl Sources {
    fn start(publisher: &DashboardPublisher, commander: DeliveryGate) -> Self {
        let config = publisher.config();
        let (mut ending, mut endless) = (JoinSet::new(), JoinSet::new());
        let recording_bytes = Arc::<AtomicU64>::default();
        let rate = config.update_rate_hz;
        let follow = || publisher.watch_rate();
        if config.source.stdin.enabled && !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            let intake = publisher.intake("stdin", rate).following(follow());
            ending.spawn(read_stdin(intake, config.source.stdin.receipts));
        }
        if let Some(path) = config.source.file.path.clone() {
            let recorded = if rate > 0.0 { rate } else { SIMULATOR_RATE_HZ };
            let pace = Pace::per_second(recorded * config.source.file.speed);
            let intake = publisher.intake("file", 0.0).patient();
            ending.spawn(read_file(intake, path, pace, Arc::clone(&recording_bytes)));
        }
        if config.source.lmu.enabled {
            // The source polls the game at the given rate, so its intake needs no rate limit.
            let (writer, lmu) = (publisher.writer(), config.source.lmu.clone());
            let read = move |rate| {
                lmu::run(Intake::new(writer.clone(), lmu::NAME, 0.0), lmu.clone(), rate)
            };
            endless.spawn(at_each_rate(follow(), read));
        }
        if config.source.nats.enabled {
            endless.spawn(nats::run(nats::Parts {
                intake: publisher.intake(nats::NAME, 0.0),
                writer: publisher.writer(),
                config: config.source.nats.clone(),
                agent: &config.agent.name(),
                folder: &config.queue.path,
                gate: commander,
                elsewhere: publisher.delivered_elsewhere(),
            }));
        }
        if config.source.simulator.enabled {
            let seed = config.source.simulator.seed;
            let writer = publisher.writer();
            let drive =
                move |rate| drive(Intake::new(writer.clone(), "simulator", rate), rate, seed);
            endless.spawn(at_each_rate(follow(), drive));
        }
        Self { ending, recording_bytes, _endless: endless }
    }

    /// Returns when standard input and the file are read to the end.
    async fn ended(&mut self) {
        while self.ending.join_next().await.is_some() {}
    }
}

/// Runs a source that paces itself, and restarts it whenever the rate changes.
async fn at_each_rate<F: Future<Output = ()>>(
    mut rate: watch::Receiver<f64>,
    source: impl Fn(f64) -> F,
) {
    loop {
        let now = *rate.borrow_and_update();
        tokio::select! {
            () = source(now) => return,
            changed = rate.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

async fn read_stdin(intake: Intake, receipts: bool) {
    let receipt = |place: Place, taken: &Taken| {
        if receipts {
            print_receipt(place.line, taken);
        }
    };
    let read = async {
        let stdin = stdin(Handle::current())?;
        lines::run(stdin, &intake, Pace::AsTheyCome, receipt).await
    };
    if let Err(error) = read.await {
        tracing::warn!(%error, "cannot read stdin; the source stops");
    }
}

/// Reads standard input on one dedicated thread; tokio's stdin uses two, and wakes one for each
/// read.
fn stdin(runtime: Handle) -> io::Result<DuplexStream> {
    let (mut written, read) = tokio::io::duplex(STDIN_BUFFER_BYTES);
    let copy = move || {
        let mut stdin = io::stdin().lock();
        let mut bytes = vec![0; STDIN_READ_BYTES];
        loop {
            let count = match stdin.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return tracing::warn!(%error, "cannot read stdin; the source stops"),
            };
            // The reader is dropped when the agent ends.
            if runtime.block_on(written.write_all(&bytes[..count])).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("pitwire-stdin".into()).spawn(copy)?;
    Ok(read)
}

/// Prints one JSON object per line on stdout, so that the feeding program learns what was stored.
fn print_receipt(line: u64, taken: &Taken) {
    let what = match taken {
        Taken::Stored(seq) => format!(r#""seq":{seq}"#),
        Taken::Unchanged => r#""unchanged":true"#.into(),
        Taken::RateLimited => r#""rate_limited":true"#.into(),
        Taken::Buffered => r#""buffered":true"#.into(),
        Taken::Dropped(reason) => format!(r#""dropped":"{}""#, reason.as_str()),
        Taken::Refused(refused) => format!(r#""refused":"{}""#, refused.reason.as_str()),
    };
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // A closed stdout only means that the feeding program does not want receipts.
    let _ = writeln!(out, r#"{{"line":{line},{what}}}"#).and_then(|()| out.flush());
}

async fn read_file(intake: Intake, path: PathBuf, pace: Pace, bytes: Arc<AtomicU64>) {
    let taken = |place: Place, _: &Taken| bytes.store(place.end, Ordering::Relaxed);
    let read = async {
        let file = tokio::fs::File::open(&path).await?;
        let end = lines::run(file, &intake, pace, taken).await?;
        bytes.store(end.end, Ordering::Relaxed);
        Ok::<_, io::Error>(())
    };
    if let Err(error) = read.await {
        tracing::error!(path = %path.display(), %error, "cannot read the recording");
    }
}

/// Runs the simulated car of `source.simulator`.
async fn drive(intake: Intake, rate_hz: f64, seed: u64) {
    let rate = if rate_hz > 0.0 { rate_hz } else { SIMULATOR_RATE_HZ };
    let period = Duration::from_secs_f64(1.0 / rate);
    let mut car = Car::new(seed);
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut samples = vec![Sample::setup(&car.setup())];
    loop {
        tick.tick().await;
        car.step(period);
        samples.push(Sample::telemetry(&car.sample()));
        if let Err(error) = intake.take(std::mem::take(&mut samples)).await {
            tracing::warn!(%error, "cannot store a simulated sample; it is lost");
        }
    }
}

/// The listening sources, the admin pages, metrics upkeep and the drain monitor.
struct Services {
    tasks: JoinSet<()>,
    /// The open connections of each listener.
    connections: Vec<Connections>,
}

impl Services {
    fn start(
        publisher: &DashboardPublisher,
        metrics: Option<PrometheusHandle>,
        reload: Option<Asking>,
        board: StatusHistory,
    ) -> Self {
        let config = publisher.config();
        let mut tasks = JoinSet::new();
        let mut connections = Vec::new();
        let destinations = publisher.watch_destinations();
        tasks.spawn(watch_drain(publisher.writer(), destinations.clone(), board.clone()));
        tasks.spawn(note_disk_troubles(publisher.writer(), board.clone()));
        let has_several = destinations.len() > 1;
        for DestinationWatch { name, session, .. } in destinations.clone() {
            let name = has_several.then_some(name);
            tasks.spawn(note_session_troubles(name, session, board.clone()));
        }
        if let Some(metrics) = &metrics {
            tasks.spawn(metrics::keep_up(metrics.clone()));
        }
        if config.source.http.enabled {
            let intake = Arc::new(
                publisher.intake("http", config.update_rate_hz).following(publisher.watch_rate()),
            );
            let open = Connections::new("telemetry", http::MAX_CONNECTIONS);
            connections.push(open.clone());
            let serve = async move |listener, access| {
                let routes = http::router(Arc::clone(&intake), access);
                match net::serve(listener, &open, routes).await {}
            };
            let source = config.source.http.clone();
            let access = move || Access::to_listener(&source.token, source.token_file.as_ref());
            tasks.spawn(listen(source.listen, "telemetry", access, serve));
        }
        if config.source.socketio.enabled {
            // A publisher chooses its own rate: keep everything it sends.
            let intake = publisher.intake("socketio", 0.0);
            let publishers = Arc::new(Publishers::new(intake, &config.queue.path, &config.stint));
            // A publisher can show one page: that of `[server]`.
            if let Some(server) = destinations.first() {
                tasks.spawn(show_pages(Arc::clone(&publishers), server.session.clone()));
            }
            connections.push(publishers.connections());
            let serve = async move |listener, access| {
                Arc::clone(&publishers).serve(listener, access).await;
            };
            let source = config.source.socketio.clone();
            let access = move || Access::to_listener(&source.token, source.token_file.as_ref());
            tasks.spawn(listen(source.listen, "publishers", access, serve));
        }
        if config.metrics.enabled {
            let view = admin::View {
                path: config.queue.path.clone(),
                reload,
                queue: publisher.writer(),
                destinations,
                metrics,
                board,
            };
            let open = Connections::new("metrics", admin::MAX_CONNECTIONS);
            connections.push(open.clone());
            let serve = async move |listener, access| {
                let routes = admin::router(view.clone(), access);
                match net::serve(listener, &open, routes).await {}
            };
            let admin = config.metrics.clone();
            let access = move || Access::to_metrics(&admin.token, admin.token_file.as_ref());
            tasks.spawn(listen(admin.listen, "metrics", access, serve));
        }
        Self { tasks, connections }
    }

    /// Stops accepting connections and gives open requests [`ANSWERS_TIMEOUT`] to finish.
    async fn end(self) {
        drop(self.tasks);
        join_all(self.connections.iter().map(|open| open.close(ANSWERS_TIMEOUT))).await;
    }
}

/// Logs when a destination starts to fall behind and when it has caught up, and updates the status
/// history.
async fn watch_drain(queue: Writer, destinations: Vec<DestinationWatch>, board: StatusHistory) {
    let mut watches: Vec<(Watch, Drain)> =
        destinations.iter().map(|_| Default::default()).collect();
    loop {
        board.look(clock::now(), queue.status().entries);
        sleep(DRAIN_INTERVAL).await;
        let status = queue.status();
        for (DestinationWatch { name, session, .. }, (watch, logged)) in
            destinations.iter().zip(&mut watches)
        {
            // Without a session nothing drains, and the reason is already logged.
            let Some(own) = status.destination(name).filter(|_| session.borrow().session.is_some())
            else {
                watch.pause();
                continue;
            };
            let drain = watch.look(own, status.newest);
            metrics::catch_up(name, drain.seconds());
            board.drains(name, drain);
            if !drain.is_like(*logged) {
                tracing::info!(destination = name, queued = own.queued, "{drain}");
                *logged = drain;
            }
        }
    }
}

/// Records the connection and session failures of a destination in the status history.
async fn note_session_troubles(
    destination: Option<String>,
    mut session: watch::Receiver<SessionStatus>,
    board: StatusHistory,
) {
    let (mut failures, mut forgotten_at) = (0, None);
    loop {
        let now = session.borrow_and_update().clone();
        if now.failures > failures {
            let plainly = now.user_message.unwrap_or_default();
            let detail = now.last_error.unwrap_or_default();
            board.trouble(clock::now(), destination.clone(), plainly, detail);
        }
        if now.forgotten_at.is_some() && now.forgotten_at != forgotten_at {
            board.trouble(clock::now(), destination.clone(), session::FORGOTTEN, String::new());
        }
        (failures, forgotten_at) = (now.failures, now.forgotten_at);
        if session.changed().await.is_err() {
            return;
        }
    }
}

/// Records disk failures in the status history.
async fn note_disk_troubles(queue: Writer, board: StatusHistory) {
    let (mut storage_error, mut stuck_since) = (None, None);
    loop {
        let disk = queue.status();
        if let Some(error) = &disk.storage_error
            && Some(error) != storage_error.as_ref()
        {
            let plainly = status::disk_plainly(disk.disk_is_full);
            board.trouble(clock::now(), None, plainly, error.clone());
        }
        storage_error = disk.storage_error;
        if let Some(stuck) = disk.stuck
            && stuck_since != Some(stuck.since)
        {
            tracing::error!("{stuck}; new entries wait in memory");
            board.trouble(clock::now(), None, status::disk_plainly(false), stuck.to_string());
            stuck_since = Some(stuck.since);
        }
        sleep(TROUBLE_INTERVAL).await;
    }
}

/// Sends each publisher the dashboard page of its stint.
async fn show_pages(publishers: Arc<Publishers>, mut session: watch::Receiver<SessionStatus>) {
    loop {
        let SessionStatus { pages, .. } = session.borrow_and_update().clone();
        for (stint, page) in pages {
            publishers.show(stint, &page).await;
        }
        if session.changed().await.is_err() {
            return;
        }
    }
}

/// Listens on `address` and serves clients that `access` admits. Retries while another program uses
/// the address or the token file cannot be read.
async fn listen(
    address: SocketAddr,
    what: &'static str,
    access: impl Fn() -> io::Result<Access> + Send + 'static,
    serve: impl AsyncFn(TcpListener, Access) + Send + 'static,
) {
    loop {
        let bound = async {
            let access = access()?;
            let listener = TcpListener::bind(address).await?;
            tracing::info!("{what} on http://{}", listener.local_addr()?);
            Ok::<_, io::Error>((listener, access))
        };
        match bound.await {
            Ok((listener, access)) => serve(listener, access).await,
            Err(error) => {
                tracing::warn!(%address, %error, "cannot listen for {what}; retrying");
            }
        }
        sleep(LISTEN_RETRY_INTERVAL).await;
    }
}

//! The tasks of the agent beside reading and delivering: the sources that listen for connections, the
//! admin address, the metrics and the monitors.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::losses::LossLog;
use super::monitors;
use crate::admin::{self, ReloadHandle};
use crate::config::{Config, ListenerConfig};
use crate::metrics;
use crate::net::loopback_guard::Access;
use crate::net::{self, Connections};
use crate::publisher::DashboardPublisher;
use crate::session::{DestinationWatch, SessionStatus};
use crate::source::http;
use crate::source::socketio::Publishers;
use crate::status::StatusHistory;

/// The interval between attempts to listen on an address that another program uses.
const LISTEN_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long open requests may take to finish at shutdown: enough for a POST whose samples are being
/// written to disk.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);

/// The tasks of the services. Dropping them stops everything but the open connections.
pub(super) struct Services {
    tasks: JoinSet<()>,
    /// The open connections of each listener.
    connections: Vec<Connections>,
    losses: Arc<LossLog>,
}

impl Services {
    /// Starts everything that is enabled.
    pub(super) fn start(
        publisher: &DashboardPublisher,
        metrics: Option<PrometheusHandle>,
        reload: Option<ReloadHandle>,
        history: StatusHistory,
    ) -> Self {
        let config = publisher.config();
        let losses = LossLog::new(publisher.writer(), publisher.rate_counts(), history.clone());
        let losses = Arc::new(losses);
        let mut services = Self { tasks: JoinSet::new(), connections: Vec::new(), losses };
        services.start_monitors(publisher, &history);
        if let Some(metrics) = &metrics {
            services.tasks.spawn(metrics::keep_up(metrics.clone()));
        }
        if config.source.http.enabled {
            services.start_http(publisher, &config);
        }
        if config.source.socketio.enabled {
            services.start_socketio(publisher, &config);
        }
        if config.metrics.enabled {
            let view = admin::View {
                path: config.queue.path.clone(),
                reload,
                queue: publisher.writer(),
                destinations: publisher.watch_destinations(),
                metrics,
                history,
                sources: publisher.activity(),
            };
            services.start_admin(view, config.metrics.clone());
        }
        services
    }

    /// Stops accepting connections and gives open requests [`ANSWERS_TIMEOUT`] to finish.
    pub(super) async fn end(self) {
        drop(self.tasks);
        self.losses.log();
        join_all(self.connections.iter().map(|open| open.close(ANSWERS_TIMEOUT))).await;
    }

    fn start_monitors(&mut self, publisher: &DashboardPublisher, history: &StatusHistory) {
        let (queue, destinations) = (publisher.writer(), publisher.watch_destinations());
        self.tasks.spawn(monitors::watch_disk(queue.clone(), history.clone()));
        let has_several = destinations.len() > 1;
        for DestinationWatch { name, session, .. } in destinations.clone() {
            let name = has_several.then_some(name);
            self.tasks.spawn(monitors::watch_session(name, session, history.clone()));
        }
        self.tasks.spawn(monitors::watch_drain(queue, destinations, history.clone()));
        self.tasks.spawn(Arc::clone(&self.losses).run());
    }

    /// Starts the source that takes samples by HTTP POST.
    fn start_http(&mut self, publisher: &DashboardPublisher, config: &Config) {
        let intake = publisher.intake("http", config.update_rate_hz);
        let intake = Arc::new(intake.following(publisher.watch_rate()));
        let at = address_of(config.source.http.listen);
        publisher.activity().add(
            "http",
            format!("Receiving samples by HTTP{at}"),
            format!("Waiting for samples by HTTP{at}"),
        );
        let open = self.connections("telemetry", http::MAX_CONNECTIONS);
        let source = config.source.http.clone();
        self.tasks.spawn(listen(
            source.listen,
            "telemetry",
            move || Access::to_listener("source.http", &source.token, source.token_file.as_ref()),
            async move |listener, access| {
                let routes = http::router(Arc::clone(&intake), access);
                match net::serve(listener, &open, routes).await {}
            },
        ));
    }

    /// Starts the source that takes samples from publishers by Socket.IO.
    fn start_socketio(&mut self, publisher: &DashboardPublisher, config: &Config) {
        // A publisher chooses its own rate: keep everything it sends.
        let intake = publisher.intake("socketio", 0.0);
        let at = address_of(config.source.socketio.listen);
        publisher.activity().add(
            "socketio",
            format!("Receiving samples from publishers{at}"),
            format!("Waiting for publishers{at}"),
        );
        let publishers = Arc::new(Publishers::new(intake, &config.queue.path, &config.stint));
        // A publisher can show one page: that of `[server]`.
        if let Some(server) = publisher.watch_destinations().first() {
            self.tasks.spawn(show_pages(Arc::clone(&publishers), server.session.clone()));
        }
        self.connections.push(publishers.connections());
        let source = config.source.socketio.clone();
        self.tasks.spawn(listen(
            source.listen,
            "publishers",
            move || {
                Access::to_listener("source.socketio", &source.token, source.token_file.as_ref())
            },
            async move |listener, access| Arc::clone(&publishers).serve(listener, access).await,
        ));
    }

    /// Starts the admin address.
    fn start_admin(&mut self, view: admin::View, config: ListenerConfig) {
        let open = self.connections("metrics", admin::MAX_CONNECTIONS);
        self.tasks.spawn(listen(
            config.listen,
            "status page and metrics",
            move || Access::to_metrics(&config.token, config.token_file.as_ref()),
            async move |listener, access| {
                let routes = admin::router(view.clone(), access);
                match net::serve(listener, &open, routes).await {}
            },
        ));
    }

    /// Bounds the connections of a listener, and closes them at the end.
    fn connections(&mut self, listener: &'static str, most: usize) -> Connections {
        let open = Connections::new(listener, most);
        self.connections.push(open.clone());
        open
    }
}

/// Where a source listens, for a text; empty if the port is chosen when it starts to listen.
fn address_of(listen: SocketAddr) -> String {
    if listen.port() == 0 { String::new() } else { format!(" at http://{listen}") }
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
    service: &'static str,
    access: impl Fn() -> io::Result<Access> + Send + 'static,
    serve: impl AsyncFn(TcpListener, Access) + Send + 'static,
) {
    loop {
        let bound = async {
            let access = access()?;
            let listener = TcpListener::bind(address).await?;
            tracing::info!("{service} on http://{}", listener.local_addr()?);
            Ok::<_, io::Error>((listener, access))
        };
        match bound.await {
            Ok((listener, access)) => serve(listener, access).await,
            Err(error) => {
                tracing::warn!(%address, %error, "cannot listen for {service}; retrying");
            }
        }
        sleep(LISTEN_RETRY_INTERVAL).await;
    }
}

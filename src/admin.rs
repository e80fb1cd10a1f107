//! The admin address: `/metrics`, `/healthz`, `/readyz`, `/reload`, the [status] page and the queue
//! [tools].

mod reload;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

pub(crate) use self::reload::ReloadReply;
pub use self::reload::{ReloadHandle, ReloadOutcome};
use crate::entry::{CapturedAt, QueueTime};
use crate::metrics::labels_of;
use crate::net::loopback_guard::{Access, guard};
use crate::queue::ledger::DropReason;
use crate::queue::{DestinationStatus, QueueStatus, Writer};
use crate::session::{DestinationWatch, SessionStatus};
use crate::sink::Transport;
use crate::source::SourceActivity;
use crate::status::{self, PageState, StatusHistory};
use crate::tools::{self, OperatorHandler};

/// The maximum number of open connections: enough for a few scrapers, commands, and browsers with
/// six connections each.
pub(crate) const MAX_CONNECTIONS: usize = 64;

/// The state behind the routes.
#[derive(Clone, Debug)]
pub struct View {
    /// The queue's directory.
    pub path: PathBuf,
    /// Requests reloads; `None` in a program that embeds pitwire.
    pub reload: Option<ReloadHandle>,
    pub queue: Writer,
    pub destinations: Vec<DestinationWatch>,
    /// `None` if pitwire did not install the metrics recorder of this process.
    pub metrics: Option<PrometheusHandle>,
    pub history: StatusHistory,
    pub(crate) sources: SourceActivity,
}

/// The routes of the admin address. `access` applies to metrics and health; all other routes are
/// for this PC only.
pub fn router(view: View, access: Access) -> Router {
    let tools = OperatorHandler::new(view.path.clone(), view.queue.clone());
    let reload = Router::new()
        .route("/reload", post(reload))
        .layer(middleware::from_fn_with_state(Access::ThisPc, guard))
        .with_state(view.reload.clone());
    let page = status::router(PageState {
        tools: tools.clone(),
        writer: view.queue.clone(),
        destinations: view.destinations.clone(),
        history: view.history.clone(),
        sources: view.sources.clone(),
    });
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .layer(middleware::from_fn_with_state(access, guard))
        .with_state(Arc::new(view))
        .merge(page)
        .merge(reload)
        .merge(tools::router(tools))
}

/// Reloads the configuration and returns the changes, or 409 with the problems.
async fn reload(State(handle): State<Option<ReloadHandle>>) -> Response {
    let outcome = match handle {
        Some(handle) => handle.request().await,
        None => Err("the program that embeds pitwire does not support a reload".into()),
    };
    match outcome {
        Ok(changes) => Json(changes).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(json!({"error": error}))).into_response(),
    }
}

async fn show_metrics(State(view): State<Arc<View>>) -> impl IntoResponse {
    observe_queue(&view.queue.status(), view.queue.now());
    for DestinationWatch { name, session, .. } in &view.destinations {
        observe_session(name, &session.borrow());
    }
    crate::metrics::observe_process();
    match &view.metrics {
        Some(handle) => {
            handle.run_upkeep();
            let text = "text/plain; version=0.0.4; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, text)], handle.render())
        }
        None => {
            let body = "the program that embeds pitwire records its own metrics\n".to_owned();
            (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain")], body)
        }
    }
}

/// Sets the gauges, and the counters that the ledger keeps across restarts, from the queue's
/// status.
fn observe_queue(status: &QueueStatus, now: QueueTime) {
    let seconds = |at: Option<CapturedAt>| at.map_or(0.0, |at| at.0 as f64 / 1000.0);
    gauge!("pitwire_queue_entries").set(status.entries as f64);
    gauge!("pitwire_queue_bytes").set(status.bytes as f64);
    gauge!("pitwire_queue_max_entries").set(status.max_entries as f64);
    gauge!("pitwire_queue_max_bytes").set(status.max_bytes as f64);
    gauge!("pitwire_queue_disk_bytes").set(status.disk_bytes as f64);
    gauge!("pitwire_queue_oldest_timestamp_seconds").set(seconds(status.oldest));
    let age = status.oldest_age(now).unwrap_or_default();
    gauge!("pitwire_queue_oldest_age_seconds").set(age.as_secs_f64());
    gauge!("pitwire_queue_newest_timestamp_seconds").set(seconds(status.newest));
    gauge!("pitwire_queue_buffered_entries").set(status.buffered as f64);
    let undurable_for = status.undurable_since.map(|since| since.elapsed()).unwrap_or_default();
    gauge!("pitwire_loss_window_seconds").set(undurable_for.as_secs_f64());
    counter!("pitwire_entries_appended_total").absolute(status.appended());
    status.destinations.iter().for_each(observe_ledger);
}

/// Sets gauges and counters from the ledger of one destination.
fn observe_ledger(status: &DestinationStatus) {
    let DestinationStatus { name, queued, appended, ledger, imbalance, .. } = status;
    gauge!("pitwire_ledger_imbalance_entries", labels_of(name, &[])).set(*imbalance as f64);
    for (state, entries) in [
        ("appended", *appended),
        ("delivered", ledger.delivered),
        ("dropped", ledger.dropped_in_all()),
        ("downsampled", ledger.downsampled),
        ("dead_letters", ledger.dead_letters),
        ("queued", *queued),
    ] {
        let labels = labels_of(name, &[("state", state)]);
        gauge!("pitwire_ledger_entries", labels).set(entries as f64);
    }
    counter!("pitwire_entries_downsampled_total", labels_of(name, &[]))
        .absolute(ledger.downsampled);
    counter!("pitwire_entries_dead_lettered_total", labels_of(name, &[("cause", "refused")]))
        .absolute(ledger.dead_letters);
    for reason in DropReason::ALL {
        let labels = labels_of(name, &[("reason", reason.as_str())]);
        counter!("pitwire_entries_dropped_total", labels).absolute(ledger.dropped(reason));
    }
}

/// Sets the gauges from the session status of one destination.
fn observe_session(destination: &str, status: &SessionStatus) {
    let labels = || labels_of(destination, &[]);
    let number = |truth: bool| f64::from(u8::from(truth));
    gauge!("pitwire_connected", labels()).set(number(status.connected));
    gauge!("pitwire_session_bound", labels()).set(number(status.session.is_some()));
    gauge!("pitwire_session_verified", labels()).set(number(status.verified));
    for transport in Transport::ALL {
        let labels = labels_of(destination, &[("transport", transport.as_str())]);
        gauge!("pitwire_transport", labels).set(number(status.transport == Some(transport)));
    }
    let wait = status.retry_in.unwrap_or_default().as_secs_f64();
    gauge!("pitwire_backoff_seconds", labels()).set(wait);
}

/// Returns 200 while the agent can store entries.
async fn healthz(State(view): State<Arc<View>>) -> impl IntoResponse {
    verdict(&faults(&view.queue.status(), view.queue.is_closed()))
}

/// The faults that keep the agent from storing entries, a sentence each.
pub fn faults(queue: &QueueStatus, is_closed: bool) -> Vec<String> {
    let mut faults = Vec::new();
    if is_closed {
        faults.push("the queue is closed".to_owned());
    }
    if let Some(stuck) = queue.stuck {
        faults.push(stuck.to_string());
    }
    if let Some(error) = &queue.storage_error {
        faults.push(format!("the queue's disk fails: {error}"));
    }
    for DestinationStatus { name, imbalance, .. } in queue.imbalanced() {
        faults.push(format!("the ledger of {name} is off by {imbalance} entries"));
    }
    faults
}

/// Returns 200 while every destination has a session, so that entries reach the dashboards.
async fn readyz(State(view): State<Arc<View>>) -> impl IntoResponse {
    let mut reasons = Vec::new();
    for DestinationWatch { name, session, .. } in &view.destinations {
        let session = session.borrow();
        if !session.connected {
            reasons.push(format!("{name}: not connected to the server"));
        } else if session.session.is_none() {
            reasons.push(format!("{name}: no session is bound yet"));
        }
        reasons.extend(session.last_error.iter().map(|error| format!("{name}: {error}")));
        reasons.extend(session.retrying.iter().map(|retrying| format!("{name}: {retrying}")));
    }
    verdict(&reasons)
}

/// 200 and `ok`, or 503 with one reason per line.
fn verdict(reasons: &[String]) -> impl IntoResponse + use<> {
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

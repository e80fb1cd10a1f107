//! A session as a file: JSON Lines or CSV. `pitwire queue import` reads both, `pitwire replay` reads
//! JSON Lines.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::SharedState;
use super::http::{PIECE_BYTES, not_found};
use super::sessions::StoredFrame;
use crate::contract::SetupEvent;
use crate::entry::CapturedAt;
use crate::fields;
use crate::remote_text::cells::{harmless, write_row};

pub(super) fn routes() -> Router<Arc<SharedState>> {
    Router::new()
        .route("/api/sessions/{session_id}/export.ndjson", get(json_lines))
        .route("/api/sessions/{session_id}/export.csv", get(csv))
}

async fn json_lines(State(hub): State<Arc<SharedState>>, Path(id): Path<String>) -> Response {
    export(hub, id, ExportFormat::JsonLines)
}

async fn csv(State(hub): State<Arc<SharedState>>, Path(id): Path<String>) -> Response {
    export(hub, id, ExportFormat::Csv)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExportFormat {
    /// The frames in order of arrival, each setup before the first frame that is not older.
    JsonLines,
    /// The frames, with a column for each reading.
    Csv,
}

/// The state of a response, which is sent in pieces, so that the session is never in memory twice.
struct ExportState {
    hub: Arc<SharedState>,
    id: String,
    format: ExportFormat,
    /// The positions of the frames that remain to be sent.
    rest: Range<u64>,
    /// The positions of the setups that remain to be sent.
    setups: Range<u64>,
    /// Nothing was sent.
    is_new: bool,
}

fn export(hub: Arc<SharedState>, id: String, format: ExportFormat) -> Response {
    let (rest, setups) = {
        let sessions = hub.sessions();
        (sessions.frame_positions(&id), sessions.setup_positions(&id))
    };
    let Some((rest, setups)) = rest.zip(setups) else { return not_found("no such session") };
    let setups = if format == ExportFormat::JsonLines { setups } else { 0..0 };
    let (content_type, extension) = match format {
        ExportFormat::JsonLines => ("application/x-ndjson", "ndjson"),
        ExportFormat::Csv => ("text/csv; charset=utf-8", "csv"),
    };
    // The server generates the ids of known sessions, so this is a valid header.
    let name = format!("attachment; filename=\"pitwire-{id}.{extension}\"");
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_DISPOSITION, &name),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let state = ExportState { hub, id, format, rest, setups, is_new: true };
    let pieces = stream::unfold(state, |mut export| async move {
        (export.is_new || !export.rest.is_empty() || !export.setups.is_empty())
            .then(|| (Ok::<_, Infallible>(export.next_piece()), export))
    });
    (headers, Body::from_stream(pieces)).into_response()
}

impl ExportState {
    /// The next piece; skips frames that were dropped since the response began.
    fn next_piece(&mut self) -> Vec<u8> {
        let mut piece = Vec::new();
        let sessions = self.hub.sessions();
        if std::mem::take(&mut self.is_new) && self.format == ExportFormat::Csv {
            append_row(&mut piece, header_row());
        }
        let mut setups = sessions.setups(&self.id, self.setups.clone()).peekable();
        let mut next = self.rest.end;
        for (position, frame) in sessions.frames(&self.id, self.rest.clone()) {
            if piece.len() >= PIECE_BYTES {
                next = position;
                break;
            }
            if self.format == ExportFormat::Csv {
                append_row(&mut piece, frame_row(frame));
                continue;
            }
            let captured_at = captured_at(&frame.telemetry).unwrap_or(frame.received_at);
            let is_due = |setup: &SetupEvent| setup_time(setup).is_none_or(|at| at <= captured_at);
            while piece.len() < PIECE_BYTES
                && let Some((position, setup)) = setups.next_if(|(_, setup)| is_due(setup))
            {
                append_setup(&mut piece, setup, captured_at);
                self.setups.start = position + 1;
            }
            if setups.peek().is_some_and(|(_, setup)| is_due(setup)) {
                next = position;
                break;
            }
            append_entry(&mut piece, captured_at, &["\"telemetry\":", frame.telemetry.get()]);
        }
        self.rest.start = next;
        if !self.rest.is_empty() {
            return piece;
        }
        while piece.len() < PIECE_BYTES
            && let Some((position, setup)) = setups.next()
        {
            append_setup(&mut piece, setup, CapturedAt(0));
            self.setups.start = position + 1;
        }
        if setups.peek().is_none() {
            self.setups = 0..0;
        }
        piece
    }
}

/// When a frame was captured; `None` if it does not say so.
fn captured_at(telemetry: &RawValue) -> Option<CapturedAt> {
    #[derive(Deserialize)]
    struct Timestamped<'a> {
        #[serde(borrow)]
        timestamp: Cow<'a, str>,
    }
    let frame: Timestamped<'_> = serde_json::from_str(telemetry.get()).ok()?;
    CapturedAt::parse(&frame.timestamp)
}

fn setup_time(setup: &SetupEvent) -> Option<CapturedAt> {
    let timestamp: String = serde_json::from_str(setup.timestamp.as_ref()?.get()).ok()?;
    CapturedAt::parse(&timestamp)
}

/// Appends a setup; one without a time gets `otherwise`.
fn append_setup(piece: &mut Vec<u8>, event: &SetupEvent, otherwise: CapturedAt) {
    let timestamp = event.timestamp.as_ref().map_or("null", |timestamp| timestamp.get());
    let captured_at = setup_time(event).unwrap_or(otherwise);
    let parts = ["\"timestamp\":", timestamp, ",\"setup\":", event.setup.get()];
    append_entry(piece, captured_at, &parts);
}

fn append_entry(piece: &mut Vec<u8>, captured_at: CapturedAt, parts: &[&str]) {
    let captured_at = format!("{{\"captured_at\":\"{captured_at}\",");
    append_line(piece, &[&[captured_at.as_str()], parts, &["}"]].concat());
}

/// Appends a line. White space between the tokens of an event may contain line breaks.
fn append_line(piece: &mut Vec<u8>, parts: &[&str]) {
    let bytes = parts.iter().flat_map(|part| part.bytes());
    piece.extend(bytes.map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
    piece.push(b'\n');
}

fn append_row(piece: &mut Vec<u8>, cells: Vec<String>) {
    // Writing to a vector cannot fail.
    let _ = write_row(piece, cells.into_iter());
}

fn header_row() -> Vec<String> {
    let columns = fields::columns().map(|(name, wheel)| {
        wheel.map_or_else(|| name.to_owned(), |wheel| format!("{name}_{wheel}"))
    });
    ["captured_at", "received_at"].map(str::to_owned).into_iter().chain(columns).collect()
}

fn frame_row(frame: &StoredFrame) -> Vec<String> {
    let telemetry: Value = serde_json::from_str(frame.telemetry.get()).unwrap_or_default();
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => harmless(text),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => harmless(&value.to_string()),
    };
    let columns = fields::columns()
        .map(|(name, wheel)| cell(wheel.map_or(&telemetry[name], |wheel| &telemetry[name][wheel])));
    let times = [cell(&telemetry["timestamp"]), frame.received_at.to_string()];
    times.into_iter().chain(columns).collect()
}

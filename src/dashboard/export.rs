//! A session as a file: JSON Lines that `pitwire replay` reads, or CSV for spreadsheets.

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
use serde_json::Value;

use super::SharedState;
use super::http::{PIECE_BYTES, not_found};
use super::sessions::StoredFrame;
use crate::contract::SetupEvent;
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
    /// All setups, then all frames.
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
    /// Neither the setups nor the header row were sent.
    is_new: bool,
}

fn export(hub: Arc<SharedState>, id: String, format: ExportFormat) -> Response {
    let Some(rest) = hub.sessions().frame_positions(&id) else {
        return not_found("no such session");
    };
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
    let state = ExportState { hub, id, format, rest, is_new: true };
    let pieces = stream::unfold(state, |mut export| async move {
        (export.is_new || !export.rest.is_empty())
            .then(|| (Ok::<_, Infallible>(export.next_piece()), export))
    });
    (headers, Body::from_stream(pieces)).into_response()
}

impl ExportState {
    /// The next piece; skips frames that were dropped since the response began.
    fn next_piece(&mut self) -> Vec<u8> {
        let mut piece = Vec::new();
        let sessions = self.hub.sessions();
        if std::mem::take(&mut self.is_new) {
            match self.format {
                ExportFormat::JsonLines => {
                    for (_, setup) in sessions.setups(&self.id, 0..u64::MAX) {
                        append_setup(&mut piece, setup);
                    }
                }
                ExportFormat::Csv => append_row(&mut piece, header_row()),
            }
        }
        let mut next = self.rest.end;
        for (position, frame) in sessions.frames(&self.id, self.rest.clone()) {
            if piece.len() >= PIECE_BYTES {
                next = position;
                break;
            }
            match self.format {
                ExportFormat::JsonLines => {
                    append_line(&mut piece, &["{\"telemetry\":", frame.telemetry.get(), "}"]);
                }
                ExportFormat::Csv => append_row(&mut piece, frame_row(frame)),
            }
        }
        self.rest.start = next;
        piece
    }
}

fn append_setup(piece: &mut Vec<u8>, SetupEvent { timestamp, setup }: &SetupEvent) {
    let timestamp = timestamp.as_ref().map_or("null", |timestamp| timestamp.get());
    append_line(piece, &["{\"timestamp\":", timestamp, ",\"setup\":", setup.get(), "}"]);
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

//! The operator protocol over HTTP, at the agent's admin address.
//!
//! Only this PC may use it, even if the admin listener is open to others: it asks for no password, and
//! the frames belong to the team. Requests from web pages of other origins are rejected.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;
use tokio::time::timeout;

use super::client::TOOL_TIMEOUT;
use super::{MAX_LINE_BYTES, OperatorError, OperatorHandler, OperatorRequest, OperatorResponse};
use crate::fields::{Reason, Refused};
use crate::net::body::{BodyBudget, BodyError};
use crate::net::loopback_guard::{Access, guard};
use crate::platform::offload;
use crate::queue::PAGE_BYTES;

/// The path to which requests are posted.
pub(crate) const REQUESTS: &str = "/queue/requests";

/// Largest body of a request: `pitwire queue import` sends a page and the line that exceeds it, and
/// as a JSON string each byte may take two.
const MAX_REQUEST_BYTES: usize = 2 * (PAGE_BYTES + MAX_LINE_BYTES) + 64;

/// Serves the operator protocol.
pub(crate) fn router(tools: OperatorHandler) -> Router {
    Router::new()
        .route(REQUESTS, post(respond))
        .layer(middleware::from_fn_with_state(Access::ThisPc, guard))
        .with_state((tools, Arc::new(BodyBudget::new())))
}

/// The reason for not carrying out a request, and what to do about it.
type Rejection = (StatusCode, String);

async fn respond(
    State((tools, bodies)): State<(OperatorHandler, Arc<BodyBudget>)>,
    body: Body,
) -> Response {
    let handled = timeout(TOOL_TIMEOUT, handle(&tools, &bodies, body)).await;
    let handled = handled.unwrap_or_else(|_| {
        let error = format!("not completed within {TOOL_TIMEOUT:?}; check the agent's log");
        Err((StatusCode::REQUEST_TIMEOUT, error))
    });
    let response = match handled {
        Ok(response) => Json(response).into_response(),
        Err((status, error)) => (status, Json(json!({"error": error}))).into_response(),
    };
    // The response may contain queued frames, which no cache should keep.
    ([(header::CACHE_CONTROL, "no-store")], response).into_response()
}

async fn handle(
    tools: &OperatorHandler,
    bodies: &BodyBudget,
    body: Body,
) -> Result<OperatorResponse, Rejection> {
    let received = bodies.read(body, MAX_REQUEST_BYTES).await.map_err(not_received)?;
    let body = received.bytes.clone();
    let request = offload::parse(body.len(), move || {
        let request = Json::<OperatorRequest>::from_bytes(&body);
        request.map(|Json(request)| request).map_err(|rejection| Refused {
            reason: Reason::NotJson,
            message: rejection.body_text(),
        })
    });
    let request = request.await.map_err(|refused| (StatusCode::BAD_REQUEST, refused.message))?;
    tools.handle(request).await.map_err(|error| match error {
        OperatorError::Invalid(_) => (StatusCode::BAD_REQUEST, error.to_string()),
        OperatorError::Queue(_) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })
}

fn not_received(error: BodyError) -> Rejection {
    match error {
        BodyError::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {MAX_REQUEST_BYTES} bytes; send fewer lines"),
        ),
        BodyError::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, "too many large bodies at a time".into())
        }
        BodyError::Slow => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".into()),
        BodyError::Broken(error) => {
            (StatusCode::BAD_REQUEST, format!("the body is incomplete: {error}"))
        }
    }
}

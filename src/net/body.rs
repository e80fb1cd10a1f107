//! Reads HTTP request bodies within a byte budget that all requests of a listener share.
//!
//! Small bodies, such as single frames, are charged as they arrive. A large body is charged in full
//! once it exceeds [`SMALL_BODY_BYTES`], so two half-read bodies never wait for each other. Large
//! bodies have a separate budget and therefore never delay a frame.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

/// Bodies up to this many bytes are small: about 60 frames.
const SMALL_BODY_BYTES: usize = 64 << 10;

/// The budget of all small bodies together, in bytes.
const SMALL_BODIES_BYTES: usize = 4 << 20;

/// The budget of all large bodies together, in bytes: one of the largest that any route accepts.
const LARGE_BODIES_BYTES: usize = 8 << 20;

/// How long a request waits for room in the budget before it is answered with "retry later".
const BUDGET_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit for receiving a body: 8 MiB at 7 Mbit/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the rest of a rejected body is read before the response is sent: a client that is cut
/// off while it sends does not see the response.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a body was not received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLarge,
    /// The budget is used up by other bodies.
    Busy,
    Slow,
    Broken(String),
}

/// The byte budget of one listener's bodies.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    small: Semaphore,
    large: Semaphore,
}

/// A received body. It releases its share of the budget when it is dropped.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub(crate) bytes: Bytes,
    _charge: SemaphorePermit<'a>,
}

impl BodyBudget {
    pub(crate) fn new() -> Self {
        Self {
            small: Semaphore::new(SMALL_BODIES_BYTES),
            large: Semaphore::new(LARGE_BODIES_BYTES),
        }
    }

    /// Reads a body of at most `max_bytes`.
    pub(crate) async fn read(
        &self,
        body: Body,
        max_bytes: usize,
    ) -> Result<Received<'_>, BodyError> {
        let declared = body.size_hint().exact().map(|bytes| bytes as usize);
        let mut stream = body.into_data_stream();
        let received = match declared {
            Some(declared) if declared > max_bytes => Err(BodyError::TooLarge),
            _ => self.receive(&mut stream, declared.unwrap_or(max_bytes), max_bytes).await,
        };
        if let Err(BodyError::TooLarge | BodyError::Busy) = received {
            let drained = async { while let Some(Ok(_)) = stream.next().await {} };
            // The response follows in either case.
            let _ = timeout(DRAIN_TIMEOUT, drained).await;
        }
        received
    }

    /// `expected` is the declared size, or `max_bytes` if the client did not declare one.
    async fn receive(
        &self,
        stream: &mut BodyDataStream,
        expected: usize,
        max_bytes: usize,
    ) -> Result<Received<'_>, BodyError> {
        let mut bytes = Vec::new();
        let mut deadline = Instant::now() + BODY_TIMEOUT;
        let mut charge = claim(&self.small, 0).await?;
        let mut is_small = true;
        loop {
            let next = timeout_at(deadline, stream.next()).await.map_err(|_| BodyError::Slow)?;
            let Some(piece) = next else { break };
            let piece = piece.map_err(|error| BodyError::Broken(error.to_string()))?;
            let so_far = bytes.len() + piece.len();
            if so_far > max_bytes {
                return Err(BodyError::TooLarge);
            }
            if is_small && so_far > SMALL_BODY_BYTES {
                charge = claim(&self.large, expected).await?;
                // Growing by doubling would take up to three times the claim for a moment.
                bytes.reserve_exact(expected.saturating_sub(bytes.len()));
                is_small = false;
                deadline = Instant::now() + BODY_TIMEOUT;
            } else if is_small {
                charge.merge(claim(&self.small, piece.len()).await?);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Received { bytes: bytes.into(), _charge: charge })
    }
}

async fn claim(budget: &Semaphore, bytes: usize) -> Result<SemaphorePermit<'_>, BodyError> {
    let bytes = u32::try_from(bytes).map_err(|_| BodyError::TooLarge)?;
    match timeout(BUDGET_TIMEOUT, budget.acquire_many(bytes)).await {
        Ok(Ok(permit)) => Ok(permit),
        // A closed semaphore cannot happen: it is never closed.
        Ok(Err(_)) | Err(_) => Err(BodyError::Busy),
    }
}

//! The bodies of HTTP requests, bounded in bytes for all requests of a listener together.
//!
//! Small bodies, such as a frame each, are charged as they arrive. A large one is charged before it
//! is read, whole; so two that are half there never wait for each other, and as large bodies have a
//! budget of their own, they never keep a frame waiting.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

/// Bodies up to this many bytes are small: some 60 frames.
const SMALL_BODY_BYTES: usize = 64 << 10;

/// All small bodies together, in bytes.
const SMALL_BODIES_BYTES: usize = 4 << 20;

/// All large bodies together, in bytes: one of the largest that any route takes.
const LARGE_BODIES_BYTES: usize = 8 << 20;

/// A request waits this long for others to finish, and is told to come again then.
const BUDGET_TIMEOUT: Duration = Duration::from_secs(5);

/// From the first byte of a body to its last: 8 MiB at 7 Mbit/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A client whose body is not taken may go on sending for this long before it gets its answer: one
/// that is cut off while it sends does not see the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a body was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLarge,
    /// Too many other bodies are there.
    Busy,
    Slow,
    Broken(String),
}

/// What the bodies of one listener may use.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    small: Semaphore,
    large: Semaphore,
}

/// A body, and what it uses of the budget until it is dropped.
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
            // Whether it ended or not: the answer follows.
            let _ = timeout(DRAIN_TIMEOUT, drained).await;
        }
        received
    }

    /// `expected` is the most that may come.
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
        // It is never closed.
        Ok(Err(_)) | Err(_) => Err(BodyError::Busy),
    }
}

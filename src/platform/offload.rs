//! Parses large texts on another thread, so that the agent's only async thread stays responsive.

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::fields::{Reason, Refused};

/// Texts up to this size are parsed inline: that takes less than a millisecond. A frame has about 1
/// kB.
const INLINE_BYTES: usize = 64 << 10;

/// Maximum number of large texts that are parsed at a time. Each takes up to 10 MB of memory and,
/// because the length is bounded, about 10 ms, so the wait is short.
const PARSERS: usize = 1;

static PARSER: Semaphore = Semaphore::const_new(PARSERS);

/// Runs `parse` for a text of `bytes` bytes: inline, or on a blocking thread if the text is large.
pub(crate) async fn parse<T: Send + 'static>(
    bytes: usize,
    parse: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    if bytes <= INLINE_BYTES {
        return parse();
    }
    let permit = PARSER.acquire().await;
    // The permit moves to the parser, so that it is held until the end even if the caller is
    // cancelled.
    let parsed = spawn_blocking(move || (parse(), permit)).await;
    match parsed {
        Ok((parsed, _)) => parsed,
        Err(error) => {
            let message = format!("the parser stopped early: {error}; send the text again");
            Err(Refused { reason: Reason::NotJson, message })
        }
    }
}

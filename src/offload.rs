//! Parsing of large texts beside the agent's one thread, which delivers and serves meanwhile.

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::fields::{Reason, Refused};

/// Texts up to this are parsed in place: that takes less than a millisecond, and a frame has about
/// 1 kB.
const INLINE_BYTES: usize = 64 << 10;

/// Large texts that are parsed at a time. Each takes up to 10 MB of memory and, as the time is linear
/// in the length and the length is bounded, some 10 ms; so those who wait get their turn.
const PARSERS: usize = 1;

static PARSER: Semaphore = Semaphore::const_new(PARSERS);

/// Runs `parse`, which parses a text of this length: in place, or on a thread for blocking work if
/// the text is large.
pub(crate) async fn parse<T: Send + 'static>(
    bytes: usize,
    parse: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    if bytes <= INLINE_BYTES {
        return parse();
    }
    let permit = PARSER.acquire().await;
    // The permit lasts until the parser is done, even if its caller is gone.
    let parsed = spawn_blocking(move || (parse(), permit)).await;
    match parsed {
        Ok((parsed, _)) => parsed,
        Err(error) => {
            let message = format!("the parser ended early: {error}; send it again");
            Err(Refused { reason: Reason::NotJson, message })
        }
    }
}

//! The wall clock. No other module reads it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::entry::CapturedAt;

/// Returns the current time in milliseconds since 1970; 0 if the clock is set before that.
pub fn now() -> CapturedAt {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CapturedAt(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

//! The wall clock: the only place that asks for it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::entry::CapturedAt;

/// Now, in milliseconds since 1970; 0 for a clock that stands before that.
pub fn now() -> CapturedAt {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CapturedAt(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

//! The wall clock. No other module reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::entry::CapturedAt;

/// A sample whose capture time is further in the future than this gets the current time instead.
/// One day tolerates every wrong time zone.
pub(crate) const MAX_CLOCK_LEAD: Duration = Duration::from_hours(24);

/// Returns the current time in milliseconds since 1970; 0 if the clock is set before that.
pub fn now() -> CapturedAt {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CapturedAt(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

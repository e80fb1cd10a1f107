//! Counts and logs the values that are missing from the entries of a source.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::fields::Omissions;
use crate::metrics;
use crate::net::LOG_REPEAT_INTERVAL;

/// The values of one source that were omitted because a dashboard cannot show them.
#[derive(Debug)]
pub(super) struct OmittedValues {
    source: &'static str,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    /// When the last line was logged.
    last: Option<Instant>,
    /// Values since then.
    values: u64,
}

impl OmittedValues {
    pub(super) fn of(source: &'static str) -> Self {
        Self { source, log: Mutex::default() }
    }

    /// Counts the values, and logs at most once per [`LOG_REPEAT_INTERVAL`].
    pub(super) fn note(&self, omissions: &Omissions) {
        let Some(first) = omissions.first() else { return };
        metrics::values_omitted(self.source, "not_finite", omissions.not_finite);
        metrics::values_omitted(self.source, "out_of_range", omissions.out_of_range);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.values += omissions.count();
        let now = Instant::now();
        if log.last.is_none_or(|last| now - last >= LOG_REPEAT_INTERVAL) {
            let values = log.values;
            *log = Log { last: Some(now), values: 0 };
            tracing::warn!(source = self.source, values, "{first}; the rest of the sample is kept");
        }
    }
}

//! Reads samples from standard input and writes receipts for them.

use std::io;

use crate::source::lines::{self, Pace};
use crate::source::{Intake, LineCounts, Taken, thread_reader};

/// Reads samples until standard input ends, and passes a receipt for each to `receipt`, if given.
///
/// One dedicated thread reads; tokio's stdin uses two, and wakes one for each read.
pub(super) async fn read(intake: Intake, receipt: Option<fn(&str)>) {
    let mut counts = LineCounts::default();
    let end = match thread_reader::start("pitwire-stdin", |output| output.copy(io::stdin())) {
        Ok((stdin, failure)) => {
            let end = lines::run(stdin, &intake, Pace::AsTheyCome, |place, taken| {
                counts.count(place, taken);
                if let Some(receipt) = receipt {
                    receipt(&receipt_text(place.line, taken));
                }
            });
            end.await.and(failure.await.map_or(Ok(()), Err))
        }
        Err(error) => Err(error),
    };
    match end {
        Ok(()) => tracing::info!("standard input has ended after {counts}"),
        Err(error) => {
            tracing::warn!("cannot read standard input: {error}; the source stops after {counts}");
        }
    }
}

/// One JSON object, from which the feeding program learns what was stored.
fn receipt_text(line: u64, taken: &Taken) -> String {
    let outcome = match taken {
        Taken::Stored(seq) => format!(r#""seq":{seq}"#),
        Taken::Unchanged => r#""unchanged":true"#.into(),
        Taken::RateLimited => r#""rate_limited":true"#.into(),
        Taken::Buffered => r#""buffered":true"#.into(),
        Taken::Dropped(reason) => format!(r#""dropped":"{}""#, reason.as_str()),
        Taken::Refused(refused) => format!(r#""refused":"{}""#, refused.reason.as_str()),
    };
    format!(r#"{{"line":{line},{outcome}}}"#)
}

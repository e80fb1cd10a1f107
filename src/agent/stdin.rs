//! Reads samples from standard input and prints receipts for them on standard output.

use std::io::{self, Write};

use crate::source::lines::{self, Pace};
use crate::source::{Intake, LineCounts, Taken, thread_reader};

/// Reads samples until standard input ends, and prints a receipt for each if `receipts` is set.
///
/// One dedicated thread reads; tokio's stdin uses two, and wakes one for each read.
pub(super) async fn read(intake: Intake, receipts: bool) {
    let mut counts = LineCounts::default();
    let end = match thread_reader::start("pitwire-stdin", |output| output.copy(io::stdin())) {
        Ok((stdin, failure)) => {
            let end = lines::run(stdin, &intake, Pace::AsTheyCome, |place, taken| {
                counts.count(place, taken);
                if receipts {
                    print_receipt(place.line, taken);
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

/// Prints one JSON object per line on stdout, so that the feeding program learns what was stored.
fn print_receipt(line: u64, taken: &Taken) {
    let outcome = match taken {
        Taken::Stored(seq) => format!(r#""seq":{seq}"#),
        Taken::Unchanged => r#""unchanged":true"#.into(),
        Taken::RateLimited => r#""rate_limited":true"#.into(),
        Taken::Buffered => r#""buffered":true"#.into(),
        Taken::Dropped(reason) => format!(r#""dropped":"{}""#, reason.as_str()),
        Taken::Refused(refused) => format!(r#""refused":"{}""#, refused.reason.as_str()),
    };
    let mut out = io::stdout().lock();
    // A closed stdout only means that the feeding program does not want receipts.
    let _ = writeln!(out, r#"{{"line":{line},{outcome}}}"#).and_then(|()| out.flush());
}

//! Reads samples from standard input and writes receipts for them.

use std::io;

use tokio::io::AsyncRead;

use crate::source::lines::{self, Pace, Place};
use crate::source::{Intake, LineCounts, Taken, thread_reader};

/// Reads samples until standard input ends, and passes a receipt for each to `receipt`, if given.
pub(super) async fn read(intake: Intake, receipt: Option<fn(&str)>) {
    let mut counts = LineCounts::default();
    let count = |place: Place, taken: &Taken| {
        counts.count(place, taken);
        if let Some(receipt) = receipt {
            receipt(&receipt_text(place.line, taken));
        }
    };
    let end = match open_pipe() {
        Some(pipe) => lines::run(pipe, &intake, Pace::AsTheyCome, count).await.map(drop),
        None => read_on_thread(&intake, count).await,
    };
    match end {
        Ok(()) => tracing::info!("standard input has ended after {counts}"),
        Err(error) => {
            tracing::warn!("cannot read standard input: {error}; the source stops after {counts}");
        }
    }
}

/// Standard input, if it is a pipe: a read that never blocks saves a thread and its wake-up for each
/// sample. It is opened again, because the mode would also change for other programs that read it.
#[cfg(target_os = "linux")]
fn open_pipe() -> Option<impl AsyncRead + Unpin> {
    tokio::net::unix::pipe::OpenOptions::new().open_receiver("/proc/self/fd/0").ok()
}

#[cfg(not(target_os = "linux"))]
fn open_pipe() -> Option<impl AsyncRead + Unpin> {
    None::<tokio::io::Empty>
}

/// For a file or a terminal. tokio's own standard input uses two threads.
async fn read_on_thread(intake: &Intake, count: impl FnMut(Place, &Taken)) -> io::Result<()> {
    let (stdin, failure) =
        thread_reader::start("pitwire-stdin", |output| output.copy(io::stdin()))?;
    lines::run(stdin, intake, Pace::AsTheyCome, count).await?;
    failure.await.map_or(Ok(()), Err)
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

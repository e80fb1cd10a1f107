//! Reads samples from standard input and prints receipts for them on standard output.

use std::io::{self, Read, Write};
use std::thread;

use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::runtime::Handle;

use crate::source::lines::{self, Pace};
use crate::source::{Intake, Taken};

/// Bytes of one read of standard input, and of the read-ahead while earlier lines are stored.
const STDIN_READ_BYTES: usize = 64 << 10;
const STDIN_BUFFER_BYTES: usize = 256 << 10;

/// Reads samples until standard input ends, and prints a receipt for each if `receipts` is set.
pub(super) async fn read(intake: Intake, receipts: bool) {
    let end = match stdin(Handle::current()) {
        Ok(stdin) => {
            lines::run(stdin, &intake, Pace::AsTheyCome, |place, taken| {
                if receipts {
                    print_receipt(place.line, taken);
                }
            })
            .await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = end {
        tracing::warn!(%error, "cannot read stdin; the source stops");
    }
}

/// Reads standard input on one dedicated thread; tokio's stdin uses two, and wakes one for each
/// read.
fn stdin(runtime: Handle) -> io::Result<DuplexStream> {
    let (written, read) = tokio::io::duplex(STDIN_BUFFER_BYTES);
    thread::Builder::new()
        .name("pitwire-stdin".into())
        .spawn(move || copy_stdin(&runtime, written))?;
    Ok(read)
}

/// Copies standard input to `written` until one of them ends.
fn copy_stdin(runtime: &Handle, mut written: DuplexStream) {
    let mut stdin = io::stdin().lock();
    let mut bytes = vec![0; STDIN_READ_BYTES];
    loop {
        let count = match stdin.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::warn!(%error, "cannot read stdin; the source stops"),
        };
        // The reader is dropped when the agent ends.
        if runtime.block_on(written.write_all(&bytes[..count])).is_err() {
            return;
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

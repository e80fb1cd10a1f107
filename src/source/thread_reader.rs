//! Reads a blocking input, such as standard input or a file, on a dedicated thread.

use std::io::{self, ErrorKind, Read};
use std::thread;

use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// Bytes that are read ahead while earlier ones are stored; then the thread waits.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// The end of the pipe into which the thread copies the input.
pub(crate) struct Output {
    runtime: Handle,
    written: DuplexStream,
}

impl Output {
    /// Copies the input until it ends or the reader is dropped, which happens when the agent ends.
    pub(crate) fn copy(mut self, mut input: impl Read) -> io::Result<()> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            let count = match input.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if self.runtime.block_on(self.written.write_all(&bytes[..count])).is_err() {
                return Ok(());
            }
        }
    }
}

/// Runs `copy` on a new thread. Returns the stream to read from and, to await at its end, the error of
/// `copy`; the sender of the error is dropped if `copy` succeeds.
pub(crate) fn start<E: Send + 'static>(
    name: &str,
    copy: impl FnOnce(Output) -> Result<(), E> + Send + 'static,
) -> io::Result<(DuplexStream, oneshot::Receiver<E>)> {
    let (written, read) = tokio::io::duplex(READ_AHEAD_BYTES);
    let (failed, failure) = oneshot::channel();
    let output = Output { runtime: Handle::current(), written };
    thread::Builder::new().name(name.into()).spawn(move || {
        if let Err(error) = copy(output) {
            // The receiver is dropped when the agent ends.
            let _ = failed.send(error);
        }
    })?;
    Ok((read, failure))
}

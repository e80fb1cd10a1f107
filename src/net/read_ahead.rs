//! How much is read from a peer that does not read itself.
//!
//! The WebSocket library answers each ping with a pong, into a buffer that has no limit and that
//! engineioxide does not let one limit: pings whose pongs the peer did not read took 260 MB a
//! second. While a write waits, only a little more is therefore read.

use std::task::{Context, Poll, Waker};

/// Bytes that are read while the peer does not read. Answers that pile up are no longer than what
/// they answer. Programs that send a burst before they read what came back need some.
const MAX_READ_AHEAD_BYTES: usize = 256 << 10;

/// Stops reading from a peer that does not read.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// Bytes read since a write had to wait; `None` while nothing waits to be written.
    bytes: Option<usize>,
    /// The task that waits until there is something to read again.
    reader: Option<Waker>,
}

impl ReadAhead {
    /// Ready when more may be read.
    pub(super) fn poll_may_read(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.bytes.is_some_and(|bytes| bytes >= MAX_READ_AHEAD_BYTES) {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    pub(super) fn read(&mut self, bytes: usize) {
        if let Some(read) = &mut self.bytes {
            *read += bytes;
        }
    }

    /// A write has to wait.
    pub(super) fn write_waits(&mut self) {
        self.bytes.get_or_insert(0);
    }

    /// Everything is written. A write that made some progress is not enough: the peer could read a
    /// byte for each 256 KiB that it sends.
    pub(super) fn flushed(&mut self) {
        self.bytes = None;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn a_peer_that_does_not_read_is_read_ahead_for_a_bounded_number_of_bytes() {
        let waker = noop_waker();
        let context = Context::from_waker(&waker);
        let mut ahead = ReadAhead::default();
        ahead.read(10 * MAX_READ_AHEAD_BYTES);
        assert!(ahead.poll_may_read(&context).is_ready());
        ahead.write_waits();
        ahead.read(MAX_READ_AHEAD_BYTES - 1);
        assert!(ahead.poll_may_read(&context).is_ready());
        ahead.write_waits();
        ahead.read(1);
        assert!(ahead.poll_may_read(&context).is_pending());
        ahead.flushed();
        assert!(ahead.poll_may_read(&context).is_ready());
        assert!(ahead.reader.is_none(), "the reader was woken");
    }
}

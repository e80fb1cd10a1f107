//! Limits how much is read from a peer that does not read.
//!
//! The WebSocket library answers each ping with a pong, in an unbounded buffer that engineioxide
//! does not let us configure: pings from a peer that does not read the pongs took 260 MB per
//! second. Therefore, while a write is blocked, only a limited number of bytes is read.

use std::task::{Context, Poll, Waker};

/// The maximum bytes that are read while a write is blocked. Buffered responses are not longer than
/// their requests. Some read-ahead is needed for programs that send a burst before they read the
/// responses.
const MAX_READ_AHEAD_BYTES: usize = 256 << 10;

/// The read-ahead state of a connection.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// Bytes read since a write was blocked; `None` while no write is blocked.
    bytes: Option<usize>,
    /// The task that waits until reading is allowed again.
    reader: Option<Waker>,
}

impl ReadAhead {
    /// Ready when reading is allowed.
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

    /// Records that a write is blocked.
    pub(super) fn write_waits(&mut self) {
        self.bytes.get_or_insert(0);
    }

    /// Records that everything is written. Partial progress of a write is not enough: the peer
    /// could read one byte for each 256 KiB that it sends.
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
    fn read_ahead_is_bounded_while_a_write_is_pending() {
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

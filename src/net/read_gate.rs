//! Stops and resumes the reading from one connection.
//!
//! A client that sends faster than its data can be handled is slowed down by TCP, instead of being
//! disconnected. Each accepted connection has a [`ReadGate`], which its requests carry as an
//! extension.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Controls whether a connection is read. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadGate(Arc<GateState>);

#[derive(Debug, Default)]
struct GateState {
    is_shut: AtomicBool,
    reader: AtomicWaker,
}

impl ReadGate {
    /// Stops reading. The end of the connection is not noticed either, until [`ReadGate::open`].
    pub(crate) fn shut(&self) {
        self.0.is_shut.store(true, Ordering::SeqCst);
    }

    /// Resumes reading.
    pub(crate) fn open(&self) {
        self.0.is_shut.store(false, Ordering::SeqCst);
        self.0.reader.wake();
    }

    /// Ready while the connection may be read.
    pub(super) fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        // Register before the check: otherwise an opening between the two would wake no task.
        self.0.reader.register(context.waker());
        if self.0.is_shut.load(Ordering::SeqCst) { Poll::Pending } else { Poll::Ready(()) }
    }
}

//! Breaks a connection at the server's end.
//!
//! A server can only ask a client to leave. A test of an outage needs the connection itself to
//! break, and so does a limit: the descriptor must be free soon, whatever the client does. Each
//! accepted connection therefore has a [`KillSwitch`], which travels with its requests as an
//! extension.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Breaks one connection. Clones break the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct KillSwitch(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_killed: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    task: AtomicWaker,
}

impl KillSwitch {
    /// Breaks the connection: reads and writes fail at once, also those that wait already.
    pub(crate) fn kill(&self) {
        self.0.is_killed.store(true, Ordering::SeqCst);
        self.0.reader.wake();
        // A writer whose peer reads nothing would otherwise wait for ever.
        self.0.writer.wake();
        self.0.task.wake();
    }

    /// Resolves once the connection is killed. For the one task that serves the connection.
    pub(super) async fn killed(&self) {
        poll_fn(|context| {
            self.0.task.register(context.waker());
            if self.is_killed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub(super) fn is_killed(&self) -> bool {
        self.0.is_killed.load(Ordering::SeqCst)
    }

    /// Fails once the connection is killed; until then, a kill wakes the reader.
    pub(super) fn check_reader(&self, context: &Context<'_>) -> io::Result<()> {
        // Registered before the look: a kill between the two would wake no task.
        self.0.reader.register(context.waker());
        self.check()
    }

    /// Fails once the connection is killed; until then, a kill wakes the writer.
    pub(super) fn check_writer(&self, context: &Context<'_>) -> io::Result<()> {
        self.0.writer.register(context.waker());
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        if self.is_killed() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

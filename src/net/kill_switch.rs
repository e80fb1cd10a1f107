//! Breaks a connection from the server side.
//!
//! The Socket.IO protocol only lets a server ask a client to disconnect. A simulated outage needs a
//! broken connection, and a connection limit needs its descriptor back soon, regardless of the
//! client. Therefore each accepted connection has a [`KillSwitch`], which its requests carry as an
//! extension.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Breaks one connection. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct KillSwitch(Arc<SwitchState>);

#[derive(Debug, Default)]
struct SwitchState {
    is_killed: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    task: AtomicWaker,
}

impl KillSwitch {
    /// Breaks the connection: reads and writes fail at once, including pending ones.
    pub(crate) fn kill(&self) {
        self.0.is_killed.store(true, Ordering::SeqCst);
        self.0.reader.wake();
        // A writer whose peer reads nothing would otherwise wait forever.
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
        // Register before the check: otherwise a kill between the two would wake no task.
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

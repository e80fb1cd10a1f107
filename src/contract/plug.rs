//! Network connections that can be pulled out at the server's end.
//!
//! A Socket.IO server can only ask a client to leave; a test of an outage needs the connection
//! itself to break. Each accepted connection therefore has a [`Plug`], which travels with its
//! requests and breaks reads and writes at once when it is pulled.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// The server's end of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Plug(Arc<State>);

#[derive(Debug, Default)]
struct State {
    pulled: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Plug {
    /// Breaks the connection: whoever reads from it or writes to it fails at once.
    pub(super) fn pull(&self) {
        self.0.pull();
    }
}

impl State {
    fn pull(&self) {
        self.pulled.store(true, Ordering::SeqCst);
        self.reader.wake();
        // A writer that waits for a peer who reads nothing would otherwise wait for ever.
        self.writer.wake();
    }

    fn check(&self, waker: &AtomicWaker, context: &Context<'_>) -> io::Result<()> {
        // Registered before the look, or a pull between the two would wake nobody.
        waker.register(context.waker());
        if self.pulled.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

/// The plugs of all connections of a server. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plugs(Arc<Mutex<Vec<Weak<State>>>>);

impl Plugs {
    /// Breaks every connection there is now; new ones are accepted as before.
    pub(crate) fn pull_all(&self) {
        for state in self.lock().drain(..).filter_map(|state| state.upgrade()) {
            state.pull();
        }
    }

    fn add(&self, plug: &Plug) {
        let mut plugs = self.lock();
        plugs.retain(|state| state.strong_count() > 0);
        plugs.push(Arc::downgrade(&plug.0));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<State>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener whose connections can be pulled.
pub(super) struct PluggedListener {
    pub(super) listener: TcpListener,
    pub(super) plugs: Plugs,
}

impl Listener for PluggedListener {
    type Io = PluggedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (PluggedStream, SocketAddr) {
        // The trait's accept, which waits and tries again after an error.
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        // Else an echo and its ack, two small packets, wait for the client's delayed TCP ACK.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let plug = Plug::default();
        self.plugs.add(&plug);
        (PluggedStream { stream, plug }, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, PluggedListener>> for Plug {
    fn connect_info(connection: IncomingStream<'_, PluggedListener>) -> Self {
        connection.io().plug.clone()
    }
}

/// A TCP connection that breaks when its plug is pulled.
pub(super) struct PluggedStream {
    stream: TcpStream,
    plug: Plug,
}

impl AsyncRead for PluggedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.plug.0.check(&self.plug.0.reader, context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PluggedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.plug.0.check(&self.plug.0.writer, context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.plug.0.check(&self.plug.0.writer, context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

//! A TCP connection of a client, as hyper reads and writes it.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::KillSwitch;
use super::connections::Slot;
use super::read_ahead::ReadAhead;

/// A TCP connection that fails once killed, and holds its slot until it is dropped.
pub(super) struct KillableStream {
    tcp: TcpStream,
    slot: Slot,
    read_ahead: ReadAhead,
    _alive: oneshot::Sender<Infallible>,
}

impl KillableStream {
    /// `alive` is dropped with the stream.
    pub(super) fn new(tcp: TcpStream, slot: Slot, alive: oneshot::Sender<Infallible>) -> Self {
        Self { tcp, slot, read_ahead: ReadAhead::default(), _alive: alive }
    }

    fn kill_switch(&self) -> &KillSwitch {
        self.slot.connection.kill_switch()
    }

    fn note_write<T>(&mut self, written: &Poll<io::Result<T>>) {
        if written.is_pending() {
            self.read_ahead.write_waits();
        }
        self.slot.connection.sent(written.is_pending());
    }
}

impl AsyncRead for KillableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.kill_switch().check_reader(context)?;
        ready!(self.slot.connection.read_gate().poll_open(context));
        ready!(self.read_ahead.poll_may_read(context));
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.tcp).poll_read(context, buffer));
        self.read_ahead.read(buffer.filled().len() - before);
        self.slot.connection.received();
        Poll::Ready(read)
    }
}

impl AsyncWrite for KillableStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.kill_switch().check_writer(context)?;
        let written = Pin::new(&mut self.tcp).poll_write(context, bytes);
        self.note_write(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.kill_switch().check_writer(context)?;
        // Called when all data has been written.
        let flushed = ready!(Pin::new(&mut self.tcp).poll_flush(context));
        self.read_ahead.flushed();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.kill_switch().check_writer(context)?;
        let written = Pin::new(&mut self.tcp).poll_write_vectored(context, parts);
        self.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

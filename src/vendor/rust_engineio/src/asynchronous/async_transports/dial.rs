//! How this client reaches a server. Not part of the upstream crate.
//!
//! The application opens the connections, because name resolution, proxies and TLS are its
//! concern. It installs a [`Dialer`] on the thread whose runtime runs the client; without one, a client
//! connects directly and without TLS.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::Url;

use crate::error::Result;

/// A connection, with TLS if the URL demands it.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// One WebSocket handshake, then its frames.
    Websocket,
    /// HTTP requests.
    Http,
}

/// An open connection.
pub struct Route {
    pub stream: Box<dyn Duplex>,
    /// Set if the peer is a forward proxy, which expects the absolute URL in each request, with
    /// these additional headers.
    pub forward_headers: Option<HeaderMap>,
}

/// Opens connections to the server of a URL.
pub type Dialer = Arc<dyn Fn(Url, Purpose) -> BoxFuture<'static, io::Result<Route>> + Send + Sync>;

thread_local! {
    static DIALER: RefCell<Option<Dialer>> = const { RefCell::new(None) };
}

/// Installs the dialer for all clients of this thread.
pub fn set_dialer(dialer: Dialer) {
    DIALER.with_borrow_mut(|current| *current = Some(dialer));
}

pub(super) async fn dial(url: &Url, purpose: Purpose) -> Result<Route> {
    match DIALER.with_borrow(|dialer| dialer.clone()) {
        Some(dialer) => Ok(dialer(url.clone(), purpose).await?),
        None => Ok(connect(url).await?),
    }
}

/// Connects directly and without TLS, for a client without a dialer.
async fn connect(url: &Url) -> io::Result<Route> {
    if matches!(url.scheme(), "https" | "wss") {
        return Err(io::Error::other("TLS needs a dialer, and this thread has none"));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(Route { stream: Box::new(stream), forward_headers: None })
}

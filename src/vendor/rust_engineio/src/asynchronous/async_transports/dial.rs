//! How this client reaches a server. Not part of the upstream crate.
//!
//! The application opens the connections, because name resolution, proxies and TLS are its
//! concern. It installs a [`Dialer`] on the thread whose runtime runs the client.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
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
    let Some(dialer) = DIALER.with_borrow(|dialer| dialer.clone()) else {
        return Err(io::Error::other("no dialer is installed on this thread").into());
    };
    Ok(dialer(url.clone(), purpose).await?)
}

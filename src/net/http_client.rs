//! An HTTP client for small requests: one per connection, without TLS.

use std::io;
use std::time::Duration;

pub(crate) use http_body_util::Full;
use http_body_util::{BodyExt, LengthLimitError, Limited};
pub(crate) use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1;
pub(crate) use hyper::header;
use hyper::header::{CONNECTION, HOST, HeaderValue};
pub(crate) use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The `User-Agent` header of every request.
pub(crate) const USER_AGENT: &str = concat!("pitwire/", env!("CARGO_PKG_VERSION"));

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    #[error("does not answer in {0:?}")]
    Timeout(Duration),
    #[error("breaks off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("answers with more than {0} bytes")]
    TooLarge(usize),
}

/// The limits of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// From connecting to the end of the response.
    pub(crate) time: Duration,
    pub(crate) answer_bytes: usize,
}

/// Sends a request to `address` (`HOST:PORT`) and returns the response. The connection is closed
/// when the future completes or is dropped.
pub(crate) async fn request(
    address: &str,
    method: Method,
    path: &str,
    body: Bytes,
    bounds: Bounds,
) -> Result<(StatusCode, Bytes), RequestError> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, address)
            .header(CONNECTION, "close")
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let answer = ask(stream, request, bounds.answer_bytes).await?;
        Ok((answer.status(), answer.into_body()))
    };
    timeout(bounds.time, exchange).await.map_err(|_| RequestError::Timeout(bounds.time))?
}

/// Sends a request on an open connection, then closes it. The caller bounds the time.
pub(crate) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut request: Request<Full<Bytes>>,
    most_bytes: usize,
) -> Result<Response<Bytes>, RequestError> {
    let agent = HeaderValue::from_static(USER_AGENT);
    request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async { whole(sender.send_request(request).await?, most_bytes).await };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection has ended, so whatever it received is already buffered for the response.
        _ = &mut connection => answer.await,
    }
}

async fn whole(response: Response<Incoming>, most: usize) -> Result<Response<Bytes>, RequestError> {
    let (head, body) = response.into_parts();
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(RequestError::TooLarge(most)),
        Err(error) => Err(RequestError::Unreachable(io::Error::other(error))),
    }
}

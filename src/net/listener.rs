//! Accepts connections and serves HTTP/1.1 on them. No other file uses hyper's server.
//!
//! Each request carries the peer's address as `ConnectInfo<SocketAddr>`, and the connection's
//! [`KillSwitch`](super::KillSwitch) and [`ReadGate`](super::ReadGate) as extensions.
//!
//! Traps:
//! - hyper's header timeout also runs between two requests, so one constant covers both.
//! - An upgraded connection outlives its task in hyper: its [`Stream`] holds its slot.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{HttpService, Service, service_fn};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::Connections;
use super::connections::Slot;
use super::progress::{Stalled, TrackedConnection};
use super::stream::KillableStream;

/// The maximum time from the connection, or the previous response, to the end of the next request's
/// head. Prometheus keeps a connection open between scrapes, 15 s by default.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum head of a request; a larger one is answered with 431. Browsers send 1 to 2 kB.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// The read and write buffer of a connection. It fits any head; all connections of an agent take at
/// most 15 MB.
const MAX_BUFFER_BYTES: usize = 32 << 10;

/// TCP keepalive: the idle time before the first probe, and the interval between probes. A peer
/// that vanished is detected within a few minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// The pause after a connection could not be accepted, for example for lack of a descriptor.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Serves `router` on every connection until this future is dropped. Open connections are served
/// until [`Connections::close`].
pub(crate) async fn serve(
    listener: TcpListener,
    connections: &Connections,
    router: Router,
) -> Infallible {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_client(&error) => continue,
            Err(error) => {
                connections.log_accept_error(&error);
                sleep(ACCEPT_RETRY_INTERVAL).await;
                continue;
            }
        };
        // Dropping the stream closes a refused connection.
        if let Some(slot) = connections.admit(peer.ip()).await {
            configure(&stream);
            tokio::spawn(converse(stream, peer, slot, connections.clone(), router.clone()));
        }
    }
}

/// Whether accepting failed because the client had already disconnected.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn configure(stream: &TcpStream) {
    // With Nagle's algorithm, an echo and its ack (two small packets) would wait for the client's
    // delayed TCP ACK.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "cannot set TCP keepalive");
    }
}

/// Serves one connection until it is closed by either side.
async fn converse(
    tcp: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    connections: Connections,
    router: Router,
) {
    let connection = slot.connection.clone();
    // No value is ever sent: dropping the sender signals that the stream is gone.
    let (alive, gone) = oneshot::channel();
    let stream = KillableStream::new(tcp, slot, alive);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let (router, connection) = (router.clone(), connection.clone());
        answer(router, connection, peer, request)
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let closed = async {
        if let Err(error) = until_closed(http, &connections).await {
            tracing::debug!(listener = connections.name(), %peer, %error, "connection ended");
        }
        // An upgraded connection stays open.
        let _ = gone.await;
    };
    let stalled = tokio::select! {
        biased;
        // Otherwise a handler that waits for the disk would keep the descriptor.
        () = connection.kill_switch().killed() => None,
        stalled = until_stalled(&connection) => Some(stalled),
        () = closed => None,
    };
    if let Some(stalled) = stalled {
        tracing::debug!(listener = connections.name(), %peer, "connection closed: {stalled}");
        connection.kill_switch().kill();
    }
}

/// Serves a connection until it is closed or upgraded.
async fn until_closed<S>(
    http: http1::UpgradeableConnection<TokioIo<KillableStream>, S>,
    connections: &Connections,
) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = AnswerBody, Error = Infallible>,
    S::Future: Send,
{
    let mut http = pin!(http);
    tokio::select! {
        biased;
        result = &mut http => return result,
        () = connections.closing() => http.as_mut().graceful_shutdown(),
    }
    http.await
}

async fn until_stalled(connection: &TrackedConnection) -> Stalled {
    loop {
        match connection.stalled(Instant::now()) {
            Ok(look_again) => sleep_until(look_again).await,
            Err(stalled) => return stalled,
        }
    }
}

async fn answer(
    router: TowerToHyperService<Router>,
    connection: TrackedConnection,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<hyper::Response<AnswerBody>, Infallible> {
    if request.body().is_end_stream() {
        connection.request_complete();
    } else {
        connection.request_begun();
    }
    let requested = connection.clone();
    let mut request = request.map(|body| Body::new(RequestBody { body, connection: requested }));
    request.extensions_mut().insert(ConnectInfo(peer));
    request.extensions_mut().insert(connection.kill_switch().clone());
    request.extensions_mut().insert(connection.read_gate().clone());
    let response = router.call(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        connection.upgraded();
    }
    Ok(response.map(|body| AnswerBody { body, connection }))
}

/// The body of a request; records on the connection when it is complete.
struct RequestBody {
    body: Incoming,
    connection: TrackedConnection,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.connection.request_complete();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response; records on the connection when it has been passed to the system.
struct AnswerBody {
    body: Body,
    connection: TrackedConnection,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.connection.answered();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::extract::rejection::BytesRejection;
    use axum::routing::{any, get, post};
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::super::KillSwitch;
    use super::super::progress::{REQUEST_TIMEOUT, WRITE_TIMEOUT};
    use super::*;

    /// More than the system buffers for a client that does not read.
    const LARGE_ANSWER_PIECES: usize = 1024;

    /// The tolerance between the timeout and the end of the connection.
    const MOMENT: Duration = Duration::from_secs(1);

    async fn start() -> (SocketAddr, Connections) {
        start_with(64).await
    }

    async fn start_with(limit: usize) -> (SocketAddr, Connections) {
        let router = Router::new()
            .route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
            .route("/echo", post(async |body: Bytes| body))
            .route("/busy", post(busy))
            .route(
                "/large",
                get(async || {
                    let pieces =
                        (0..LARGE_ANSWER_PIECES).map(|_| Ok::<_, Infallible>(vec![0; 65536]));
                    Body::from_stream(stream::iter(pieces))
                }),
            )
            .route(
                "/kill",
                any(async |request: axum::extract::Request| {
                    request.extensions().get::<KillSwitch>().unwrap().kill();
                }),
            );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new("test", limit);
        let open = connections.clone();
        tokio::spawn(async move { serve(listener, &open, router).await });
        (address, connections)
    }

    /// A handler that continues after its client has disconnected.
    async fn busy(_: Result<Bytes, BytesRejection>) {
        std::future::pending().await
    }

    async fn send(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// The data that the server sends until it closes the connection, and the time until then.
    async fn until_the_end(stream: &mut TcpStream) -> (String, Duration) {
        let begun_at = Instant::now();
        let mut received = Vec::new();
        // A reset also ends the connection.
        let _ = stream.read_to_end(&mut received).await;
        (String::from_utf8_lossy(&received).into_owned(), begun_at.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_an_incomplete_request_head_is_closed() {
        let (address, connections) = start().await;
        for head in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
            let mut stream = send(address, head).await;
            let (_, took) = until_the_end(&mut stream).await;
            assert!((HEAD_TIMEOUT..HEAD_TIMEOUT + MOMENT).contains(&took), "{head:?} {took:?}");
        }
        sleep(MOMENT).await;
        assert_eq!(connections.count(), 0);
    }

    #[tokio::test]
    async fn an_idle_keep_alive_connection_is_closed() {
        let (address, _) = start().await;
        let mut stream = send(address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let peer = stream.local_addr().unwrap().to_string();
        let (mut received, mut bytes) = (String::new(), [0; 1024]);
        while !received.ends_with(&peer) {
            let read = stream.read(&mut bytes).await.unwrap();
            assert_ne!(read, 0, "{received}");
            received.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
        assert!(received.starts_with("HTTP/1.1 200"), "{received}");
        // Pause the clock only now: with a paused clock, the test would not wait for the response.
        tokio::time::pause();
        let (_, took) = until_the_end(&mut stream).await;
        assert!((HEAD_TIMEOUT / 2..HEAD_TIMEOUT + MOMENT).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_sent_byte_by_byte_times_out() {
        let (address, connections) = start().await;
        let head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n";
        let mut stream = send(address, head).await;
        let begun_at = Instant::now();
        while stream.write_all(b" ").await.is_ok() {
            assert!(begun_at.elapsed() < REQUEST_TIMEOUT + 10 * MOMENT, "it goes on");
            sleep(MOMENT).await;
        }
        assert!(begun_at.elapsed() >= REQUEST_TIMEOUT);
        assert_eq!(connections.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_response_is_disconnected() {
        let (address, connections) = start().await;
        let _stream = send(address, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        sleep(WRITE_TIMEOUT / 2).await;
        assert_eq!(connections.count(), 1);
        sleep(2 * WRITE_TIMEOUT).await;
        assert_eq!(connections.count(), 0);
    }

    #[tokio::test]
    async fn every_request_of_a_burst_is_answered_beside_idle_connections() {
        const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let (address, connections) = start_with(8).await;
        let mut idle = Vec::new();
        for _ in 0..4 {
            let mut stream = send(address, REQUEST).await;
            assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
            idle.push(stream);
        }
        assert_eq!(connections.count(), 4);
        // The server runs on this thread: it finds all connections and requests at once.
        let burst = (0..40).map(|_| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            std::io::Write::write_all(&mut stream, REQUEST.as_bytes()).unwrap();
            stream.set_nonblocking(true).unwrap();
            TcpStream::from_std(stream).unwrap()
        });
        for mut stream in burst.collect::<Vec<_>>() {
            let mut answer = [0; 1024];
            let read = timeout(10 * MOMENT, stream.read(&mut answer)).await.unwrap().unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{read} bytes");
        }
    }

    #[tokio::test]
    async fn a_large_response_is_sent_completely() {
        let (address, _) = start().await;
        let request = "GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut stream = send(address, request).await;
        let mut bytes = vec![0; 1 << 20];
        let mut received = 0;
        loop {
            match stream.read(&mut bytes).await.unwrap() {
                0 => break,
                read => received += read,
            }
        }
        assert!(received > LARGE_ANSWER_PIECES << 16, "{received}");
    }

    #[tokio::test]
    async fn killing_a_connection_leaves_others_open() {
        let (address, connections) = start().await;
        let mut other = send(address, "").await;
        let mut stream = send(address, "GET /kill HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(until_the_end(&mut stream).await.0, "");
        other.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        assert!(until_the_end(&mut other).await.0.starts_with("HTTP/1.0 200"));
        connections.close(MOMENT).await;
    }

    #[tokio::test]
    async fn a_killed_connection_does_not_wait_for_its_handler() {
        let (address, connections) = start().await;
        let half = "POST /busy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{";
        let mut stream = send(address, half).await;
        // The handler must have begun by then, or the test proves nothing.
        sleep(MOMENT / 4).await;
        connections.kill_all();
        let end = timeout(10 * MOMENT, until_the_end(&mut stream)).await;
        assert_eq!(end.expect("the end of the connection").0, "");
        assert_eq!(connections.count(), 0);
    }

    #[tokio::test]
    async fn an_oversized_request_head_is_refused() {
        let (address, _) = start().await;
        let cookie = "x".repeat(MAX_HEAD_BYTES);
        let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
        let mut stream = send(address, &head).await;
        let (received, _) = until_the_end(&mut stream).await;
        assert!(received.starts_with("HTTP/1.1 431"), "{received}");
    }
}

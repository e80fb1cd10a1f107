//! Opens connections to a dashboard server: name resolution, the race of its addresses, a forward
//! proxy, TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};
use url::Url;

use crate::config::Proxy;
use crate::net::http_client::USER_AGENT;

/// Time between the starts of two attempts to connect (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Maximum addresses of a name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Maximum time for a name, a TCP connection, a proxy's answer and the TLS handshake together. Only
/// the polling transport opens connections after `delivery.open_timeout`.
const DIAL_TIMEOUT: Duration = Duration::from_secs(120);

/// Maximum bytes of a proxy's response header.
const MAX_PROXY_RESPONSE_BYTES: usize = 8 << 10;

/// Why no connection to the server was established.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{0}")]
    Unreachable(String),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("the proxy {proxy} cannot be reached: {reason}")]
    ProxyUnreachable { proxy: String, reason: String },
    #[error("the proxy {proxy} answers {status} to a request for {target}")]
    ProxyRefuses { proxy: String, status: ProxyStatus, target: String },
    #[error("{0}")]
    Tls(#[source] native_tls::Error),
}

/// The status of a proxy's response; 0 if the response is not HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyStatus(pub(crate) u16);

impl fmt::Display for ProxyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("something other than HTTP"),
            407 => f.write_str("407 (it requires a user name and a password)"),
            status => write!(f, "{status}"),
        }
    }
}

/// The stream of a connection.
#[derive(Debug)]
pub(crate) enum DialedStream {
    Plain(TcpStream),
    Tls(Box<tokio_native_tls::TlsStream<TcpStream>>),
}

/// The service that a proxy provides for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// To pass bytes on: `CONNECT`.
    Tunnel,
    /// To forward HTTP requests, which have the absolute URL. Many proxies allow `CONNECT` to port
    /// 443 only.
    Forwarding,
}

/// Opens connections to one server.
pub(crate) struct Dialer {
    /// Set for `https`.
    tls: Option<tokio_native_tls::TlsConnector>,
    proxy: Option<Proxy>,
    /// The address of the latest connection, tried first: the requests of one polling session must
    /// reach the same server.
    latest: Mutex<Option<SocketAddr>>,
}

impl Dialer {
    pub(crate) fn new(tls: Option<native_tls::TlsConnector>, proxy: Option<Proxy>) -> Self {
        Self { tls: tls.map(Into::into), proxy, latest: Mutex::default() }
    }

    /// The proxy that the requests to a plain `http` server are forwarded by, if any.
    pub(crate) fn forwarding_proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| self.tls.is_none())
    }

    /// Opens a connection to the server of `url`.
    pub(crate) async fn dial(
        &self,
        url: &Url,
        through: Through,
    ) -> Result<DialedStream, DialError> {
        let dialed = timeout(DIAL_TIMEOUT, self.dial_without_limit(url, through)).await;
        dialed.unwrap_or(Err(DialError::Timeout(DIAL_TIMEOUT)))
    }

    async fn dial_without_limit(
        &self,
        url: &Url,
        through: Through,
    ) -> Result<DialedStream, DialError> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or_default();
        let mut stream = match &self.proxy {
            None => self.connect(host, port).await.map_err(DialError::Unreachable)?,
            Some(proxy) => self.connect(proxy.host(), proxy.port()).await.map_err(|reason| {
                DialError::ProxyUnreachable { proxy: proxy.to_string(), reason }
            })?,
        };
        if let Some(proxy) = &self.proxy
            && (through == Through::Tunnel || self.tls.is_some())
        {
            request_tunnel(&mut stream, proxy, host, port).await?;
        }
        match &self.tls {
            None => Ok(DialedStream::Plain(stream)),
            Some(tls) => tls
                .connect(host, stream)
                .await
                .map(Box::new)
                .map(DialedStream::Tls)
                .map_err(DialError::Tls),
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let found = lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
        let mut addresses = interleave(found.take(MAX_ADDRESSES).collect());
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = addresses.iter().position(|address| Some(*address) == latest) {
            addresses[..=at].rotate_right(1);
        }
        let stream = race(&addresses).await?;
        // Both fail only on a connection that has ended already.
        let _ = stream.set_nodelay(true);
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = stream.peer_addr().ok();
        Ok(stream)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

/// Alternates between IPv6 and IPv4, starting with the family of the first address, which the
/// system prefers.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().copied() else { return addresses };
    let (preferred, others): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first.is_ipv6());
    let mut others = others.into_iter();
    let mut order = Vec::new();
    for address in preferred {
        order.push(address);
        order.extend(others.next());
    }
    order.extend(others);
    order
}

/// Connects to the first address that accepts. Starts the next attempt after [`ATTEMPT_DELAY`], or
/// at once when an attempt fails, without giving up the earlier ones. The error names each address.
async fn race(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let mut errors: Vec<String> = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(async move { (address, TcpStream::connect(address).await) });
        } else if attempts.is_empty() {
            return Err(match &errors[..] {
                [] => "the name has no address".into(),
                errors => errors.join("; "),
            });
        }
        tokio::select! {
            biased;
            Some((address, result)) = attempts.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => errors.push(format!("{address}: {error}")),
            },
            () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

async fn request_tunnel(
    stream: &mut TcpStream,
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<(), DialError> {
    let target =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let authorization = match proxy.authorization() {
        Some(value) => format!("Proxy-Authorization: {value}\r\n"),
        None => String::new(),
    };
    let request = format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {USER_AGENT}\r\n\
         {authorization}\r\n"
    );
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            if response.len() >= MAX_PROXY_RESPONSE_BYTES {
                return Err(io::Error::other("its response is too long"));
            }
            // One byte at a time: what follows belongs to the tunnel.
            response.push(stream.read_u8().await?);
        }
        Ok(response)
    };
    let response = exchange.await.map_err(|error| DialError::ProxyUnreachable {
        proxy: proxy.to_string(),
        reason: error.to_string(),
    })?;
    match proxy_status(&response) {
        ProxyStatus(200..=299) => Ok(()),
        status => Err(DialError::ProxyRefuses { proxy: proxy.to_string(), status, target }),
    }
}

fn proxy_status(response: &[u8]) -> ProxyStatus {
    let line = response.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let status = str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    ProxyStatus(status.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[cfg(target_os = "linux")]
    /// An address whose backlog is full, so that connections to it come to nothing.
    fn unresponsive() -> (SocketAddr, Vec<socket2::Socket>) {
        use socket2::{Domain, Socket, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&address);
            sockets.push(client);
        }
        (address.as_socket().unwrap(), sockets)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_unresponsive_address_does_not_delay_the_next() {
        let (dead, _sockets) = unresponsive();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let live = listener.local_addr().unwrap();
        let began = std::time::Instant::now();
        let stream = race(&[dead, live]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_refused_address_is_followed_at_once_and_the_error_names_each() {
        let [one, other] = [(); 2].map(|()| {
            // The port is free again when the listener is dropped.
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap()
        });
        let error = race(&[one, other]).await.unwrap_err();
        assert!(error.contains(&one.to_string()) && error.contains(&other.to_string()), "{error}");
        assert_eq!(race(&[]).await.unwrap_err(), "the name has no address");
    }

    fn v4(last: u8) -> SocketAddr {
        (Ipv4Addr::new(10, 0, 0, last), 1).into()
    }

    fn v6(last: u16) -> SocketAddr {
        (Ipv6Addr::new(1, 0, 0, 0, 0, 0, 0, last), 1).into()
    }

    #[test]
    fn address_families_alternate() {
        let order = interleave(vec![v6(1), v6(2), v6(3), v4(1), v4(2)]);
        assert_eq!(order, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
        assert_eq!(interleave(vec![v4(1), v6(1), v6(2)]), [v4(1), v6(1), v6(2)]);
        assert_eq!(interleave(Vec::new()), []);
    }

    #[test]
    fn the_status_of_a_proxy_is_parsed() {
        for (response, status) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", 200),
            ("HTTP/1.0 407 Proxy Authentication Required\r\n\r\n", 407),
            ("HTTP/1.1 403\r\n\r\n", 403),
            ("SSH-2.0-OpenSSH\r\n\r\n", 0),
            ("\r\n\r\n", 0),
        ] {
            assert_eq!(proxy_status(response.as_bytes()), ProxyStatus(status), "{response}");
        }
    }
}

//! An HTTP client for long-polling: one request at a time on one connection, which is reused.
//! Not part of the upstream crate.

use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, HOST, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use url::{Position, Url};

use super::dial::{dial, Purpose, Route};
use crate::error::Result;
use crate::Error;

/// Maximum bytes of the cookies that a load balancer sets to keep a session on one server.
const MAX_COOKIE_BYTES: usize = 4 << 10;

/// Maximum number of cookies; a load balancer sets one or two.
const MAX_COOKIES: usize = 16;

/// Maximum characters of an error's body that are quoted.
const MAX_QUOTED_CHARS: usize = 100;

/// The cookies of a server, shared by all connections of a client.
#[derive(Clone, Default)]
pub(super) struct Cookies(Arc<Mutex<Vec<(String, String)>>>);

impl Cookies {
    /// Stores the cookies that a response sets, ignoring their attributes: they live as long as
    /// the client, which sends them to one server only.
    fn store(&self, headers: &HeaderMap) {
        let mut cookies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for value in headers.get_all(SET_COOKIE) {
            let pair = value.to_str().ok().and_then(|text| text.split(';').next());
            let Some((name, value)) = pair.and_then(|pair| pair.trim().split_once('=')) else {
                continue;
            };
            cookies.retain(|(known, _)| known != name);
            let used: usize = cookies.iter().map(|(name, value)| name.len() + value.len()).sum();
            if cookies.len() < MAX_COOKIES && used + name.len() + value.len() <= MAX_COOKIE_BYTES {
                cookies.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// Adds the stored cookies to those that the application sends.
    fn add_to(&self, headers: &mut HeaderMap) {
        let cookies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cookies.is_empty() {
            return;
        }
        let own = headers.get(COOKIE).and_then(|own| own.to_str().ok()).map(str::to_owned);
        let stored = cookies.iter().map(|(name, value)| format!("{name}={value}"));
        let all: Vec<_> = own.into_iter().chain(stored).collect();
        if let Ok(value) = HeaderValue::from_str(&all.join("; ")) {
            headers.insert(COOKIE, value);
        }
    }
}

/// Sends requests to one server, in sequence.
pub(super) struct HttpClient {
    headers: HeaderMap,
    cookies: Cookies,
    connection: Option<Connection>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    forward_headers: Option<HeaderMap>,
}

/// The half of an HTTP connection that does the I/O. Polled while a request is pending, because a
/// task of its own would look like the client's reader to the application.
struct Driver {
    /// Dropped when it has ended: it would keep a request that it can no longer send.
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
}

impl Driver {
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Some(connection) = &mut self.connection {
            tokio::select! {
                biased;
                output = &mut work => return output,
                // What arrived before the end is buffered for the response.
                _ = connection => self.connection = None,
            }
        }
        work.await
    }
}

impl HttpClient {
    pub(super) fn new(headers: HeaderMap, cookies: Cookies) -> Self {
        Self { headers, cookies, connection: None }
    }

    /// Sends a request and returns the body of a response with status 200. Any other status and a
    /// body of more than `max_bytes` are errors. The caller bounds the time.
    pub(super) async fn request(
        &mut self,
        method: Method,
        url: &Url,
        body: Bytes,
        max_bytes: usize,
    ) -> Result<Bytes> {
        let mut connection = match self.reusable().await {
            Some(connection) => connection,
            None => Connection::open(url).await?,
        };
        let request = self.build(&method, url, body.clone(), &connection)?;
        let response = match connection.send(request).await {
            Ok(response) => response,
            // The server closed an idle connection before it received anything of the request.
            Err((error, was_sent)) if !was_sent => {
                drop(error);
                connection = Connection::open(url).await?;
                let request = self.build(&method, url, body, &connection)?;
                connection.send(request).await.map_err(|(error, _)| error)?
            }
            Err((error, _)) => return Err(error),
        };
        let (head, body) = response.into_parts();
        self.cookies.store(&head.headers);
        let body = match connection.driver.drive(Limited::new(body, max_bytes).collect()).await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(Error::ServerExceedsBounds("a response that is too long"));
            }
            Err(error) => return Err(Error::Polling(format!("the connection broke: {error}"))),
        };
        self.connection = Some(connection);
        if head.status == StatusCode::OK {
            Ok(body)
        } else {
            Err(Error::Polling(quote(&method, head.status, &body)))
        }
    }

    /// The connection of the last request, if the server keeps it open.
    async fn reusable(&mut self) -> Option<Connection> {
        let mut connection = self.connection.take()?;
        let Connection { sender, driver, .. } = &mut connection;
        driver.drive(sender.ready()).await.ok()?;
        Some(connection)
    }

    fn build(
        &self,
        method: &Method,
        url: &Url,
        body: Bytes,
        connection: &Connection,
    ) -> Result<Request<Full<Bytes>>> {
        let uri = match &connection.forward_headers {
            None => &url[Position::BeforePath..Position::AfterQuery],
            Some(_) => &url[..Position::AfterQuery],
        };
        let mut request = Request::builder().method(method).uri(uri).body(Full::new(body))?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        self.cookies.add_to(headers);
        if let Some(forward_headers) = &connection.forward_headers {
            headers.extend(forward_headers.clone());
        }
        let host = &url[Position::BeforeHost..Position::AfterPort];
        if !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::from_str(host).map_err(http::Error::from)?);
        }
        if method == Method::POST {
            let text = HeaderValue::from_static("text/plain;charset=UTF-8");
            headers.insert(CONTENT_TYPE, text);
        }
        Ok(request)
    }
}

impl Connection {
    async fn open(url: &Url) -> Result<Self> {
        let Route { stream, forward_headers } = dial(url, Purpose::Http).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Error::Polling(format!("the connection broke: {error}")))?;
        let driver = Driver { connection: Some(Box::pin(connection)) };
        Ok(Self { sender, driver, forward_headers })
    }

    /// The error says whether the request may have been sent.
    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> std::result::Result<Response<Incoming>, (Error, bool)> {
        let sent = self.driver.drive(self.sender.try_send_request(request)).await;
        sent.map_err(|mut error| {
            let was_sent = error.take_message().is_none();
            let error = error.into_error();
            (Error::Polling(format!("the connection broke: {error}")), was_sent)
        })
    }
}

fn quote(method: &Method, status: StatusCode, body: &Bytes) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_QUOTED_CHARS)]);
    let text: String = text.trim().chars().take(MAX_QUOTED_CHARS).collect();
    let request = if method == Method::GET { "poll" } else { "message" };
    if text.is_empty() {
        format!("HTTP error: {status} for a {request}")
    } else {
        format!("HTTP error: {status} for a {request}: {text}")
    }
}

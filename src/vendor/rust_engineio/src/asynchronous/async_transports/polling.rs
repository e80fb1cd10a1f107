//! HTTP long-polling. Rewritten: the upstream version polls again at once after an empty or failed
//! response, bounds neither time nor size, and sends one packet per request.

use std::cell::Cell;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use async_trait::async_trait;
use base64::{engine::general_purpose, Engine as _};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method};
use tokio::sync::{mpsc, oneshot, RwLock};
use tokio::time::{sleep_until, timeout, Instant};
use url::Url;

use super::bounds::{keep, Inspector, SEPARATOR};
use super::http_client::{Cookies, HttpClient};
use crate::asynchronous::generator::StreamGenerator;
use crate::packet::HandshakePacket;
use crate::{asynchronous::transport::AsyncTransport, error::Result, Error, Packet, PacketId};

/// Maximum packets in one POST: python-engineio and Engine.IO for Node reject more.
const MAX_POST_PACKETS: usize = 16;

/// Maximum bytes of a POST with several packets. A larger packet is sent alone. Servers reject a
/// body of more than 1 MB by default.
const MAX_POST_BYTES: usize = 256 << 10;

/// Maximum bytes of a response to a poll: all echoes of one batch, each up to three times as long
/// as sent, and the events of other sessions.
const MAX_POLL_BYTES: usize = 8 << 20;

/// Maximum bytes of the response to a POST, which is `ok`, or to the first poll.
const MAX_REPLY_BYTES: usize = 64 << 10;

/// Minimum time between the starts of two polls: at most 200 requests per second, whatever the
/// server answers.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Maximum time for a POST: 1 MB at 1 Mbit/s takes 8 s.
const POST_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum time for a poll. A server answers with a ping after its ping interval, 25 s by default.
const MAX_POLL_TIMEOUT: Duration = Duration::from_secs(600);

thread_local! {
    static SENDERS: Cell<usize> = const { Cell::new(0) };
}

/// Number of running tasks of this thread that only send packets. The application must not take
/// one for the client's reader.
pub fn sender_tasks() -> usize {
    SENDERS.get()
}

/// Counts one sender task while it runs.
struct SenderTask;

impl SenderTask {
    fn new() -> Self {
        SENDERS.set(SENDERS.get() + 1);
        Self
    }
}

impl Drop for SenderTask {
    fn drop(&mut self) {
        SENDERS.set(SENDERS.get() - 1);
    }
}

/// The result of the first request: the server's parameters, and what polling goes on with.
pub(crate) struct Handshake {
    pub(crate) packet: HandshakePacket,
    /// The URL with the session id.
    pub(crate) url: Url,
    headers: HeaderMap,
    cookies: Cookies,
    poller: HttpClient,
    /// Packets that followed the handshake in the same response.
    rest: Bytes,
}

impl Handshake {
    /// Requests a session. The caller bounds the time.
    pub(crate) async fn request(base_url: Url, headers: HeaderMap) -> Result<Self> {
        let cookies = Cookies::default();
        let mut poller = HttpClient::new(headers.clone(), cookies.clone());
        let url = with_polling(base_url.clone());
        let body = poller.request(Method::GET, &url, Bytes::new(), MAX_REPLY_BYTES).await?;
        let end = body.iter().position(|byte| *byte == SEPARATOR).unwrap_or(body.len());
        let rest = body.slice((end + 1).min(body.len())..);
        let first = Packet::try_from(body.slice(..end));
        let Ok(Packet { packet_id: PacketId::Open, data }) = first else {
            return Err(Error::Polling("the response is not Engine.IO".into()));
        };
        let packet: HandshakePacket = serde_json::from_slice(&data)?;
        let mut url = base_url;
        url.query_pairs_mut().append_pair("sid", &packet.sid);
        Ok(Self { packet, url, headers, cookies, poller, rest })
    }
}

/// Receives packets by GET and sends them by POST, each on a connection that is reused.
#[derive(Clone)]
pub struct PollingTransport {
    base_url: Arc<RwLock<Url>>,
    outbox: mpsc::Sender<Bytes>,
    packets: StreamGenerator<Bytes>,
}

impl PollingTransport {
    /// Starts to poll and to send.
    pub(crate) fn new(handshake: Handshake) -> Self {
        let Handshake { packet, url, headers, cookies, poller, rest } = handshake;
        let url = with_polling(url);
        let (outbox, queued) = mpsc::channel(MAX_POST_PACKETS);
        let (failed, failure) = oneshot::channel();
        let max_bytes = packet.max_payload.map_or(MAX_POST_BYTES, |max| {
            MAX_POST_BYTES.min(usize::try_from(max).unwrap_or(usize::MAX))
        });
        let sender = HttpClient::new(headers, cookies);
        let (post_url, task) = (url.clone(), SenderTask::new());
        tokio::spawn(async move {
            let _task = task;
            if let Err(error) = send_all(sender, post_url, queued, max_bytes).await {
                let _ = failed.send(keep(error));
            }
        });
        let ping = packet.ping_interval.saturating_add(packet.ping_timeout);
        let poll_timeout = Duration::from_millis(ping).min(MAX_POLL_TIMEOUT);
        let packets = poll_all(poller, url.clone(), rest, failure, poll_timeout);
        Self {
            base_url: Arc::new(RwLock::new(url)),
            outbox,
            packets: StreamGenerator::new(packets),
        }
    }
}

/// Sends queued packets until the queue is closed, as many at once as a server accepts.
async fn send_all(
    mut client: HttpClient,
    url: Url,
    mut queued: mpsc::Receiver<Bytes>,
    max_bytes: usize,
) -> Result<()> {
    let mut next = queued.recv().await;
    while let Some(first) = next.take() {
        let mut body = BytesMut::from(&first[..]);
        drop(first);
        let mut count = 1;
        while count < MAX_POST_PACKETS {
            let Ok(packet) = queued.try_recv() else { break };
            if body.len() + 1 + packet.len() > max_bytes {
                next = Some(packet);
                break;
            }
            body.put_u8(SEPARATOR);
            body.extend_from_slice(&packet);
            count += 1;
        }
        let request = client.request(Method::POST, &url, body.freeze(), MAX_REPLY_BYTES);
        match timeout(POST_TIMEOUT, request).await {
            Ok(sent) => sent?,
            Err(_) => {
                return Err(Error::Polling(format!("no answer to a message in {POST_TIMEOUT:?}")));
            }
        };
        if next.is_none() {
            next = queued.recv().await;
        }
    }
    Ok(())
}

/// Polls until the server closes the session. A response without a packet is an error, because it
/// would be polled again at once.
fn poll_all(
    mut client: HttpClient,
    url: Url,
    rest: Bytes,
    mut failure: oneshot::Receiver<Error>,
    poll_timeout: Duration,
) -> Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>> {
    Box::pin(try_stream! {
        let mut inspector = Inspector::new();
        let mut body = rest;
        let mut next_poll = Instant::now();
        loop {
            while !body.is_empty() {
                let end = body.iter().position(|byte| *byte == SEPARATOR).unwrap_or(body.len());
                let packet = body.split_to(end);
                if !body.is_empty() {
                    let _ = body.split_to(1);
                }
                // Close
                if packet[..] == *b"1" {
                    return;
                }
                if inspector.wants_bytes(&packet).map_err(keep)? {
                    yield packet;
                }
            }
            sleep_until(next_poll).await;
            next_poll = Instant::now() + MIN_POLL_INTERVAL;
            let poll = client.request(Method::GET, &url, Bytes::new(), MAX_POLL_BYTES);
            let polled = tokio::select! {
                biased;
                Ok(error) = &mut failure => Err(error),
                polled = timeout(poll_timeout, poll) => match polled {
                    Ok(polled) => polled,
                    Err(_) => Err(Error::PingTimeout()),
                },
            };
            body = polled.map_err(keep)?;
            if body.is_empty() {
                Err(keep(Error::Polling("the server answers a poll with nothing".into())))?;
            }
        }
    })
}

fn with_polling(mut url: Url) -> Url {
    let is_set = url.query_pairs().any(|(key, value)| key == "transport" && value == "polling");
    if !is_set {
        url.query_pairs_mut().append_pair("transport", "polling");
    }
    url
}

impl Stream for PollingTransport {
    type Item = Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.packets.poll_next_unpin(cx)
    }
}

#[async_trait]
impl AsyncTransport for PollingTransport {
    /// Queues the packet; waits while the queue is full.
    async fn emit(&self, data: Bytes, is_binary_att: bool) -> Result<()> {
        let packet = if is_binary_att {
            Bytes::from(format!("b{}", general_purpose::STANDARD.encode(data)))
        } else {
            data
        };
        let sent = self.outbox.send(packet).await;
        sent.map_err(|_| Error::Polling("the connection has ended".into()))
    }

    async fn base_url(&self) -> Result<Url> {
        Ok(self.base_url.read().await.clone())
    }

    async fn set_base_url(&self, base_url: Url) -> Result<()> {
        *self.base_url.write().await = with_polling(base_url);
        Ok(())
    }
}

impl Debug for PollingTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollingTransport").field("base_url", &self.base_url).finish()
    }
}

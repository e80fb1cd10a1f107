//! A hand-written server of long-polling, whose answers a test chooses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub const HANDSHAKE: &str =
    r#"0{"sid":"a","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
const CONNECTED: &str = r#"40{"sid":"b"}"#;
const ASSIGNED: &str = r#"42["session_id_assigned",{"session_id":"c"}]"#;

/// An HTTP response; `headers` are complete lines.
pub fn response(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

/// The answer to the `poll`th poll of a session, the handshake being 0; `None` follows the
/// protocol: a handshake, an accepted connection, a session id, then silence.
type Answer = dyn Fn(usize) -> Option<Vec<u8>> + Send + Sync;

pub struct PollServer {
    address: SocketAddr,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    heads: Mutex<Vec<String>>,
    /// The number of packets in each POST.
    packets: Mutex<Vec<usize>>,
    /// Number of polls since the latest handshake.
    polls: AtomicUsize,
}

impl PollServer {
    pub async fn start(answer: impl Fn(usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let answer: Arc<Answer> = Arc::new(answer);
        let shared = seen.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                clients.spawn(serve(client, answer.clone(), shared.clone()));
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of all requests.
    pub fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().clone()
    }

    /// The number of packets in each POST.
    pub fn packets(&self) -> Vec<usize> {
        self.seen.packets.lock().unwrap().clone()
    }
}

async fn serve(mut client: TcpStream, answer: Arc<Answer>, seen: Arc<Seen>) -> Option<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if client.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        };
        let body = read.split_off(end);
        let head = String::from_utf8(std::mem::replace(&mut read, body)).ok()?;
        let length = head
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        while read.len() < length.unwrap_or(0) {
            client.read_buf(&mut read).await.ok()?;
        }
        let rest = read.split_off(length.unwrap_or(0));
        let body = std::mem::replace(&mut read, rest);
        seen.heads.lock().unwrap().push(head.clone());
        let sent = if head.starts_with("POST ") {
            let packets = body.split(|byte| *byte == 0x1e).count();
            seen.packets.lock().unwrap().push(packets);
            response(200, "", "ok")
        } else {
            let poll = if head.contains("sid=") {
                seen.polls.fetch_add(1, Ordering::SeqCst) + 1
            } else {
                seen.polls.store(0, Ordering::SeqCst);
                0
            };
            match (answer(poll), poll) {
                (Some(answer), _) => answer,
                (None, 0) => response(200, "", HANDSHAKE),
                (None, 1) => response(200, "", CONNECTED),
                (None, 2) => response(200, "", ASSIGNED),
                (None, _) => std::future::pending().await,
            }
        };
        client.write_all(&sent).await.ok()?;
    }
}

//! Hand-made WebSocket frames: no library sends what hostile clients and servers send.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub const TEXT: u8 = 1;
pub const PING: u8 = 9;

/// A WebSocket frame as a client sends it, masked with zeros.
pub fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(opcode, true, 0x80, payload.len());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A WebSocket frame as a server sends it; `is_last` is the FIN bit.
pub fn server_frame(opcode: u8, is_last: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(opcode, is_last, 0, payload.len());
    frame.extend(payload);
    frame
}

/// The header of a client's frame of this length, without its payload.
pub fn client_head(opcode: u8, length: usize) -> Vec<u8> {
    let mut frame = head(opcode, true, 0x80, length);
    frame.extend([0; 4]);
    frame
}

fn head(opcode: u8, is_last: bool, mask: u8, length: usize) -> Vec<u8> {
    let mut head = vec![opcode | u8::from(is_last) << 7];
    match length {
        0..=125 => head.push(mask | length as u8),
        126..=65_535 => {
            head.push(mask | 126);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(mask | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head
}

/// Connects to the Socket.IO server at `url` and upgrades to a WebSocket, but sends nothing on it.
/// Fails if the server closes the connection instead.
pub async fn connect(url: &str) -> io::Result<TcpStream> {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {address}\r\n\
         Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

/// Connects and completes the Socket.IO handshake.
pub async fn enter(url: &str) -> TcpStream {
    let mut stream = connect(url).await.unwrap();
    stream.write_all(&client_frame(TEXT, b"40")).await.unwrap();
    stream
}

/// How a flood ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// The peer closed the connection.
    Cut,
    /// The peer read everything.
    Taken,
    /// The peer neither read everything nor closed the connection in time.
    Blocked,
}

/// Sends `bytes` repeatedly, up to `limit_bytes` in total, and reads nothing.
pub async fn flood(
    stream: &mut TcpStream,
    bytes: &[u8],
    limit_bytes: usize,
    limit: Duration,
) -> Flood {
    let ends_at = Instant::now() + limit;
    for _ in 0..limit_bytes.div_ceil(bytes.len()) {
        match timeout_at(ends_at, stream.write_all(bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Flood::Cut,
            Err(_) => return Flood::Blocked,
        }
    }
    Flood::Taken
}

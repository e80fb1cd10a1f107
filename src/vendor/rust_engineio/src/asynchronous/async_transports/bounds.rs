//! What a server may send on a WebSocket. Not part of the upstream crate.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use tungstenite::protocol::WebSocketConfig;

use crate::{error::Result, Error};

/// The longest message, in bytes. A server sends back what it was sent, at most 1 MB, and may write
/// it up to three times as long: `é` as `\u00e9`.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Bytes that wait for a server that does not read: one message of ours and the pongs.
const MAX_WRITE_BUFFER_BYTES: usize = 4 << 20;

/// Packets other than messages (pings, pongs, Engine.IO control packets) within one
/// [`CONTROL_WINDOW`]. A server sends one in 20 s.
const MAX_CONTROL_PACKETS: u32 = 100;
const CONTROL_WINDOW: Duration = Duration::from_secs(1);

/// JSON objects, and JSON values, in one message: parsed, an object takes up to 1.3 kB and a value 64
/// bytes. A message with more is skipped.
const MAX_OBJECTS: usize = 20_000;
const MAX_VALUES: usize = 200_000;

/// A message up to this length cannot hold enough values to matter, and is not counted through.
const ALWAYS_PARSED_BYTES: usize = 64 << 10;

/// Between two packets of a payload. Over a WebSocket each message is one packet.
pub(super) const SEPARATOR: u8 = 0x1e;

/// Takes an event as JSON text, `["name",…]`; returns false to leave it to the client.
pub type EventTap = Box<dyn Fn(&str) -> bool>;

thread_local! {
    static EVENT_TAP: RefCell<Option<EventTap>> = const { RefCell::new(None) };
    static LAST_ERROR: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Offers the events of all clients of this thread to `tap` before they are parsed: the client would
/// build a tree of values, copy it and drop both.
pub fn set_event_tap(tap: EventTap) {
    EVENT_TAP.with_borrow_mut(|current| *current = Some(tap));
}

/// Why a connection of this thread ended for reading, which rust_socketio reports as "EngineIO Error"
/// and no more.
pub fn take_last_error() -> Option<String> {
    LAST_ERROR.with_borrow_mut(Option::take)
}

pub(super) fn keep(error: Error) -> Error {
    LAST_ERROR.with_borrow_mut(|last| *last = Some(error.to_string()));
    error
}

/// Limits for the WebSocket library.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig {
        max_message_size: Some(MAX_MESSAGE_BYTES),
        max_frame_size: Some(MAX_MESSAGE_BYTES),
        max_write_buffer_size: MAX_WRITE_BUFFER_BYTES,
        ..WebSocketConfig::default()
    }
}

/// Checks what comes in on one connection.
#[derive(Debug)]
pub(super) struct Inspector {
    window_start: Instant,
    control_packets: u32,
}

impl Inspector {
    pub(super) fn new() -> Self {
        Self { window_start: Instant::now(), control_packets: 0 }
    }

    /// Counts a packet that is no message; an error when there are too many.
    pub(super) fn control(&mut self) -> Result<()> {
        if self.window_start.elapsed() >= CONTROL_WINDOW {
            *self = Self::new();
        }
        self.control_packets += 1;
        if self.control_packets > MAX_CONTROL_PACKETS {
            return Err(Error::ServerExceedsBounds("more than 100 pings in a second"));
        }
        Ok(())
    }

    /// Whether to hand on this packet. Events that the application takes are left out. So are events
    /// with attachments: the client would keep up to 255 packets that follow, whatever those are.
    pub(super) fn wants(&mut self, packet: &str) -> Result<bool> {
        self.wants_bytes(packet.as_bytes())
    }

    /// [`Inspector::wants`] for a packet that is not known to be text. Attachments, which belong to
    /// events that are left out, are left out too.
    pub(super) fn wants_bytes(&mut self, packet: &[u8]) -> Result<bool> {
        if packet.contains(&SEPARATOR) {
            return Err(Error::ServerExceedsBounds("several packets in one message"));
        }
        if packet.first() != Some(&b'4') {
            self.control()?;
        }
        let has_attachments = packet.starts_with(b"45")
            || packet.starts_with(b"46")
            || packet.first() == Some(&b'b');
        Ok(!has_attachments && is_cheap_to_parse(packet) && !is_taken(packet))
    }
}

/// Offers an event of the default namespace to the application.
fn is_taken(packet: &[u8]) -> bool {
    let Some(event) = packet.strip_prefix(b"42").filter(|event| event.first() == Some(&b'[')) else {
        return false;
    };
    let Ok(event) = std::str::from_utf8(event) else { return false };
    EVENT_TAP.with_borrow(|tap| tap.as_ref().is_some_and(|tap| tap(event)))
}

fn is_cheap_to_parse(packet: &[u8]) -> bool {
    if packet.len() <= ALWAYS_PARSED_BYTES {
        return true;
    }
    let (mut objects, mut values) = (0, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in packet {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' => objects += 1,
            b'[' | b',' => values += 1,
            _ => {}
        }
    }
    objects <= MAX_OBJECTS && values <= MAX_VALUES
}

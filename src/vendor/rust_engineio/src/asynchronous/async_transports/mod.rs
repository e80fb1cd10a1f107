mod bounds;
mod dial;
mod http_client;
mod polling;
mod websocket;
mod websocket_general;

pub use self::bounds::{set_event_tap, take_last_error, EventTap, MAX_MESSAGE_BYTES};
pub use self::dial::{set_dialer, Dialer, Duplex, Purpose, Route};
pub(crate) use self::polling::Handshake;
pub use self::polling::{sender_tasks, PollingTransport};
pub use self::websocket::WebsocketTransport;

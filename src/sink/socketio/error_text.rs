//! The client library's error texts in plain words: users know neither the library nor its calls.

const ENDED: &str = "the connection ended unexpectedly";

/// Parts of the library's texts, and what replaces them.
const REPLACEMENTS: [(&str, &str); 10] = [
    // The error of a message that is sent after the connection has ended.
    ("Called an action before the connection was established", ENDED),
    ("Underlying Engine.IO connection has closed", ENDED),
    ("Error with websocket connection: ", ""),
    ("Error during connection via http: ", ""),
    ("Got an IO-Error: ", ""),
    ("WebSocket protocol error: ", ""),
    ("Network request returned with status code: ", "HTTP status "),
    ("Got illegal handshake response: ", "invalid handshake: "),
    ("The server did not send a PING packet in time", "the server sent no heartbeat in time"),
    ("Server did not allow upgrading to websockets", "the server does not offer WebSocket"),
];

/// Replaces the library's phrases in an error text.
pub(super) fn in_plain_words(text: &str) -> String {
    let replace = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
    REPLACEMENTS.iter().fold(text.to_owned(), replace)
}

/// Whether the text is the library's error for a message on a connection that has ended.
pub(super) fn is_ended(text: &str) -> bool {
    in_plain_words(text) == ENDED
}

//! The embedded reference dashboard server.

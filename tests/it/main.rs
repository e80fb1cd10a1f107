//! The integration tests: one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]

mod config;
mod contract;
mod disk;
mod http;
mod inputs;
mod peers;
mod publisher;
mod queue;
mod server;
mod session;

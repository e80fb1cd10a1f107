//! The integration tests: one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]

#[cfg(unix)]
mod agent;
mod config;
mod contract;
mod inputs;
mod peers;
#[cfg(unix)]
mod process;
mod server;
mod session;

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
mod deploy;
mod help;
mod inputs;
mod peers;
mod readme;

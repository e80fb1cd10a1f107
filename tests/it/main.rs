#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]

mod damage;
mod kill;
#[cfg(target_os = "linux")]
mod powercut;
mod store_model;

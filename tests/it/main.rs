//! The integration tests: one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]
#![cfg_attr(windows, allow(dead_code, reason = "some helpers serve tests that need Unix"))]

#[cfg(target_os = "linux")]
mod abuse;
#[cfg(unix)]
mod agent;
mod architecture;
mod bound;
#[cfg(target_os = "linux")]
mod budget;
#[cfg(target_os = "linux")]
mod chaos;
mod config;
mod contract;
mod damage;
#[cfg(target_os = "linux")]
mod default_ports;
mod deploy;
mod destinations;
mod disk;
#[cfg(target_os = "linux")]
mod doctor;
mod downsampling;
#[cfg(target_os = "linux")]
mod fake_clock;
mod full_disk;
mod fuzz;
mod help;
#[cfg(target_os = "linux")]
mod hermetic;
#[cfg(unix)]
mod hostile;
mod http;
#[cfg(unix)]
mod impostor;
mod inputs;
#[cfg(target_os = "linux")]
mod io_errors;
mod kill;
mod language;
mod lmu;
mod long;
#[cfg(unix)]
mod nats;
#[cfg(unix)]
mod numbered;
#[cfg(unix)]
mod page;
mod peers;
#[cfg(unix)]
mod poison;
#[cfg(target_os = "linux")]
mod powercut;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod proof;
mod proxy;
mod publisher;
mod purge;
mod queue;
#[cfg(target_os = "linux")]
mod reach;
mod readme;
#[cfg(target_os = "linux")]
mod release;
#[cfg(target_os = "linux")]
mod screen;
mod server;
mod session;
mod simulation;
mod single;
#[cfg(target_os = "linux")]
mod soak;
#[cfg(unix)]
mod stand_in;
mod store_model;
mod stuck_worker;
#[cfg(unix)]
mod tampering;
#[cfg(target_os = "linux")]
mod terminal;
#[cfg(target_os = "linux")]
mod transport;
#[cfg(unix)]
mod two_publishers;
#[cfg(unix)]
mod unanswered;
#[cfg(unix)]
mod viewer;
#[cfg(target_os = "linux")]
mod vitals;
#[cfg(target_os = "linux")]
mod wall;

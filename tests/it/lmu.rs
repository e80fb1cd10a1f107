//! Le Mans Ultimate and rFactor 2: the game's memory and its REST API.
//!
//! - [`fixtures`]: complete memory buffers and the samples expected from them.
//! - [`torn`]: a game that writes while the reader reads.
//! - [`wine`]: the Windows build under Wine.
//! - [`drive`]: the agent next to a game that starts, stops and restarts.
//! - [`api`]: the REST API, including its failures.

#[cfg(unix)]
mod api;
#[cfg(target_os = "linux")]
mod drive;
mod fake;
pub mod fixtures;
mod game;
mod place;
#[cfg(unix)]
mod torn;
#[cfg(target_os = "linux")]
mod wine;

//! Le Mans Ultimate and rFactor 2: the game's memory and its REST API.
//!
//! - [`fixtures`]: whole buffers and the samples that they make.
//! - [`torn`]: a game that writes while it is read.
//! - [`wine`]: the same on Windows, as far as Wine is one.
//! - [`drive`]: the agent beside a game that comes and goes.
//! - [`api`]: the REST API as it is and as it fails.

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

//! Le Mans Ultimate and rFactor 2: the game's memory and its REST API.
//!
//! - [`fixtures`]: whole buffers and the samples that they make.
//! - [`torn`]: a game that writes while it is read.
//! - [`drive`]: the agent beside a game that comes and goes.
//! - [`api`]: the REST API as it is and as it fails.

#[cfg(unix)]
mod api;
#[cfg(target_os = "linux")]
mod drive;
#[cfg(unix)]
mod fake;
mod fixtures;
#[cfg(unix)]
mod torn;

//! Placeholder for the room: only what the queue needs.

use std::path::PathBuf;
use std::time::Duration;

pub const QUEUE_CHANNEL_COMMANDS: usize = 256;
pub const REMOVE_FLUSH_INTERVAL: Duration = Duration::from_secs(1);
pub const STORE_OPEN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub path: PathBuf,
    pub max_entries: u64,
    pub max_bytes: u64,
    pub max_age: Duration,
    pub when_full: WhenFull,
    pub durability: Durability,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stint {
    pub resume_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    DropOldest,
    DropNewest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Entry,
    Within(Duration),
}

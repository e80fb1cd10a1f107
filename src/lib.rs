//! pitwire: a store-and-forward telemetry agent for sim racing.

pub mod cli;
pub mod config;
pub mod dashboard;
pub mod entry;
pub mod fields;
pub mod source;

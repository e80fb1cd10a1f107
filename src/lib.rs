//! pitwire: a store-and-forward telemetry agent for sim racing.

pub mod config;
pub mod dashboard;
pub mod entry;
pub mod fields;
pub mod queue;
pub mod source;

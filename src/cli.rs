//! What was typed, one file a subcommand.

pub mod simulate;

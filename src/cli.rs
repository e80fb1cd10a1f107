//! What was typed: one file per subcommand.

pub mod serve;

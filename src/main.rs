//! The `pitwire` command.

fn main() {}

//! Other clients, in `benches/peers/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name)
}

/// A Python script, run with the tests' virtual environment.
pub(crate) fn python(name: &str) -> Command {
    let mut command = Command::new(peers::home().join("venv/bin/python"));
    command.arg("-B").arg(script(name));
    command
}

/// A Node script.
pub(crate) fn node(name: &str) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", peers::home().join("node_modules")).arg(script(name));
    command
}

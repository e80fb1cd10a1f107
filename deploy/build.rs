//! Build script: sets `BUILD_VERSION`, the text of `pitwire --version`.
//!
//! The commit comes from the environment variable `BUILD_COMMIT`, which the release scripts set. The
//! script never asks git: a build from a tarball has none, and every commit would rebuild the crate.
//!
//! Neither name begins with `PITWIRE_`: the agent refuses such a variable as an unknown setting, and
//! cargo passes the variables of a build script to the programs that it runs.

use std::{env, process};

fn main() {
    println!("cargo::rerun-if-changed=deploy/build.rs");
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    let variable = |name| env::var(name).unwrap_or_default();
    let (version, target) = (variable("CARGO_PKG_VERSION"), variable("TARGET"));
    let commit = variable("BUILD_COMMIT");
    if !commit.chars().all(|c| c.is_ascii_hexdigit()) {
        eprintln!(
            "BUILD_COMMIT is {commit:?}: set it to the hexadecimal id of a commit, or unset it"
        );
        process::exit(1);
    }
    if commit.is_empty() {
        println!("cargo::rustc-env=BUILD_VERSION={version} ({target})");
    } else {
        println!("cargo::rustc-env=BUILD_VERSION={version} ({commit}, {target})");
    }
}

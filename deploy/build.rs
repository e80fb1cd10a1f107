//! Build script: sets `PITWIRE_VERSION`, the text of `pitwire --version`.
//!
//! The commit comes from the environment variable `PITWIRE_COMMIT`, which the release scripts set. The
//! script never asks git: a build from a tarball has none, and every commit would rebuild the crate.

use std::{env, process};

fn main() {
    println!("cargo::rerun-if-changed=deploy/build.rs");
    println!("cargo::rerun-if-env-changed=PITWIRE_COMMIT");
    let variable = |name| env::var(name).unwrap_or_default();
    let (version, target) = (variable("CARGO_PKG_VERSION"), variable("TARGET"));
    let commit = variable("PITWIRE_COMMIT");
    if !commit.chars().all(|c| c.is_ascii_hexdigit()) {
        eprintln!(
            "PITWIRE_COMMIT is {commit:?}: set it to the hexadecimal id of a commit, or unset it"
        );
        process::exit(1);
    }
    if commit.is_empty() {
        println!("cargo::rustc-env=PITWIRE_VERSION={version} ({target})");
    } else {
        println!("cargo::rustc-env=PITWIRE_VERSION={version} ({commit}, {target})");
    }
}

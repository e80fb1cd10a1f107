//! Fuzzes configuration files.

use std::fs;
use std::iter;

use pitwire::config::{Overrides, load};

use super::{corpus, fuzz};

#[test]
fn a_mutated_configuration_is_loaded_or_refused_in_short_lines() {
    let folder = tempfile::tempdir().unwrap();
    let mut samples = corpus("config");
    samples.push(include_bytes!("../../../deploy/pitwire.toml").to_vec());
    fuzz(600, &samples, |text| read(folder.path(), text));
}

#[test]
fn a_deeply_nested_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let deep = 200_000;
    for text in [
        format!("{}1", "a.".repeat(deep)) + " = 1",
        format!("[{}a]", "a.".repeat(deep)),
        format!("[[{}a]]", "a.".repeat(deep)),
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}", "{a=".repeat(deep)),
        format!("queue = {}", "{queue=".repeat(deep)),
        format!("{{\"a\": {}", "[".repeat(deep)),
        format!("{{\"a\": {}", "{\"a\":".repeat(deep)),
        "[queue]\n".repeat(100_000),
        "a=1\n".repeat(200_000),
    ] {
        read(folder.path(), text.as_bytes());
    }
}

fn read(folder: &std::path::Path, text: &[u8]) {
    for name in ["pitwire.toml", "config.json"] {
        let file = folder.join(name);
        fs::write(&file, text).unwrap();
        if let Err(problems) = load(Some(&file), iter::empty(), &Overrides::default()) {
            for line in problems.to_string().lines() {
                assert!(line.len() < 1000, "{line}");
                assert!(!line.contains(['\u{1b}', '\0']), "{line:?}");
            }
        }
    }
}

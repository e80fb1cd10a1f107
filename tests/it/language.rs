//! One term for one thing: earlier names of the project's parts must not return, neither as an
//! identifier nor in prose.

use std::fs;
use std::path::{Path, PathBuf};

/// Words that have a standard term, in lower case. They count as part of an identifier too:
/// `is_thinned` and `Thinned` contain `thinned`.
const WORDS: [(&str, &str); 15] = [
    ("booked", "recorded"),
    ("books", "metadata or ledger"),
    ("commander", "delivery gate"),
    ("complain", "log_refusal"),
    ("fate", "disposition"),
    ("fates", "dispositions"),
    ("glance", "snapshot"),
    ("insist", "retry"),
    ("keeper", "queue worker"),
    ("mailbox", "inbox"),
    ("mood", "severity"),
    ("packer", "block writer"),
    ("pill", "badge"),
    ("plainly", "user_message"),
    ("thinned", "downsampled or rate-limited"),
];

/// Whole identifiers that have a standard term. Their words are ordinary English.
const NAMES: [(&str, &str); 22] = [
    ("Account", "Cursor, ClientMemory"),
    ("Board", "StatusHistory"),
    ("Books", "Metadata"),
    ("Cannot", "ToolError"),
    ("Door", "Acceptor"),
    ("DropStep", "PurgeStep"),
    ("Given", "RawValue"),
    ("Hall", "Clients"),
    ("Held", "Usage"),
    ("KEPT_WITH_THE_ONE_BEFORE", "KEEP_WITH_PREDECESSOR"),
    ("Lack", "Shortfall"),
    ("Manners", "ServerBehavior"),
    ("NewestSegment", "ActiveSegment"),
    ("Packed", "SealedSegment"),
    ("Plug", "KillSwitch, FaultProxy"),
    ("Seat", "Client"),
    ("Shed", "Discarded"),
    ("Standing", "DestinationStatus"),
    ("Stretch", "SegmentInfo"),
    ("append_patiently", "append_blocking"),
    ("give_up_oldest", "evict_oldest"),
    ("lost_stretches", "lost_ranges"),
];

/// Phrases that have a standard term.
const PHRASES: [(&str, &str); 4] = [
    ("keep the books", "record"),
    ("passed over", "skipped"),
    ("set aside", "dead letter"),
    ("strike out", "expire"),
];

// Not listed, because the project or its libraries use them in their usual meaning: journal
// (systemd's), span (of tracing), frame, parse, remove, release, look, note, mark, order, line,
// share, seen, run, waiting, plain, stretch (of a plot).

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The texts of the project. Patches, corpora and other people's code are not among them.
fn texts() -> Vec<(PathBuf, String)> {
    let mut files = vec![project().join("README.md")];
    let mut folders: Vec<_> =
        ["src", "tests", "benches", "deploy"].map(|name| project().join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_str().unwrap();
            let is_skipped =
                ["vendor", "mutations", "corpus", "data", "node_modules"].contains(&name);
            if entry.is_dir() && !is_skipped {
                folders.push(entry);
            } else if entry.is_file() && !entry.ends_with("tests/it/language.rs") {
                files.push(entry);
            }
        }
    }
    let kinds = ["rs", "md", "sh", "toml", "yml", "html", "js", "py", "service"];
    let is_text = |file: &PathBuf| {
        let extension = file.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| kinds.contains(&extension))
    };
    let files = files.into_iter().filter(is_text);
    files.map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

/// The words of a line in lower case; identifiers are split at underscores and capitals.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in line.chars() {
        if !c.is_alphabetic() || c.is_uppercase() && was_lower {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if let (true, Some(word)) = (c.is_alphabetic(), words.last_mut()) {
            word.extend(c.to_lowercase());
        }
    }
    words
}

/// The terms on the line that have a standard term, each with that one.
fn found(line: &str) -> Vec<&'static (&'static str, &'static str)> {
    let (words, lower) = (words(line), line.to_lowercase());
    let is_in_name = |c: char| c.is_alphanumeric() || c == '_';
    let names: Vec<_> = line.split(|c| !is_in_name(c)).collect();
    let old_words = WORDS.iter().filter(|(old, _)| words.iter().any(|word| word == old));
    let old_names = NAMES.iter().filter(|(old, _)| names.contains(old));
    let old_phrases = PHRASES.iter().filter(|(old, _)| lower.contains(old));
    old_words.chain(old_names).chain(old_phrases).collect()
}

#[test]
fn the_project_uses_the_standard_terms() {
    let mut wrong = Vec::new();
    for (file, text) in texts() {
        let file = file.strip_prefix(project()).unwrap().display().to_string();
        for (number, line) in (1..).zip(text.lines()) {
            let found = found(line).into_iter();
            wrong.extend(found.map(|(old, new)| format!("{file}:{number}: {old}: write {new}")));
        }
    }
    assert!(wrong.is_empty(), "{} lines:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_old_term_is_found_in_identifiers_and_prose() {
    for (line, expected) in [
        ("let is_thinned = true;", vec!["thinned"]),
        ("struct EntryFate;", vec!["fate"]),
        ("the Keeper, and a Door", vec!["keeper", "Door"]),
        ("entries were Set aside", vec!["set aside"]),
        ("a door, a notebook, uninsisted, Doors", vec![]),
    ] {
        let found: Vec<_> = found(line).into_iter().map(|(old, _)| *old).collect();
        assert_eq!(found, expected, "{line}");
    }
}

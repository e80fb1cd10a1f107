//! Fuzzing of every input: disk, configuration, game, publishers and servers. No input may cause a
//! panic, a hang or unbounded memory, and valid input that follows is still accepted.
//!
//! Inputs are mutations of real ones from `tests/corpus/`, drawn from a seed. `FUZZ_CASES` sets the
//! number of cases per target. A failing case prints its number, and `FUZZ_FIRST` starts at that
//! case.

#[cfg(unix)]
mod agent;
mod config;
mod disk;
mod game;
mod mutate;
mod samples;
#[cfg(unix)]
mod server;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::mutate::mutate;

/// An input that takes longer counts as a hang.
const LIMIT: Duration = Duration::from_secs(20);

/// The inputs in a folder of the corpus: its files, and the lines of each `.lines` file.
fn corpus(subject: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(subject);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |file: &std::path::PathBuf| {
        let bytes = std::fs::read(file).unwrap();
        if file.extension().is_some_and(|extension| extension == "lines") {
            bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
        } else {
            vec![bytes]
        }
    };
    files.iter().flat_map(read).filter(|sample| !sample.is_empty()).collect()
}

/// Numbers and inputs of the cases of one target.
fn cases(usual: u64, corpus: &[Vec<u8>]) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let first = number("FUZZ_FIRST").unwrap_or(0);
    let count = number("FUZZ_CASES").unwrap_or(usual);
    (first..first + count).map(|case| (case, mutate(corpus, &mut SmallRng::seed_from_u64(case))))
}

/// Runs `check` on each case.
fn fuzz(usual: u64, corpus: &[Vec<u8>], check: impl Fn(&[u8])) {
    for (case, input) in cases(usual, corpus) {
        let start = Instant::now();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&input))) {
            eprintln!("case {case}: {}", input.escape_ascii());
            resume_unwind(panic);
        }
        assert!(start.elapsed() < LIMIT, "case {case} took {:?}", start.elapsed());
    }
}

/// Peak memory of a process in MiB; 0 where the system does not report it.
fn peak_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
    peak.unwrap_or(0) >> 10
}

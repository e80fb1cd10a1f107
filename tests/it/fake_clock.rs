//! A wall clock that a test sets, for the processes started with its environment. libfaketime fakes
//! it; the uptime advances as always.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::default_ports;

/// The wall clock of a computer.
pub struct FakeClock {
    folder: TempDir,
}

impl FakeClock {
    /// A clock that shows this time: relative to the real one, or an absolute one.
    pub fn at(time: &str) -> Self {
        let clock = Self { folder: tempfile::tempdir().unwrap() };
        clock.set(time);
        clock
    }

    pub fn set(&self, time: &str) {
        let unfinished = self.folder.path().join("clock.new");
        fs::write(&unfinished, time).unwrap();
        fs::rename(unfinished, self.folder.path().join("clock")).unwrap();
    }

    /// The environment of a process that uses the clock.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let preload = format!("{}:{}", default_ports::library().display(), library().display());
        let file = self.folder.path().join("clock").display().to_string();
        vec![
            ("LD_PRELOAD", preload),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|folder| folder.unwrap().path());
    let library = |folder: PathBuf| folder.join(Path::new("faketime/libfaketimeMT.so.1"));
    folders.map(library).find(|library| library.exists()).expect("tests/setup.sh installs faketime")
}

//! The game's memory on Linux: files under `/dev/shm` that a bridge maintains beside the game.
//!
//! They are read with ordinary file reads. If they were mapped, a truncation by the bridge would
//! kill this process with SIGBUS.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};

use super::memory::{Mapping, Memory, Region};

/// Regions as files in a folder.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }
}

impl Memory for Files {
    fn open(&self, region: Region) -> io::Result<Box<dyn Mapping>> {
        let path = self.folder.join(region.name());
        // Check the type before opening the file: opening a pipe would block until it has a writer.
        let about = std::fs::metadata(&path)?;
        if !about.is_file() || about.len() < region.size() as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file, or too small"));
        }
        Ok(Box::new(File::open(path)?))
    }
}

impl Mapping for File {
    fn read(&self, at: usize, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, at as u64)
    }

    fn counter(&self, at: usize) -> io::Result<u32> {
        let mut bytes = [0; 4];
        fence(Ordering::SeqCst);
        self.read_exact_at(&mut bytes, at as u64)?;
        fence(Ordering::SeqCst);
        Ok(u32::from_le_bytes(bytes))
    }
}

//! Checks a directory: whether files can be stored there, and how fast.

use crate::cli::doctor::DOCTOR_DISK_TIMEOUT;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// The number and size of the writes with which the doctor measures the disk: about a frame each.
const DOCTOR_FSYNCS: usize = 9;
const DOCTOR_FSYNC_BYTES: usize = 512;

/// Runs blocking disk work on another thread; `None` if the disk does not answer in time.
pub(super) async fn in_time<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    timeout(DOCTOR_DISK_TIMEOUT, spawn_blocking(work)).await.ok()?.ok()
}

/// The directory if it exists, otherwise its closest existing parent.
pub(super) fn existing(folder: &Path) -> io::Result<PathBuf> {
    let whole = std::path::absolute(folder)?;
    for place in whole.ancestors() {
        match fs::metadata(place) {
            Ok(about) if about.is_dir() => return Ok(place.into()),
            Ok(_) => {
                let text = format!("{} is a file, not a folder", place.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
            }
            // The parent shows whether it can be created.
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Measures how long the disk takes to make a write durable: the median of several writes to a
/// temporary file in the directory.
pub(super) fn fsync(folder: &Path) -> io::Result<Duration> {
    // No file of the queue has such a name.
    let mut file = tempfile::Builder::new().prefix("doctor-").suffix(".tmp").tempfile_in(folder)?;
    let mut times = Vec::new();
    for _ in 0..DOCTOR_FSYNCS {
        let start = Instant::now();
        file.write_all(&[0x5A; DOCTOR_FSYNC_BYTES])?;
        file.as_file().sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// Formats a number of bytes for people: "512 MiB".
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut left = bytes as f64;
    while left >= 1024.0 && unit + 1 < UNITS.len() {
        left /= 1024.0;
        unit += 1;
    }
    let number =
        if left >= 10.0 || unit == 0 { format!("{left:.0}") } else { format!("{left:.1}") };
    format!("{number} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_existing_parent_folder_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let deep = folder.path().join("a").join("b");
        assert_eq!(existing(&deep).unwrap(), folder.path());
        assert_eq!(existing(folder.path()).unwrap(), folder.path());
        assert!(existing(Path::new("queue")).unwrap().is_absolute());
        for in_the_way in [file.clone(), file.join("queue")] {
            let error = existing(&in_the_way).unwrap_err().to_string();
            assert_eq!(error, format!("{} is a file, not a folder", file.display()));
        }
    }

    #[test]
    fn the_fsync_probe_leaves_no_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        assert!(fsync(folder.path()).unwrap() > Duration::ZERO);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn sizes_are_shown_in_a_suitable_unit() {
        for (bytes, said) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (30 << 20, "30 MiB"),
            (2 << 30, "2.0 GiB"),
        ] {
            assert_eq!(size(bytes), said);
        }
    }
}

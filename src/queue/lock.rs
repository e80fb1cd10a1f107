//! One agent to a queue: a lock on a file, and beside it the name of the process that holds it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

/// Held for as long as this lives; the operating system lets go of it when the process ends,
/// however it ends.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of the queue in `folder`, or names the process that holds it.
    pub(super) fn take(folder: &Path) -> io::Result<Result<Self, String>> {
        // Two files: a locked one cannot be read by others on Windows.
        let owner = folder.join("owner");
        let file =
            File::options().create(true).truncate(false).write(true).open(folder.join("lock"))?;
        match file.try_lock() {
            Ok(()) => {
                fs::write(&owner, std::process::id().to_string())?;
                Ok(Ok(Self(file)))
            }
            Err(TryLockError::WouldBlock) => {
                let name = fs::read_to_string(&owner).unwrap_or_default();
                Ok(Err(if name.is_empty() { "unknown".into() } else { name }))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file lets go of the lock all the same.
        let _ = self.0.unlock();
    }
}

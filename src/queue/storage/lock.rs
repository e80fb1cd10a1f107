//! Ensures that only one agent uses a queue: locks a file and the folder itself, and records the
//! owner.
//!
//! - The file is locked on every system. If it is deleted, another process could lock a new file of
//!   the same name. Windows prevents deleting a locked file.
//! - On other systems the folder is locked too, if its file system supports that. A folder that was
//!   moved away keeps its lock, so the holder checks [`Lock::is_valid`] before relying on it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::owner::{OWNER, Owner};
use super::{disk, quarantine};

const LOCK: &str = "lock";

/// The queue's lock, held until dropped. The operating system releases it when the process ends for
/// any reason.
#[derive(Debug)]
pub(in crate::queue) struct Lock {
    folder: PathBuf,
    /// The lock file; `None` if the lock was lost and could not be taken again.
    file: Option<File>,
    /// Holds the lock on the folder, where that is supported.
    locked_folder: Option<File>,
}

impl Lock {
    /// Takes the lock of the queue in `folder`, or returns the process that holds it.
    pub(in crate::queue) fn take(folder: &Path) -> io::Result<Result<Self, String>> {
        let locked_folder = match lock_folder(folder) {
            Ok(locked) => locked,
            Err(TryLockError::WouldBlock) => return Ok(Err(holder(folder))),
            Err(TryLockError::Error(error)) => return Err(error),
        };
        let path = folder.join(LOCK);
        if disk::is_no_file(&path) {
            quarantine::move_stray(folder, LOCK)?;
        }
        let mut options = disk::options();
        options.create(true).truncate(false).write(true);
        #[cfg(windows)]
        {
            const SHARE_READ_AND_WRITE: u32 = 1 | 2; // and not delete: see the module
            std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, SHARE_READ_AND_WRITE);
        }
        let file = options.open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Err(holder(folder))),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The owner is in a second file because other processes cannot read a locked file on
        // Windows.
        if disk::is_no_file(&folder.join(OWNER)) {
            quarantine::move_stray(folder, OWNER)?;
        }
        // The file only names the owner for people: a full disk must not prevent a start.
        if let Err(error) = Owner::set_process(folder) {
            tracing::warn!(%error, "cannot write the queue's owner file");
        }
        Ok(Ok(Self { folder: folder.into(), file: Some(file), locked_folder }))
    }

    /// Whether the lock file on disk is still the locked one. If not, another process may have
    /// locked the queue meanwhile.
    pub(in crate::queue) fn is_valid(&self) -> bool {
        self.file.as_ref().is_some_and(|file| disk::is_at(file, &self.folder.join(LOCK)))
    }

    /// Takes the lock again if it is no longer valid.
    ///
    /// # Errors
    /// Another process has locked the queue, or the disk fails; then the lock is not held.
    pub(in crate::queue) fn renew(&mut self) -> io::Result<()> {
        if self.is_valid() {
            return Ok(());
        }
        let folder = std::mem::take(&mut self.folder);
        // Release the folder lock first: it may be the same folder, which cannot be locked twice.
        *self = Self { folder, file: None, locked_folder: None };
        disk::create_folder(&self.folder)?;
        match Self::take(&self.folder)? {
            Ok(lock) => {
                *self = lock;
                tracing::warn!(
                    queue = %self.folder.display(),
                    "the queue's lock file was removed or its folder moved; locked again"
                );
                Ok(())
            }
            Err(owner) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "the queue's lock file was removed and another pitwire (process {owner}) has \
                     the queue now; stop one of the two"
                ),
            )),
        }
    }
}

impl Drop for Lock {
    /// Unlocks explicitly: a program that another thread is starting has a copy of each open file
    /// until it runs, and closing this one alone would leave the queue locked for that long.
    fn drop(&mut self) {
        for file in [&self.file, &self.locked_folder].into_iter().flatten() {
            // Closing the file is the fallback.
            let _ = file.unlock();
        }
    }
}

/// The process that holds the lock.
fn holder(folder: &Path) -> String {
    Owner::read(folder).map_or("unknown".into(), |owner| owner.process)
}

/// Locks the folder itself; `None` where that is not supported.
#[cfg(unix)]
fn lock_folder(folder: &Path) -> Result<Option<File>, TryLockError> {
    let file = File::open(folder).map_err(TryLockError::Error)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
        // Some network file systems do not support locks on folders.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(not(unix))]
fn lock_folder(_folder: &Path) -> Result<Option<File>, TryLockError> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_queue_whose_lock_file_was_removed_stays_locked() {
        let folder = tempfile::tempdir().unwrap();
        let mut lock = Lock::take(folder.path()).unwrap().unwrap();
        fs::remove_file(folder.path().join(LOCK)).unwrap();
        let owner = Lock::take(folder.path()).unwrap().unwrap_err();
        assert_eq!(owner, std::process::id().to_string());
        assert!(!lock.is_valid());
        lock.renew().unwrap();
        assert!(lock.is_valid());
    }

    #[test]
    #[cfg(unix)]
    fn a_lock_does_not_cover_a_new_folder_at_the_same_path() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("queue");
        fs::create_dir(&folder).unwrap();
        let mut first = Lock::take(&folder).unwrap().unwrap();
        fs::rename(&folder, place.path().join("moved")).unwrap();
        fs::create_dir(&folder).unwrap();
        let second = Lock::take(&folder).unwrap().unwrap();
        let error = first.renew().unwrap_err();
        assert!(error.to_string().contains("another pitwire (process "), "{error}");
        drop(second);
        first.renew().unwrap();
    }

    #[test]
    fn a_released_lock_is_free_although_a_starting_program_inherited_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap().unwrap();
        let files = [&lock.file, &lock.locked_folder].into_iter().flatten();
        let _inherited: Vec<_> = files.map(|file| file.try_clone().unwrap()).collect();
        drop(lock);
        Lock::take(folder.path()).unwrap().unwrap();
    }

    #[test]
    fn a_folder_in_place_of_the_lock_file_is_quarantined() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(LOCK)).unwrap();
        let _lock = Lock::take(folder.path()).unwrap().unwrap();
        assert!(folder.path().join("quarantine").join("stray-lock").is_dir());
    }
}

//! Why a queue, or a call to it, failed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::storage::disk;
use super::storage::lock::Lock;

/// Why a queue operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// The disk failed. A later attempt may succeed.
    #[error("queue disk error: {0}")]
    Storage(Arc<io::Error>),
    /// The queue has been closed.
    #[error("the queue is closed")]
    Closed,
}

impl From<io::Error> for QueueError {
    fn from(error: io::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

/// Why a queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the queue {path} is in use by another pitwire (process {owner})")]
    InUse { path: String, owner: String },
    #[error("cannot open the queue {path}: {source}")]
    Storage { path: String, source: io::Error },
    #[error("there is no queue in {path}")]
    Missing { path: String },
}

impl OpenError {
    pub(super) fn storage(folder: &Path, source: io::Error) -> Self {
        Self::Storage { path: folder.display().to_string(), source }
    }

    /// Takes the lock of the queue in `folder`.
    pub(super) fn lock(folder: &Path) -> Result<Lock, Self> {
        // The system would take the working directory.
        if folder.as_os_str().is_empty() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "queue.path is empty");
            return Err(Self::storage(folder, source));
        }
        Lock::take(folder)
            .map_err(|source| Self::storage(folder, source))?
            .map_err(|owner| Self::InUse { path: folder.display().to_string(), owner })
    }

    /// Whether the cause is the state of the disk (full, read-only, missing) rather than its
    /// content. Such an error may clear without intervention.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Storage { source, .. } if disk::is_circumstance(source))
    }
}

//! Files that may hold what others should not read, such as links to pages: only their owner may. On
//! Windows the user's profile has such rights already.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

/// Rights of a new file and of a new folder.
#[cfg(unix)]
const MODES: (u32, u32) = (0o600, 0o700);

/// To create a file with; one that exists keeps its rights.
pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, MODES.0);
    options
}

/// Creates the folder and those above it that do not exist.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, MODES.1);
    builder.create(path)
}

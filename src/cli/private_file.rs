//! Files that only their owner may read, because they may contain links to pages. On Windows the
//! user's profile is already private.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

/// Permissions of a new file and of a new directory.
#[cfg(unix)]
const MODES: (u32, u32) = (0o600, 0o700);

/// Options for creating a private file. An existing file keeps its permissions.
pub(super) fn options() -> OpenOptions {
    #[cfg_attr(not(unix), allow(unused_mut, reason = "only Unix has modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, MODES.0);
    options
}

/// Creates the directory and its missing parents.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, MODES.1);
    builder.create(path)
}

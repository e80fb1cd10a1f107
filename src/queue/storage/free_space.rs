//! Free disk space.

use std::path::Path;

/// The bytes that this user can still store in `folder`; `None` where the system does not provide
/// this.
#[cfg(target_os = "linux")]
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder).ok()?;
    // Some user-space file systems report nothing but zeros.
    (about.f_blocks > 0).then(|| about.f_bavail.saturating_mul(about.f_frsize))
}

#[cfg(windows)]
#[allow(unsafe_code, reason = "the system's own call has no safe form")]
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    use std::os::windows::ffi::OsStrExt;
    use std::ptr::null_mut;

    use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;

    let path: Vec<u16> = folder.as_os_str().encode_wide().chain([0]).collect();
    let mut free = 0;
    // SAFETY: the path ends with a NUL and, like the number, outlives the call; the optional
    // outputs may be null.
    let found = unsafe { GetDiskFreeSpaceExW(path.as_ptr(), &mut free, null_mut(), null_mut()) };
    (found != 0).then_some(free)
}

#[cfg(not(any(target_os = "linux", windows)))]
pub(crate) fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_of_a_writable_folder_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        if cfg!(any(target_os = "linux", windows)) {
            assert!(free_bytes(folder.path()) > Some(0));
        }
    }
}

//! File-system helpers: writes and renames that survive a power cut, deletion that survives an
//! antivirus scanner, and disk usage as `du` counts it.
//!
//! Files and folders are created with access for this user only (0600, 0700), and symbolic links
//! are not followed: the queue may be in a folder that others can write to.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// On Windows another process, usually an antivirus scanner, may hold a file open for a moment.
const TRIES: u32 = 20;
const TRY_INTERVAL: Duration = Duration::from_millis(25);

/// The names in `folder` that begin with `prefix`, sorted. Names that are not UTF-8 are skipped:
/// the queue creates none.
pub(in crate::queue) fn names(folder: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for item in fs::read_dir(folder)? {
        if let Ok(name) = item?.file_name().into_string()
            && name.starts_with(prefix)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The content of a file, parts of which the disk may be unable to read.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    /// The content; unreadable blocks are zeros.
    pub(super) bytes: Vec<u8>,
    pub(super) unreadable_bytes: u64,
}

/// Reads a file. If the disk cannot read some blocks of it but otherwise works, they are damaged
/// and read as zeros.
///
/// # Errors
/// The file is missing, or the disk as a whole does not work at the moment.
pub(super) fn read(path: &Path) -> io::Result<Salvaged> {
    match fs::read(path) {
        Ok(bytes) => Ok(Salvaged { bytes, unreadable_bytes: 0 }),
        Err(error) if is_read_error(&error) && takes_files(path) => read_blocks(path),
        Err(error) => Err(error),
    }
}

/// The size of the blocks that are read one by one from a damaged file: a page of the page cache,
/// the least that a read error affects.
const BLOCK_BYTES: usize = 4096;
/// How long a damaged file is read; after that, the remaining blocks count as unreadable. A disk
/// may spend seconds on each bad sector, and the watchdog of the queue worker waits for 30 s.
const SALVAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a file block by block.
fn read_blocks(path: &Path) -> io::Result<Salvaged> {
    let mut file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut salvaged = Salvaged { bytes: vec![0; len], unreadable_bytes: 0 };
    let deadline = Instant::now() + SALVAGE_TIMEOUT;
    for (number, block) in salvaged.bytes.chunks_mut(BLOCK_BYTES).enumerate() {
        let at = SeekFrom::Start((number * BLOCK_BYTES) as u64);
        let read = if Instant::now() < deadline {
            file.seek(at).and_then(|_| file.read_exact(block))
        } else {
            Err(ErrorKind::TimedOut.into())
        };
        if read.is_err() {
            block.fill(0);
            salvaged.unreadable_bytes += block.len() as u64;
        }
    }
    Ok(salvaged)
}

/// Whether the disk of `path` accepts a new file. Then it is not the disk as a whole that does not
/// work.
fn takes_files(path: &Path) -> bool {
    let Some(folder) = path.parent() else { return false };
    let probe = folder.join("probe.tmp");
    let taken = write_durably(&probe, b"probe").is_ok();
    // It is swept at the next start if it cannot be removed.
    let _ = remove_file(&probe);
    taken
}

/// Whether the disk failed to read: EIO; on Windows CRC error, sector not found, read fault, I/O
/// device error.
fn is_read_error(error: &io::Error) -> bool {
    let codes: &[i32] = if cfg!(windows) { &[23, 27, 30, 1117] } else { &[5] };
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Whether `path` exists; a symbolic link counts, whatever it points to.
///
/// # Errors
/// The system cannot tell at the moment.
pub(super) fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a file or a folder that is no longer needed. If that fails, it stays until the next
/// start: it only takes space.
pub(super) fn remove_leftover(path: &Path) {
    if let Err(error) = remove_folder(path) {
        tracing::warn!(path = %path.display(), %error, "cannot delete a leftover of the queue; \
            trying again at the next start");
    }
}

/// Replaces the content of the file at `path` by `bytes`, atomically and durably: after a power cut
/// it contains either the old or the new content.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    write_durably(&temporary, bytes)?;
    rename(&temporary, path)?;
    sync_parent(path)
}

/// Creates a file, replacing an existing one. Its content is durable when this returns, its name
/// after a [`sync_folder`]. After an error the file is removed, so that it takes no space on a full
/// disk.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    if written.is_err() {
        let _ = remove_file(path);
    }
    written
}

/// Replaces the file at `path` without making it durable: a killed process leaves the old or the
/// new content, a power cut possibly neither.
pub(crate) fn replace_undurably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let written = create(&temporary).and_then(|mut file| file.write_all(bytes));
    if written.is_err() {
        let _ = remove_file(&temporary);
    }
    written?;
    rename(&temporary, path)
}

/// Creates an empty file, replacing an existing file or link.
fn create(path: &Path) -> io::Result<File> {
    let mut new = options();
    new.write(true).create_new(true);
    match new.open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            remove_file(path)?;
            new.open(path)
        }
        created => created,
    }
}

/// Open options that create files for this user only and do not follow symbolic links.
pub(super) fn options() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has modes and O_NOFOLLOW"))]
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    #[cfg(target_os = "linux")]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
    );
    options
}

/// Creates a folder and its parents with access for this user only; an existing folder is left
/// unchanged.
pub(in crate::queue) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Removes other users' access to the files in `folder`, which another library created.
#[cfg(unix)]
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for item in fs::read_dir(folder)? {
        let item = item?;
        let kind = item.file_type()?;
        if kind.is_dir() {
            fs::set_permissions(item.path(), fs::Permissions::from_mode(0o700))?;
            make_private(&item.path())?;
        } else if kind.is_file() {
            fs::set_permissions(item.path(), fs::Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}

/// On Windows a new file inherits the permissions of its folder.
#[cfg(not(unix))]
pub(super) fn make_private(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Syncs a file written by other code. Opened for writing because Windows requires that.
pub(super) fn sync_file(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.sync_all()
}

/// Makes the names in a folder durable. Windows neither can nor needs to do this.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Makes a folder and everything below it durable.
pub(super) fn sync_all(path: &Path) -> io::Result<()> {
    for item in fs::read_dir(path)? {
        let item = item?;
        if item.file_type()?.is_dir() {
            sync_all(&item.path())?;
        } else {
            sync_file(&item.path())?;
        }
    }
    sync_folder(path)
}

/// Copies a folder and everything below it into a new folder.
pub(super) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    create_folder(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let to = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy_folder(&item.path(), &to)?;
            continue;
        }
        match fs::copy(item.path(), &to) {
            Err(error) if is_read_error(&error) => fs::write(to, read(&item.path())?.bytes)?,
            copied => drop(copied?),
        }
    }
    Ok(())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}

/// Renames a file or a folder.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    patiently(|| fs::rename(from, to))
}

/// Removes a file; a missing file is not an error.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    patiently(|| absent_is_fine(fs::remove_file(path)))
}

/// Removes a folder and its contents; a missing folder is not an error. A symbolic link is removed,
/// its target is not.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return remove_file(path),
        Ok(_) => {}
        Err(error) => return absent_is_fine(Err(error)),
    }
    let items = match fs::read_dir(path) {
        Ok(items) => items,
        Err(error) => return absent_is_fine(Err(error)),
    };
    for item in items {
        let item = item?;
        if item.file_type()?.is_dir() {
            remove_folder(&item.path())?;
        } else {
            remove_file(&item.path())?;
        }
    }
    patiently(|| absent_is_fine(fs::remove_dir(path)))
}

/// Disk usage of `path` and everything below it, as `du` counts it. Files that disappear meanwhile
/// count as 0.
pub(in crate::queue) fn used(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let mut bytes = allocated(&metadata);
    if metadata.is_dir()
        && let Ok(items) = fs::read_dir(path)
    {
        bytes += items.flatten().map(|item| used(&item.path())).sum::<u64>();
    }
    bytes
}

#[cfg(unix)]
pub(super) fn allocated(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
pub(super) fn allocated(metadata: &fs::Metadata) -> u64 {
    metadata.len().next_multiple_of(4096)
}

/// The boot ID, where the operating system provides one. While it stays the same, everything that a
/// killed process wrote is still there.
pub(super) fn boot() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned())
}

/// Whether an error is caused by the state of the disk or the system rather than by the file
/// itself.
pub(in crate::queue) fn is_circumstance(error: &io::Error) -> bool {
    // ENXIO, ENODEV, ENFILE, EMFILE; on Windows too many open files, a drive that is not ready, and
    // files that another program holds. The standard library has no kinds for them.
    let codes: &[i32] = if cfg!(unix) {
        &[6, 19, 23, 24]
    } else if cfg!(windows) {
        &[4, 21, 32, 33]
    } else {
        &[]
    };
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
        || is_read_error(error)
        || is_full(error)
        || matches!(
            error.kind(),
            ErrorKind::PermissionDenied
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::ResourceBusy
                | ErrorKind::OutOfMemory
                | ErrorKind::WouldBlock
                | ErrorKind::TimedOut
                | ErrorKind::StaleNetworkFileHandle
        )
}

/// Whether an error means that the disk or a quota is full.
pub(in crate::queue) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether `path` exists and is not a regular file but, for example, a symbolic link or a folder.
pub(super) fn is_no_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

/// Whether `path` exists and is not a folder but, for example, a link to one.
pub(super) fn is_no_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir())
}

/// Whether `path` refers to the open `file`; true if the system cannot tell.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |file: fs::Metadata| (file.dev(), file.ino());
        let (ours, theirs) = (file.metadata().map(identity), fs::metadata(path).map(identity));
        matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// The first unused path in `folder` among `name`, `name-1`, `name-2`, …
pub(super) fn free_name(folder: &Path, name: &str) -> PathBuf {
    let numbered = (1_u32..).map(|n| folder.join(format!("{name}-{n}")));
    let mut paths = std::iter::once(folder.join(name)).chain(numbered);
    paths.find(|path| fs::symlink_metadata(path).is_err()).unwrap_or_else(|| folder.join(name))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Retries for half a second while another process may hold the file: "access denied" and "sharing
/// violation" on Windows, or a folder that something else still writes to.
fn patiently(mut act: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    const SHARING_VIOLATION: i32 = 32;
    let mut tries = 1;
    loop {
        match act() {
            Err(error)
                if tries < TRIES
                    && (error.kind() == ErrorKind::DirectoryNotEmpty
                        || cfg!(windows)
                            && (error.kind() == ErrorKind::PermissionDenied
                                || error.raw_os_error() == Some(SHARING_VIOLATION))) =>
            {
                tries += 1;
                std::thread::sleep(TRY_INTERVAL);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn errors_of_the_system_are_told_from_damage() {
        let error = io::Error::from_raw_os_error;
        let codes = [
            libc::EIO,
            libc::ENXIO,
            libc::ENODEV,
            libc::ENFILE,
            libc::EMFILE,
            libc::EACCES,
            libc::EPERM,
            libc::EROFS,
            libc::EBUSY,
            libc::ENOMEM,
            libc::EAGAIN,
            libc::ETIMEDOUT,
            libc::ESTALE,
            libc::ENOSPC,
            libc::EDQUOT,
        ];
        for code in codes {
            assert!(is_circumstance(&error(code)), "{}", error(code));
        }
        for code in [libc::ENOENT, libc::EISDIR, libc::ENOTDIR, libc::EINVAL] {
            assert!(!is_circumstance(&error(code)), "{}", error(code));
        }
        assert!(!is_circumstance(&ErrorKind::InvalidData.into()));
        for code in [libc::ENOSPC, libc::EDQUOT] {
            assert!(is_full(&error(code)), "{}", error(code));
        }
        assert!(!is_full(&error(libc::EMFILE)));
    }

    #[test]
    fn blocks_are_read_like_the_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for len in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 7] {
            let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
            fs::write(&path, &bytes).unwrap();
            let read = read_blocks(&path).unwrap();
            assert!(read.bytes == bytes && read.unreadable_bytes == 0, "{len}");
        }
        assert_eq!(read(&folder.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

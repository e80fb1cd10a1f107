//! What the queue asks of a file system beyond plain reads and writes: names and bytes that
//! survive a power cut, removal that survives an antivirus, and what `du` would say.
//!
//! Files and folders are created for this user alone (0600, 0700), and through no symbolic link: the
//! queue may be in a folder that others can write to.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Another process, as a rule an antivirus, may hold a file open on Windows for a moment.
const TRIES: u32 = 20;
const TRY_INTERVAL: Duration = Duration::from_millis(25);

/// The names in `folder` that begin with `prefix`, sorted; what is not UTF-8 is not ours.
pub(super) fn names(folder: &Path, prefix: &str) -> io::Result<Vec<String>> {
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

/// Puts `bytes` into the file at `path` so that after a power cut it holds either the old or the
/// new content, whole.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    write_durably(&temporary, bytes)?;
    rename(&temporary, path)?;
    sync_parent(path)
}

/// Writes a new file in the place of one that may be there. Its content is durable when this returns,
/// its name after a [`sync_folder`].
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces the file at `path` as [`replace`] does, but for durability: a killed process leaves the
/// old or the new content, a power cut perhaps neither.
pub(crate) fn replace_undurably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    create(&temporary)?.write_all(bytes)?;
    rename(&temporary, path)
}

/// Creates an empty file in the place of the file or link that may be there.
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

/// Options under which a file is created for this user alone and no symbolic link is followed.
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

/// Creates a folder for this user alone, with those above it; one that is there stays as it is.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Takes the rights of others from the files in `folder`, which another library created.
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

/// Windows gives a new file the rights of its folder.
#[cfg(not(unix))]
pub(super) fn make_private(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// fsync of a file that somebody else wrote; opened for writing because Windows wants that.
pub(super) fn sync_file(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.sync_all()
}

/// Makes the names in a folder durable. Windows cannot and need not do it.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Makes a folder durable with all that is below it.
pub(super) fn sync_all(path: &Path) -> io::Result<()> {
    for item in fs::read_dir(path)? {
        let item = item?;
        match item.file_type()?.is_dir() {
            true => sync_all(&item.path())?,
            false => sync_file(&item.path())?,
        }
    }
    sync_folder(path)
}

/// Copies a folder with all that is below it into a new one.
pub(super) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    create_folder(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let to = to.join(item.file_name());
        match item.file_type()?.is_dir() {
            true => copy_folder(&item.path(), &to)?,
            false => drop(fs::copy(item.path(), to)?),
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

/// Removes a file; one that is not there is removed already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    patiently(|| absent_is_fine(fs::remove_file(path)))
}

/// Removes a folder with all that is in it; one that is not there is removed already. Of a symbolic
/// link only the link is removed.
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
        match item.file_type()?.is_dir() {
            true => remove_folder(&item.path())?,
            false => remove_file(&item.path())?,
        }
    }
    patiently(|| absent_is_fine(fs::remove_dir(path)))
}

/// Bytes that `path` takes on the disk with all that is below it, as `du` counts them. What goes
/// away meanwhile counts nothing.
pub(super) fn used(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = match metadata.is_dir() {
        true => fs::read_dir(path)
            .map_or(0, |items| items.flatten().map(|item| used(&item.path())).sum()),
        false => 0,
    };
    allocated(&metadata) + below
}

#[cfg(unix)]
pub(super) fn allocated(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
pub(super) fn allocated(metadata: &fs::Metadata) -> u64 {
    metadata.len().next_multiple_of(4096)
}

/// Names the time since the machine was started, where the system does: what a process wrote
/// before it was killed is still there as long as this stays the same.
pub(super) fn boot() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned())
}

/// Whether an error says that the disk or the system, not the file, is in a bad way.
pub(super) fn is_circumstance(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    let input_output = cfg!(unix) && error.raw_os_error() == Some(EIO);
    input_output
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

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether there is a symbolic link or a folder at `path`, where a file should be.
pub(super) fn is_no_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

/// Whether there is something else than a folder at `path`, such as a link to one.
pub(super) fn is_no_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir())
}

/// Whether `file` is what is at `path`; true where the system cannot say.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let same = |ours: fs::Metadata, theirs: fs::Metadata| {
            (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())
        };
        file.metadata().is_ok_and(|ours| fs::metadata(path).is_ok_and(|theirs| same(ours, theirs)))
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// The path of `name` in `folder` that is not taken yet: `name`, else `name-1`, `name-2`, …
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

/// Tries again for half a second where another process may be holding the file: "access denied"
/// and "sharing violation" on Windows, a folder that is being written to elsewhere.
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

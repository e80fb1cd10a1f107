//! The folder `quarantine/`: damaged segments, and strays, which have a name that the queue uses but
//! the wrong type, such as a folder or a link where a file should be.

use std::io;
use std::path::{Path, PathBuf};

use super::disk;
use super::names::UNFINISHED;

pub(super) const QUARANTINE: &str = "quarantine";

/// The maximum number of strays in quarantine: an operator may have moved them here by mistake and
/// want them back.
const MAX_STRAYS: usize = 8;

/// The names of files in the folder of a queue, and of folders.
const FILES: [&str; 8] =
    ["FORMAT", "mark", "checkpoint", "lock", "owner", "ballast", "hub", "streams.json"];
const FOLDERS: [&str; 3] = [QUARANTINE, "facts", "dispositions"];

/// The strays in a queue's folder, as paths below it.
pub(in crate::queue) fn strays(folder: &Path) -> io::Result<Vec<String>> {
    let mut strays = Vec::new();
    for name in disk::names(folder, "")? {
        let path = folder.join(&name);
        let is_file = FILES.contains(&&*name)
            || name.ends_with(".tmp")
            || name.starts_with("tail-") && name.ends_with(".log");
        let is_folder = FOLDERS.contains(&&*name)
            || ["q-", "new-", "trash-", UNFINISHED].iter().any(|prefix| name.starts_with(prefix));
        if is_file && disk::is_no_file(&path) || is_folder && disk::is_no_folder(&path) {
            strays.push(name);
        } else if FOLDERS.contains(&&*name) {
            // Quarantine may contain anything besides the dead letters.
            let prefix = if name == QUARANTINE { "dead-letters" } else { "" };
            for inside in disk::names(&path, prefix)? {
                if disk::is_no_file(&path.join(&inside)) {
                    strays.push(format!("{name}/{inside}"));
                }
            }
        }
    }
    // Quarantine comes first: the others are moved there.
    strays.sort_by_key(|name| name != QUARANTINE);
    Ok(strays)
}

/// Moves strays to quarantine. The files that they displaced count as missing.
pub(super) fn move_strays(folder: &Path) -> io::Result<()> {
    strays(folder)?.iter().try_for_each(|name| move_stray(folder, name))
}

/// Moves a stray to quarantine; deletes the first stray there if there are too many.
pub(super) fn move_stray(folder: &Path, name: &str) -> io::Result<()> {
    let stray = folder.join(name);
    let new_name = format!("stray-{}", name.replace('/', "-"));
    tracing::error!(
        name,
        "a file or folder in the queue's folder has an unexpected type, such as a link; moved to \
         quarantine/{new_name}"
    );
    if name == QUARANTINE {
        let moved = disk::free_name(folder, &new_name);
        disk::rename(&stray, &moved)?;
        return disk::rename(&moved, &disk::free_name(&create(folder)?, &new_name));
    }
    let place = create(folder)?;
    let kept = disk::names(&place, "stray-")?;
    for name in kept.iter().take((kept.len() + 1).saturating_sub(MAX_STRAYS)) {
        disk::remove_leftover(&place.join(name));
    }
    disk::rename(&stray, &disk::free_name(&place, &new_name))
}

/// Returns the quarantine folder, creating it if necessary.
pub(super) fn create(folder: &Path) -> io::Result<PathBuf> {
    let place = folder.join(QUARANTINE);
    if disk::is_no_folder(&place) {
        move_stray(folder, QUARANTINE)?;
    }
    disk::create_folder(&place)?;
    Ok(place)
}

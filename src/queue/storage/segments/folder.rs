//! Segment folders: building, reading, replacing and deleting them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::DATABASE_BYTES;
use crate::entry::Seq;
use crate::queue::storage::free_space::free_bytes;
use crate::queue::storage::names::{SeqRange, UNFINISHED, position_in, ranges, wals};
use crate::queue::storage::sealed::{self, SealedSegment};
use crate::queue::storage::wal::{self, Checkpoint, number};
use crate::queue::storage::{Records, Usage, disk, framing, quarantine};

/// The number of damaged segments kept in quarantine.
const MAX_QUARANTINED: usize = 2;

/// A sealed segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) range: SeqRange,
    pub(super) stored: Usage,
    /// Its records that are not released.
    pub(super) pending: Usage,
    pub(super) level: u32,
    pub(super) disk_bytes: u64,
}

impl Segment {
    /// Whether the segment never contained records: it replaced records that were dropped.
    pub(super) fn is_empty(&self) -> bool {
        self.stored.records == 0
    }
}

/// What happens to segments that are replaced.
#[derive(Clone, Copy)]
pub(super) enum Replaced {
    Discard,
    Quarantine,
}

/// Builds a sealed segment under a temporary name. Everything but its final name is durable when
/// this returns.
pub(super) fn build(
    folder: &Path,
    span: SeqRange,
    sealed: &SealedSegment,
    all: Usage,
    level: u32,
) -> io::Result<Segment> {
    remove_unfinished(folder);
    has_room(folder, sealed.bytes())?;
    let path = next_attempt(folder);
    let built = disk::create_folder(&path).and_then(|()| sealed.write(&path)).and_then(|()| {
        let disk_bytes = disk::used(&path) + 4096;
        let numbers = [all.records, all.bytes, u64::from(level), disk_bytes];
        let payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        disk::make_private(&path)?;
        disk::write_durably(
            &path.join("seal"),
            &framing::encode(span.base_seq, span.last, &payload),
        )?;
        disk::sync_folder(&path)?;
        let new = span.new_path(folder);
        disk::remove_folder(&new)?;
        disk::rename(&path, &new)?;
        disk::sync_folder(folder)?;
        Ok(disk_bytes)
    });
    match built {
        Ok(disk_bytes) => Ok(Segment { range: span, stored: all, pending: all, level, disk_bytes }),
        Err(error) => {
            // Free its space for other writes.
            remove_unfinished(folder);
            disk::remove_leftover(&span.new_path(folder));
            Err(error)
        }
    }
}

/// A new folder for each attempt to build a segment, even if the folder of an earlier one was
/// deleted: a hung database may still create files in that.
fn next_attempt(folder: &Path) -> PathBuf {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(1);
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    // A leftover of another process may have the same number.
    disk::free_name(folder, &format!("{UNFINISHED}-{attempt}"))
}

/// Deletes unfinished segments. A segment that another process or thread still holds open is
/// deleted at the next attempt or the next start.
fn remove_unfinished(folder: &Path) {
    for name in disk::names(folder, UNFINISHED).unwrap_or_default() {
        if disk::is_no_folder(&folder.join(&name)) {
            // Another program created it; the next start moves it to quarantine.
            continue;
        }
        sealed::truncate(&folder.join(&name));
        if let Err(error) = disk::remove_folder(&folder.join(&name)) {
            tracing::debug!(name, %error, "cannot delete an unfinished segment yet");
        }
    }
}

/// Fails if the disk cannot take a segment of `bytes` bytes, because sled misbehaves on a full
/// disk.
fn has_room(folder: &Path, bytes: u64) -> io::Result<()> {
    let needed = bytes + bytes / 16 + DATABASE_BYTES;
    match free_bytes(folder) {
        Some(free) if free < needed => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

/// Reads the seal of the segment in the folder `path`; `None` if it is missing or damaged.
///
/// # Errors
/// The disk or the system does not work at the moment: nothing is known about the seal.
pub(super) fn read_seal(path: &Path, range: SeqRange) -> io::Result<Option<Segment>> {
    match disk::read(&path.join("seal")) {
        Ok(read) => Ok(parse_seal(&read.bytes, range)),
        Err(error) if disk::is_circumstance(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

fn parse_seal(bytes: &[u8], span: SeqRange) -> Option<Segment> {
    let (_, payload) =
        framing::decode(span.base_seq, bytes).filter(|(last, _)| *last == span.last)?;
    let (records, rest) = number(payload)?;
    let (bytes, rest) = number(rest)?;
    let (level, rest) = number(rest)?;
    let (disk_bytes, _) = number(rest)?;
    let all = Usage { records, bytes };
    let level = u32::try_from(level).ok()?;
    Some(Segment { range: span, stored: all, pending: all, level, disk_bytes })
}

/// Renames a built segment to its final name.
pub(super) fn publish(folder: &Path, range: SeqRange) -> io::Result<()> {
    let path = range.path(folder);
    discard(folder, range)?;
    disk::rename(&range.new_path(folder), &path)?;
    disk::sync_folder(folder)
}

/// Replaces the segments within `replaced` by the segment that was built for it.
pub(super) fn swap(
    folder: &Path,
    replaced: SeqRange,
    new: SeqRange,
    old: Replaced,
) -> io::Result<()> {
    for range in ranges(folder, "q-")?.into_iter().filter(|range| range.is_inside(replaced)) {
        match old {
            Replaced::Discard => discard(folder, range)?,
            Replaced::Quarantine => quarantine_segment(folder, range)?,
        }
    }
    publish(folder, new)
}

/// Completes the replacement of segments that a crash interrupted between its checkpoint record and
/// its last rename.
pub(super) fn finish_rewrite(folder: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    let replaced =
        SeqRange { base_seq: Seq(checkpoint.replaced.0), last: Seq(checkpoint.replaced.1) };
    if replaced.base_seq != Seq(0) {
        // Ignore leftovers of failed replacements: only a sealed segment within the range counts.
        let mut new = None;
        for range in ranges(folder, "new-")?.into_iter().filter(|range| range.is_inside(replaced)) {
            new = new.or(read_seal(&range.new_path(folder), range)?.map(|_| range));
        }
        if let Some(new) = new {
            swap(folder, replaced, new, Replaced::Discard)?;
        } else if disk::exists(&replaced.path(folder))? {
            // The new segment has its final name, but a power cut may have undone the removal of
            // the old ones.
            for range in ranges(folder, "q-")? {
                if range.is_inside(replaced) && range != replaced {
                    discard(folder, range)?;
                }
            }
            disk::sync_folder(folder)?;
        }
    }
    for name in disk::names(folder, "new-")? {
        disk::remove_leftover(&folder.join(name));
    }
    Ok(())
}

/// Deletes a segment. It is renamed first, so that a half-deleted segment is not mistaken for a
/// complete one.
pub(super) fn discard(folder: &Path, range: SeqRange) -> io::Result<()> {
    let path = range.path(folder);
    if !disk::exists(&path)? {
        return Ok(());
    }
    let trash = disk::free_name(folder, &range.name("trash"));
    disk::rename(&path, &trash)?;
    disk::remove_leftover(&trash);
    Ok(())
}

/// Moves a segment to quarantine; deletes the oldest one there if there are too many.
pub(super) fn quarantine_segment(folder: &Path, range: SeqRange) -> io::Result<()> {
    let place = quarantine::create(folder)?;
    let kept = disk::names(&place, "bad-")?;
    for name in kept.iter().take((kept.len() + 1).saturating_sub(MAX_QUARANTINED)) {
        disk::remove_leftover(&place.join(name));
    }
    disk::rename(&range.path(folder), &disk::free_name(&place, &range.name("bad")))
}

/// Deletes leftovers of a process that ended while deleting or building files.
pub(super) fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for name in disk::names(folder, "")? {
        if name.starts_with("trash-") || name.starts_with(UNFINISHED) || name.ends_with(".tmp") {
            disk::remove_leftover(&folder.join(name));
        }
    }
    Ok(())
}

/// The highest position in any file name, including deleted and quarantined segments.
pub(super) fn highest_position(folder: &Path) -> io::Result<Option<Seq>> {
    let mut names = disk::names(folder, "")?;
    match disk::names(&folder.join(quarantine::QUARANTINE), "") {
        Ok(quarantined) => names.extend(quarantined),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(names.iter().filter_map(|name| position_in(name)).max())
}

/// Deletes the older write-ahead logs. One that cannot be deleted is ignored while the newest one
/// exists.
pub(super) fn remove_other_wals(folder: &Path, newest: Seq) {
    for base_seq in wals(folder).unwrap_or_default() {
        if base_seq != newest {
            disk::remove_leftover(&wal::path(folder, base_seq));
        }
    }
}

/// Borrows the records for packing.
pub(super) fn borrowed(records: &Records) -> impl Iterator<Item = (Seq, &[u8])> {
    records.iter().map(|(seq, record)| (*seq, record.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hung database may still create files in the folder of the first attempt.
    #[test]
    fn each_attempt_to_build_a_segment_has_a_folder_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let first = next_attempt(folder.path());
        disk::create_folder(&first).unwrap();
        remove_unfinished(folder.path());
        assert!(!first.exists());
        assert_ne!(next_attempt(folder.path()), first);
    }
}

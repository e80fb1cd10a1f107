//! The folders of the segments: how they are read, sealed, replaced, removed and named.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{MAX_QUARANTINED, Records, VERSION};
use crate::entry::Seq;
use crate::queue::journal::{self, Mark, number};
use crate::queue::sled::{self, Database};
use crate::queue::store::Held;
use crate::queue::{bytes, disk};

/// A sealed segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) lo: Seq,
    /// The position of its last record.
    pub(super) last: Seq,
    pub(super) all: Held,
    /// What is not released of it.
    pub(super) held: Held,
    pub(super) disk_bytes: u64,
}

impl Segment {
    pub(super) fn of(folder: &Path, lo: Seq, records: &[(Seq, Vec<u8>)]) -> Self {
        let all = held(records);
        let last = records.last().map_or(lo, |(seq, _)| *seq);
        Self { lo, last, all, held: all, disk_bytes: disk::used(&segment_path(folder, lo)) }
    }
}

/// What becomes of segments that another one replaces.
#[derive(Clone, Copy)]
pub(super) enum Old {
    Discard,
    Quarantine,
}

/// Every record of a sealed segment that can be read, and what stood in the way of reading it as
/// it should be. `expected` is how many there should be, where that is known.
pub(super) fn read_whole(
    path: &Path,
    lo: Seq,
    expected: Option<u64>,
) -> (Records, Option<io::Error>) {
    if !path.join("db").exists() {
        // Opening it would make an empty one.
        return (Vec::new(), Some(io::ErrorKind::NotFound.into()));
    }
    match Database::open(path).and_then(|db| scan(&db, lo)) {
        Ok(records) if expected.is_none_or(|count| count == records.len() as u64) => {
            (records, None)
        }
        Ok(records) => {
            let mut found: BTreeMap<_, _> = carve(path, lo).into_iter().collect();
            found.extend(records);
            (found.into_iter().collect(), None)
        }
        Err(error) => (carve(path, lo), Some(error)),
    }
}

pub(super) fn scan(db: &Database, lo: Seq) -> io::Result<Records> {
    let (mut records, mut damaged) = (Vec::new(), false);
    db.scan(Seq(0), |seq, value| {
        match bytes::parse(lo, &value) {
            Some((held, record)) if held == seq => records.push((seq, record.to_vec())),
            _ => damaged = true,
        }
        true
    })?;
    match damaged {
        false => Ok(records),
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "a record is damaged")),
    }
}

/// The records that lie in the raw file of a database, in order.
pub(super) fn carve(path: &Path, lo: Seq) -> Records {
    let raw = sled::raw(path).unwrap_or_default();
    let found: BTreeMap<Seq, Vec<u8>> =
        bytes::carve(lo, &raw).map(|(_, seq, record)| (seq, record.to_vec())).collect();
    found.into_iter().collect()
}

pub(super) fn insert_all(db: &Database, lo: Seq, records: &[(Seq, Vec<u8>)]) -> io::Result<()> {
    records.iter().try_for_each(|(seq, record)| db.insert(*seq, &bytes::frame(lo, *seq, record)))
}

/// A sealed segment in `path`; durable, but for its name.
pub(super) fn build(path: &Path, lo: Seq, records: &Records, mark: &Mark) -> io::Result<()> {
    disk::remove_folder(path)?;
    let db = Database::open(path)?;
    insert_all(&db, lo, records)?;
    db.seal()?;
    let last = records.last().map_or(lo, |(seq, _)| *seq);
    write_seal(path, lo, last, held(records), mark)
}

pub(super) fn write_seal(
    path: &Path,
    lo: Seq,
    last: Seq,
    all: Held,
    mark: &Mark,
) -> io::Result<()> {
    let disk_bytes = disk::used(path) + 4096;
    let numbers = [last.0, all.records, all.bytes, disk_bytes];
    let mut payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    payload.extend(mark.to_bytes());
    disk::write_durably(&path.join("seal"), &bytes::frame(lo, Seq(0), &payload))?;
    disk::sync_folder(path)
}

pub(super) fn seal_payload(path: &Path, lo: Seq) -> Option<Vec<u8>> {
    let bytes = fs::read(path.join("seal")).ok()?;
    bytes::parse(lo, &bytes).map(|(_, payload)| payload.to_vec())
}

/// A sealed segment as its seal has it.
pub(super) fn read_seal(path: &Path, lo: Seq) -> Option<Segment> {
    let payload = seal_payload(path, lo)?;
    let (last, rest) = number(&payload)?;
    let (records, rest) = number(rest)?;
    let (bytes, rest) = number(rest)?;
    let (disk_bytes, _) = number(rest)?;
    let all = Held { records, bytes };
    Some(Segment { lo, last: Seq(last), all, held: all, disk_bytes })
}

/// Puts the segment that lies ready into the place of those from `first` to `last`.
pub(super) fn swap(folder: &Path, first: Seq, last: Seq, old: Old) -> io::Result<()> {
    for lo in numbers(folder, "q-")?.into_iter().filter(|lo| (first..=last).contains(lo)) {
        match old {
            Old::Discard => discard(folder, lo)?,
            Old::Quarantine => set_segment_aside(folder, lo)?,
        }
    }
    let new = new_path(folder, first);
    match read_seal(&new, first) {
        Some(segment) if segment.all.records == 0 => disk::remove_folder(&new)?,
        _ => disk::rename(&new, &segment_path(folder, first))?,
    }
    disk::sync_folder(folder)
}

/// What a crash left between the mark of a rewritten segment and its last rename.
pub(super) fn finish_rewrite(folder: &Path, mark: &Mark) -> io::Result<()> {
    let (first, last) = (Seq(mark.replaced.0), Seq(mark.replaced.1));
    if first != Seq(0) && read_seal(&new_path(folder, first), first).is_some() {
        swap(folder, first, last, Old::Discard)?;
    }
    for name in disk::names(folder, "new-")? {
        disk::remove_folder(&folder.join(name))?;
    }
    Ok(())
}

/// Removes a segment, renamed first: half of one must not be taken for a whole one.
pub(super) fn discard(folder: &Path, lo: Seq) -> io::Result<()> {
    let path = segment_path(folder, lo);
    if !path.exists() {
        return Ok(());
    }
    let trash = disk::free_name(folder, &format!("trash-{:016x}", lo.0));
    disk::rename(&path, &trash)?;
    disk::remove_folder(&trash)
}

/// Sets a segment aside; the oldest of those goes when there are too many.
pub(super) fn set_segment_aside(folder: &Path, lo: Seq) -> io::Result<()> {
    let place = folder.join("quarantine");
    fs::create_dir_all(&place)?;
    let kept = disk::names(&place, "bad-")?;
    for name in kept.iter().take((kept.len() + 1).saturating_sub(MAX_QUARANTINED)) {
        disk::remove_folder(&place.join(name))?;
    }
    disk::rename(&segment_path(folder, lo), &disk::free_name(&place, &format!("bad-{:016x}", lo.0)))
}

/// Removes what was on its way out when a process ended.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    for name in disk::names(folder, "")? {
        if name.starts_with("trash-") {
            disk::remove_folder(&folder.join(name))?;
        } else if name.ends_with(".tmp") {
            disk::remove_file(&folder.join(name))?;
        }
    }
    Ok(())
}

pub(super) fn remove_old_journals(folder: &Path, newest: Seq) -> io::Result<()> {
    for lo in numbers(folder, "tail-")?.into_iter().filter(|lo| *lo != newest) {
        disk::remove_file(&journal::path(folder, lo))?;
    }
    Ok(())
}

/// Refuses a folder that another version of this program made; one whose mark is damaged is ours.
pub(super) fn check_format(folder: &Path) -> io::Result<()> {
    let path = folder.join("FORMAT");
    let found = fs::read_to_string(&path).unwrap_or_default();
    let version = found.strip_prefix("pitwire queue ").and_then(|rest| rest.split_once(' '));
    let version = version.and_then(|(version, _)| version.parse().ok());
    match version {
        Some(VERSION) => Ok(()),
        Some(version) if found == format_text(version) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has format {version}, this program knows format {VERSION}"),
        )),
        _ => disk::replace(&path, format_text(VERSION).as_bytes()),
    }
}

pub(super) fn format_text(version: u32) -> String {
    let sum = crc32fast::hash(&version.to_le_bytes());
    format!("pitwire queue {version} {sum:08x}\n")
}

/// The highest segment number in any name, also in those of what is gone or set aside.
pub(super) fn highest_number(folder: &Path) -> io::Result<Option<Seq>> {
    let mut names = disk::names(folder, "")?;
    names.extend(disk::names(&folder.join("quarantine"), "").unwrap_or_default());
    Ok(names.iter().filter_map(|name| parse_number(name)).max())
}

/// The numbers of the files or folders whose names begin with `prefix`, ascending.
pub(super) fn numbers(folder: &Path, prefix: &str) -> io::Result<Vec<Seq>> {
    let ours = |name: &String| matches!(name.get(prefix.len() + 16..), Some("" | ".log"));
    let names = disk::names(folder, prefix)?.into_iter().filter(ours);
    Ok(names.filter_map(|name| parse_number(&name)).collect())
}

pub(super) fn parse_number(name: &str) -> Option<Seq> {
    let (_, rest) = name.split_once('-')?;
    let number = u64::from_str_radix(rest.get(..16)?, 16).ok()?;
    // No queue gets there; sums of two positions do not overflow below.
    (number < 1 << 62).then_some(Seq(number))
}

pub(super) fn segment_path(folder: &Path, lo: Seq) -> PathBuf {
    folder.join(format!("q-{:016x}", lo.0))
}

pub(super) fn new_path(folder: &Path, lo: Seq) -> PathBuf {
    folder.join(format!("new-{:016x}", lo.0))
}

pub(super) fn held(records: &[(Seq, Vec<u8>)]) -> Held {
    let bytes = records.iter().map(|(_, record)| record.len() as u64).sum();
    Held { records: records.len() as u64, bytes }
}

//! Recovers the active segment from its write-ahead log and, if a crash came just after it was
//! sealed, from the sealed segment.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::checkpoint::SavedCheckpoint;
use super::folder::read_seal;
use super::{Options, SEGMENT_ENTRIES};
use crate::entry::Seq;
use crate::queue::storage::names::{self, ranges};
use crate::queue::storage::sealed::SealedSegment;
use crate::queue::storage::wal::{self, Checkpoint, WalContents, WalRecord};
use crate::queue::storage::{Records, disk, framing};

/// How far a start may trust the data on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Everything on disk, as far as its checksums and the boot ID confirm it.
    Disk,
    /// A write or an fsync failed: recently written data must be rewritten. The value is the state
    /// of the store, in case nothing is left on disk.
    Nothing(Checkpoint),
}

/// The recovered active segment.
pub(super) struct RecoveredSegment {
    pub(super) base_seq: Seq,
    pub(super) records: Records,
    /// The position after its last record, even if that record is lost.
    pub(super) end: Seq,
    pub(super) checkpoint: Checkpoint,
    /// The offset of each record, starting with `base_seq`, if the write-ahead log may be appended to.
    pub(super) index: Option<Vec<u64>>,
    /// Positions from `end` on may have been assigned before a crash.
    pub(super) is_uncertain: bool,
    /// Position ranges (inclusive) of records that were stored and are lost.
    pub(super) missing: Vec<(Seq, Seq)>,
}

/// Finds the newest segment that left any data; `None` if no segment did.
pub(super) fn find_newest(
    folder: &Path,
    options: &Options,
    trust: &Trust,
    checkpoint: Option<&SavedCheckpoint>,
) -> io::Result<Option<RecoveredSegment>> {
    for base_seq in names::wals(folder)?.into_iter().rev() {
        if let Some(newest) = recover(folder, base_seq, options, trust, checkpoint)? {
            return Ok(Some(newest));
        }
        // A crash interrupted the creation of this segment: no record in it was reported as stored.
        disk::remove_file(&wal::path(folder, base_seq))?;
    }
    Ok(None)
}

/// Combines the remaining data of the segment `base_seq`; `None` if it left no data.
fn recover(
    folder: &Path,
    base_seq: Seq,
    options: &Options,
    trust: &Trust,
    checkpoint: Option<&SavedCheckpoint>,
) -> io::Result<Option<RecoveredSegment>> {
    let contents = wal::read(folder, base_seq)?;
    let same_boot = !options.boot.is_empty() && contents.boot() == Some(options.boot.as_str());
    let was_closed = contents.was_closed();
    let mut is_uncertain =
        *trust != Trust::Disk || !contents.is_clean || !(same_boot || was_closed);
    let WalContents { records: lines, intact, .. } = contents;
    // Data torn by a power cut was never durable; after any other damage, the records behind it are
    // still valid. No power cut came since this process opened the store.
    let is_same_process = matches!(trust, Trust::Nothing(_));
    let is_trusted = same_boot || was_closed || is_same_process;
    let trusted = if is_trusted { lines.len() } else { intact };
    let (mut known, mut beyond) = (BTreeMap::new(), BTreeMap::new());
    let mut index = Vec::new();
    let mut mark = None;
    for (number, note) in lines.into_iter().enumerate() {
        match note {
            WalRecord::Entry(seq, record, at) if number < trusted => {
                index.push(at);
                known.insert(seq, record);
            }
            WalRecord::Entry(seq, record, _) => drop(beyond.insert(seq, record)),
            WalRecord::Checkpoint(found) if number < trusted => mark = Some(found),
            WalRecord::Checkpoint(_) | WalRecord::Opened(_) | WalRecord::Closed => {}
        }
    }
    for range in ranges(folder, "q-")?.into_iter().filter(|range| range.base_seq >= base_seq) {
        let path = range.path(folder);
        let all = read_seal(&path, range)?.map(|seal| seal.stored);
        for (seq, record) in SealedSegment::read(&path, range.base_seq, all)?.0.all() {
            known.entry(seq).or_insert(record);
        }
    }
    merge(base_seq, &mut known, beyond);
    if known.is_empty() && mark.is_none() {
        return Ok(None);
    }
    let after = known.last_key_value().map_or(base_seq, |(seq, _)| Seq(seq.0 + 1));
    let known_end = mark.as_ref().map_or(after, |mark| after.max(Seq(mark.tail)));
    let mark = newer_checkpoint(mark, checkpoint);
    let mut end = mark.as_ref().map_or(known_end, |mark| known_end.max(Seq(mark.tail)));
    if let Trust::Nothing(mark) = trust {
        // Damage at the end of the write-ahead log leaves no other trace.
        end = end.max(Seq(mark.tail));
    }
    // The write-ahead log was truncated: more may be missing than the checkpoint shows.
    is_uncertain |= end > known_end;
    let is_whole = end.0 - base_seq.0 == known.len() as u64 && index.len() == known.len();
    let index = (is_whole && !is_uncertain).then_some(index);
    let records: Records = known.into_iter().collect();
    let mark = match mark.map_or_else(|| last_mark(folder), |mark| Ok(Some(mark)))? {
        Some(mark) => mark,
        // The metadata is lost too: assume that the existing records are all that there ever were.
        None => {
            let first = ranges(folder, "q-")?.first().map_or(base_seq, |range| range.base_seq);
            Checkpoint { head: first.0, tail: first.0, ..Checkpoint::default() }
        }
    };
    let seqs = records.iter().map(|(seq, _)| *seq);
    let missing = gaps(base_seq.max(Seq(mark.head)), Seq(end.0.saturating_sub(1)), seqs, 0);
    Ok(Some(RecoveredSegment {
        base_seq,
        records,
        end,
        checkpoint: mark,
        index,
        is_uncertain,
        missing,
    }))
}

/// The newer of the last checkpoint record in the write-ahead log and the checkpoint file. At the
/// same age, the write-ahead log wins: a segment may have been replaced since.
pub(in crate::queue) fn newer_checkpoint(
    wal: Option<Checkpoint>,
    checkpoint: Option<&SavedCheckpoint>,
) -> Option<Checkpoint> {
    let checkpoint = checkpoint.map(|checkpoint| checkpoint.checkpoint.clone());
    checkpoint.into_iter().chain(wal).max_by_key(Checkpoint::age)
}

/// The gaps between the positions `seqs`, which are sorted, within `first` to `last` inclusive.
/// Gaps that downsampling to `level` explains are ignored. At most [`MAX_GAPS`].
pub(super) fn gaps(
    first: Seq,
    last: Seq,
    seqs: impl Iterator<Item = Seq>,
    level: u32,
) -> Vec<(Seq, Seq)> {
    let (mut gaps, mut next) = (Vec::new(), first.0);
    for seq in seqs.chain([Seq(last.0 + 1)]).filter(|seq| (first.0..=last.0 + 1).contains(&seq.0)) {
        if seq.0.saturating_sub(next) >= 1 << level.min(63) && gaps.len() < MAX_GAPS {
            gaps.push((Seq(next), Seq(seq.0 - 1)));
        }
        next = seq.0 + 1;
    }
    gaps
}

/// The maximum number of lost ranges recorded for one segment; each is a line in the side log.
/// Damaged blocks leave about twenty.
const MAX_GAPS: usize = 256;

/// Fills gaps in `known` from `beyond`, and extends it as long as no record is missing.
fn merge(base_seq: Seq, known: &mut BTreeMap<Seq, Vec<u8>>, beyond: BTreeMap<Seq, Vec<u8>>) {
    let mut next = known.last_key_value().map_or(base_seq, |(seq, _)| Seq(seq.0 + 1));
    for (seq, record) in beyond {
        if seq < base_seq || seq > next || seq.0 >= base_seq.0 + SEGMENT_ENTRIES {
            continue;
        }
        known.entry(seq).or_insert(record);
        next = next.max(Seq(seq.0 + 1));
    }
}

/// Writes the state of the store to the `mark` file, which is read if the write-ahead log is lost.
pub(super) fn write_checkpoint(folder: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    disk::replace(&folder.join(MARK), &framing::encode(Seq(0), Seq(0), &checkpoint.to_bytes()))
}

/// Reads the `mark` file; `None` if it is missing or damaged.
pub(in crate::queue) fn last_mark(folder: &Path) -> io::Result<Option<Checkpoint>> {
    let bytes = match disk::read(&folder.join(MARK)) {
        Ok(read) => read.bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(framing::decode(Seq(0), &bytes)
        .and_then(|(_, checkpoint)| Checkpoint::from_bytes(checkpoint)))
}

const MARK: &str = "mark";

//! Scan and repair of a queue that is open.

use std::io;

use serde::{Deserialize, Serialize};

use super::report::{SegmentReport, report};
use crate::entry::Seq;
use crate::queue::Limit;
use crate::queue::engine::Engine;

/// The result of repairing a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The position after the segment.
    pub next: Seq,
    /// The number of entries that were found to be lost.
    pub lost: u64,
}

/// Checks the segment that contains `from`, or else the next one, without changing it; `None` at
/// the end of the queue.
pub(in crate::queue) fn scan(engine: &mut Engine, from: Seq) -> io::Result<Option<SegmentReport>> {
    Ok(engine.usable_store()?.read_segment(from)?.as_ref().map(report))
}

/// Reads the segment that contains `from`, or else the next one, as a reader would, which moves it
/// to quarantine if it is damaged. `None` at the end of the queue.
pub(in crate::queue) fn repair(engine: &mut Engine, from: Seq) -> io::Result<Option<Repaired>> {
    let store = engine.usable_store()?;
    let lost_before = store.lost();
    let segment = store.sealed_segments().into_iter().find(|segment| segment.last >= from);
    let read = match engine.read_records(from, Limit::WHOLE_SEGMENT) {
        // Damage in the active segment closes the store; when reopened it continues without the
        // damaged part.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            engine.read_records(from, Limit::WHOLE_SEGMENT)?
        }
        read => read?,
    };
    let store = engine.usable_store()?;
    let lost = store.lost().saturating_sub(lost_before);
    let last = segment.map(|segment| segment.last).or(read.last().map(|(last, _)| *last));
    Ok(match last {
        Some(last) => Some(Repaired { next: Seq(last.0 + 1), lost }),
        None if lost > 0 => Some(Repaired { next: store.tail(), lost }),
        None => None,
    })
}

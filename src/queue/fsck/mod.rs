//! Checks and repairs a queue.
//!
//! A *scan* reads every byte of one segment without changing it and returns a [`SegmentReport`]: a
//! [`Finding`] is a problem, and what happens about it. An [`Inspection`] scans a queue that no
//! process has open; in an open queue the queue worker scans one segment at a time. A *repair*
//! reads a segment of an open queue as a reader would, which moves a damaged one to quarantine.

mod folder;
mod inspection;
mod open_queue;
mod report;

pub use self::inspection::Inspection;
pub use self::open_queue::Repaired;
pub(super) use self::open_queue::{repair, scan};
pub(crate) use self::report::MAX_FINDINGS;
pub use self::report::{EntryPosition, Finding, SegmentReport, out_of_order};

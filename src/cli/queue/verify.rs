//! `pitwire queue verify`: checks every entry.

use super::{Exit, ProgressLine, QueueConnection, QueueTarget, ToolError, count, print_prose};
use crate::entry::Seq;
use crate::queue::fsck::{EntryPosition, Finding, Inspection, SegmentReport, out_of_order};
use crate::queue::{DestinationStatus, QueueStatus};
use crate::tools::OperatorRequest;

/// Read every entry and check the queue, without changing anything.
///
/// Reads each entry from the disk and decodes it; checks the order of the entries, the ledger and
/// the limit of disk use. Prints one finding per line, and exits with 1 if there are any. `pitwire
/// queue repair` shows what can be repaired.
#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    pub which: QueueTarget,
}

impl Verify {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        let examiner = self.which.examiner().await?;
        let QueueStatus { head, tail, .. } = examiner.status().await?;
        let mut progress = ProgressLine::begin("reading the queue", tail.0.saturating_sub(head.0));
        // The closure owns the progress, so that the status line is removed before the last
        // sentence.
        let read = move |last: Seq| progress.at((last.0 + 1).saturating_sub(head.0));
        let verdict = examine(&examiner, |finding| print_prose(&finding.problem), read).await?;
        print_prose(verdict.sentence());
        Ok(if verdict.findings == 0 { Exit::Good } else { Exit::Found })
    }
}

/// A queue whose whole contents are read, without changing it.
pub(in crate::cli) enum Examiner {
    /// No process has it open.
    Stopped(Box<Inspection>),
    Running(QueueConnection),
}

impl Examiner {
    async fn status(&self) -> Result<QueueStatus, ToolError> {
        match self {
            Self::Stopped(inspection) => Ok(inspection.status()),
            Self::Running(queue) => Ok(queue.status().await?.queue),
        }
    }

    /// Findings outside the entries.
    async fn findings(&self) -> Result<Vec<Finding>, ToolError> {
        let status = self.status().await?;
        let mut findings = match self {
            Self::Stopped(inspection) => inspection.findings().to_vec(),
            Self::Running(_) => Vec::new(),
        };
        if let Some(error) = &status.storage_error {
            let problem = format!("the queue's disk fails: {error}");
            findings.push(Finding::new(&problem, "the agent retries every second"));
        }
        for DestinationStatus { name, imbalance, .. } in status.imbalanced() {
            let problem = format!("the ledger of {name} is off by {imbalance} entries");
            findings.push(Finding::new(&problem, "it cannot be repaired; please report it"));
        }
        let QueueStatus { disk_bytes, max_bytes, .. } = status;
        if disk_bytes > max_bytes {
            let problem = format!(
                "the queue takes {disk_bytes} bytes on the disk, above the limit of {max_bytes} \
                 (queue.max_bytes)"
            );
            findings.push(Finding::new(&problem, "the next start frees space"));
        }
        Ok(findings)
    }

    /// Reads the segment that contains `from`, or else the next one; `None` at the end.
    async fn scan(&self, from: Seq) -> Result<Option<SegmentReport>, ToolError> {
        match self {
            Self::Stopped(inspection) => inspection.scan(from).map_err(|error| {
                ToolError(format!("cannot read the queue: {error}; check its disk"))
            }),
            Self::Running(queue) => queue.send(OperatorRequest::Scan { from }).await,
        }
    }
}

/// The totals of a verification.
#[derive(Default)]
pub(in crate::cli) struct VerifyTotals {
    entries: u64,
    missing: u64,
    segments: u64,
    pub(in crate::cli) findings: u64,
    /// Entries lost to damage before.
    pub(in crate::cli) lost_before: u64,
}

impl VerifyTotals {
    pub(in crate::cli) fn sentence(&self) -> String {
        let Self { entries, missing, segments, findings, lost_before } = *self;
        let missing = match missing {
            0 => String::new(),
            missing => format!(", {missing} cannot be read"),
        };
        let (entries, segments) = (count(entries, "entry"), count(segments, "segment"));
        let lost = match lost_before {
            0 => String::new(),
            lost => format!("; {} lost to damage before (corrupt)", count(lost, "entry")),
        };
        format!("read {entries} in {segments}{missing}; {}{lost}", count(findings, "finding"))
    }
}

/// Reads a whole queue. Calls `tell` for each finding, and `read` with the last sequence number of
/// each segment that was read.
pub(in crate::cli) async fn examine(
    examiner: &Examiner,
    mut tell: impl FnMut(&Finding),
    mut read: impl FnMut(Seq),
) -> Result<VerifyTotals, ToolError> {
    let lost_before = examiner.status().await?.corrupt();
    let mut verdict = VerifyTotals { lost_before, ..VerifyTotals::default() };
    let mut tell = |verdict: &mut VerifyTotals, finding: &Finding| {
        verdict.findings += 1;
        tell(finding);
    };
    let mut from = Seq(0);
    let mut before: Option<EntryPosition> = None;
    while let Some(examination) = examiner.scan(from).await? {
        verdict.segments += 1;
        verdict.entries += examination.entries;
        verdict.missing += examination.missing;
        if let Some((first, last)) = examination.ends {
            let finding = before.and_then(|before| out_of_order(before, first));
            finding.iter().for_each(|finding| tell(&mut verdict, finding));
            before = Some(last);
        }
        examination.findings.iter().for_each(|finding| tell(&mut verdict, finding));
        read(examination.last);
        from = Seq((examination.last.0 + 1).max(from.0 + 1));
    }
    examiner.findings().await?.iter().for_each(|finding| tell(&mut verdict, finding));
    Ok(verdict)
}

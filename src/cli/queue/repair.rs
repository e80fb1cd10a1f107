//! `pitwire queue repair`: repairs a damaged queue.

use super::verify::{Examiner, VerifyTotals, examine};
use super::{Exit, NOT_DONE, QueueConnection, QueueTarget, ToolError, count, print_prose};
use crate::entry::Seq;
use crate::queue::fsck::{Finding, Repaired};
use crate::tools::OperatorRequest;

/// Show damage, and repair it with --apply.
///
/// The agent repairs damage automatically when it finds it, so this command is not needed to start
/// it. Damaged segments are moved to quarantine/ in the queue's folder; their readable entries stay
/// in the queue.
///
/// Exits with 1 if there is damage to repair, or if damage remains that cannot be repaired.
#[derive(Debug, clap::Args)]
pub struct Repair {
    /// Make the changes; without this option, they are only printed.
    #[arg(long)]
    pub apply: bool,
    #[command(flatten)]
    pub which: QueueTarget,
}

impl Repair {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        let (verdict, leftovers) = self.say().await?;
        if verdict.findings == 0 && leftovers == 0 {
            print_prose("nothing to repair");
            return Ok(Exit::Good);
        }
        if !self.apply {
            print_prose(NOT_DONE);
            return Ok(if verdict.findings == 0 { Exit::Good } else { Exit::Found });
        }
        let queue = self.which.open().await?;
        repair(&queue, verdict.lost_before).await?;
        queue.close().await;
        let examiner = self.which.examiner().await?;
        let tell =
            |finding: &Finding| print_prose(format_args!("not repaired: {}", finding.problem));
        let left = examine(&examiner, tell, |_| {}).await?;
        print_prose(left.sentence());
        Ok(if left.findings == 0 { Exit::Good } else { Exit::Found })
    }

    /// Prints each finding and its remedy. Returns the verdict and the number of files left over
    /// from a crash.
    async fn say(&self) -> Result<(VerifyTotals, u64), ToolError> {
        let examiner = self.which.examiner().await?;
        let tell = |finding: &Finding| {
            print_prose(format_args!("{}: {}", finding.problem, finding.remedy))
        };
        let verdict = examine(&examiner, tell, |_| {}).await?;
        let mut leftovers = Vec::new();
        if let Examiner::Stopped(inspection) = &examiner {
            leftovers = inspection.leftovers()?;
        }
        leftovers.iter().for_each(|name| {
            print_prose(format_args!("{name}: left over from a crash: it is deleted"))
        });
        Ok((verdict, leftovers.len() as u64))
    }
}

/// Reads every segment, which quarantines damaged ones, and prints the outcome. Opening the queue
/// has already repaired everything else: `lost_before` is the number of lost entries before it was
/// opened.
async fn repair(queue: &QueueConnection, lost_before: u64) -> Result<(), ToolError> {
    let mut from = Seq(0);
    while let Some(Repaired { next, lost }) = queue.send(OperatorRequest::Repair { from }).await? {
        let next = Seq(next.0.max(from.0 + 1));
        if lost > 0 {
            let (last, lost) = (Seq(next.0 - 1), count(lost, "entry"));
            print_prose(format_args!(
                "up to entry {last}: {lost} lost, damaged segment quarantined"
            ));
        }
        from = next;
    }
    let after = queue.status().await?.queue;
    let lost = after.corrupt().saturating_sub(lost_before);
    print_prose(format_args!(
        "repaired: {} queued; {} lost now and {} ever, counted as dropped (corrupt)",
        count(after.entries, "entry"),
        count(lost, "entry"),
        after.corrupt()
    ));
    Ok(())
}

//! `pitwire queue repair`.

use super::verify::{Verdict, examine};
use super::{Access, Cannot, Examiner, Exit, NOT_DONE, Which, count, print};
use crate::entry::Seq;
use crate::queue::inspect::Finding;

/// Say what is damaged and what becomes of it; do it with --apply.
///
/// The agent does the same by itself, as it comes across the damage: nothing here is needed to
/// start it. What cannot be read is set aside in quarantine/ in the queue's folder; what can be
/// read of it is kept in its place.
///
/// Ends with 1 when there is something to repair, or something is left that cannot be.
#[derive(Debug, clap::Args)]
pub struct Repair {
    /// Do it; without this it is only said what would be done.
    #[arg(long)]
    pub apply: bool,
    #[command(flatten)]
    pub which: Which,
}

impl Repair {
    pub(super) async fn run(self) -> Result<Exit, Cannot> {
        let (verdict, leftovers) = self.say().await?;
        if verdict.findings == 0 && leftovers == 0 {
            print("nothing to repair");
            return Ok(Exit::Good);
        }
        if !self.apply {
            print(NOT_DONE);
            return Ok(if verdict.findings == 0 { Exit::Good } else { Exit::Found });
        }
        let access = self.which.open().await?;
        mend(&access, verdict.lost_before).await?;
        access.close().await;
        let examiner = self.which.examiner().await?;
        let tell = |finding: &Finding| print(format_args!("left: {}", finding.what));
        let left = examine(&examiner, tell, |_| {}).await?;
        print(left.sentence());
        Ok(if left.findings == 0 { Exit::Good } else { Exit::Found })
    }

    /// Each finding with what becomes of it, and how many files a crash left.
    async fn say(&self) -> Result<(Verdict, u64), Cannot> {
        let examiner = self.which.examiner().await?;
        let tell = |finding: &Finding| print(format_args!("{}: {}", finding.what, finding.remedy));
        let verdict = examine(&examiner, tell, |_| {}).await?;
        let mut leftovers = Vec::new();
        if let Examiner::Stopped(inspection, _) = &examiner {
            leftovers = inspection.leftovers().map_err(|error| Cannot(error.to_string()))?;
        }
        leftovers.iter().for_each(|name| print(format_args!("{name}: a crash left it: it goes")));
        Ok((verdict, leftovers.len() as u64))
    }
}

/// Reads every stretch as the reader would, and prints what that did. Opening the queue has
/// repaired the rest already: `lost_before` is of the time before that.
async fn mend(access: &Access, lost_before: u64) -> Result<(), Cannot> {
    let mut from = Seq(0);
    while let Some(mended) = access.mend(from).await? {
        let next = Seq(mended.next.0.max(from.0 + 1));
        if mended.lost > 0 {
            let (last, lost) = (Seq(next.0 - 1), count(mended.lost, "entry"));
            print(format_args!("up to entry {last}: {lost} lost, the damaged segment set aside"));
        }
        from = next;
    }
    let after = access.status().await?;
    let lost = after.ledger.corrupt.saturating_sub(lost_before);
    print(format_args!(
        "repaired: {} queued; {} lost now and {} ever, counted as dropped (corrupt)",
        count(after.entries, "entry"),
        count(lost, "entry"),
        after.ledger.corrupt
    ));
    Ok(())
}

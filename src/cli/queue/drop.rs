//! `pitwire queue drop`: drops entries.

use super::{
    Exit, NOT_DONE, QueueConnection, QueueTarget, ToolError, Walk, contents, count, places,
    print_prose, seq,
};
use crate::entry::{Kind, MAX_SEQ, Seq};
use crate::queue::operator::PurgeStep;
use crate::tools::OperatorRequest;

/// Drop entries, so that they are never sent.
///
/// The ledger and the metrics count them as dropped, with reason operator. A setup in the middle is
/// kept if later frames were driven with it.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("range").required(true).multiple(true))]
pub struct Drop {
    /// Sequence number of the first entry to drop [default: the oldest].
    #[arg(long, value_name = "SEQ", value_parser = seq, group = "range")]
    pub from: Option<Seq>,
    /// Sequence number of the last entry to drop [default: the newest].
    #[arg(long, value_name = "SEQ", value_parser = seq, group = "range")]
    pub to: Option<Seq>,
    /// Drop everything that is queued.
    #[arg(long, conflicts_with_all = ["from", "to"], group = "range")]
    pub all: bool,
    /// Make the changes; without this option, they are only printed.
    #[arg(long)]
    pub apply: bool,
    #[command(flatten)]
    pub which: QueueTarget,
}

impl Drop {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && to < from
        {
            return Err(ToolError(format!("--to: {to} is below --from {from}; swap them")));
        }
        let queue = self.which.open().await?;
        if self.apply {
            self.drop_them(&queue).await?;
        } else {
            self.say(&queue).await?;
        }
        queue.close().await;
        Ok(Exit::Good)
    }

    async fn say(&self, queue: &QueueConnection) -> Result<(), ToolError> {
        let mut walk = Walk::start(queue, self.from, self.to, u64::MAX, false).await?;
        let (mut frames, mut setups, mut unreadable) = (0, 0, 0);
        let (mut first, mut last) = (None, None);
        while let Some(page) = walk.page().await? {
            for peeked in page {
                let Ok(entry) = peeked.entry else {
                    unreadable += 1;
                    continue;
                };
                match entry.kind {
                    Kind::Frame => frames += 1,
                    Kind::Setup => setups += 1,
                }
                first.get_or_insert((entry.seq, entry.captured_at));
                last = Some((entry.seq, entry.captured_at));
            }
        }
        if let (Some((first, from)), Some((last, to))) = (first, last) {
            let (what, places) = (contents(frames, setups), places(first, last));
            print_prose(format_args!("would drop {what}: {places}, captured {from} to {to}"));
        } else {
            print_prose("would drop nothing: no entries are queued in this range");
        }
        if unreadable > 0 {
            let entries = count(unreadable, "entry");
            print_prose(format_args!("would drop {entries} that cannot be read back"));
        }
        print_prose(NOT_DONE);
        Ok(())
    }

    async fn drop_them(&self, queue: &QueueConnection) -> Result<(), ToolError> {
        // Keep entries that are appended from now on.
        let newest = Seq(queue.status().await?.queue.tail.0.saturating_sub(1));
        let first = self.from.unwrap_or(Seq(0));
        let last = self.to.unwrap_or(Seq(MAX_SEQ)).min(newest);
        let (mut rest, mut dropped) = (Some((first, last)), 0);
        let (mut setups, mut out_below) = (Vec::new(), None);
        while let Some((first, last)) = rest {
            let step = queue.send(OperatorRequest::Purge { first, last }).await;
            let step: PurgeStep = step.map_err(|ToolError(why)| {
                ToolError(format!("{why} ({} dropped so far)", count(dropped, "entry")))
            })?;
            dropped += step.dropped;
            setups.extend(step.setups);
            out_below = out_below.or(step.in_flight_below);
            rest = step.rest;
        }
        print_prose(format_args!("dropped {}", count(dropped, "entry")));
        for setup in setups {
            print_prose(format_args!(
                "kept entry {setup}: a setup that later frames were driven with"
            ));
        }
        if let Some(below) = out_below {
            print_prose(format_args!(
                "kept entries below {below}: they may be on their way to the server"
            ));
        }
        Ok(())
    }
}

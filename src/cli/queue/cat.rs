//! `pitwire queue cat`: prints an entry.

use super::{Exit, QueueTarget, ToolError, Walk, eprint_line, print, seq, trace};
use crate::entry::Seq;
use crate::queue::operator::Peeked;
use crate::tools::{EntryTrace, OperatorRequest};

/// Print an entry: the JSON of its frame or setup.
///
/// If the entry is not in the queue, prints what happened to it and exits with 1.
#[derive(Debug, clap::Args)]
pub struct Cat {
    /// Sequence number of the entry.
    #[arg(value_parser = seq)]
    pub seq: Seq,
    #[command(flatten)]
    pub which: QueueTarget,
}

impl Cat {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        let queue = self.which.open().await?;
        let mut walk = Walk::start(&queue, Some(self.seq), Some(self.seq), 1, true).await?;
        let exit = match walk.page().await?.unwrap_or_default().first() {
            Some(Peeked { entry: Ok(entry), .. }) => {
                print(&entry.json);
                Exit::Good
            }
            Some(Peeked { seq, entry: Err(error), .. }) => {
                eprint_line(format_args!("entry {seq} cannot be read back: {error}"));
                Exit::Found
            }
            None => {
                let trace: EntryTrace =
                    queue.send(OperatorRequest::Trace { seq: self.seq }).await?;
                eprint_line(trace::sentence(&trace));
                Exit::Found
            }
        };
        queue.close().await;
        Ok(exit)
    }
}

//! `pitwire queue cat`: prints an entry.

use super::{Exit, QueueTarget, ToolError, Walk, eprint_line, print, seq, trace};
use crate::entry::Seq;

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
        let access = self.which.open().await?;
        let mut walk = Walk::start(&access, Some(self.seq), Some(self.seq), 1, true).await?;
        let page = walk.page().await?.unwrap_or_default();
        let exit = match (page.entries.first(), page.unreadable.first()) {
            (Some(entry), _) => {
                print(entry.json.as_ref().map_or("null", |json| json.get()));
                Exit::Good
            }
            (None, Some((seq, error))) => {
                eprint_line(format_args!("entry {seq} cannot be read back: {error}"));
                Exit::Found
            }
            (None, None) => {
                eprint_line(trace::sentence(&access.trace(self.seq).await?));
                Exit::Found
            }
        };
        access.close().await;
        Ok(exit)
    }
}

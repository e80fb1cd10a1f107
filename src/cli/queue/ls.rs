//! `pitwire queue ls`: lists entries.

use super::{Exit, QueueTarget, ToolError, Walk, eprint_line, print, seq};
use crate::entry::{Entry, Seq};
use crate::queue::operator::Peeked;

/// List entries: sequence number, capture time, stint, kind, bytes.
///
/// One tab-separated line per entry, oldest first; the first line names the columns.
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// Sequence number of the first entry [default: the oldest].
    #[arg(long, value_name = "SEQ", value_parser = seq)]
    pub from: Option<Seq>,
    /// Sequence number of the last entry [default: the newest].
    #[arg(long, value_name = "SEQ", value_parser = seq)]
    pub to: Option<Seq>,
    /// Maximum number of entries to list.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
    #[command(flatten)]
    pub which: QueueTarget,
}

impl Ls {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        let queue = self.which.open().await?;
        let mut walk = Walk::start(&queue, self.from, self.to, self.limit, false).await?;
        let mut exit = Exit::Good;
        print("seq\tcaptured_at\tstint\tkind\tbytes");
        while let Some(page) = walk.page().await? {
            for Peeked { seq, bytes, entry, .. } in page {
                match entry {
                    Ok(Entry { captured_at, stint, kind, .. }) => {
                        let kind = kind.as_str();
                        print(format_args!("{seq}\t{captured_at}\t{stint}\t{kind}\t{bytes}"));
                    }
                    Err(error) => {
                        eprint_line(format_args!("entry {seq} cannot be read back: {error}"));
                        exit = Exit::Found;
                    }
                }
            }
        }
        if let Some(next) = walk.rest() {
            eprint_line(format_args!("more follow: --from {next}"));
        }
        queue.close().await;
        Ok(exit)
    }
}

//! `pitwire queue trace`: shows what happened to an entry.

use super::{Exit, QueueTarget, ToolError, print_prose, seq};
use crate::entry::{Entry, Seq};
use crate::queue::disposition::{DestinationDisposition, Disposition};
use crate::queue::ledger::DropReason;
use crate::tools::{EntryTrace, OperatorRequest};

/// Show what happened to an entry.
///
/// Exits with 1 if that is not known: the history of removed entries is bounded, and its oldest
/// part is discarded first.
#[derive(Debug, clap::Args)]
pub struct Trace {
    /// Sequence number of the entry.
    #[arg(value_parser = seq)]
    pub seq: Seq,
    #[command(flatten)]
    pub which: QueueTarget,
}

impl Trace {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        let queue = self.which.open().await?;
        let trace: EntryTrace = queue.send(OperatorRequest::Trace { seq: self.seq }).await?;
        queue.close().await;
        print_prose(sentence(&trace));
        let is_unknown = |one: &DestinationDisposition| {
            matches!(one.disposition, Disposition::Unknown | Disposition::NotAssigned)
        };
        Ok(if trace.dispositions.iter().any(is_unknown) { Exit::Found } else { Exit::Good })
    }
}

/// Describes the disposition of an entry in a line per destination.
pub(super) fn sentence(trace: &EntryTrace) -> String {
    let EntryTrace { seq, dispositions, entry, tail } = trace;
    let line = |DestinationDisposition { destination, disposition }: &DestinationDisposition| {
        format!("{destination}: entry {seq} {}", describe(*disposition, entry.as_ref(), *tail))
    };
    dispositions.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn describe(disposition: Disposition, entry: Option<&Entry>, tail: Seq) -> String {
    match disposition {
        Disposition::Delivered => "was delivered: the server has it".into(),
        Disposition::DeadLetter => {
            "was refused by the server and is a dead letter; pitwire queue requeue queues it again".into()
        }
        Disposition::Dropped(reason) => format!("was dropped: {}", because(reason)),
        Disposition::Downsampled => {
            "was downsampled: the queue was full, its neighbours were kept (queue.when_full)".into()
        }
        Disposition::Lost => {
            "was lost to damage: files of the queue were damaged, cut or deleted before it was sent; \
             the ledger counts it as dropped (corrupt)"
                .into()
        }
        Disposition::Queued => match entry {
            Some(entry) => format!(
                "is in the queue: a {} of stint {}, captured at {}",
                entry.kind.as_str(),
                entry.stint,
                entry.captured_at
            ),
            None => "is in the queue".into(),
        },
        Disposition::NotAssigned => format!("does not exist yet: the next one becomes entry {tail}"),
        Disposition::Unknown => "is unknown: no entry had this number, or it was too long ago".into(),
    }
}

fn because(reason: DropReason) -> &'static str {
    match reason {
        DropReason::QueueFull => "the queue was full (queue.max_entries, queue.max_bytes)",
        DropReason::Expired => "it was older than queue.max_age",
        DropReason::Corrupt => "it could not be read back from the disk",
        DropReason::Storage => "the disk failed until the buffer in memory was full",
        DropReason::Operator => "an operator ran pitwire queue drop",
    }
}

//! `pitwire queue status`: shows the state of the queue.

use std::fmt;

use super::{Exit, QueueTarget, ToolError, print_folded};
use crate::entry::CapturedAt;
use crate::queue::DestinationStatus;
use crate::queue::ledger::DropReason;
use crate::tools::OperatorStatus;

/// The column in which the values begin.
const VALUE_COLUMN: usize = 20;

/// Show the state of the queue: its contents, its limits, its ledger.
///
/// Exits with 1 if the ledger does not balance or the queue's disk fails.
#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    pub which: QueueTarget,
}

impl Status {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        let queue = self.which.open().await?;
        let status = queue.status().await?;
        queue.close().await;
        for (name, value) in lines(&status) {
            print_folded(format_args!("{name:VALUE_COLUMN$}{value}"), VALUE_COLUMN);
        }
        let queue = status.queue;
        let is_well = queue.imbalanced().next().is_none() && queue.storage_error.is_none();
        Ok(if is_well { Exit::Good } else { Exit::Found })
    }
}

/// The names and values of the table: the queue, then the ledger of each destination.
pub(in crate::cli) fn lines(status: &OperatorStatus) -> Vec<(String, String)> {
    let OperatorStatus { path, queue } = status;
    let moment = |moment: Option<CapturedAt>| moment.map_or("none".into(), |at| at.to_string());
    let line = |name: &str, value: &dyn fmt::Display| (name.to_owned(), value.to_string());
    let mut lines = vec![
        line("path", path),
        line("entries", &queue.entries),
        line("max_entries", &queue.max_entries),
        line("bytes", &queue.bytes),
        line("disk_bytes", &queue.disk_bytes),
        line("max_bytes", &queue.max_bytes),
        line("oldest", &moment(queue.oldest)),
        line("newest", &moment(queue.newest)),
        line("stint", &queue.stint),
        line("next_seq", &queue.tail),
        line("buffered", &queue.buffered),
    ];
    lines.extend(queue.storage_error.iter().map(|error| line("storage_error", error)));
    for DestinationStatus { name, queued, appended, ledger, imbalance, .. } in &queue.destinations {
        lines.push(line("destination", name));
        lines.push(line("appended", appended));
        lines.push(line("delivered", &ledger.delivered));
        for reason in DropReason::ALL {
            lines.push(line(&format!("dropped_{}", reason.as_str()), &ledger.dropped(reason)));
        }
        lines.push(line("downsampled", &ledger.downsampled));
        lines.push(line("dead_letters", &ledger.dead_letters));
        lines.push(line("queued", queued));
        lines.push(line("imbalance", imbalance));
    }
    lines
}

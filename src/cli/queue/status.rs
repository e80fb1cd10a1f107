//! `pitwire queue status`.

use super::{Access, Cannot, Exit, Which, print};
use crate::entry::CapturedAt;
use crate::queue::ledger::DropReason;
use crate::tools;

/// Say how the queue stands: what it holds, its bounds, its ledger.
///
/// Ends with 1 when the ledger does not balance or the queue's disk fails.
#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    pub which: Which,
}

impl Status {
    pub(super) async fn run(self) -> Result<Exit, Cannot> {
        let access: Access = self.which.open().await?;
        let status = access.status().await?;
        access.close().await;
        lines(&status).iter().for_each(|(name, value)| print(format_args!("{name:20}{value}")));
        let is_well = status.imbalance == 0 && status.storage_error.is_none();
        Ok(if is_well { Exit::Good } else { Exit::Found })
    }
}

pub(in crate::cli) fn lines(status: &tools::Status) -> Vec<(String, String)> {
    let moment =
        |moment: Option<CapturedAt>| moment.map_or("none".into(), |moment| moment.to_string());
    let ledger = &status.ledger;
    let mut lines = vec![
        ("path", status.path.clone()),
        ("entries", status.entries.to_string()),
        ("max_entries", status.max_entries.to_string()),
        ("bytes", status.bytes.to_string()),
        ("disk_bytes", status.disk_bytes.to_string()),
        ("max_bytes", status.max_bytes.to_string()),
        ("oldest", moment(status.oldest)),
        ("newest", moment(status.newest)),
        ("stint", status.stint.to_string()),
        ("next_seq", status.tail.to_string()),
        ("buffered", status.buffered.to_string()),
        ("appended", status.appended.to_string()),
        ("delivered", ledger.delivered.to_string()),
    ];
    let dropped: Vec<_> = DropReason::ALL
        .into_iter()
        .map(|reason| (format!("dropped_{}", reason.as_str()), ledger.dropped(reason).to_string()))
        .collect();
    let mut rest = vec![
        ("thinned", ledger.thinned.to_string()),
        ("quarantined", ledger.quarantined.to_string()),
        ("queued", status.entries.to_string()),
        ("imbalance", status.imbalance.to_string()),
    ];
    rest.extend(status.storage_error.clone().map(|error| ("storage_error", error)));
    let named = |(name, value): (&str, String)| (name.to_owned(), value);
    lines.drain(..).map(named).chain(dropped).chain(rest.into_iter().map(named)).collect()
}

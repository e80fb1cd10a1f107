//! `pitwire queue status`: shows the state of the queue.

use super::{Access, Cannot, Exit, Which, print};
use crate::entry::CapturedAt;
use crate::queue::Standing;
use crate::queue::ledger::DropReason;
use crate::tools;

/// Show the state of the queue: its contents, its limits, its ledger.
///
/// Exits with 1 if the ledger does not balance or the queue's disk fails.
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
        let balances = status.others.iter().all(|other| other.imbalance == 0);
        let is_well = status.imbalance == 0 && balances && status.storage_error.is_none();
        Ok(if is_well { Exit::Good } else { Exit::Found })
    }
}

pub(in crate::cli) fn lines(status: &tools::Status) -> Vec<(String, String)> {
    let moment =
        |moment: Option<CapturedAt>| moment.map_or("none".into(), |moment| moment.to_string());
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
    ];
    let error = status.storage_error.clone().map(|error| ("storage_error", error));
    let named = |(name, value): (&str, String)| (name.to_owned(), value);
    let server = status.server();
    let others = status.others.iter().flat_map(|other| {
        let destination = [("destination".to_owned(), other.name.clone())];
        destination.into_iter().chain(ledger(other))
    });
    let all = lines.drain(..).map(named).chain(ledger(&server));
    all.chain(error.map(named)).chain(others).collect()
}

/// The ledger of one destination as lines of the table.
fn ledger(standing: &Standing) -> impl Iterator<Item = (String, String)> + use<> {
    let Standing { queued, appended, ledger, imbalance, .. } = standing.clone();
    let named = |(name, value): (&str, u64)| (name.to_owned(), value.to_string());
    let dropped = DropReason::ALL
        .map(|reason| (format!("dropped_{}", reason.as_str()), ledger.dropped(reason).to_string()));
    let first = [("appended", appended), ("delivered", ledger.delivered)].map(named);
    let rest =
        [("thinned", ledger.thinned), ("quarantined", ledger.quarantined), ("queued", queued)];
    let imbalance = ("imbalance".to_owned(), imbalance.to_string());
    first.into_iter().chain(dropped).chain(rest.map(named)).chain([imbalance])
}

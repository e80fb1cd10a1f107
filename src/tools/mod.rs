//! The operator's tools for a queue: inspect it, verify it, move entries in and out.
//!
//! [`Tools`] works on a queue that this process has open. The agent serves the tools at its admin
//! address (`router`), and the commands call them with a [`Client`]; the answers are identical.

mod client;
mod http;
mod line;
mod moves;
mod wire;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::client::{Client, ClientError};
pub(crate) use self::http::router;
pub use self::line::{Line, What, export_line};
pub use self::moves::{Moved, Refusals};
use crate::config::QueueConfig;
use crate::entry::{CapturedAt, Entry, Kind, Seq, StintId};
use crate::queue::fates::Fate;
use crate::queue::inspect::Examination;
use crate::queue::ledger::Ledger;
use crate::queue::operator::{DropStep, Mended, Operator, Peeked};
use crate::queue::{QueueError, Standing, Writer};

/// The tools of a queue.
#[derive(Clone, Debug)]
pub struct Tools {
    path: PathBuf,
    /// The configured limits of entries and bytes, reported if the queue was opened without limits.
    bounds: Option<(u64, u64)>,
    writer: Writer,
    operator: Operator,
}

/// The state of a queue, its limits and its ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The queue's directory.
    pub path: String,
    pub head: Seq,
    pub tail: Seq,
    pub entries: u64,
    /// Size of the records in bytes.
    pub bytes: u64,
    pub disk_bytes: u64,
    pub max_entries: u64,
    pub max_bytes: u64,
    /// Entries in memory that are not yet on the disk.
    pub buffered: u64,
    #[serde(with = "wire::moment")]
    pub oldest: Option<CapturedAt>,
    #[serde(with = "wire::moment")]
    pub newest: Option<CapturedAt>,
    pub stint: StintId,
    /// Entries not yet delivered to `[server]`.
    pub queued: u64,
    pub appended: u64,
    /// The ledger of `[server]`.
    pub ledger: Ledger,
    pub imbalance: i64,
    /// The other destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Standing>,
    pub storage_error: Option<String>,
    pub disk_is_full: bool,
}

impl Status {
    /// The status of `[server]`.
    pub fn server(&self) -> Standing {
        Standing::server(self.queued, self.appended, self.ledger, self.imbalance)
    }
}

/// Consecutive entries.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Page {
    pub entries: Vec<Item>,
    /// Entries that cannot be read back, with the reason.
    pub unreadable: Vec<(Seq, String)>,
    /// Where the next page begins; `None` if this page is empty.
    pub next: Option<Seq>,
}

/// One entry of a page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    pub seq: Seq,
    pub stint: StintId,
    #[serde(with = "wire::moment")]
    pub captured_at: CapturedAt,
    #[serde(with = "wire::kind")]
    pub kind: Kind,
    /// Size of its record in bytes.
    pub bytes: u64,
    /// The frame or the setup, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Box<RawValue>>,
}

/// The disposition of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trace {
    pub seq: Seq,
    #[serde(with = "wire::fate")]
    pub fate: Fate,
    /// The disposition for each of the other destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherFate>,
    /// The entry itself, while it is queued.
    pub entry: Option<Item>,
    /// The sequence number that the next entry gets.
    pub tail: Seq,
}

/// The disposition of an entry for a destination other than `[server]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OtherFate {
    pub destination: String,
    #[serde(with = "wire::fate")]
    pub fate: Fate,
}

impl Tools {
    /// Tools for the queue in this directory.
    pub fn new(path: PathBuf, writer: Writer) -> Self {
        Self { path, bounds: None, operator: writer.operator(), writer }
    }

    /// Tools for a queue that was opened without limits; the configured ones are reported instead.
    pub fn as_it_is(queue: QueueConfig, writer: Writer) -> Self {
        let bounds = Some((queue.max_entries, queue.max_bytes));
        Self { bounds, ..Self::new(queue.path, writer) }
    }

    /// The current state of the queue.
    pub fn status(&self) -> Status {
        let status = self.writer.status();
        let (max_entries, max_bytes) =
            self.bounds.unwrap_or((status.max_entries, status.max_bytes));
        Status {
            path: absolute(&self.path),
            head: status.head,
            tail: status.tail,
            entries: status.entries,
            bytes: status.bytes,
            disk_bytes: status.disk_bytes,
            max_entries,
            max_bytes,
            buffered: status.buffered,
            oldest: status.oldest,
            newest: status.newest,
            stint: status.stint,
            queued: status.queued,
            appended: status.appended,
            ledger: status.ledger,
            imbalance: status.imbalance,
            others: status.others,
            storage_error: status.storage_error.or(status.stuck.map(|stuck| stuck.to_string())),
            disk_is_full: status.disk_is_full,
        }
    }

    /// Reads entries from `from` on, at most `entries` and no more than a page. `whole` includes
    /// their JSON.
    pub async fn page(&self, from: Seq, entries: usize, whole: bool) -> Result<Page, QueueError> {
        let mut page = Page::default();
        for Peeked { seq, bytes, entry } in self.operator.peek(from, entries).await? {
            page.next = Some(Seq(seq.0 + 1));
            match entry.and_then(|entry| item(entry, bytes)) {
                Ok(item) if whole => page.entries.push(item),
                Ok(item) => page.entries.push(Item { json: None, ..item }),
                Err(error) => page.unreadable.push((seq, error)),
            }
        }
        Ok(page)
    }

    /// Finds out what happened to the entry with this sequence number.
    pub async fn trace(&self, seq: Seq) -> Result<Trace, QueueError> {
        let (fate, others) = self.operator.fates(seq).await?;
        let others = others.into_iter().map(|(destination, fate)| OtherFate { destination, fate });
        let others: Vec<_> = others.collect();
        let mut entry = None;
        if fate == Fate::Queued || others.iter().any(|other| other.fate == Fate::Queued) {
            let page = self.page(seq, 1, false).await?;
            entry = page.entries.into_iter().find(|entry| entry.seq == seq);
        }
        Ok(Trace { seq, fate, others, entry, tail: self.writer.status().tail })
    }

    /// Reads a whole segment and checks it; see [`Operator::examine`].
    pub async fn examine(&self, from: Seq) -> Result<Option<Examination>, QueueError> {
        self.operator.examine(from).await
    }

    /// Quarantines the damaged parts of a segment; see [`Operator::mend`].
    pub async fn mend(&self, from: Seq) -> Result<Option<Mended>, QueueError> {
        self.operator.mend(from).await
    }

    /// Drops entries in one step of at most a segment; see [`Operator::drop_between`].
    pub async fn drop_between(&self, first: Seq, last: Seq) -> Result<DropStep, QueueError> {
        self.operator.drop_between(first, last).await
    }
}

/// The absolute path: the caller may be a process with a different working directory.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Converts an entry for an answer. Fails if its content is not JSON: the answer embeds it.
fn item(entry: Entry, bytes: u64) -> Result<Item, String> {
    let Entry { seq, stint, captured_at, kind, json } = entry;
    let json = RawValue::from_string(json).map_err(|error| format!("it is not JSON: {error}"))?;
    Ok(Item { seq, stint, captured_at, kind, bytes, json: Some(json) })
}

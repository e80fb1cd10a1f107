//! The operator's tools for a queue: inspect it, verify it, move entries in and out.
//!
//! [`Tools`] works on a queue that this process has open. The agent serves the tools at its admin
//! address (`router`), and the commands call them with a [`Client`]; the answers are identical.

mod client;
mod http;
mod line;
mod moves;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::client::{Client, ClientError};
pub(crate) use self::http::router;
pub use self::line::{Line, What, export_line};
pub use self::moves::{Moved, Refusals};
use crate::config::QueueConfig;
use crate::entry::{CapturedAt, Entry, Kind, Seq, StintId};
use crate::fields::MAX_SAMPLE_BYTES;
use crate::queue::disposition::{DestinationFate, Disposition};
use crate::queue::operator::{Operator, Peeked};
use crate::queue::{QueueError, QueueStatus, Writer};

/// The maximum line of an export: an entry, its position and its timestamp; a longer one is refused.
pub const MAX_LINE_BYTES: usize = MAX_SAMPLE_BYTES + 2048;

/// The maximum time from a tool's request to the agent's answer.
pub(crate) const TOOL_TIMEOUT: Duration = Duration::from_secs(60);

/// The tools of a queue.
#[derive(Clone, Debug)]
pub struct Tools {
    path: PathBuf,
    /// The configured limits of entries and bytes, reported if the queue was opened without limits.
    bounds: Option<(u64, u64)>,
    writer: Writer,
    operator: Operator,
}

/// The state of a queue, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The queue's directory.
    pub path: String,
    #[serde(flatten)]
    pub queue: QueueStatus,
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
    pub captured_at: CapturedAt,
    pub kind: Kind,
    /// Size of its record in bytes.
    pub bytes: u64,
    /// The frame or the setup, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Box<RawValue>>,
}

/// The disposition of an entry for each destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trace {
    pub seq: Seq,
    pub fates: Vec<DestinationFate>,
    /// The entry itself, while it is queued.
    pub entry: Option<Item>,
    /// The sequence number that the next entry gets.
    pub tail: Seq,
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
        let mut queue = self.writer.status();
        if let Some((max_entries, max_bytes)) = self.bounds {
            (queue.max_entries, queue.max_bytes) = (max_entries, max_bytes);
        }
        let stuck = queue.stuck.map(|stuck| stuck.to_string());
        queue.storage_error = queue.storage_error.or(stuck);
        Status { path: absolute(&self.path), queue }
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
        let fates = self.operator.dispositions(seq).await?;
        let mut entry = None;
        if fates.iter().any(|one| one.disposition == Disposition::Queued) {
            let page = self.page(seq, 1, false).await?;
            entry = page.entries.into_iter().find(|entry| entry.seq == seq);
        }
        Ok(Trace { seq, fates, entry, tail: self.writer.status().tail })
    }

    pub(crate) fn operator(&self) -> &Operator {
        &self.operator
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

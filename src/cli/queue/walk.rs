//! Reads a range of entries page by page.

use super::access::{QueueConnection, ToolError};
use crate::entry::Seq;
use crate::queue::PAGE_ENTRIES;
use crate::queue::operator::Peeked;
use crate::tools::OperatorRequest;

/// A range of entries that is being read.
pub(super) struct Walk<'a> {
    queue: &'a QueueConnection,
    first: Seq,
    next: Option<Seq>,
    last: Seq,
    left: u64,
    with_json: bool,
}

impl<'a> Walk<'a> {
    /// Starts at `first` or the oldest entry, and ends at `last` or the entry that is newest now,
    /// after at most `most` entries.
    pub(super) async fn start(
        queue: &'a QueueConnection,
        first: Option<Seq>,
        last: Option<Seq>,
        most: u64,
        with_json: bool,
    ) -> Result<Self, ToolError> {
        let status = queue.status().await?.queue;
        let newest = Seq(status.tail.0.saturating_sub(1));
        let last = last.map_or(newest, |last| last.min(newest));
        let first = first.map_or(status.head, |first| first.max(status.head));
        Ok(Self { queue, first, next: Some(first), last, left: most, with_json })
    }

    /// The number of sequence numbers that are done, and in total.
    pub(super) fn progress(&self) -> (u64, u64) {
        let all = (self.last.0 + 1).saturating_sub(self.first.0);
        (self.rest().map_or(all, |next| next.0.saturating_sub(self.first.0)), all)
    }

    /// Reads the next page; `None` if there are no more entries.
    pub(super) async fn page(&mut self) -> Result<Option<Vec<Peeked>>, ToolError> {
        let Some(from) = self.rest().filter(|_| self.left > 0) else { return Ok(None) };
        let entries = self.left.min(PAGE_ENTRIES as u64) as usize;
        let request = OperatorRequest::Peek { from, entries, with_json: self.with_json };
        let mut page: Vec<Peeked> = self.queue.send(request).await?;
        self.next = page.last().map(|last| Seq(last.seq.0 + 1));
        page.retain(|peeked| peeked.seq <= self.last);
        self.left = self.left.saturating_sub(page.len() as u64);
        Ok((!page.is_empty()).then_some(page))
    }

    /// Where the rest of the range begins; `None` at its end.
    pub(super) fn rest(&self) -> Option<Seq> {
        self.next.filter(|next| *next <= self.last)
    }
}

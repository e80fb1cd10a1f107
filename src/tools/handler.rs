//! Handles the requests of an operator.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::line::{Line, LineContent};
use super::protocol::{
    AppendCounts, DeadLetterCounts, EntryTrace, OperatorRequest, OperatorResponse, OperatorStatus,
};
use crate::config::QueueConfig;
use crate::entry::Seq;
use crate::fields::{Reason, Refused};
use crate::platform::offload;
use crate::queue::disposition::Disposition;
use crate::queue::operator::{Operator, Peeked};
use crate::queue::{QueueError, Stamps, Writer};
use crate::source::lines::MAX_BATCH_LINES;

/// Most lines in one import: `pitwire queue import` sends a few hundred, and an entry takes about
/// 1 kB of memory even if its line is short.
const MAX_IMPORT_LINES: usize = 10_000;

/// The operator's access to a queue that this process has open. Clones share one queue.
#[derive(Clone, Debug)]
pub struct OperatorHandler {
    path: PathBuf,
    /// The configured limits of entries and bytes, reported if the queue was opened without limits.
    limits: Option<(u64, u64)>,
    writer: Writer,
    operator: Operator,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The request is invalid; the text names the allowed values.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}; check that the disk is connected and has room")]
    Queue(#[from] QueueError),
}

impl OperatorHandler {
    /// Access to the queue in this directory.
    pub fn new(path: PathBuf, writer: Writer) -> Self {
        Self { path, limits: None, operator: writer.operator(), writer }
    }

    /// Access to a queue that was opened without limits; the configured ones are reported instead.
    pub fn with_configured_limits(queue: QueueConfig, writer: Writer) -> Self {
        let limits = Some((queue.max_entries, queue.max_bytes));
        Self { limits, ..Self::new(queue.path, writer) }
    }

    /// Handles a request. An import and a requeue run to completion even if the caller goes away.
    pub async fn handle(
        &self,
        request: OperatorRequest,
    ) -> Result<OperatorResponse, OperatorError> {
        let Self { operator, .. } = self;
        Ok(match request {
            OperatorRequest::Status => OperatorResponse::Status(Box::new(self.status())),
            OperatorRequest::Peek { from, entries, with_json } => {
                OperatorResponse::Entries(self.peek(from, entries, with_json).await?)
            }
            OperatorRequest::Trace { seq } => OperatorResponse::Trace(self.trace(seq).await?),
            OperatorRequest::Scan { from } => OperatorResponse::Segment(operator.scan(from).await?),
            OperatorRequest::Repair { from } => {
                OperatorResponse::Repaired(operator.repair(from).await?)
            }
            OperatorRequest::Purge { first, last } => {
                OperatorResponse::Purged(operator.purge(first, last).await?)
            }
            OperatorRequest::DeadLetters => {
                OperatorResponse::DeadLetters(self.count_dead_letters().await?)
            }
            OperatorRequest::Requeue => {
                OperatorResponse::Appended(run_to_completion(self.clone().requeue()).await?)
            }
            OperatorRequest::Import { lines } => {
                let parsed = offload::parse(lines.len(), move || parse(&lines)).await;
                let lines = parsed.map_err(|refused| OperatorError::Invalid(refused.message))?;
                let appended = run_to_completion(self.clone().append(lines)).await?;
                OperatorResponse::Appended(appended)
            }
        })
    }

    /// The current state of the queue.
    pub fn status(&self) -> OperatorStatus {
        let mut queue = self.writer.status();
        if let Some((max_entries, max_bytes)) = self.limits {
            (queue.max_entries, queue.max_bytes) = (max_entries, max_bytes);
        }
        let stuck = queue.stuck.map(|stuck| stuck.to_string());
        queue.storage_error = queue.storage_error.or(stuck);
        OperatorStatus { path: absolute(&self.path), queue }
    }

    async fn peek(
        &self,
        from: Seq,
        entries: usize,
        with_json: bool,
    ) -> Result<Vec<Peeked>, QueueError> {
        let mut page = self.operator.peek(from, entries).await?;
        for peeked in &mut page {
            let Ok(entry) = &mut peeked.entry else { continue };
            // Exports embed the JSON in a line.
            if let Err(error) = serde_json::from_str::<IgnoredAny>(&entry.json) {
                peeked.entry = Err(format!("it is not JSON: {error}"));
            } else if !with_json {
                entry.json.clear();
            }
        }
        Ok(page)
    }

    async fn trace(&self, seq: Seq) -> Result<EntryTrace, QueueError> {
        let dispositions = self.operator.dispositions(seq).await?;
        let mut entry = None;
        if dispositions.iter().any(|one| one.disposition == Disposition::Queued) {
            let page = self.peek(seq, 1, false).await?;
            let peeked = page.into_iter().find(|peeked| peeked.seq == seq);
            entry = peeked.and_then(|peeked| peeked.entry.ok());
        }
        Ok(EntryTrace { seq, dispositions, entry, tail: self.writer.status().tail })
    }

    async fn count_dead_letters(&self) -> Result<DeadLetterCounts, QueueError> {
        let (text, head) = self.operator.dead_letters().await?;
        let (lines, unreadable) = parse_dead_letters(&text, head);
        let mut counts = DeadLetterCounts { unreadable, ..DeadLetterCounts::default() };
        for line in &lines {
            match line.content {
                LineContent::Frame(_) => counts.frames += 1,
                LineContent::Setup(_) => counts.setups += 1,
            }
        }
        counts.first = lines.iter().filter_map(|line| line.seq).min();
        counts.last = lines.iter().filter_map(|line| line.seq).max();
        Ok(counts)
    }

    async fn requeue(self) -> Result<AppendCounts, QueueError> {
        let (text, head) = self.operator.archive_dead_letters().await?;
        let (lines, unreadable) = parse_dead_letters(&text, head);
        let mut counts = self.append(lines).await?;
        counts.refused += unreadable;
        Ok(counts)
    }

    /// Appends entries in the given order.
    async fn append(self, lines: Vec<Line>) -> Result<AppendCounts, QueueError> {
        let mut counts = AppendCounts::default();
        let mut previous = self.writer.status().newest;
        for lines in lines.chunks(MAX_BATCH_LINES) {
            let make = |stamps: &mut Stamps| {
                let entry =
                    |line: &Line| line.entry(stamps.stamp(), previous.replace(line.captured_at));
                lines.iter().map(entry).collect()
            };
            self.writer.append(make).await?.into_iter().for_each(|one| counts.count(one));
        }
        Ok(counts)
    }
}

/// Runs `work` to completion even if the caller goes away, such as a client that disconnects.
async fn run_to_completion<T: Send + 'static>(
    work: impl Future<Output = Result<T, QueueError>> + Send + 'static,
) -> Result<T, QueueError> {
    tokio::spawn(work).await.unwrap_or(Err(QueueError::Closed))
}

/// The absolute path: the caller may be a process with a different working directory.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Parses the lines of an import. Fails as a whole if one of them is invalid.
fn parse(text: &str) -> Result<Vec<Line>, Refused> {
    let mut lines = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        if lines.len() == MAX_IMPORT_LINES {
            let message = format!("more than {MAX_IMPORT_LINES} lines; send fewer at a time");
            return Err(Refused { reason: Reason::TooLarge, message });
        }
        lines.push(Line::parse(line.as_bytes()).map_err(|refused| Refused {
            message: format!("line {}: {}", index + 1, refused.message),
            ..refused
        })?);
    }
    Ok(lines)
}

/// Parses dead letters; returns one line for each entry that has left the queue, and the number of
/// invalid lines. After a crash an entry may be listed twice, or listed and still queued.
fn parse_dead_letters(text: &str, head: Seq) -> (Vec<Line>, u64) {
    let (mut lines, mut unreadable) = (Vec::new(), 0);
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match Line::parse(line.as_bytes()) {
            Ok(line) => {
                let is_new = line.seq.is_none_or(|seq| seq < head && seen.insert(seq));
                lines.extend(is_new.then_some(line));
            }
            Err(_) => unreadable += 1,
        }
    }
    (lines, unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_requeued_once_and_not_while_still_queued() {
        let line = |seq: u64| {
            format!(
                r#"{{"seq":{seq},"captured_at":"2025-11-22T14:30:22Z","telemetry":{{"lap":1}}}}"#
            )
        };
        let text = [line(3), line(4), line(3), "half of a li".into(), line(9), line(10)].join("\n");
        let (lines, unreadable) = parse_dead_letters(&text, Seq(9));
        let seqs: Vec<_> = lines.iter().filter_map(|line| line.seq).collect();
        assert_eq!((seqs, unreadable), (vec![Seq(3), Seq(4)], 1));
    }

    #[test]
    fn an_import_with_an_invalid_line_or_too_many_lines_is_refused() {
        let line = r#"{"captured_at":"2025-11-22T14:30:22Z","frame":{"lap":1}}"#;
        assert_eq!(parse(&format!("{line}\n\n{line}\n")).unwrap().len(), 2);
        let error = parse(&format!("{line}\n\n7")).unwrap_err().message;
        assert!(error.starts_with("line 3: not an object"), "{error}");
        let error = parse(&[line; MAX_IMPORT_LINES + 1].join("\n")).unwrap_err().message;
        assert_eq!(error, "more than 10000 lines; send fewer at a time");
    }
}

//! The requests and responses of the operator protocol. As JSON, a request without parameters is
//! its name, such as `"status"`; any other is an object, such as `{"trace":{"seq":4711}}`.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::entry::{Entry, MAX_SEQ, Seq};
use crate::queue::disposition::DestinationDisposition;
use crate::queue::fsck::{Repaired, SegmentReport};
use crate::queue::operator::{Peeked, PurgeStep};
use crate::queue::{Appended, QueueStatus};

/// A request of an operator to a queue. Its response is the variant of [`OperatorResponse`] that
/// the comment names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OperatorRequest {
    /// `Status`. Answered even while the queue worker makes no progress.
    Status,
    /// `Entries`: reads entries from `from`, at most `entries` and no more than a page; empty at
    /// the end of the queue. Without `with_json`, their JSON is empty.
    Peek {
        #[serde(deserialize_with = "seq")]
        from: Seq,
        entries: usize,
        with_json: bool,
    },
    /// `Trace`: finds out what happened to an entry.
    Trace {
        #[serde(deserialize_with = "seq")]
        seq: Seq,
    },
    /// `Segment`: reads every byte of the segment that contains `from`, or else of the next one,
    /// without changing it; `None` at the end of the queue.
    Scan {
        #[serde(deserialize_with = "seq")]
        from: Seq,
    },
    /// `Repaired`: repairs the segment that contains `from`, or else the next one; `None` at the
    /// end of the queue.
    Repair {
        #[serde(deserialize_with = "seq")]
        from: Seq,
    },
    /// `Purged`: drops entries from `first` to `last` inclusive, as many as fit in one step.
    Purge {
        #[serde(deserialize_with = "seq")]
        first: Seq,
        #[serde(deserialize_with = "seq")]
        last: Seq,
    },
    /// `DeadLetters`: counts the dead letters.
    DeadLetters,
    /// `Appended`: requeues the dead letters. Their file is renamed first, so that each is requeued
    /// at most once, even after a crash.
    Requeue,
    /// `Appended`: appends the entries of an export, one per line, or none if a line is invalid.
    /// Each keeps its capture time, unless the queue already holds a later one: then it gets the
    /// next moment after that.
    Import { lines: String },
}

/// Rejects sequence numbers that no queue reaches, so that the queue can compute with all others.
fn seq<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Seq, D::Error> {
    let seq = Seq::deserialize(deserializer)?;
    if seq.0 <= MAX_SEQ {
        Ok(seq)
    } else {
        let error = format!("{seq} is too large; send a whole number from 0 to {MAX_SEQ}");
        Err(D::Error::custom(error))
    }
}

/// The response to an [`OperatorRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorResponse {
    Status(Box<OperatorStatus>),
    Entries(Vec<Peeked>),
    Trace(EntryTrace),
    Segment(Option<SegmentReport>),
    Repaired(Option<Repaired>),
    Purged(PurgeStep),
    DeadLetters(DeadLetterCounts),
    Appended(AppendCounts),
}

/// Converts a response to the payload that the caller expects; fails if it is another variant.
macro_rules! payload {
    ($variant:ident, $payload:ty) => {
        impl TryFrom<OperatorResponse> for $payload {
            type Error = ();

            fn try_from(response: OperatorResponse) -> Result<Self, ()> {
                match response {
                    OperatorResponse::$variant(payload) => Ok(payload),
                    _ => Err(()),
                }
            }
        }
    };
}

payload!(Status, Box<OperatorStatus>);
payload!(Entries, Vec<Peeked>);
payload!(Trace, EntryTrace);
payload!(Segment, Option<SegmentReport>);
payload!(Repaired, Option<Repaired>);
payload!(Purged, PurgeStep);
payload!(DeadLetters, DeadLetterCounts);
payload!(Appended, AppendCounts);

/// The state of a queue, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorStatus {
    /// The queue's directory.
    pub path: String,
    /// With the configured limits, and a stuck queue worker as `storage_error`.
    #[serde(flatten)]
    pub queue: QueueStatus,
}

/// The disposition of an entry for each destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryTrace {
    pub seq: Seq,
    pub dispositions: Vec<DestinationDisposition>,
    /// The entry without its JSON, while it is queued.
    pub entry: Option<Entry>,
    /// The sequence number that the next entry gets.
    pub tail: Seq,
}

/// The dead letters: entries that the server refused and that were not requeued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterCounts {
    pub frames: u64,
    pub setups: u64,
    /// Invalid lines.
    pub unreadable: u64,
    /// The lowest and the highest sequence number that they had.
    pub first: Option<Seq>,
    pub last: Option<Seq>,
}

/// The outcome of appending lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendCounts {
    pub stored: u64,
    /// Setups identical to the previous one.
    pub unchanged: u64,
    /// Entries dropped because the queue is full; its ledger counts them.
    pub dropped: u64,
    /// Entries in memory: the disk is too slow or fails.
    pub buffered: u64,
    /// Invalid lines.
    pub refused: u64,
    /// The sequence numbers of the first and the last stored entry.
    pub first: Option<Seq>,
    pub last: Option<Seq>,
}

impl AppendCounts {
    /// Adds the outcome of later lines.
    pub fn add(&mut self, more: Self) {
        self.stored += more.stored;
        self.unchanged += more.unchanged;
        self.dropped += more.dropped;
        self.buffered += more.buffered;
        self.refused += more.refused;
        self.first = self.first.or(more.first);
        self.last = more.last.or(self.last);
    }

    pub(super) fn count(&mut self, appended: Appended) {
        match appended {
            Appended::Stored(seq) => {
                self.stored += 1;
                self.first = self.first.or(Some(seq));
                self.last = Some(seq);
            }
            Appended::Unchanged => self.unchanged += 1,
            Appended::Dropped(_) => self.dropped += 1,
            Appended::Buffered => self.buffered += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_a_sequence_number_that_no_queue_reaches_is_rejected() {
        let request = |seq: u64| {
            serde_json::from_str::<OperatorRequest>(&format!(r#"{{"trace":{{"seq":{seq}}}}}"#))
        };
        assert_eq!(request(MAX_SEQ).unwrap(), OperatorRequest::Trace { seq: Seq(MAX_SEQ) });
        let error = request(u64::MAX).unwrap_err().to_string();
        assert!(error.starts_with("18446744073709551615 is too large; send a whole "), "{error}");
    }
}

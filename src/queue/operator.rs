//! The end of the queue for a person: looks, and changes by hand.
//!
//! The reader does not notice. Each call is one short step of the keeper; longer work is a row of
//! them.

use tokio::sync::mpsc;

use super::examine::Examination;
use super::fates::Fate;
use super::keeper::Command;
pub use super::log::{DropStep, Mended, Peeked, StintSession};
use super::reader::ask;
use super::{Limit, QueueError};
use crate::config::{PAGE_BYTES, PAGE_ENTRIES};
use crate::entry::{CapturedAt, Seq, Stream};

/// The end for a person. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Operator {
    commands: mpsc::Sender<Command>,
}

impl Operator {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    /// The entries from `from` on, at most `entries` and no more than a page of
    /// [`PAGE_ENTRIES`] and [`PAGE_BYTES`]. None when there are none.
    pub async fn peek(&self, from: Seq, entries: usize) -> Result<Vec<Peeked>, QueueError> {
        let limit = Limit { entries: entries.clamp(1, PAGE_ENTRIES), bytes: PAGE_BYTES };
        ask(&self.commands, |reply| Command::Peek { from, limit, reply }).await
    }

    /// What became of the entry at a position.
    pub async fn fate(&self, seq: Seq) -> Result<Fate, QueueError> {
        Ok(self.fates(seq).await?.0)
    }

    /// Likewise, and by name for the other destinations.
    pub async fn fates(&self, seq: Seq) -> Result<(Fate, Vec<(String, Fate)>), QueueError> {
        ask(&self.commands, |reply| Command::Fate { seq, reply }).await
    }

    /// Reads the stretch that holds `from`, or the next one, to its last byte and changes nothing;
    /// `None` when nothing follows.
    pub async fn examine(&self, from: Seq) -> Result<Option<Examination>, QueueError> {
        ask(&self.commands, |reply| Command::Examine { from, reply }).await
    }

    /// Reads the same as it would be read to be sent: what is damaged is set aside, what can be
    /// read is kept, the rest is counted.
    pub async fn mend(&self, from: Seq) -> Result<Option<Mended>, QueueError> {
        ask(&self.commands, |reply| Command::Mend { from, reply }).await
    }

    /// Drops of the entries between two positions, ends included, as much as goes in one step; the
    /// answer says what is left to be dropped.
    pub async fn drop_between(&self, first: Seq, last: Seq) -> Result<DropStep, QueueError> {
        ask(&self.commands, |reply| Command::Drop { first, last, reply }).await
    }

    /// The lines of the entries that the server refused, oldest first. What is said of a position
    /// below the one given beside them has left the queue; an entry at or above is queued still.
    pub async fn refused(&self) -> Result<(String, Seq), QueueError> {
        ask(&self.commands, |reply| Command::Refused { reply }).await
    }

    /// The sessions that servers gave to stints, as far as they are remembered, the newest last.
    pub async fn sessions(&self) -> Result<Vec<StintSession>, QueueError> {
        ask(&self.commands, |reply| Command::Sessions { reply }).await
    }

    /// Has the stream's next entry, which comes about `at`, go to the sessions that servers gave to its
    /// stint elsewhere: names of servers, and sessions.
    pub async fn go_on(
        &self,
        stream: &Stream,
        at: CapturedAt,
        sessions: Vec<(String, String)>,
    ) -> Result<(), QueueError> {
        let stream = stream.clone();
        ask(&self.commands, |reply| Command::GoOn { stream, at, sessions, reply }).await
    }

    /// Gives out the same lines for the last time: they are set aside, in the place of those that
    /// were set aside before.
    pub async fn take_refused(&self) -> Result<(String, Seq), QueueError> {
        ask(&self.commands, |reply| Command::TakeRefused { reply }).await
    }
}

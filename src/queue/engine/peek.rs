//! Read access for operators. It does not affect the readers: nothing here marks an entry as in
//! flight.

use std::io;

use serde::{Deserialize, Serialize};

use super::{Engine, Index};
use crate::entry::{Entry, Seq};
use crate::queue::storage::SideLog;
use crate::queue::{Limit, record};

/// A stored entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peeked {
    pub seq: Seq,
    /// The size of its record in bytes.
    pub bytes: u64,
    /// For a relayed entry, its position in the queue of the agent that captured it.
    pub origin: Option<Seq>,
    /// The entry, or why it cannot be decoded.
    pub entry: Result<Entry, String>,
}

/// Undelivered entries of a destination, read without advancing its cursor.
#[derive(Debug, Default)]
pub struct LookedAhead {
    /// Oldest first; undecodable entries are skipped.
    pub entries: Vec<Entry>,
    /// Where to continue reading; `None` at the end of the queue.
    pub next: Option<Seq>,
}

impl Engine {
    /// Reads entries from `from`, up to `limit`.
    pub(in crate::queue) fn peek(&mut self, from: Seq, limit: Limit) -> io::Result<Vec<Peeked>> {
        let records = self.read_records(from, limit)?.into_iter();
        let peeked = records.map(|(seq, bytes)| Peeked {
            seq,
            bytes: bytes.len() as u64,
            origin: record::fields(&bytes).and_then(|record| record.origin),
            entry: record::decode(seq, &bytes).map_err(|error| error.to_string()),
        });
        Ok(peeked.collect())
    }

    /// Reads undelivered entries of a destination from `from`, up to `limit`, without marking them
    /// as in flight.
    pub(in crate::queue) fn look_ahead(
        &mut self,
        of: Index,
        from: Seq,
        limit: Limit,
    ) -> io::Result<LookedAhead> {
        let records = self.read_records(from.max(self.cursors[of].committed), limit)?;
        let next = records.last().map(|(last, _)| Seq(last.0 + 1));
        let decoded =
            records.into_iter().filter_map(|(seq, bytes)| record::decode(seq, &bytes).ok());
        Ok(LookedAhead { entries: decoded.collect(), next })
    }

    /// The dead letters, and the head of the queue: those below it have left the queue.
    pub(in crate::queue) fn dead_letters(&mut self) -> io::Result<(String, Seq)> {
        let text = self.usable_store()?.lines(SideLog::DeadLetters)?;
        Ok((text, self.store.head()))
    }

    /// Returns the dead letters like [`Engine::dead_letters`] and archives them, so that they are returned
    /// once.
    pub(in crate::queue) fn archive_dead_letters(&mut self) -> io::Result<(String, Seq)> {
        let text = self.usable_store()?.archive_lines(SideLog::DeadLetters)?;
        Ok((text, self.store.head()))
    }
}

//! What a person sees of the queue. The reader does not notice: nothing here says that an entry
//! may be out.

use std::io;

use serde::{Deserialize, Serialize};

use super::{Index, Log};
use crate::entry::{Entry, Seq};
use crate::queue::examine::{self, Examination};
use crate::queue::store::{Notes, Store};
use crate::queue::{Limit, record};

/// An entry as it lies in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    pub seq: Seq,
    /// Bytes of its record.
    pub bytes: u64,
    /// Or why it cannot be read back.
    pub entry: Result<Entry, String>,
}

/// Entries that a destination has not had, read without giving them out.
#[derive(Debug, Default)]
pub struct LookedAhead {
    /// Oldest first; one that cannot be read back is left out.
    pub entries: Vec<Entry>,
    /// Where to read on; `None` at the end of the queue.
    pub next: Option<Seq>,
}

/// What became of a stretch that was read so that it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// The position after it.
    pub next: Seq,
    /// Entries that turned out to be lost.
    pub lost: u64,
}

impl<S: Store> Log<S> {
    /// The entries from `from` on, as many as `limit` allows.
    pub(in crate::queue) fn peek(&mut self, from: Seq, limit: Limit) -> io::Result<Vec<Peeked>> {
        let peeked = |(seq, bytes): (Seq, Vec<u8>)| Peeked {
            seq,
            bytes: bytes.len() as u64,
            entry: record::decode(seq, &bytes).map_err(|error| error.to_string()),
        };
        Ok(self.read_records(from, limit)?.into_iter().map(peeked).collect())
    }

    /// The entries of a destination from `from` on, as many as `limit` allows. They do not count as
    /// given out.
    pub(in crate::queue) fn look_ahead(
        &mut self,
        of: Index,
        from: Seq,
        limit: Limit,
    ) -> io::Result<LookedAhead> {
        let records = self.read_records(from.max(self.accounts[of].head), limit)?;
        let next = records.last().map(|(last, _)| Seq(last.0 + 1));
        let decoded =
            records.into_iter().filter_map(|(seq, bytes)| record::decode(seq, &bytes).ok());
        Ok(LookedAhead { entries: decoded.collect(), next })
    }

    /// Reads the stretch that holds `from`, or the next one, and changes nothing; `None` when
    /// nothing follows.
    pub(in crate::queue) fn examine(&mut self, from: Seq) -> io::Result<Option<Examination>> {
        Ok(self.sound()?.examine(from)?.as_ref().map(examine::examine))
    }

    /// Reads the stretch that holds `from`, or the next one, as the reader would: what is damaged
    /// of it is set aside. `None` when nothing follows.
    pub(in crate::queue) fn mend(&mut self, from: Seq) -> io::Result<Option<Mended>> {
        let before = self.sound()?.lost();
        let stretches = self.store.stretches();
        let stretch = stretches.iter().find(|stretch| stretch.last >= from);
        let read = match self.read_records(from, Limit::ALL_OF_A_STRETCH) {
            // Damage to what is in no stretch closes the store; opened again it is without.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.read_records(from, Limit::ALL_OF_A_STRETCH)?
            }
            read => read?,
        };
        let lost = self.store.lost().saturating_sub(before);
        Ok(match (stretch, read.last()) {
            (Some(stretch), _) => Some(Mended { next: Seq(stretch.last.0 + 1), lost }),
            (None, Some((last, _))) => Some(Mended { next: Seq(last.0 + 1), lost }),
            (None, None) if lost > 0 => Some(Mended { next: self.store.tail(), lost }),
            (None, None) => None,
        })
    }

    /// The lines of what the server refused, and the position below which it has left the queue.
    pub(in crate::queue) fn refused(&mut self) -> io::Result<(String, Seq)> {
        let text = self.sound()?.notes(Notes::Refused)?;
        Ok((text, self.store.head()))
    }

    /// Likewise, and sets them aside: they are given out once.
    pub(in crate::queue) fn take_refused(&mut self) -> io::Result<(String, Seq)> {
        let text = self.sound()?.take_notes(Notes::Refused)?;
        Ok((text, self.store.head()))
    }
}

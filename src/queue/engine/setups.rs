//! Setups that have left the queue: a new page on the server needs the setup that was in force
//! where the queue begins.

use std::io;

use super::{Engine, Index, fact, not_encoded, to_bytes};
use crate::entry::{Entry, Kind, QueueTime, Seq, StintId};
use crate::queue::record::{self, Record, RetentionFlags};

/// The maximum size of the setups that are kept after they left the queue, to be sent to new pages;
/// two of the largest fit.
const MAX_SETUPS_LEFT_BYTES: usize = 2_000_000;

const SETUPS_LEFT: &str = "setups_left";

/// The position of a setup, and its record.
type SetupLeft = (Seq, Vec<u8>);

impl Engine {
    /// The setup that was in force in `stint` just before a destination's cursor, if any.
    pub(in crate::queue) fn setup_in_force(
        &self,
        of: Index,
        stint: StintId,
    ) -> io::Result<Option<Entry>> {
        let mut left = self.setups_left(of)?.into_iter().rev();
        Ok(left.find_map(|(seq, bytes)| {
            record::decode(seq, &bytes).ok().filter(|entry| entry.stint == stint)
        }))
    }

    /// Updates the setups in force after a destination received entries: for each stint, the last
    /// setup among them is in force at the new cursor.
    ///
    /// The setup for the old cursor is kept too, because a power cut may restore that cursor. The
    /// flush ensures that no older cursor can come back.
    pub(super) fn put_in_force<'a>(
        &mut self,
        of: Index,
        leaving: impl Iterator<Item = &'a Entry>,
    ) -> io::Result<()> {
        let mut records: Vec<SetupLeft> = Vec::new();
        for entry in leaving.filter(|entry| entry.kind == Kind::Setup) {
            let record = record::encode(&Record {
                stint: entry.stint,
                // It has left the queue's order.
                queued_at: QueueTime(0),
                captured_at: entry.captured_at,
                kind: entry.kind,
                flags: RetentionFlags::default(),
                json: entry.json.as_str(),
                origin: None,
            });
            records.push((entry.seq, record.map_err(not_encoded)?));
        }
        if records.is_empty() {
            return Ok(());
        }
        self.flush()?;
        let mut setups = last_of_each_stint(self.setups_left(of)?);
        setups.extend(last_of_each_stint(records));
        let mut bytes: usize = setups.iter().map(|(_, record)| record.len()).sum();
        while bytes > MAX_SETUPS_LEFT_BYTES && setups.len() > 2 {
            bytes -= setups.remove(0).1.len();
        }
        self.store.put(&self.key(of), &to_bytes(&setups)?)
    }

    fn key(&self, of: Index) -> String {
        format!("{SETUPS_LEFT}-{}", self.cursors[of].name)
    }

    /// The setups below a destination's cursor, oldest first.
    fn setups_left(&self, of: Index) -> io::Result<Vec<SetupLeft>> {
        let mut setups: Vec<SetupLeft> = fact(&*self.store, &self.key(of))?.unwrap_or_default();
        let head = self.cursors[of].committed;
        setups.retain(|(seq, _)| *seq < head);
        Ok(setups)
    }
}

/// Keeps the newest setup of each stint; `setups` are oldest first.
fn last_of_each_stint(setups: Vec<SetupLeft>) -> Vec<SetupLeft> {
    let stints: Vec<_> = setups.iter().map(|(_, bytes)| record::stint(bytes)).collect();
    let is_last = |index: usize| !stints[index + 1..].contains(&stints[index]);
    let setups = setups.into_iter().enumerate();
    setups.filter(|(index, _)| is_last(*index)).map(|(_, setup)| setup).collect()
}

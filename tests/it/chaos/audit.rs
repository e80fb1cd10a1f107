//! Record of the frames that the agent stored, the server kept and the viewer saw.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::viewer::Shown;

/// Size of the one batch in flight: how many frames may arrive twice when a connection breaks, and
/// how many a viewer may miss when the server is killed.
pub const BATCH: usize = 256;

/// The record of one race.
#[derive(Debug)]
pub struct AuditRecord {
    /// The file to which the server appends the frames it keeps, across restarts.
    record: PathBuf,
    /// Frame number by queue position, from the agent's receipts.
    stored: BTreeMap<u64, u64>,
    /// Lengths of the record file at the times when the server was killed.
    killed_at: Vec<u64>,
    /// Number of connections so far, each of which has ended.
    pub links: usize,
}

impl AuditRecord {
    pub fn new(record: PathBuf) -> Self {
        Self { record, stored: BTreeMap::new(), killed_at: Vec::new(), links: 0 }
    }

    pub fn record(&self) -> &str {
        self.record.to_str().unwrap()
    }

    /// Adds the receipts (line and position) of one agent process.
    pub fn note_stored(&mut self, receipts: &[(usize, u64)], first_fed: u64) {
        for (line, seq) in receipts {
            let number = first_fed + *line as u64 - 1;
            let before = self.stored.insert(*seq, number);
            assert_eq!(before, None, "position {seq} was given to two entries, also to {number}");
        }
    }

    pub fn note_killed(&mut self) {
        self.killed_at.push(fs::metadata(&self.record).unwrap().len());
    }

    pub fn stored(&self) -> usize {
        self.stored.len()
    }

    /// Numbers of stored frames that the viewer should have seen and has not.
    pub fn unseen(&self, seen: &[Shown]) -> Vec<u64> {
        let mut fine: BTreeSet<u64> = seen.iter().map(|(_, lap)| *lap).collect();
        fine.extend(self.possibly_unseen());
        self.stored.values().copied().filter(|number| !fine.contains(number)).collect()
    }

    /// Frames that the server kept right before it was killed. It may not have shown them, and
    /// after a restart it shows only the newest frame of a page.
    fn possibly_unseen(&self) -> BTreeSet<u64> {
        let text = fs::read(&self.record).unwrap();
        let mut laps = BTreeSet::new();
        for end in &self.killed_at {
            let before = String::from_utf8_lossy(&text[..*end as usize]);
            laps.extend(before.lines().rev().take(BATCH).map(|line| row(line).1));
        }
        laps
    }

    /// Checks that no stored frame is lost, that pages are in order, and that few frames arrived
    /// twice.
    pub fn check(&self, seen: &[Shown]) -> String {
        let text = fs::read_to_string(&self.record).unwrap();
        let kept: Vec<(String, u64)> = text.lines().map(row).collect();
        let laps: BTreeSet<u64> = kept.iter().map(|(_, lap)| *lap).collect();
        let lost: Vec<_> = self.stored.values().filter(|number| !laps.contains(number)).collect();
        assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), self.stored.len());

        let mut pages = BTreeMap::<&str, Vec<u64>>::new();
        kept.iter().for_each(|(page, lap)| pages.entry(page).or_default().push(*lap));
        let mut twice = 0;
        for (page, laps) in &pages {
            let first = first_sight(laps);
            twice += laps.len() - first.len();
            assert!(first.is_sorted(), "the server's page {page} is out of order");
        }
        let most = self.links * BATCH;
        assert!(twice <= most, "{twice} came twice over {} links", self.links);

        let unseen = self.unseen(seen);
        assert!(unseen.is_empty(), "{} stored and never seen: {unseen:?}", unseen.len());
        let mut shown = BTreeMap::<usize, Vec<u64>>::new();
        seen.iter().for_each(|(page, lap)| shown.entry(*page).or_default().push(*lap));
        for (page, laps) in &shown {
            assert!(first_sight(laps).is_sorted(), "the viewer's page {page} is out of order");
        }
        let stored: BTreeSet<u64> = self.stored.values().copied().collect();
        let seen: BTreeSet<u64> = seen.iter().map(|(_, lap)| *lap).collect();
        format!(
            "{} stored, {} kept on {} pages, {} of the stored seen; lost 0, out of order 0, \
             {twice} twice over {} links",
            stored.len(),
            laps.len(),
            pages.len(),
            stored.intersection(&seen).count(),
            self.links
        )
    }
}

/// Page and lap number of one line of the record file.
fn row(line: &str) -> (String, u64) {
    let row: Value = serde_json::from_str(line).expect("a whole line");
    (row["session_id"].as_str().unwrap().into(), row["telemetry"]["lap"].as_u64().unwrap())
}

/// The numbers without repetitions, in order of first occurrence.
fn first_sight(laps: &[u64]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    laps.iter().copied().filter(|lap| seen.insert(*lap)).collect()
}

mod tests {
    use super::*;

    /// Checks a record of three stored frames of which the server kept `kept` and a viewer saw
    /// `seen`.
    fn check(kept: &[(&str, u64)], seen: &[Shown]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let line = |(page, lap): &(&str, u64)| {
            format!("{{\"session_id\":\"{page}\",\"telemetry\":{{\"lap\":{lap}}}}}\n")
        };
        let record = folder.path().join("record");
        fs::write(&record, kept.iter().map(line).collect::<String>()).unwrap();
        let mut audit = AuditRecord::new(record);
        audit.note_stored(&[(1, 10), (2, 11), (3, 12)], 1);
        audit.links = 1;
        let said = std::panic::catch_unwind(|| audit.check(seen));
        said.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
    }

    const KEPT: [(&str, u64); 3] = [("a", 1), ("a", 2), ("b", 3)];
    const SEEN: [Shown; 3] = [(0, 1), (0, 2), (1, 3)];

    #[test]
    fn the_check_accepts_matching_records_and_rejects_others() {
        let said = check(&KEPT, &SEEN).unwrap();
        assert!(said.contains("3 stored, 3 kept on 2 pages, 3 of the stored seen"), "{said}");
        let again = [("a", 1), ("a", 2), ("a", 1), ("b", 2), ("b", 3)];
        assert!(check(&again, &SEEN).unwrap().contains("1 twice"), "per page, not in total");
        for (kept, seen, expected) in [
            (&KEPT[1..], &SEEN[..], "1 of 3 lost: [1]"),
            (&KEPT[..], &SEEN[..2], "1 stored and never seen: [3]"),
            (&[("a", 2), ("a", 1), ("b", 3)], &SEEN[..], "page a is out of order"),
            (&KEPT[..], &[(0, 2), (0, 1), (1, 3)], "the viewer's page 0 is out of order"),
        ] {
            let said = check(kept, seen).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
        let often: Vec<_> = KEPT.into_iter().chain([KEPT[2]; BATCH + 1]).collect();
        let said = check(&often, &SEEN).unwrap_err();
        assert!(said.contains("257 came twice over 1 links"), "{said}");
    }
}

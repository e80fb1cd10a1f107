//! The store's disk usage, and the ballast that it releases when the disk is full.

use std::fs;
use std::io;

use super::SegmentStore;
use crate::queue::storage::disk;

/// Enough to create a write-ahead log and to pack a segment of the minimum size.
const BALLAST_BYTES: usize = 320 << 10;

impl SegmentStore {
    /// Runs `act`; if the disk is full, releases the ballast and runs it again.
    pub(super) fn with_ballast<T>(
        &mut self,
        mut act: impl FnMut(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        match act(self) {
            Err(error) if disk::is_full(&error) && self.spend_ballast() => {
                let again = act(self);
                if again.is_err() {
                    // It was not enough for this write: keep it for a smaller one.
                    self.fill_ballast();
                }
                again
            }
            result => result,
        }
    }

    fn spend_ballast(&mut self) -> bool {
        let path = self.folder.join("ballast");
        let spent = path.exists() && disk::remove_file(&path).is_ok();
        self.measure_others();
        spent
    }

    /// Recreates the ballast. Without it the queue works until the disk is full.
    pub(super) fn fill_ballast(&mut self) {
        let path = self.folder.join("ballast");
        if path.exists() {
            return;
        }
        // Not zeros: some file systems would reserve no space for them.
        let noise: Vec<u8> = (0..BALLAST_BYTES)
            .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        if let Err(error) = disk::write_durably(&path, &noise) {
            tracing::warn!(%error, "cannot reserve the queue's ballast");
            let _ = disk::remove_file(&path);
        }
        self.measure_others();
    }

    pub(super) fn measure_others(&mut self) {
        self.other_bytes =
            fs::symlink_metadata(&self.folder).map_or(0, |folder| disk::allocated(&folder));
        for name in disk::names(&self.folder, "").unwrap_or_default() {
            if !name.starts_with("q-") && !name.starts_with("tail-") {
                self.other_bytes += disk::used(&self.folder.join(name));
            }
        }
    }

    /// Caches these sums: a long backlog has thousands of segments, and each append needs them.
    pub(super) fn measure_sealed(&mut self) {
        let bytes = self.sealed.iter().map(|segment| segment.disk_bytes);
        self.sealed_bytes = bytes.clone().sum();
        self.largest_bytes = bytes.max().unwrap_or(0);
    }
}

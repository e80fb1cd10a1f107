//! The room that the store takes on the disk, and the ballast that it lets go of when that is full.

use std::fs;
use std::io;

use super::SegmentStore;
use crate::queue::disk;

/// A journal can be begun and a segment of the smallest size be packed within this.
const BALLAST_BYTES: usize = 320 << 10;

impl SegmentStore {
    /// Tries again without the ballast where the disk is full.
    pub(super) fn with_ballast<T>(
        &mut self,
        mut act: impl FnMut(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        match act(self) {
            Err(error) if disk::is_full(&error) && self.spend_ballast() => act(self),
            result => result,
        }
    }

    fn spend_ballast(&mut self) -> bool {
        let path = self.folder.join("ballast");
        let spent = path.exists() && disk::remove_file(&path).is_ok();
        self.measure_others();
        spent
    }

    /// Without ballast the queue works as well, until the disk is full.
    pub(super) fn fill_ballast(&mut self) {
        let path = self.folder.join("ballast");
        if path.exists() {
            return;
        }
        // Not zeros: some file systems would keep no room for them.
        let noise: Vec<u8> = (0..BALLAST_BYTES)
            .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        if let Err(error) = disk::write_durably(&path, &noise) {
            tracing::warn!(%error, "no room for the ballast of the queue");
            let _ = disk::remove_file(&path);
        }
        self.measure_others();
    }

    pub(super) fn measure_others(&mut self) {
        let names = disk::names(&self.folder, "").unwrap_or_default();
        let others =
            names.iter().filter(|name| !name.starts_with("q-") && !name.starts_with("tail-"));
        let folder =
            fs::symlink_metadata(&self.folder).map_or(0, |folder| disk::allocated(&folder));
        self.other_bytes =
            folder + others.map(|name| disk::used(&self.folder.join(name))).sum::<u64>();
    }

    /// There are thousands in a long backlog, and each append asks for these.
    pub(super) fn measure_sealed(&mut self) {
        let bytes = || self.sealed.iter().map(|segment| segment.disk_bytes);
        (self.sealed_bytes, self.largest_bytes) = (bytes().sum(), bytes().max().unwrap_or(0));
    }
}

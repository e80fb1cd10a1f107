//! The caller's facts: a checksummed file each, in a folder of their own.
//!
//! They are in memory too. Whoever deletes the folder while the queue is open costs nothing: the
//! files are written again when the next fact is, when a segment is begun and when the store closes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::SegmentStore;
use crate::entry::Seq;
use crate::queue::{bytes, disk};

/// Every fact in `folder` that can be read.
pub(super) fn read_facts(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let facts = folder.join("facts");
    let names = disk::names(&facts, "").unwrap_or_default();
    let read = |key: String| {
        let bytes = fs::read(facts.join(&key)).ok()?;
        Some((key, bytes::parse(Seq(0), &bytes)?.1.to_vec()))
    };
    names.into_iter().filter(|key| !key.ends_with(".tmp")).filter_map(read).collect()
}

impl SegmentStore {
    /// Writes a fact, or removes it.
    pub(super) fn put_fact(&mut self, key: &str, value: Option<&[u8]>) -> io::Result<()> {
        self.restore_facts();
        let path = self.fact_path(key);
        match value {
            Some(value) => {
                let frame = bytes::frame(Seq(0), Seq(0), value);
                self.with_ballast(|_| disk::replace(&path, &frame))?;
                self.facts.insert(key.to_owned(), value.to_vec());
            }
            None => {
                disk::remove_file(&path)?;
                disk::sync_folder(&self.folder.join("facts"))?;
                self.facts.remove(key);
            }
        }
        self.measure_others();
        Ok(())
    }

    /// Writes the facts again whose files are gone. One that cannot be written is tried again at the
    /// next occasion.
    pub(super) fn restore_facts(&mut self) {
        let is_gone = |key: &&String| !self.fact_path(key).exists();
        let gone: Vec<&String> = self.facts.keys().filter(is_gone).collect();
        let restored = disk::create_folder(&self.folder.join("facts")).and_then(|()| {
            gone.iter().try_for_each(|key| {
                let frame = bytes::frame(Seq(0), Seq(0), &self.facts[*key]);
                disk::replace(&self.fact_path(key), &frame)
            })
        });
        match restored {
            Ok(()) if gone.is_empty() => {}
            Ok(()) => {
                tracing::warn!(facts = gone.len(), "files in facts/ were deleted; written again");
            }
            Err(error) => tracing::warn!(%error, "facts/ of the queue cannot be written"),
        }
    }

    fn fact_path(&self, key: &str) -> PathBuf {
        self.folder.join("facts").join(key)
    }
}

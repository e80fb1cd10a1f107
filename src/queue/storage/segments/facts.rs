//! The caller's facts: one checksummed file each, in a separate folder.
//!
//! They are also kept in memory. If the folder is deleted while the queue is open, the files are
//! restored when the next fact is written, when a segment is started, and when the store closes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::SegmentStore;
use crate::entry::Seq;
use crate::queue::storage::{KeyValue, disk, framing};

/// Reads all intact facts in `folder`.
///
/// # Errors
/// The disk or the system does not work at the moment. Starting without the facts would replace
/// them.
pub(super) fn read_facts(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let folder = folder.join("facts");
    let mut facts = BTreeMap::new();
    for key in disk::names(&folder, "")? {
        if key.ends_with(".tmp") {
            continue;
        }
        match disk::read(&folder.join(&key)) {
            Ok(read) => {
                if let Some((_, value)) = framing::decode(Seq(0), &read.bytes) {
                    facts.insert(key, value.to_vec());
                }
            }
            Err(error) if disk::is_circumstance(&error) => return Err(error),
            // Not a file, or deleted meanwhile.
            Err(_) => {}
        }
    }
    Ok(facts)
}

/// The names of damaged facts.
pub(in crate::queue) fn damaged_facts(folder: &Path) -> io::Result<Vec<String>> {
    let facts = folder.join("facts");
    let mut names = disk::names(&facts, "").unwrap_or_default();
    names.retain(|name| {
        // A file that cannot be read at the moment may be intact.
        !name.ends_with(".tmp")
            && disk::read(&facts.join(name))
                .is_ok_and(|read| framing::decode(Seq(0), &read.bytes).is_none())
    });
    Ok(names)
}

/// Deletes damaged facts.
pub(super) fn remove_damaged_facts(folder: &Path) -> io::Result<()> {
    for name in damaged_facts(folder)? {
        tracing::error!(name, "a queue fact is damaged; continuing without it");
        disk::remove_leftover(&folder.join("facts").join(name));
    }
    Ok(())
}

impl KeyValue for SegmentStore {
    fn put(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        self.restore_facts();
        let path = self.fact_path(key);
        let frame = framing::encode(Seq(0), Seq(0), value);
        self.with_ballast(|_| disk::replace(&path, &frame))?;
        self.facts.insert(key.to_owned(), value.to_vec());
        self.measure_others();
        Ok(())
    }

    fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.facts.get(key).cloned())
    }
}

impl SegmentStore {
    /// Restores facts whose files are missing. If that fails, it is retried on the next occasion.
    pub(super) fn restore_facts(&mut self) {
        let mut gone: Vec<&String> = self.facts.keys().collect();
        gone.retain(|key| !self.fact_path(key).exists());
        let restored = disk::create_folder(&self.folder.join("facts")).and_then(|()| {
            gone.iter().try_for_each(|key| {
                let frame = framing::encode(Seq(0), Seq(0), &self.facts[*key]);
                disk::replace(&self.fact_path(key), &frame)
            })
        });
        match restored {
            Ok(()) if gone.is_empty() => {}
            Ok(()) => {
                tracing::warn!(facts = gone.len(), "files in facts/ were deleted; restored");
            }
            Err(error) => tracing::warn!(%error, "cannot restore the queue's facts/"),
        }
    }

    fn fact_path(&self, key: &str) -> PathBuf {
        self.folder.join("facts").join(key)
    }
}

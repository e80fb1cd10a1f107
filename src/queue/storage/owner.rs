//! The process that has a queue open or had it open last: the file `owner`, with one line each for
//! the process, the PC's identity, the PC's name and the folder's path.
//!
//! A copy of a queue, on another PC or beside the original, has the same entries and assigns the
//! same positions to new ones. Running both sends entries twice; the copy detects this at its
//! start.

use std::fs;
use std::io;
use std::path::Path;

use super::disk;
use super::names::is_store;
use crate::config::pc_name;

pub(in crate::queue) const OWNER: &str = "owner";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::queue) struct Owner {
    pub(in crate::queue) process: String,
    /// The unique ID of the PC; empty where the system provides none.
    machine: String,
    pc: String,
    /// The folder of the queue.
    path: String,
}

impl Owner {
    /// Reads the owner file of a queue's folder.
    pub(in crate::queue) fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(OWNER)).ok()?;
        let mut lines = text.lines().map(|line| line.chars().take(MAX_LINE_CHARS).collect());
        let mut line = || lines.next().unwrap_or_default();
        let owner = Self { process: line(), machine: line(), pc: line(), path: line() };
        (!owner.process.is_empty()).then_some(owner)
    }

    /// Records that this process has the queue open, perhaps only for inspection.
    pub(in crate::queue) fn set_process(folder: &Path) -> io::Result<()> {
        let process = std::process::id().to_string();
        Self { process, ..Self::read(folder).unwrap_or_default() }.write(folder)
    }

    /// Records that the queue is used on this PC and in this folder; warns if it seems to be a
    /// copy.
    pub(in crate::queue) fn set_place(folder: &Path) -> io::Result<()> {
        let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let owner = Self {
            process: std::process::id().to_string(),
            machine: machine(),
            pc: pc_name(),
            path: absolute.display().to_string(),
        };
        if let Some(warning) = Self::read(folder).and_then(|before| owner.copy_of(&before)) {
            tracing::warn!("{warning}");
        }
        owner.write(folder)
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let Self { process, machine, pc, path } = self;
        let text = format!("{process}\n{machine}\n{pc}\n{path}\n");
        disk::replace_undurably(&folder.join(OWNER), text.as_bytes())
    }

    /// Returns a warning for the operator if the owner `before` may still run the same queue.
    fn copy_of(&self, before: &Self) -> Option<String> {
        let consequence = "both send the same entries, and new ones under the same positions; run \
                           only one of them and remove the folder of the other";
        if !before.machine.is_empty() && !self.machine.is_empty() && before.machine != self.machine
        {
            return Some(format!(
                "this queue was last used on the PC {:?} and is now on {:?}: if it was copied and \
                 the original still runs there, {consequence}",
                before.pc, self.pc
            ));
        }
        let is_copy = !before.path.is_empty()
            && before.path != self.path
            && is_store(Path::new(&before.path))
            && Self::read(Path::new(&before.path)).is_some_and(|there| there.path == before.path);
        is_copy.then(|| {
            format!(
                "this queue is a copy of the one in {:?}, which is still there: if both run, \
                 {consequence}",
                before.path
            )
        })
    }
}

/// Longer than any line that pitwire writes; another program may have written the file.
const MAX_LINE_CHARS: usize = 4096;

#[cfg(target_os = "linux")]
fn machine() -> String {
    fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned()
}

#[cfg(not(target_os = "linux"))]
fn machine() -> String {
    pc_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(machine: &str, pc: &str, path: &str) -> Owner {
        let [machine, pc, path] = [machine, pc, path].map(str::to_owned);
        Owner { process: "7".into(), machine, pc, path }
    }

    #[test]
    fn a_queue_from_another_pc_is_reported_as_a_possible_copy() {
        let ours = owner("b", "rig-2", "/queue");
        let warning = ours.copy_of(&owner("a", "rig-1", "/queue")).unwrap();
        assert!(warning.contains("\"rig-1\"") && warning.contains("\"rig-2\""), "{warning}");
        for before in [owner("b", "renamed", "/queue"), owner("", "rig-1", "/queue")] {
            assert_eq!(ours.copy_of(&before), None, "{before:?}");
        }
    }

    #[test]
    fn a_copied_queue_is_reported_but_a_moved_one_is_not() {
        let place = tempfile::tempdir().unwrap();
        let (original, copy) = (place.path().join("one"), place.path().join("two"));
        for folder in [&original, &copy] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("FORMAT"), "").unwrap();
        }
        Owner::set_place(&original).unwrap();
        let before = Owner::read(&original).unwrap();
        Owner::set_place(&copy).unwrap();
        let after = Owner::read(&copy).unwrap();
        let warning = after.copy_of(&before).unwrap();
        assert!(warning.contains(&format!("{:?}", before.path)), "{warning}");
        fs::remove_dir_all(&original).unwrap();
        assert_eq!(after.copy_of(&before), None);
    }
}

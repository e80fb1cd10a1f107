//! `serve --store`: the sessions on disk, one JSON Lines file for each, so that a restarted server
//! still has them under the same links.
//!
//! - A frame or setup is written before it is acknowledged, so a killed server loses none. Nothing
//!   is synced: a power cut loses the data that the operating system had not written yet.
//! - A line that a crash cut short is skipped, and the next one starts on a new line.
//! - The files are bounded by the limit of the history: a file is rewritten without the
//!   dropped frames once they take more than half of it.
//! - If the disk fails, the server continues in memory, and warns once until a write succeeds.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::contract::SetupEvent;
use crate::entry::CapturedAt;

/// Maximum number of files that stay open between two writes: more cars than a race has. Beyond
/// that, all are closed.
const MAX_OPEN_FILES: usize = 64;

/// A file with fewer dropped bytes than this is not rewritten: that would happen too often.
const MIN_DROPPED_BYTES: u64 = 4 << 20;

/// The longest line that is read: an event has at most 1 MB.
const MAX_LINE_BYTES: u64 = 4 << 20;

const EXTENSION: &str = "ndjson";

/// The extension of a file that is being rewritten; a killed server leaves it behind.
const PARTIAL: &str = "partial";

/// Locked by the server that uses the directory.
const LOCK: &str = "lock";

/// The files of all sessions.
#[derive(Debug)]
pub(super) struct SessionStore {
    folder: PathBuf,
    files: HashMap<String, SessionFile>,
    has_failed: bool,
    /// Locked until the server ends.
    _lock: File,
}

#[derive(Debug, Default)]
struct SessionFile {
    open: Option<File>,
    bytes: u64,
    dropped_bytes: u64,
    /// The last line may be incomplete.
    is_torn: bool,
}

/// A line of a file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredLine<'a> {
    /// The first line.
    Session { assigned_at: i64 },
    Frame {
        received_at: i64,
        #[serde(borrow)]
        telemetry: &'a RawValue,
    },
    Setup {
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        timestamp: Option<&'a RawValue>,
        #[serde(borrow)]
        setup: &'a RawValue,
    },
}

impl<'a> StoredLine<'a> {
    pub(super) fn frame(received_at: CapturedAt, telemetry: &'a RawValue) -> Self {
        Self::Frame { received_at: received_at.0, telemetry }
    }

    pub(super) fn setup(event: &'a SetupEvent) -> Self {
        Self::Setup { timestamp: event.timestamp.as_deref(), setup: &event.setup }
    }

    /// The line with its end. White space between the tokens of an event may contain line breaks.
    fn bytes(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        line.push(b'\n');
        line
    }
}

impl SessionStore {
    /// Opens the directory, which is created if it is missing.
    ///
    /// # Errors
    /// If it cannot be created or locked, or another server uses it; the text names it.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("--store: {}: {error}", folder.display()))
        };
        create_folder(folder).map_err(named)?;
        let mut options = private_file();
        options.create(true).truncate(false).write(true);
        let lock = options.open(folder.join(LOCK)).map_err(named)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = "another server uses this directory; stop it, or choose another one";
                return Err(named(io::Error::new(io::ErrorKind::ResourceBusy, text)));
            }
            Err(TryLockError::Error(error)) => return Err(named(error)),
        }
        let folder = folder.to_owned();
        Ok(Self { folder, files: HashMap::new(), has_failed: false, _lock: lock })
    }

    /// Hands every readable line of every session to `load`, sessions in the order in which they
    /// were assigned.
    ///
    /// # Errors
    /// If the directory or a file cannot be read.
    pub(super) fn load(&mut self, mut load: impl FnMut(&str, StoredLine<'_>)) -> io::Result<()> {
        let mut found = Vec::new();
        for item in fs::read_dir(&self.folder)? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == PARTIAL) {
                fs::remove_file(&path)?;
            }
            let Some(id) = session_id(&path) else { continue };
            let mut lines = BufReader::new(File::open(&path)?);
            let mut line = Vec::new();
            read_line(&mut lines, &mut line)?;
            let assigned_at = match serde_json::from_slice(&line) {
                Ok(StoredLine::Session { assigned_at }) => assigned_at,
                _ => i64::MIN,
            };
            found.push((assigned_at, id, path));
        }
        found.sort();
        for (_, id, path) in found {
            let mut lines = BufReader::new(File::open(&path)?);
            let mut file = SessionFile::default();
            let mut line = Vec::new();
            loop {
                let read = read_line(&mut lines, &mut line)?;
                if read == 0 {
                    break;
                }
                file.bytes += read;
                file.is_torn = line.last() != Some(&b'\n');
                if let Ok(line) = serde_json::from_slice(&line) {
                    load(&id, line);
                }
            }
            self.files.insert(id, file);
        }
        Ok(())
    }

    /// Removes the files of sessions of which nothing is in memory, and counts what the others
    /// have dropped. `bytes_held` returns the size of a session in memory.
    pub(super) fn retain(&mut self, bytes_held: impl Fn(&str) -> Option<usize>) {
        let ids: Vec<_> = self.files.keys().cloned().collect();
        for id in ids {
            match (bytes_held(&id), self.files.get_mut(&id)) {
                (Some(held), Some(file)) => {
                    file.dropped_bytes = file.bytes.saturating_sub(held as u64);
                }
                _ => self.remove(&id),
            }
        }
    }

    /// Appends a line to the file of a session, which is created if it is missing.
    pub(super) fn append(&mut self, id: &str, line: &StoredLine<'_>) {
        let written = self.write(id, &line.bytes());
        self.report(written);
    }

    /// Counts the bytes that the session dropped from memory, and rewrites its file with `kept` if
    /// half of the file was dropped.
    pub(super) fn drop_oldest<'a>(
        &mut self,
        id: &str,
        bytes: usize,
        kept: impl Iterator<Item = StoredLine<'a>>,
    ) {
        let Some(file) = self.files.get_mut(id) else { return };
        file.dropped_bytes += bytes as u64;
        if file.dropped_bytes < MIN_DROPPED_BYTES.max(file.bytes / 2) {
            return;
        }
        // On a full disk, the next attempt is as far away as this one was.
        file.dropped_bytes = 0;
        let rewritten = self.rewrite(id, kept);
        self.report(rewritten);
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.files.remove(id);
        let removed = match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        self.report(removed);
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id).with_extension(EXTENSION)
    }

    fn write(&mut self, id: &str, line: &[u8]) -> io::Result<()> {
        let mut open = match self.files.get_mut(id).and_then(|file| file.open.take()) {
            Some(open) => open,
            None => self.open_file(id)?,
        };
        let file = self.files.entry(id.to_owned()).or_default();
        if std::mem::replace(&mut file.is_torn, true) {
            open.write_all(b"\n")?;
        }
        open.write_all(line)?;
        file.is_torn = false;
        file.bytes += line.len() as u64;
        file.open = Some(open);
        Ok(())
    }

    fn open_file(&mut self, id: &str) -> io::Result<File> {
        let open_files = self.files.values().filter(|file| file.open.is_some()).count();
        if open_files >= MAX_OPEN_FILES {
            self.close_files();
        }
        private_file().create(true).append(true).open(self.path(id))
    }

    pub(super) fn close_files(&mut self) {
        self.files.values_mut().for_each(|file| file.open = None);
    }

    fn rewrite<'a>(
        &mut self,
        id: &str,
        kept: impl Iterator<Item = StoredLine<'a>>,
    ) -> io::Result<()> {
        let path = self.path(id);
        let partial = path.with_extension(PARTIAL);
        let file = self.files.entry(id.to_owned()).or_default();
        // Windows cannot replace an open file.
        file.open = None;
        let mut options = private_file();
        let mut out =
            BufWriter::new(options.create(true).truncate(true).write(true).open(&partial)?);
        let mut bytes = 0;
        for line in kept {
            let line = line.bytes();
            bytes += line.len() as u64;
            out.write_all(&line)?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(partial, path)?;
        (file.bytes, file.is_torn) = (bytes, false);
        Ok(())
    }

    fn report(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) if self.has_failed => {
                self.has_failed = false;
                tracing::info!("the session store works again");
            }
            Ok(()) => {}
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                let folder = self.folder.display();
                tracing::warn!(%folder, %error, "cannot write the session store; continuing in memory");
            }
            Err(_) => {}
        }
    }
}

/// Reads a line with its line break; a line that is too long counts as empty. Returns the number of
/// bytes, 0 at the end of the file.
fn read_line(lines: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let read = lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line)? as u64;
    if read < MAX_LINE_BYTES || line.last() == Some(&b'\n') {
        return Ok(read);
    }
    let skipped = lines.skip_until(b'\n')? as u64;
    *line = vec![b'\n'];
    Ok(read + skipped)
}

/// The session of a file; `None` for other files.
fn session_id(path: &Path) -> Option<String> {
    let id = path.file_stem()?.to_str()?;
    let is_session = path.extension()? == EXTENSION && uuid::Uuid::try_parse(id).is_ok();
    is_session.then(|| id.to_owned())
}

/// Options for a file that only its owner may read: the id of a session is a secret.
fn private_file() -> OpenOptions {
    #[cfg_attr(not(unix), allow(unused_mut, reason = "only Unix has modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::dashboard::sessions::Sessions;

    fn json(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn open(folder: &Path, limit_bytes: usize) -> Sessions {
        Sessions::open(limit_bytes, folder).unwrap()
    }

    fn frames(sessions: &Sessions, id: &str) -> Vec<String> {
        let frames = sessions.frames(id, 0..u64::MAX);
        frames.map(|(_, frame)| frame.telemetry.get().to_owned()).collect()
    }

    /// All the memory that a test needs.
    const AMPLE: usize = 1 << 30;

    #[test]
    fn a_reopened_store_has_every_session_frame_and_setup_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut sessions = open(folder.path(), AMPLE);
        let ids: Vec<_> = (0..70).map(|_| sessions.assign()).collect();
        for round in 0..3 {
            for id in &ids {
                sessions.store_frame(id, &json(&format!("{{\"lap\":\n{round}}}"))).unwrap();
            }
        }
        let setup = SetupEvent { timestamp: Some(json("\"t\"")), setup: json("{\"wing\": 7}") };
        sessions.store_setup(&ids[0], setup).unwrap();
        let before: Vec<_> = sessions.summaries();
        drop(sessions);

        let mut sessions = open(folder.path(), AMPLE);
        let after = sessions.summaries();
        let sorted = |mut list: Vec<crate::dashboard::Summary>| {
            list.sort_by(|one, other| one.session_id.cmp(&other.session_id));
            list
        };
        assert_eq!(sorted(after), sorted(before));
        assert_eq!(frames(&sessions, &ids[69]), ["{\"lap\": 0}", "{\"lap\": 1}", "{\"lap\": 2}"]);
        let (setup, _) = sessions.latest(&ids[0]);
        let setup = setup.unwrap();
        assert_eq!((setup.timestamp.unwrap().get(), setup.setup.get()), ("\"t\"", "{\"wing\": 7}"));
        sessions.store_frame(&ids[0], &json("4")).unwrap();
        sessions.forget_all();
        drop(sessions);
        assert!(open(folder.path(), AMPLE).summaries().is_empty());
    }

    #[test]
    fn only_a_line_that_was_cut_off_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let mut sessions = open(folder.path(), AMPLE);
        let id = sessions.assign();
        for frame in ["1", "2", "3"] {
            sessions.store_frame(&id, &json(frame)).unwrap();
        }
        drop(sessions);
        let path = folder.path().join(&id).with_extension(EXTENSION);
        let whole = fs::read(&path).unwrap();
        for cut in 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut sessions = open(folder.path(), AMPLE);
            let complete = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            let left = frames(&sessions, &id).len();
            // Without its end, the last line may be complete already.
            assert!(left + 1 >= complete && left <= complete, "{cut}: {left} of {complete}");
            if sessions.store_frame(&id, &json("9")).is_ok() {
                drop(sessions);
                let frames = frames(&open(folder.path(), AMPLE), &id);
                assert_eq!(frames.len(), left + 1, "{cut}");
                assert_eq!(frames.last().unwrap(), "9");
            }
        }
    }

    #[test]
    fn the_files_are_bounded_like_the_memory() {
        const LIMIT: usize = 8 << 20;
        let folder = tempfile::tempdir().unwrap();
        let mut sessions = open(folder.path(), LIMIT);
        let id = sessions.assign();
        let frame = to_raw_value(&"x".repeat(10_000)).unwrap();
        let size =
            || fs::metadata(folder.path().join(&id).with_extension(EXTENSION)).unwrap().len();
        for _ in 0..3_000 {
            sessions.store_frame(&id, &frame).unwrap();
            assert!(size() <= 3 * LIMIT as u64);
        }
        let held = frames(&sessions, &id).len();
        drop(sessions);
        assert_eq!(frames(&open(folder.path(), LIMIT), &id).len(), held);
        assert!(open(folder.path(), 1).summaries().len() <= 1);
    }

    #[test]
    fn a_second_server_cannot_use_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(folder.path(), AMPLE);
        let error = Sessions::open(AMPLE, folder.path()).unwrap_err().to_string();
        let folder = folder.path().display().to_string();
        assert!(error.contains(&folder) && error.contains("another server"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_server_continues_in_memory_while_the_disk_fails() {
        let folder = tempfile::tempdir().unwrap();
        let mut sessions = open(folder.path(), AMPLE);
        let id = sessions.assign();
        sessions.store_frame(&id, &json("1")).unwrap();
        sessions.close_files();
        let moved = folder.path().with_extension("moved");
        fs::rename(folder.path(), &moved).unwrap();
        sessions.store_frame(&id, &json("2")).unwrap();
        fs::rename(&moved, folder.path()).unwrap();
        sessions.store_frame(&id, &json("3")).unwrap();
        assert_eq!(frames(&sessions, &id), ["1", "2", "3"]);
        drop(sessions);
        assert_eq!(frames(&open(folder.path(), AMPLE), &id), ["1", "3"]);
    }
}

//! `serve --store`: the sessions on disk, so that a restarted server still has them under the same
//! links.
//!
//! - A session has two series of JSON Lines files, one with frames and one with setups. Each series
//!   consists of segments of about [`SEGMENT_BYTES`]: `ID.frames.00000000.ndjson` is the first one.
//! - A frame or setup is written before it is acknowledged, so a killed server loses none. Nothing
//!   is synced: a power cut loses the data that the operating system had not written yet.
//! - A line that a crash cut short is skipped, and the next one starts on a new line.
//! - A segment is deleted once memory has dropped all of its entries. No file is rewritten, so no
//!   operation holds the lock of the sessions for long. The directory takes at most the limit of
//!   the history and a segment for each series.
//! - If the disk fails, the server continues in memory, and warns once until a write succeeds.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::contract::SetupEvent;
use crate::entry::CapturedAt;

/// A segment of this size is complete: 12 minutes of frames at 2 Hz. The thousand sessions of a
/// server keep at most a gigabyte of dropped frames in their oldest segments.
const SEGMENT_BYTES: u64 = 1 << 20;

/// Maximum number of files that stay open between two writes: more cars than a race has. Beyond
/// that, all are closed.
const MAX_OPEN_FILES: usize = 64;

/// The longest line that is read: an event has at most 1 MB.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// The read buffer for a segment.
const READ_BYTES: usize = 256 << 10;

const EXTENSION: &str = "ndjson";

/// Locked by the server that uses the directory.
const LOCK: &str = "lock";

/// The files of all sessions.
#[derive(Debug)]
pub(super) struct SessionStore {
    folder: PathBuf,
    sessions: HashMap<String, SessionFiles>,
    has_failed: bool,
    /// Locked until the server ends.
    _lock: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EntryKind {
    Frame,
    Setup,
}

#[derive(Debug)]
struct SessionFiles {
    frames: Series,
    setups: Series,
}

/// The files with the frames or with the setups of a session.
#[derive(Debug)]
struct Series {
    /// The path of the files without the number and the extension.
    base: PathBuf,
    assigned_at: CapturedAt,
    /// The oldest segment first; entries are appended to the last one.
    segments: VecDeque<StoredSegment>,
    /// The last segment.
    open: Option<File>,
    /// The last line may be incomplete.
    is_torn: bool,
    /// The number of entries in the first segment that memory has dropped.
    dropped: u64,
}

#[derive(Debug)]
struct StoredSegment {
    number: u32,
    bytes: u64,
    /// The number of entries, including those that the disk refused.
    entries: u64,
}

/// The file of a segment.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SegmentFile {
    kind: EntryKind,
    number: u32,
    path: PathBuf,
}

/// A line of a file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredLine<'a> {
    /// The first line of a segment.
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

    /// `None` for the first line of a segment.
    fn kind(&self) -> Option<EntryKind> {
        match self {
            Self::Session { .. } => None,
            Self::Frame { .. } => Some(EntryKind::Frame),
            Self::Setup { .. } => Some(EntryKind::Setup),
        }
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
        Ok(Self { folder, sessions: HashMap::new(), has_failed: false, _lock: lock })
    }

    /// Hands every readable line of every session to `load`, sessions in the order in which they
    /// were assigned.
    ///
    /// # Errors
    /// If the directory or a file cannot be read.
    pub(super) fn load(&mut self, mut load: impl FnMut(&str, StoredLine<'_>)) -> io::Result<()> {
        let mut found: HashMap<String, Vec<SegmentFile>> = HashMap::new();
        for item in fs::read_dir(&self.folder)? {
            if let Some((id, file)) = segment_file(item?.path()) {
                found.entry(id).or_default().push(file);
            }
        }
        let mut sessions = Vec::with_capacity(found.len());
        for (id, mut files) in found {
            files.sort_unstable();
            sessions.push((assigned_at(&files)?, id, files));
        }
        sessions.sort_unstable();
        for (assigned_at, id, files) in sessions {
            let mut session = SessionFiles::new(&self.folder, &id, assigned_at);
            for file in files {
                let (segment, is_torn) = read_segment(&file, |line| load(&id, line))?;
                let series = session.series(file.kind);
                series.segments.push_back(segment);
                series.is_torn = is_torn;
            }
            self.sessions.insert(id, session);
        }
        Ok(())
    }

    /// Deletes the files of sessions of which nothing is in memory, and the segments of which
    /// memory holds no entry. `held` returns the number of entries of a session in memory.
    pub(super) fn retain(&mut self, held: impl Fn(&str, EntryKind) -> Option<usize>) {
        let mut deleted = Ok(());
        self.sessions.retain(|id, session| {
            for kind in [EntryKind::Frame, EntryKind::Setup] {
                let series = session.series(kind);
                let outcome = match held(id, kind) {
                    Some(held) => series.drop_oldest(series.entries().saturating_sub(held as u64)),
                    None => series.remove(),
                };
                if outcome.is_err() {
                    deleted = outcome;
                }
            }
            held(id, EntryKind::Frame).is_some()
        });
        self.report_failure(deleted);
    }

    /// Creates the first file of a session.
    pub(super) fn create(&mut self, id: &str, assigned_at: CapturedAt) {
        let session = SessionFiles::new(&self.folder, id, assigned_at);
        self.sessions.insert(id.to_owned(), session);
        self.write(id, EntryKind::Frame, &[], 0);
    }

    /// Appends an entry to the files of a session.
    pub(super) fn append(&mut self, id: &str, line: &StoredLine<'_>) {
        if let Some(kind) = line.kind() {
            self.write(id, kind, &line.bytes(), 1);
        }
    }

    fn write(&mut self, id: &str, kind: EntryKind, line: &[u8], entries: u64) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.series(kind).open.is_none() && self.open_files() >= MAX_OPEN_FILES {
            self.close_files();
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let written = session.series(kind).write(line, entries);
        self.report(written);
    }

    fn open_files(&self) -> usize {
        let series = self.sessions.values().flat_map(|session| [&session.frames, &session.setups]);
        series.filter(|series| series.open.is_some()).count()
    }

    /// Notes that memory has dropped the oldest entry of this kind.
    pub(super) fn drop_oldest(&mut self, id: &str, kind: EntryKind) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let deleted = session.series(kind).drop_oldest(1);
        self.report_failure(deleted);
    }

    pub(super) fn remove(&mut self, id: &str) {
        let Some(mut session) = self.sessions.remove(id) else { return };
        let removed = session.frames.remove().and(session.setups.remove());
        self.report_failure(removed);
    }

    pub(super) fn close_files(&mut self) {
        for session in self.sessions.values_mut() {
            (session.frames.open, session.setups.open) = (None, None);
        }
    }

    /// Reports a deletion. One that succeeds does not show that the disk accepts data: there may have
    /// been nothing to delete.
    fn report_failure(&mut self, deleted: io::Result<()>) {
        if deleted.is_err() {
            self.report(deleted);
        }
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

impl EntryKind {
    fn name(self) -> &'static str {
        match self {
            Self::Frame => "frames",
            Self::Setup => "setups",
        }
    }
}

impl SessionFiles {
    fn new(folder: &Path, id: &str, assigned_at: CapturedAt) -> Self {
        let series = |kind: EntryKind| Series {
            base: folder.join(format!("{id}.{}", kind.name())),
            assigned_at,
            segments: VecDeque::new(),
            open: None,
            is_torn: false,
            dropped: 0,
        };
        Self { frames: series(EntryKind::Frame), setups: series(EntryKind::Setup) }
    }

    fn series(&mut self, kind: EntryKind) -> &mut Series {
        match kind {
            EntryKind::Frame => &mut self.frames,
            EntryKind::Setup => &mut self.setups,
        }
    }
}

impl Series {
    fn entries(&self) -> u64 {
        self.segments.iter().map(|segment| segment.entries).sum()
    }

    /// Appends a line with this many entries to the last segment, or to a new one if that is
    /// complete.
    fn write(&mut self, line: &[u8], entries: u64) -> io::Result<()> {
        let last = self.segments.back();
        if last.is_none_or(|last| last.bytes >= SEGMENT_BYTES) {
            let number = last.map_or(0, |last| last.number.saturating_add(1));
            self.segments.push_back(StoredSegment { number, bytes: 0, entries: 0 });
            (self.open, self.is_torn) = (None, false);
        }
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        // Also if the disk refuses them: memory holds them, and counts them when it drops them.
        last.entries += entries;
        let path = segment_path(&self.base, last.number);
        let mut file = match self.open.take() {
            Some(file) => file,
            None => private_file().create(true).append(true).open(path)?,
        };
        let header = StoredLine::Session { assigned_at: self.assigned_at.0 }.bytes();
        let parts = [
            if std::mem::replace(&mut self.is_torn, true) { &b"\n"[..] } else { b"" },
            if last.bytes == 0 { &header } else { b"" },
            line,
        ];
        let text = parts.concat();
        file.write_all(&text)?;
        self.is_torn = false;
        last.bytes += text.len() as u64;
        self.open = Some(file);
        Ok(())
    }

    /// Notes that memory has dropped this many of the oldest entries. Deletes the segments without
    /// any other entry, except the last one.
    fn drop_oldest(&mut self, entries: u64) -> io::Result<()> {
        self.dropped += entries;
        while self.segments.len() > 1
            && let Some(first) = self.segments.front()
            && first.entries <= self.dropped
        {
            self.dropped -= first.entries;
            let path = segment_path(&self.base, first.number);
            self.segments.pop_front();
            remove_file(&path)?;
        }
        Ok(())
    }

    /// Deletes all files.
    fn remove(&mut self) -> io::Result<()> {
        // Windows cannot delete an open file.
        self.open = None;
        let segments = std::mem::take(&mut self.segments);
        segments
            .iter()
            .map(|segment| remove_file(&segment_path(&self.base, segment.number)))
            .fold(Ok(()), io::Result::and)
    }
}

fn segment_path(base: &Path, number: u32) -> PathBuf {
    let mut path = base.as_os_str().to_owned();
    path.push(format!(".{number:08}.{EXTENSION}"));
    path.into()
}

/// When the session with these segments was assigned; the earliest time if the first line of the
/// oldest segment is missing.
fn assigned_at(files: &[SegmentFile]) -> io::Result<CapturedAt> {
    let Some(oldest) = files.first() else { return Ok(CapturedAt(i64::MIN)) };
    let mut line = Vec::new();
    read_line(&mut BufReader::new(File::open(&oldest.path)?), &mut line)?;
    Ok(match serde_json::from_slice(&line) {
        Ok(StoredLine::Session { assigned_at }) => CapturedAt(assigned_at),
        _ => CapturedAt(i64::MIN),
    })
}

/// Hands every readable line of a segment to `load`; returns the segment, and whether its last line
/// may be incomplete.
fn read_segment(
    file: &SegmentFile,
    mut load: impl FnMut(StoredLine<'_>),
) -> io::Result<(StoredSegment, bool)> {
    let mut lines = BufReader::with_capacity(READ_BYTES, File::open(&file.path)?);
    let mut segment = StoredSegment { number: file.number, bytes: 0, entries: 0 };
    let mut is_torn = false;
    let mut line = Vec::new();
    loop {
        let read = read_line(&mut lines, &mut line)?;
        if read == 0 {
            return Ok((segment, is_torn));
        }
        segment.bytes += read;
        is_torn = line.last() != Some(&b'\n');
        let Ok(line) = serde_json::from_slice::<StoredLine<'_>>(&line) else { continue };
        segment.entries += u64::from(line.kind() == Some(file.kind));
        if line.kind().is_none_or(|kind| kind == file.kind) {
            load(line);
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

/// The session of a file, and its place among the files of the session; `None` for other files.
fn segment_file(path: PathBuf) -> Option<(String, SegmentFile)> {
    let mut parts = path.file_name()?.to_str()?.split('.');
    let (id, kind, number) = (parts.next()?.to_owned(), parts.next()?, parts.next()?.parse().ok()?);
    let kind = [EntryKind::Frame, EntryKind::Setup].into_iter().find(|one| one.name() == kind)?;
    let is_segment = parts.eq([EXTENSION]) && uuid::Uuid::try_parse(&id).is_ok();
    is_segment.then_some((id, SegmentFile { kind, number, path }))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
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
    use std::collections::BTreeMap;
    use std::time::SystemTime;

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
        let path = folder.path().join(format!("{id}.frames.00000000.ndjson"));
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

    /// The size and the time of the last change of each file with frames.
    fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
        let files = fs::read_dir(folder).unwrap().map(|item| {
            let metadata = item.as_ref().unwrap().metadata().unwrap();
            (item.unwrap().path(), (metadata.len(), metadata.modified().unwrap()))
        });
        files.filter(|(path, _)| path.extension().is_some_and(|end| end == EXTENSION)).collect()
    }

    #[test]
    fn the_files_are_bounded_like_the_memory_and_none_is_written_again() {
        const LIMIT: usize = 8 << 20;
        let folder = tempfile::tempdir().unwrap();
        let mut sessions = open(folder.path(), LIMIT);
        let id = sessions.assign();
        let frame = to_raw_value(&"x".repeat(10_000)).unwrap();
        let mut complete = BTreeMap::new();
        for _ in 0..3_000 {
            sessions.store_frame(&id, &frame).unwrap();
            let mut files = files(folder.path());
            let size: u64 = files.values().map(|(bytes, _)| bytes).sum();
            assert!(size <= LIMIT as u64 + 2 * SEGMENT_BYTES, "{size}");
            files.pop_last();
            for (path, state) in files {
                assert_eq!(*complete.entry(path).or_insert(state), state);
            }
        }
        assert!(complete.len() > 25 && files(folder.path()).len() < 11);
        let held = frames(&sessions, &id).len();
        drop(sessions);
        let mut sessions = open(folder.path(), LIMIT);
        assert_eq!(frames(&sessions, &id).len(), held);
        // What memory dropped before the restart counts after it.
        for _ in 0..1_000 {
            sessions.store_frame(&id, &frame).unwrap();
        }
        assert!(files(folder.path()).len() < 11);
        assert_eq!(frames(&sessions, &id).len(), held);
        drop(sessions);
        assert!(open(folder.path(), 1).summaries().len() <= 1);
    }

    #[test]
    fn setups_stay_when_the_frames_of_their_time_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut sessions = open(folder.path(), 4 << 20);
        let id = sessions.assign();
        for wing in 0..3 {
            let setup = SetupEvent { timestamp: None, setup: json(&wing.to_string()) };
            sessions.store_setup(&id, setup).unwrap();
        }
        let frame = to_raw_value(&"x".repeat(10_000)).unwrap();
        for _ in 0..1_000 {
            sessions.store_frame(&id, &frame).unwrap();
        }
        drop(sessions);
        let sessions = open(folder.path(), 4 << 20);
        let setups = sessions.setups(&id, 0..9).map(|(_, setup)| setup.setup.get());
        assert_eq!(setups.collect::<Vec<_>>(), ["0", "1", "2"]);
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

    /// Else each entry that a full history drops would end the failure, and the next one log it again.
    #[cfg(target_os = "linux")]
    #[test]
    fn only_a_write_shows_that_the_disk_works_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = SessionStore::open(folder.path()).unwrap();
        let id = "00000000-0000-4000-8000-000000000001";
        let frame = json("1");
        store.create(id, CapturedAt(0));
        store.close_files();
        let moved = folder.path().with_extension("moved");
        fs::rename(folder.path(), &moved).unwrap();
        store.append(id, &StoredLine::frame(CapturedAt(0), &frame));
        store.drop_oldest(id, EntryKind::Frame);
        store.remove("00000000-0000-4000-8000-000000000002");
        assert!(store.has_failed);
        fs::rename(&moved, folder.path()).unwrap();
        store.append(id, &StoredLine::frame(CapturedAt(0), &frame));
        assert!(!store.has_failed);
    }
}

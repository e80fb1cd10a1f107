//! Plays a recording: a file or pipe with one sample a line, plain or compressed with gzip.

use std::fs::{self, File};
use std::io::{self, BufReader, Chain, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use tokio::sync::watch;

use super::line_counts::{LineCounts, lines};
use super::lines::{self, Pace};
use super::{Intake, thread_reader};

/// How many bytes at the start of a file are examined to find out what it is.
const START_BYTES: usize = 64 << 10;

/// The buffer for compressed bytes.
const GZIP_BUFFER_BYTES: usize = 64 << 10;

/// The first two bytes of a gzip file.
const GZIP: &[u8] = b"\x1f\x8b";

/// The first bytes of archives, and of files that are compressed in other ways.
const ARCHIVES: [(&[u8], &str); 6] = [
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"PK\x07\x08", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"MSCF\0\0\0\0", "cab"),
];
const COMPRESSED: [(&[u8], &str); 4] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    // Inside of gzip.
    (GZIP, "gzip twice"),
];

/// Where a tar archive has its mark.
const TAR: (usize, &[u8]) = (257, b"ustar");

/// Why a recording could not be played, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    #[error("a folder; name a file in it")]
    Folder,
    #[error("a {0} archive; unpack it and name a file in it")]
    Archive(&'static str),
    #[error("compressed with {0}; unpack it first, or compress it with gzip")]
    Compressed(&'static str),
    #[error("UTF-16 text, as PowerShell's > writes it; save it as UTF-8")]
    Utf16,
    #[error("not text; record one JSON object a line, in UTF-8")]
    Binary,
    #[error("a JSON array; write one object a line, such as with jq -c '.[]'")]
    Array,
    #[error("JSON over several lines; write one object a line, such as with jq -c .")]
    SeveralLines,
    #[error("a CSV export of pitwire; queue it with pitwire queue import")]
    CsvExport,
    #[error("0 of {} are samples: it is CSV; write one JSON object a line", lines(*.0))]
    Csv(u64),
    #[error("0 of {} are samples; write one JSON object a line", lines(*.0))]
    NoSamples(u64),
    #[error("it is empty; record one JSON object a line")]
    Empty,
    #[error("the gzip data ends early; the lines up to there were taken")]
    Truncated,
    #[error("the gzip data is damaged: {0}; the lines up to there were taken")]
    Damaged(String),
    #[error("{0}; name a file that can be read")]
    Unreadable(String),
}

impl From<io::Error> for RecordingError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// The outcomes of a recording's lines so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub path: PathBuf,
    pub counts: LineCounts,
    /// Bytes of the file up to the end of the last line that was stored.
    pub bytes: u64,
    /// `None` until the recording ends.
    pub end: Option<Result<(), RecordingError>>,
}

/// Plays the recording at `report.path` and updates the report. The outcome is logged.
pub async fn play(intake: Intake, pace: Pace, report: watch::Sender<Report>) {
    let path = report.borrow().path.clone();
    let end = read(&path, &intake, pace, &report).await;
    let counts = report.borrow().counts.clone();
    let path = path.display();
    match &end {
        Ok(()) => tracing::info!("the recording {path} has ended after {counts}"),
        Err(error) => tracing::error!("cannot play {path}: {error} ({counts})"),
    }
    report.send_modify(|report| report.end = Some(end));
}

async fn read(
    path: &Path,
    intake: &Intake,
    pace: Pace,
    report: &watch::Sender<Report>,
) -> Result<(), RecordingError> {
    let position = Position::default();
    let is_csv = Arc::<AtomicBool>::default();
    let (input, failure) = thread_reader::start("pitwire-recording", {
        let (path, position, is_csv) = (path.to_owned(), position.clone(), Arc::clone(&is_csv));
        move |output| {
            let input = Input::open(&path, &position)?;
            is_csv.store(input.is_csv, Ordering::Relaxed);
            output.copy(input.reader).map_err(|error| failed(input.is_gzip, &error))
        }
    })?;
    let end = lines::run(input, intake, pace, |place, taken| {
        report.send_modify(|report| {
            report.counts.count(place, taken);
            report.bytes = position.in_file(place.end);
        });
    })
    .await?;
    if let Ok(error) = failure.await {
        return Err(error);
    }
    report.send_modify(|report| report.bytes = position.in_file(end.end));
    let report = report.borrow();
    let counts = &report.counts;
    match counts.lines {
        0 => Err(RecordingError::Empty),
        _ if counts.samples() > 0 => Ok(()),
        lines if is_csv.load(Ordering::Relaxed) => Err(RecordingError::Csv(lines)),
        lines => Err(RecordingError::NoSamples(lines)),
    }
}

/// Checks that a file may be a recording, and returns its size; `None` for a pipe, which can be read
/// only once.
///
/// # Errors
/// If it cannot be read or has another format.
pub fn check(path: &Path) -> Result<Option<u64>, RecordingError> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() || metadata.is_dir() {
        Input::open(path, &Position::default())?;
    }
    Ok(metadata.is_file().then_some(metadata.len()))
}

fn failed(is_gzip: bool, error: &io::Error) -> RecordingError {
    match error.kind() {
        ErrorKind::UnexpectedEof if is_gzip => RecordingError::Truncated,
        ErrorKind::InvalidInput | ErrorKind::InvalidData if is_gzip => {
            RecordingError::Damaged(error.to_string())
        }
        _ => RecordingError::Unreadable(error.to_string()),
    }
}

/// How far the thread has read the file.
#[derive(Clone, Debug, Default)]
struct Position {
    file_bytes: Arc<AtomicU64>,
    /// Bytes of text in `file_bytes`: more of them if the file is compressed.
    text_bytes: Arc<AtomicU64>,
}

impl Position {
    /// The position in the file of a position in its text. For a compressed file it is estimated.
    fn in_file(&self, text_bytes: u64) -> u64 {
        let [file, text] =
            [&self.file_bytes, &self.text_bytes].map(|bytes| bytes.load(Ordering::Relaxed));
        (text_bytes as f64 * file as f64 / text.max(1) as f64) as u64
    }
}

/// An opened recording.
struct Input {
    reader: Box<dyn Read>,
    is_gzip: bool,
    /// Whether the first line may be the header of a CSV file.
    is_csv: bool,
}

impl Input {
    /// Opens a file, and examines its start.
    fn open(path: &Path, position: &Position) -> Result<Self, RecordingError> {
        // On Windows a folder cannot be opened.
        if fs::metadata(path)?.is_dir() {
            return Err(RecordingError::Folder);
        }
        let file = Counted { input: File::open(path)?, bytes: Arc::clone(&position.file_bytes) };
        let (start, file) = with_start(file)?;
        let is_gzip = start.starts_with(GZIP);
        let (start, reader): (_, Box<dyn Read>) = if is_gzip {
            let file = BufReader::with_capacity(GZIP_BUFFER_BYTES, file);
            let text = Counted {
                input: MultiGzDecoder::new(file),
                bytes: Arc::clone(&position.text_bytes),
            };
            let (start, text) = with_start(text).map_err(|error| failed(true, &error))?;
            (start, Box::new(text))
        } else {
            (start, Box::new(Counted { input: file, bytes: Arc::clone(&position.text_bytes) }))
        };
        match foreign_format(&start) {
            Some(error) => Err(error),
            None => Ok(Self { reader, is_gzip, is_csv: is_csv(&start) }),
        }
    }
}

/// Counts the bytes that are read.
struct Counted<R> {
    input: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// An input whose start was read, and is read again.
type Examined<R> = Chain<Cursor<Vec<u8>>, R>;

/// Reads the start of an input; returns it, and the whole input including the start. A pipe may
/// deliver less than [`START_BYTES`]: waiting for more would delay its first line.
fn with_start<R: Read>(mut input: R) -> io::Result<(Vec<u8>, Examined<R>)> {
    let mut start = vec![0; START_BYTES];
    let mut count = 0;
    while count < GZIP.len() {
        match input.read(&mut start[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    start.truncate(count);
    Ok((start.clone(), Cursor::new(start).chain(input)))
}

/// Why a file with this start is not a recording; `None` if it may be one.
fn foreign_format(start: &[u8]) -> Option<RecordingError> {
    let named = |formats: &[(&[u8], &'static str)]| {
        formats.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| *name)
    };
    if let Some(name) = named(&ARCHIVES) {
        return Some(RecordingError::Archive(name));
    }
    if let Some(name) = named(&COMPRESSED) {
        return Some(RecordingError::Compressed(name));
    }
    if start.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1)) {
        return Some(RecordingError::Archive("tar"));
    }
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") || is_utf16(start) {
        return Some(RecordingError::Utf16);
    }
    if start.contains(&0) {
        return Some(RecordingError::Binary);
    }
    let text = text(start);
    let mut lines = text.split(|byte| *byte == b'\n');
    let first_line = lines.next().unwrap_or_default().trim_ascii();
    if let Some(rest) = text.strip_prefix(b"[") {
        let next = rest.trim_ascii_start().first();
        // A line of a log may begin with `[`.
        return matches!(next, None | Some(b'{' | b'[' | b']')).then_some(RecordingError::Array);
    }
    if first_line == b"{" && lines.next().is_some() {
        return Some(RecordingError::SeveralLines);
    }
    first_line.starts_with(b"seq,stint,captured_at,").then_some(RecordingError::CsvExport)
}

/// Whether each character of ASCII has a NUL byte beside it.
fn is_utf16(start: &[u8]) -> bool {
    let is_nul = |offset: usize| start.iter().skip(offset).step_by(2).all(|byte| *byte == 0);
    start.len() > 2 && is_nul(0) != is_nul(1)
}

/// Whether the first line is a row of several cells.
fn is_csv(start: &[u8]) -> bool {
    let line = text(start).split(|byte| *byte == b'\n').next().unwrap_or_default();
    !line.starts_with(b"{") && line.iter().any(|byte| b",;\t".contains(byte))
}

/// The start without a byte order mark and white space.
fn text(start: &[u8]) -> &[u8] {
    start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_recognized_by_their_start() {
        use RecordingError::{Archive, Array, Binary, Compressed, CsvExport, SeveralLines, Utf16};
        let tar = [&[b'x'; 257][..], b"ustar\x0000"].concat();
        for (start, expected) in [
            (&b"PK\x03\x04\x14"[..], Some(Archive("zip"))),
            (&tar, Some(Archive("tar"))),
            (b"BZh91AY", Some(Compressed("bzip2"))),
            (b"\x1f\x8b\x08", Some(Compressed("gzip twice"))),
            (b"\xff\xfe{\0\"\0", Some(Utf16)),
            (b"\xfe\xff\0{\0\"", Some(Utf16)),
            (b"{\0\"\0l\0", Some(Utf16)),
            (b"\0{\0\"\0l", Some(Utf16)),
            (b"\0\0\0\0", Some(Binary)),
            (b"{\"lap\":\0}", Some(Binary)),
            (b"[{\"lap\":1}]", Some(Array)),
            (b"\xef\xbb\xbf \n[\n", Some(Array)),
            (b"[[1]]", Some(Array)),
            (b"[]", Some(Array)),
            (b"[info] reader starts\n{\"lap\":1}", None),
            (b"{\r\n  \"lap\": 1\r\n}", Some(SeveralLines)),
            (b"seq,stint,captured_at,lap\r\n", Some(CsvExport)),
            (b"lap,speed\n1,100\n", None),
            (b"{\"lap\":1}\n", None),
            (b"\xef\xbb\xbf{\"lap\":1}\n", None),
            (b"", None),
            (b"{", None),
            (b"1", None),
        ] {
            let text = String::from_utf8_lossy(start);
            assert_eq!(foreign_format(start), expected, "{text:?}");
        }
    }

    #[test]
    fn csv_is_recognized_by_its_first_line() {
        for (start, expected) in [
            (&b"lap,speed\n1,100\n"[..], true),
            (b"lap;speed", true),
            (b"lap\tspeed", true),
            (b"{\"lap\":1,\"speed\":2}", false),
            (b"lap\n1,2", false),
            (b"", false),
        ] {
            assert_eq!(is_csv(start), expected);
        }
    }
}

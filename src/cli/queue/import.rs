//! `pitwire queue import`: queues the entries of an export.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::PathBuf;

use super::csv::Columns;
use super::{
    Exit, NOT_DONE, ProgressLine, QueueConnection, QueueTarget, ToolError, contents, count,
    print_prose, say_appended,
};
use crate::entry::CapturedAt;

use crate::queue::{MAX_FINDINGS, PAGE_BYTES};
use crate::source::lines::MAX_BATCH_LINES;
use crate::tools::{AppendCounts, Line, LineContent, MAX_LINE_BYTES, OperatorRequest};

/// Queue the entries of an export again.
///
/// The entries get new sequence numbers and keep their capture times. A pause between two of them
/// that is longer than stint.resume_after begins a stint, as it did when they were captured. If any
/// line is not an entry, nothing is queued.
///
/// A CSV export has only the dashboard's fields: setups and other fields are missing, and the
/// timestamp of each frame is its capture time.
///
/// Exits with 1 if a line is not an entry or was not stored.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// File from pitwire queue export or a download from pitwire serve, JSON Lines or CSV.
    pub file: PathBuf,
    /// Make the changes; without this option, they are only printed.
    #[arg(long)]
    pub apply: bool,
    #[command(flatten)]
    pub which: QueueTarget,
}

/// The contents of a file.
#[derive(Default)]
struct ImportCheck {
    frames: u64,
    setups: u64,
    wrong: u64,
    first: Option<CapturedAt>,
    last: Option<CapturedAt>,
}

impl Import {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        let unreadable = |error: io::Error| {
            ToolError(format!("{}: {error}; choose a file that can be read", self.file.display()))
        };
        let mut file = File::open(&self.file).map_err(unreadable)?;
        let check = self.check(&file).map_err(unreadable)?;
        let what = contents(check.frames, check.setups);
        if check.wrong > 0 {
            let lines = count(check.wrong, "line");
            print_prose(format_args!(
                "{what}, but {lines} that are not entries: correct or remove them"
            ));
            return Ok(Exit::Found);
        }
        if !self.apply {
            self.say(&check, &what);
            return Ok(Exit::Good);
        }
        file.rewind().map_err(unreadable)?;
        let queue = self.which.open_to_append().await?;
        let counts = self.import(&queue, file).await?;
        queue.close().await;
        Ok(say_appended(&counts))
    }

    fn say(&self, check: &ImportCheck, what: &str) {
        match (check.first, check.last) {
            (Some(first), Some(last)) => {
                print_prose(format_args!("would queue {what}, captured {first} to {last}"));
            }
            _ => print_prose("would queue nothing: the file has no entries"),
        }
        print_prose(NOT_DONE);
    }

    /// Reads all lines, and prints which of them are not entries.
    fn check(&self, file: &File) -> io::Result<ImportCheck> {
        let mut check = ImportCheck::default();
        let mut lines = EntryLines::new(file);
        let mut progress = ProgressLine::begin("checking", file.metadata()?.len());
        while let Some(text) = lines.next()? {
            progress.at(lines.end);
            let line =
                text.and_then(|text| Line::parse(&text).map_err(|refused| refused.to_string()));
            match line {
                Ok(Line { captured_at, content, .. }) => {
                    match content {
                        LineContent::Frame(_) => check.frames += 1,
                        LineContent::Setup(_) => check.setups += 1,
                    }
                    check.first.get_or_insert(captured_at);
                    check.last = check.last.max(Some(captured_at));
                }
                Err(why) => {
                    check.wrong += 1;
                    if check.wrong <= MAX_FINDINGS as u64 {
                        let file = self.file.display();
                        print_prose(format_args!("{file}:{}: {why}", lines.number));
                    }
                }
            }
        }
        progress.at(lines.end);
        Ok(check)
    }

    /// Appends the lines in batches.
    async fn import(&self, queue: &QueueConnection, file: File) -> Result<AppendCounts, ToolError> {
        let mut lines = EntryLines::new(&file);
        let of = file.metadata()?.len();
        let mut progress = ProgressLine::begin("importing", of);
        let mut counts = AppendCounts::default();
        let mut done = 0;
        loop {
            let (mut batch, mut count) = (String::new(), 0);
            let mut is_last = true;
            while let Some(line) = lines.next()? {
                // The lines were checked: they are valid unless the file has changed since.
                let line = line.map_err(|why| {
                    let (file, number) = (self.file.display(), lines.number);
                    ToolError(format!("{file}:{number}: {why}; the file has changed: try again"))
                })?;
                batch.push_str(&String::from_utf8_lossy(&line));
                batch.push('\n');
                count += 1;
                if count >= MAX_BATCH_LINES || batch.len() >= PAGE_BYTES {
                    is_last = false;
                    break;
                }
            }
            if count > 0 {
                let appended = queue.send(OperatorRequest::Import { lines: batch }).await;
                counts.add(appended.map_err(|ToolError(why)| {
                    ToolError(format!(
                        "{why}; lines 1 to {done} are queued: remove them before you try again"
                    ))
                })?);
                done = lines.number;
            }
            progress.at(lines.end);
            if is_last {
                return Ok(counts);
            }
        }
    }
}

/// Reads the non-empty lines of a file, those of a CSV file as JSON. A line that is too long is cut
/// just above the limit, so that parsing rejects it.
struct EntryLines<'a> {
    input: BufReader<&'a File>,
    /// Number of the line returned last, starting at 1.
    number: u64,
    /// Offset of the end of that line in the file.
    end: u64,
    format: InputFormat,
}

enum InputFormat {
    /// No line was read yet.
    Unknown,
    JsonLines,
    Csv(Columns),
}

impl<'a> EntryLines<'a> {
    fn new(file: &'a File) -> Self {
        Self { input: BufReader::new(file), number: 0, end: 0, format: InputFormat::Unknown }
    }

    /// The next line as JSON; the inner error says why it is not an entry.
    fn next(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
        while let Some(line) = self.next_text()? {
            match &self.format {
                InputFormat::Unknown if Columns::are_in(&line) => match Columns::parse(&line) {
                    Ok(columns) => self.format = InputFormat::Csv(columns),
                    Err(why) => return Ok(Some(Err(why))),
                },
                InputFormat::Unknown => {
                    self.format = InputFormat::JsonLines;
                    return Ok(Some(Ok(line)));
                }
                InputFormat::JsonLines => return Ok(Some(Ok(line))),
                InputFormat::Csv(columns) => return Ok(Some(columns.entry_line(&line))),
            }
        }
        Ok(None)
    }

    fn next_text(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut line = Vec::new();
            let most = MAX_LINE_BYTES as u64 + 2;
            if (&mut self.input).take(most).read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.end += line.len() as u64;
            if !line.ends_with(b"\n") && line.len() as u64 == most {
                self.end += self.input.skip_until(b'\n')? as u64;
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line.trim_ascii().to_vec()));
            }
        }
    }
}

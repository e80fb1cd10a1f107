//! `pitwire queue export`: writes entries to a file.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;

use super::csv::CsvTable;
use super::{
    Exit, ProgressLine, QueueConnection, QueueTarget, ToolError, Walk, contents, count,
    eprint_line, seq,
};
use crate::cli::terminal;
use crate::entry::{CapturedAt, Entry, Kind, Seq};
use crate::queue::operator::Peeked;
use crate::tools::export_line;

/// Write entries to a file, as JSON Lines or CSV; they stay queued.
///
/// A JSON line has seq, stint, captured_at, kind and the frame or the setup; `pitwire queue import`
/// reads both formats. CSV contains only the frames, with one column per reading, in UTF-8. A text that
/// a spreadsheet would interpret as a formula is prefixed with ', and control characters and
/// backslashes are escaped.
///
/// Exits with 1 if an entry cannot be read.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// Format of the file.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    pub format: Format,
    /// Sequence number of the first entry [default: the oldest].
    #[arg(long, value_name = "SEQ", value_parser = seq)]
    pub from: Option<Seq>,
    /// Sequence number of the last entry [default: the newest].
    #[arg(long, value_name = "SEQ", value_parser = seq)]
    pub to: Option<Seq>,
    /// Capture time of the first entry, such as 2025-11-22T14:30:00Z [default: of the oldest entry].
    #[arg(long, value_name = "MOMENT", value_parser = moment, conflicts_with_all = ["from", "to"])]
    pub since: Option<CapturedAt>,
    /// Capture time of the last entry, inclusive [default: of the newest entry].
    #[arg(long, value_name = "MOMENT", value_parser = moment, conflicts_with_all = ["from", "to"])]
    pub until: Option<CapturedAt>,
    /// File to create [default: standard output].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub which: QueueTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Jsonl,
    Csv,
}

fn moment(text: &str) -> Result<CapturedAt, String> {
    CapturedAt::parse(text).ok_or_else(|| "write a timestamp such as 2025-11-22T14:30:00Z".into())
}

/// Counts of the exported entries.
#[derive(Default)]
struct ExportCounts {
    frames: u64,
    setups: u64,
    unreadable: u64,
}

/// Why an export failed.
enum ExportError {
    Tool(ToolError),
    Output(io::Error),
}

impl From<ToolError> for ExportError {
    fn from(cannot: ToolError) -> Self {
        Self::Tool(cannot)
    }
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl Export {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        let queue = self.which.open().await?;
        let written = match &self.output {
            Some(path) => {
                let file = File::create_new(path).map_err(|error| cannot_create(path, &error))?;
                let written = self.write(&queue, BufWriter::new(file)).await;
                if written.is_err() {
                    // A partial export must not be mistaken for a complete one.
                    let _ = std::fs::remove_file(path);
                }
                written
            }
            None => match self.write(&queue, BufWriter::new(io::stdout())).await {
                Err(ExportError::Output(error)) => {
                    queue.close().await;
                    terminal::note_output(Err(error));
                    return Ok(Exit::Good);
                }
                written => written,
            },
        };
        queue.close().await;
        let written = match written {
            Ok(written) => written,
            Err(ExportError::Tool(cannot)) => return Err(cannot),
            Err(ExportError::Output(error)) => {
                let why = format!("cannot write the output: {error}; choose a disk with room");
                return Err(ToolError(why));
            }
        };
        Ok(self.say(&written))
    }

    async fn write(
        &self,
        queue: &QueueConnection,
        mut out: impl Write,
    ) -> Result<ExportCounts, ExportError> {
        let mut walk = Walk::start(queue, self.from, self.to, u64::MAX, true).await?;
        let mut written = ExportCounts::default();
        // If the terminal shows the entries, they would mix with the status line.
        let is_shown = self.output.is_none() && io::stdout().is_terminal();
        let all = walk.progress().1;
        let mut progress =
            if is_shown { ProgressLine::hidden() } else { ProgressLine::begin("exporting", all) };
        let mut table = match self.format {
            Format::Jsonl => None,
            Format::Csv => Some(CsvTable::begin(&mut out)?),
        };
        'pages: while let Some(page) = walk.page().await? {
            for Peeked { seq, entry, .. } in &page {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        eprint_line(format_args!("entry {seq} cannot be read back: {error}"));
                        written.unreadable += 1;
                        continue;
                    }
                };
                if self.until.is_some_and(|until| entry.captured_at > until) {
                    break 'pages;
                }
                if self.since.is_some_and(|since| entry.captured_at < since) {
                    continue;
                }
                write_entry(&mut out, table.as_mut(), entry, &mut written)?;
            }
            progress.at(walk.progress().0);
        }
        out.flush()?;
        progress.at(all);
        if let Some(table) = table.filter(|table| !table.left_out.is_empty()) {
            let names = Vec::from_iter(table.left_out).join(", ");
            eprint_line(format_args!(
                "not in the CSV, which has only the dashboard's fields: {names}"
            ));
        }
        Ok(written)
    }

    fn say(&self, written: &ExportCounts) -> Exit {
        let &ExportCounts { frames, setups, unreadable } = written;
        match self.format {
            Format::Jsonl => eprint_line(format_args!("exported {}", contents(frames, setups))),
            Format::Csv => {
                eprint_line(format_args!("exported {}", count(frames, "frame")));
                if setups > 0 {
                    let setups = count(setups, "setup");
                    eprint_line(format_args!(
                        "left {setups} out of the CSV; --format jsonl has them"
                    ));
                }
            }
        }
        if unreadable == 0 { Exit::Good } else { Exit::Found }
    }
}

fn write_entry(
    out: &mut impl Write,
    table: Option<&mut CsvTable>,
    entry: &Entry,
    written: &mut ExportCounts,
) -> io::Result<()> {
    match entry.kind {
        Kind::Frame => written.frames += 1,
        Kind::Setup => written.setups += 1,
    }
    match (table, entry.kind) {
        (Some(table), Kind::Frame) => table.frame(out, entry),
        (Some(_), Kind::Setup) => Ok(()),
        (None, _) => writeln!(out, "{}", export_line(entry)),
    }
}

fn cannot_create(path: &std::path::Path, error: &io::Error) -> ToolError {
    let path = path.display();
    ToolError(match error.kind() {
        ErrorKind::AlreadyExists => {
            format!("--output: {path} exists already; choose another name or remove it")
        }
        _ => format!("--output: {path}: {error}; choose a file in a writable folder"),
    })
}

//! Reads samples as lines of JSON from standard input, a file or a pipe.
//!
//! Lines that are available and due together are appended together, so a fast source costs few
//! fsyncs.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

pub use super::pace::Pace;
use super::pace::recorded_at;
use super::{Intake, Sample, Taken};
use crate::entry::CapturedAt;
use crate::fields::{MAX_SAMPLE_BYTES, Reason, Refused};
use crate::platform::offload;
use crate::queue::QueueError;

/// The maximum number of lines that are appended together.
pub(crate) const MAX_BATCH_LINES: usize = 256;

/// The read buffer for lines: holds about as many as are appended together.
const LINES_BUFFER_BYTES: usize = 256 << 10;

/// The position of a line in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line number, from 1.
    pub line: u64,
    /// The byte offset of the end of the line.
    pub end: u64,
}

/// Reads lines until the input ends or the queue is closed, and reports the outcome of each to
/// `receipt`. Returns the position at which it ended.
pub async fn run(
    input: impl AsyncRead + Unpin,
    intake: &Intake,
    mut pace: Pace,
    mut receipt: impl FnMut(Place, &Taken),
) -> std::io::Result<Place> {
    let start = Place { line: 0, end: 0 };
    let input = BufReader::with_capacity(LINES_BUFFER_BYTES, input);
    let has_times = matches!(pace, Pace::Recorded(_));
    let mut lines = Lines { input, has_times, at: start };
    // Read one batch while the previous one is being stored.
    let (batches, mut read) = mpsc::channel(1);
    let reading = async move {
        while let Some(batch) = lines.next_batch().await? {
            if batches.send(batch).await.is_err() {
                break;
            }
        }
        Ok(lines.at)
    };
    let storing = async move {
        while let Some(batch) = read.recv().await {
            let mut due_lines: Vec<InputLine> = Vec::with_capacity(batch.len());
            for line in batch {
                // A refused line takes no time.
                let due = if line.sample.is_ok() {
                    pace.due(line.place.line, line.recorded)
                } else {
                    None
                };
                if let Some(due) = due.filter(|due| *due > Instant::now()) {
                    let Ok(()) = store(intake, &mut due_lines, &mut receipt).await else { return };
                    sleep_until(due).await;
                }
                due_lines.push(line);
            }
            let Ok(()) = store(intake, &mut due_lines, &mut receipt).await else { return };
        }
    };
    // Poll `storing` first, so that the queue works on a batch while the next one is read.
    let ((), read) = tokio::join!(biased; storing, reading);
    read
}

/// Appends the lines, which leave the vector, and reports their outcomes.
async fn store(
    intake: &Intake,
    lines: &mut Vec<InputLine>,
    receipt: &mut impl FnMut(Place, &Taken),
) -> Result<(), QueueError> {
    if lines.is_empty() {
        return Ok(());
    }
    let (places, samples): (Vec<_>, Vec<_>) =
        lines.drain(..).map(|line| (line.place, line.sample)).unzip();
    let taken = intake.take(samples).await?;
    places.iter().zip(&taken).for_each(|(place, taken)| receipt(*place, taken));
    Ok(())
}

/// A line that was read.
struct InputLine {
    place: Place,
    sample: Result<Sample, Refused>,
    /// The time in the line; only for a recording.
    recorded: Option<CapturedAt>,
}

struct Lines<R> {
    input: BufReader<R>,
    /// Whether to look for a time in each line.
    has_times: bool,
    /// The position of the line that was read last.
    at: Place,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// At least one non-empty line, plus the lines that are already buffered; `None` at the end.
    async fn next_batch(&mut self) -> std::io::Result<Option<Vec<InputLine>>> {
        let mut batch = Vec::new();
        loop {
            let whole_line_is_here = self.input.buffer().contains(&b'\n');
            if batch.len() >= MAX_BATCH_LINES || (!batch.is_empty() && !whole_line_is_here) {
                return Ok(Some(batch));
            }
            let Some(line) = self.next().await? else {
                return Ok(if batch.is_empty() { None } else { Some(batch) });
            };
            self.at.line += 1;
            let has_times = self.has_times;
            let parsed = match line {
                Ok(line) if line.trim_ascii().is_empty() => continue,
                Ok(line) => {
                    let bytes = line.len();
                    let parse = move || {
                        let sample = Sample::parse(&line)?;
                        Ok((sample, if has_times { recorded_at(&line) } else { None }))
                    };
                    offload::parse(bytes, parse).await
                }
                Err(too_large) => Err(too_large),
            };
            let (sample, recorded) = match parsed {
                Ok((sample, recorded)) => (Ok(sample), recorded),
                Err(refused) => (Err(refused), None),
            };
            batch.push(InputLine { place: self.at, sample, recorded });
        }
    }

    /// The next line without its line break. A line that is too long is consumed and refused.
    async fn next(&mut self) -> std::io::Result<Option<Result<Vec<u8>, Refused>>> {
        let most = MAX_SAMPLE_BYTES as u64 + 2;
        let mut line = Vec::new();
        if (&mut self.input).take(most).read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        self.at.end += line.len() as u64;
        if line.ends_with(b"\n") || (line.len() as u64) < most {
            while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
                line.pop();
            }
            return Ok(Some(Ok(line)));
        }
        loop {
            let rest = self.input.fill_buf().await?;
            let (count, ended) = match rest.iter().position(|&byte| byte == b'\n') {
                Some(index) => (index + 1, true),
                None => (rest.len(), rest.is_empty()),
            };
            self.input.consume(count);
            self.at.end += count as u64;
            if ended {
                let message = format!("the line is longer than {MAX_SAMPLE_BYTES} bytes");
                return Ok(Some(Err(Refused { reason: Reason::TooLarge, message })));
            }
        }
    }
}

//! Reads samples as lines of JSON from standard input, a file or a pipe.
//!
//! Lines that are available together are appended together, so a fast source costs few fsyncs.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Intake, Sample, Taken};
use crate::fields::{MAX_SAMPLE_BYTES, Reason, Refused};
use crate::platform::offload;

/// The maximum number of lines that are appended together.
pub(crate) const MAX_BATCH_LINES: usize = 256;

/// The read buffer for lines: holds about as many as are appended together.
const LINES_BUFFER_BYTES: usize = 256 << 10;

/// How fast lines are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the input delivers them.
    AsTheyCome,
    /// One line per period.
    Every(Duration),
}

impl Pace {
    /// `rate` lines a second; 0 is [`Pace::AsTheyCome`].
    pub(crate) fn per_second(rate: f64) -> Self {
        if rate > 0.0 { Self::Every(Duration::from_secs_f64(1.0 / rate)) } else { Self::AsTheyCome }
    }
}

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
    pace: Pace,
    mut receipt: impl FnMut(Place, &Taken),
) -> std::io::Result<Place> {
    let start = Place { line: 0, end: 0 };
    let mut lines = Lines { input: BufReader::with_capacity(LINES_BUFFER_BYTES, input), at: start };
    // Read one batch while the previous one is being stored.
    let (batches, mut read) = mpsc::channel(1);
    let reading = async move {
        let most = if pace == Pace::AsTheyCome { MAX_BATCH_LINES } else { 1 };
        while let Some(batch) = lines.next_batch(most).await? {
            if batches.send(batch).await.is_err() {
                break;
            }
        }
        Ok(lines.at)
    };
    let storing = async move {
        let mut due = Instant::now();
        while let Some(batch) = read.recv().await {
            if let Pace::Every(period) = pace {
                sleep_until(due).await;
                due += period;
            }
            let (places, samples): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let Ok(taken) = intake.take(samples).await else { return };
            places.iter().zip(&taken).for_each(|(place, taken)| receipt(*place, taken));
        }
    };
    // Poll `storing` first, so that the queue works on a batch while the next one is read.
    let ((), read) = tokio::join!(biased; storing, reading);
    read
}

type Placed = (Place, Result<Sample, Refused>);

struct Lines<R> {
    input: BufReader<R>,
    /// The position of the line that was read last.
    at: Place,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// At least one non-empty line, plus the lines that are already buffered; `None` at the end.
    async fn next_batch(&mut self, most: usize) -> std::io::Result<Option<Vec<Placed>>> {
        let mut batch = Vec::new();
        loop {
            let whole_line_is_here = self.input.buffer().contains(&b'\n');
            if batch.len() >= most || (!batch.is_empty() && !whole_line_is_here) {
                return Ok(Some(batch));
            }
            let Some(line) = self.next().await? else {
                return Ok(if batch.is_empty() { None } else { Some(batch) });
            };
            self.at.line += 1;
            let sample = match line {
                Ok(line) if line.trim_ascii().is_empty() => continue,
                Ok(line) => offload::parse(line.len(), move || Sample::parse(&line)).await,
                Err(too_large) => Err(too_large),
            };
            batch.push((self.at, sample));
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

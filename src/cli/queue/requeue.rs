//! `pitwire queue requeue`: requeues the dead letters.

use super::{
    Exit, NOT_DONE, QueueTarget, ToolError, contents, count, places, print_prose, say_appended,
};
use crate::tools::{AppendCounts, DeadLetterCounts, OperatorRequest};

/// Requeue the dead letters: entries that the server refused.
///
/// Dead letters are in quarantine/ in the queue's folder. They get new sequence numbers and, since
/// the queue is ordered by time, a capture time after the newest entry. Each is requeued at most
/// once: their file is first renamed to quarantine/dead-letters-archived.ndjson.
#[derive(Debug, clap::Args)]
pub struct Requeue {
    /// Make the changes; without this option, they are only printed.
    #[arg(long)]
    pub apply: bool,
    #[command(flatten)]
    pub which: QueueTarget,
}

impl Requeue {
    pub(super) async fn run(self) -> Result<Exit, ToolError> {
        let queue =
            if self.apply { self.which.open_to_append().await? } else { self.which.open().await? };
        let letters: DeadLetterCounts = queue.send(OperatorRequest::DeadLetters).await?;
        let (Some(first), Some(last)) = (letters.first, letters.last) else {
            print_prose("no dead letters");
            queue.close().await;
            return Ok(Exit::Good);
        };
        if self.apply {
            let appended = queue.send(OperatorRequest::Requeue).await;
            let appended: AppendCounts = appended.map_err(|ToolError(why)| {
                let file = "quarantine/dead-letters-archived.ndjson in the queue's folder";
                ToolError(format!("{why}; pitwire queue import takes the missing ones from {file}"))
            })?;
            queue.close().await;
            return Ok(say_appended(&appended));
        }
        let what = contents(letters.frames, letters.setups);
        print_prose(format_args!("would requeue {what}, formerly {}", places(first, last)));
        if letters.unreadable > 0 {
            let lines = count(letters.unreadable, "line");
            print_prose(format_args!("would skip {lines} that are not entries"));
        }
        print_prose(NOT_DONE);
        queue.close().await;
        Ok(Exit::Good)
    }
}

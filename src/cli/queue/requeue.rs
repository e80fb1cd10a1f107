//! `pitwire queue requeue`.

use super::{Cannot, Exit, NOT_DONE, Which, contents, count, places, print, say_moved};

/// Queue again what the server refused.
///
/// Such entries lie in quarantine/ in the queue's folder. They get new positions and, as the queue
/// is in the order of time, a moment of capture after the newest entry. Each is taken once: the
/// file is set aside first, as quarantine/refused-taken.ndjson.
#[derive(Debug, clap::Args)]
pub struct Requeue {
    /// Do it; without this it is only said what would be done.
    #[arg(long)]
    pub apply: bool,
    #[command(flatten)]
    pub which: Which,
}

impl Requeue {
    pub(super) async fn run(self) -> Result<Exit, Cannot> {
        let access = match self.apply {
            true => self.which.open_to_append().await?,
            false => self.which.open().await?,
        };
        let refusals = access.refused().await?;
        let (Some(first), Some(last)) = (refusals.first, refusals.last) else {
            print("the server refused nothing that is still there");
            access.close().await;
            return Ok(Exit::Good);
        };
        if self.apply {
            let moved = access.requeue().await.map_err(|Cannot(why)| {
                let file = "quarantine/refused-taken.ndjson in the queue's folder";
                Cannot(format!("{why}; what is missing is in {file}, for pitwire queue import"))
            })?;
            access.close().await;
            return Ok(say_moved(&moved));
        }
        let what = contents(refusals.frames, refusals.setups);
        print(format_args!("would queue again {what}, until now {}", places(first, last)));
        if refusals.unreadable > 0 {
            let lines = count(refusals.unreadable, "line");
            print(format_args!("would leave out {lines} that are no entries"));
        }
        print(NOT_DONE);
        access.close().await;
        Ok(Exit::Good)
    }
}

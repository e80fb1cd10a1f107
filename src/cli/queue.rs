//! `pitwire queue`: the queue tools, one file per tool.

pub(super) mod access;
mod cat;
mod csv;
mod drop;
mod export;
mod import;
mod ls;
mod repair;
mod requeue;
pub(super) mod status;
mod trace;
pub(super) mod verify;
mod walk;

use std::path::PathBuf;

use clap::Subcommand;

use self::access::{QueueConnection, ToolError};
use self::walk::Walk;
use crate::cli::progress::ProgressLine;
use crate::cli::{Exit, eprint_line, print, print_folded, print_prose};
use crate::entry::{MAX_SEQ, Seq};
use crate::tools::AppendCounts;

/// Inspect the queue, verify it, move entries in and out of it.
///
/// The tools use the queue that `pitwire run` uses with the same configuration. While an agent has
/// it open, they ask that agent at its admin address (metrics.listen); otherwise they open the
/// folder themselves. The output is the same.
///
/// Tools that change the queue print what they would do, and do it only with --apply.
///
/// Each tool exits with 0 if all is well, 1 if it found a problem and 2 if it could not do its
/// work.
#[derive(Debug, clap::Args)]
pub struct Queue {
    #[command(subcommand)]
    pub tool: Tool,
}

#[derive(Debug, Subcommand)]
pub enum Tool {
    Status(status::Status),
    Ls(ls::Ls),
    Cat(cat::Cat),
    Export(export::Export),
    Import(import::Import),
    Verify(verify::Verify),
    Repair(repair::Repair),
    Trace(trace::Trace),
    Drop(drop::Drop),
    Requeue(requeue::Requeue),
}

/// Options that select the queue of a tool.
#[derive(Debug, clap::Args)]
pub struct QueueTarget {
    /// Configuration file [default: as for pitwire run].
    #[arg(long, value_name = "FILE", env = "PITWIRE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder of the queue [default: pitwire/queue in ~/.local/share or %LOCALAPPDATA%].
    #[arg(long, value_name = "DIR")]
    pub queue: Option<String>,
    /// Any other setting, as for pitwire run; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Admin address of the agent to ask [default: metrics.listen, while an agent has the queue open].
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
}

/// Runs a tool, and prints the reason if it cannot do its work.
pub async fn queue(args: Queue) -> Exit {
    let done = match args.tool {
        Tool::Status(args) => args.run().await,
        Tool::Ls(args) => args.run().await,
        Tool::Cat(args) => args.run().await,
        Tool::Export(args) => args.run().await,
        Tool::Import(args) => args.run().await,
        Tool::Verify(args) => args.run().await,
        Tool::Repair(args) => args.run().await,
        Tool::Trace(args) => args.run().await,
        Tool::Drop(args) => args.run().await,
        Tool::Requeue(args) => args.run().await,
    };
    done.unwrap_or_else(|ToolError(why)| {
        eprint_line(format_args!("pitwire: {why}"));
        Exit::Unable
    })
}

/// Parses a sequence number from the command line.
fn seq(text: &str) -> Result<Seq, String> {
    let seq = text.parse().ok().filter(|seq| *seq < MAX_SEQ).map(Seq);
    seq.ok_or_else(|| "write a sequence number, such as 1".into())
}

/// Formats counts such as "7200 frames and 1 setup", leaving out zero counts.
fn contents(frames: u64, setups: u64) -> String {
    match (count(frames, "frame"), count(setups, "setup")) {
        (frames, _) if setups == 0 => frames,
        (_, setups) if frames == 0 => setups,
        (frames, setups) => format!("{frames} and {setups}"),
    }
}

/// Formats a range of sequence numbers: "entry 5" or "entries 5 to 9".
fn places(first: Seq, last: Seq) -> String {
    if first == last { format!("entry {first}") } else { format!("entries {first} to {last}") }
}

/// Formats a count with its noun: "1 frame", "2 frames".
pub(super) fn count(number: u64, one: &str) -> String {
    match one.strip_suffix('y') {
        _ if number == 1 => format!("1 {one}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {one}s"),
    }
}

/// Prints the outcome of an import or requeue. Dropped, buffered and refused entries are findings.
fn say_appended(counts: &AppendCounts) -> Exit {
    match (counts.first, counts.last) {
        (Some(first), Some(last)) => {
            let entries = count(counts.stored, "entry");
            print_prose(format_args!("queued {entries}, as {}", places(first, last)));
        }
        _ => print_prose("queued nothing"),
    }
    for (number, outcome) in [
        (counts.unchanged, "identical to the previous setup: skipped"),
        (counts.dropped, "dropped: the queue is full; raise queue.max_entries or queue.max_bytes"),
        (counts.buffered, "still in memory: the queue's disk is too slow or fails; check it"),
        (counts.refused, "rejected: not valid for the dashboard"),
    ] {
        if number > 0 {
            print_prose(format_args!("{} {outcome}", count(number, "entry")));
        }
    }
    let all_well = counts.dropped + counts.buffered + counts.refused == 0;
    if all_well { Exit::Good } else { Exit::Found }
}

/// The last line of a tool that changes the queue, without `--apply`.
const NOT_DONE: &str = "nothing changed; use --apply to do it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_formatted_in_singular_and_plural() {
        assert_eq!(contents(2, 1), "2 frames and 1 setup");
        assert_eq!(contents(1, 0), "1 frame");
        assert_eq!(contents(0, 3), "3 setups");
        assert_eq!(contents(0, 0), "0 frames");
        assert_eq!(count(2, "entry"), "2 entries");
        assert_eq!(
            (places(Seq(5), Seq(5)), places(Seq(5), Seq(9))),
            ("entry 5".into(), "entries 5 to 9".into())
        );
    }
}

//! The process as a whole: stored entries survive crashes and outages, and it does what its
//! commands and configuration ask for.
//!
//! - [`crash`]: killed with entries queued and the server down: no entry that was reported stored
//!   is lost.
//! - [`rates`]: sources within and above their rate.
//! - [`recordings`]: real data, field by field; the pace of a replay, and files that it refuses.
//! - [`reload`]: a configuration change while it runs.
//! - [`messages`]: the messages for a driver.
//! - [`observe`]: metrics, health and readiness.
//! - [`autostart`]: the start at log-on.
//! - `output`: standard output that fails.
//! - [`command`]: signals, exit codes, the HTTP source, and `demo`.
//! - [`settings`]: the configuration, checked and shown.
//! - `setup`: the first-run dialogue.
//! - [`tools`]: `pitwire queue`, on a running agent and on a folder.
//! - [`wall_clock`]: the wall clock is set.
//!
//! The process is stopped with Unix signals, so none of this runs on Windows.

mod autostart;
mod command;
mod crash;
mod messages;
mod observe;
#[cfg(target_os = "linux")]
mod output;
mod rates;
mod recordings;
mod reload;
mod settings;
#[cfg(target_os = "linux")]
mod setup;
mod tools;
#[cfg(target_os = "linux")]
mod wall_clock;

use std::process::Stdio;

use serde_json::Value;

use crate::agent::pitwire;

/// Samples of `pitwire simulate` as lines, numbered from `first` in the field `lap`: a server's
/// history then shows which frames arrived, in which order and how often.
pub fn numbered_samples(first: u64, count: usize) -> Vec<String> {
    let count = count.to_string();
    let simulated = pitwire(&["simulate", "--speed", "0", "--frames", &count])
        .stdin(Stdio::null())
        // Not piped: the first program under Wine starts Wine's services, which keep the pipe open
        // forever.
        .stderr(Stdio::inherit())
        .output()
        .expect("pitwire simulates");
    let text = String::from_utf8(simulated.stdout).expect("UTF-8");
    let number = |(line, number): (&str, u64)| {
        let mut sample: Value = serde_json::from_str(line).expect("JSON");
        sample["lap"] = number.into();
        sample.to_string()
    };
    text.lines().zip(first..).map(number).collect()
}

/// The numbers of these frames.
fn numbers(frames: &[Value]) -> Vec<u64> {
    frames.iter().map(|frame| frame["lap"].as_u64().expect("a number")).collect()
}

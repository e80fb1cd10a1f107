//! The process itself: what it stored survives crashes and outages, what it is told to do it does.
//!
//! - [`crash`]: killed in mid-queue, the server away: nothing that was reported stored is lost.
//! - [`recordings`]: real data, field by field.
//! - [`reload`]: another configuration while it runs.
//! - [`observe`]: what it shows of itself.
//! - [`autostart`]: the start at log-on.
//! - [`command`]: signals, exit codes, the HTTP source, the demo, the chaos.
//! - [`settings`]: the configuration, checked and shown.
//! - [`tools`]: `pitwire queue`, over an agent that runs and over a folder.
//!
//! Stopping a process is a signal of Unix, hence none of this runs on Windows.

mod autostart;
mod command;
mod crash;
mod observe;
mod recordings;
mod reload;
mod settings;
mod tools;

use std::process::Stdio;

use serde_json::Value;

use crate::agent::pitwire;

/// Samples of `pitwire simulate` as lines, with the numbers from `first` on in the field `lap`: a
/// server's history then tells which frames came, in which order and how often.
pub fn numbered_samples(first: u64, count: usize) -> Vec<String> {
    let count = count.to_string();
    let simulated = pitwire(&["simulate", "--speed", "0", "--frames", &count])
        .stdin(Stdio::null())
        // Not piped: the first program under Wine starts the services, which keep it open for ever.
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

/// The numbers of frames that a server has.
fn numbers(frames: &[Value]) -> Vec<u64> {
    frames.iter().map(|frame| frame["lap"].as_u64().expect("a number")).collect()
}

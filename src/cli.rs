//! What was typed on the command line, one file a subcommand.
//!
//! The doc comments of commands and options are their `--help`. A command's begins with what to do
//! in the imperative, an option's is one sentence; clap takes the last full stop off.

pub mod autostart;
pub mod chaos;
pub mod check;
pub mod completions;
pub mod config;
pub mod demo;
pub mod doctor;
mod log;
pub mod man;
mod priority;
mod private_file;
pub mod queue;
pub mod reload;
pub mod replay;
pub mod run;
pub mod serve;
pub mod settings;
pub mod simulate;
mod stage;
mod terminal;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::terminal::Stream;
use crate::config::Overrides;
use crate::remote_text::escape_lines;

/// Bring sim-racing telemetry to the team's dashboard, through outages and crashes.
///
/// What is handed in is stored on disk first, and sent in order as soon as the dashboard server is
/// there. Try it with `pitwire demo`; use it with `pitwire run --server URL`.
///
/// Every command ends with 0 if all went well, 1 if something failed and 2 if it was used wrongly.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(demo::Demo),
    Chaos(chaos::Chaos),
    Run(run::Run),
    Reload(reload::Reload),
    Replay(replay::Replay),
    Simulate(simulate::Simulate),
    Serve(serve::Serve),
    Queue(queue::Queue),
    Autostart(autostart::Autostart),
    Doctor(doctor::Doctor),
    Check(check::Check),
    Config(config::Print),
    Completions(completions::Completions),
    #[command(hide = true)]
    Man(man::Man),
}

/// How a command ended: 0 good, 1 failed, 2 wrong use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Good,
    Failed,
    WrongUse,
    /// A tool found something: 1.
    Found,
    /// A tool could not do its work: 2.
    Cannot,
}

/// Adds what was given with `--set KEY=VALUE`.
fn set_all(overrides: &mut Overrides, settings: &[String]) -> Result<(), String> {
    for setting in settings {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("--set {setting}: write it as KEY=VALUE"))?;
        overrides.set(key.trim(), value.trim(), "--set");
    }
    Ok(())
}

/// Prints a line on stdout. That nobody reads it, which makes `println!` panic, is no reason to end.
pub fn print(line: impl Display) {
    terminal::write(Stream::Out, safe(&format!("{line}\n")));
}

/// The same on stderr.
pub fn complain(line: impl Display) {
    terminal::write(Stream::Err, safe(&format!("{line}\n")));
}

/// Whatever a driver is called or a server answers, it does not change the terminal.
fn safe(text: &str) -> Vec<u8> {
    escape_lines(text).into_owned().into_bytes()
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Good => 0,
            Exit::Failed | Exit::Found => 1,
            Exit::WrongUse | Exit::Cannot => 2,
        })
    }
}

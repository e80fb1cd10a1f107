//! The command line, one file per subcommand.
//!
//! The doc comments of commands and options are their `--help` texts. A command's text begins with
//! an imperative sentence, an option's text is one sentence; clap removes the last full stop.

pub mod autostart;
pub mod check;
pub mod completions;
pub mod config;
pub mod demo;
pub mod doctor;
mod log;
pub mod man;
mod priority;
mod private_file;
mod progress;
pub mod queue;
pub mod reload;
pub mod replay;
pub mod run;
pub mod serve;
pub(crate) mod settings;
pub mod setup;
pub mod simulate;
mod terminal;

pub use self::priority::NICENESS;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::terminal::OutputStream;
use crate::config::Overrides;
use crate::remote_text::escape_lines;

/// Bring sim-racing telemetry to the team's dashboard, through outages and crashes.
///
/// Samples are stored on disk first and sent in order as soon as the dashboard server can be
/// reached. Try it with `pitwire demo`, set it up with `pitwire setup`, start it with `pitwire run`.
///
/// A command exits with 0 on success, 1 on failure and 2 on wrong usage. `pitwire doctor` and
/// `pitwire queue` also exit with 1 if they found a problem, and with 2 if they could not do their
/// work.
#[derive(Debug, Parser)]
#[command(version = env!("BUILD_VERSION"), propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(demo::Demo),
    Setup(setup::SetupCommand),
    Run(run::Run),
    Reload(reload::ReloadCommand),
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

/// The result of a command: exit code 0 for success, 1 for failure, 2 for wrong usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Good,
    Failed,
    WrongUse,
    /// A tool found a problem: exit code 1.
    Found,
    /// A tool could not do its work: exit code 2.
    Unable,
}

impl Exit {
    /// Turns success into a failure if output was lost because stdout failed.
    #[must_use]
    pub fn unless_output_is_lost(self) -> Self {
        match self {
            Self::Good if terminal::is_output_lost() => Self::Failed,
            exit => exit,
        }
    }

    /// Prints the reason on stderr.
    fn because(self, reason: impl Display) -> Self {
        eprint_line(reason);
        self
    }
}

/// Prints the help, the version or what is wrong with the arguments.
pub fn print_usage(error: &clap::Error) -> Exit {
    terminal::note_output(error.print());
    if error.exit_code() == 0 { Exit::Good } else { Exit::WrongUse }
}

/// Adds the settings given with `--set KEY=VALUE`.
fn set_all(overrides: &mut Overrides, settings: &[String]) -> Result<(), String> {
    for setting in settings {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("--set {setting}: write it as KEY=VALUE"))?;
        overrides.set(key.trim(), value.trim(), "--set");
    }
    Ok(())
}

/// Indentation of the continuation lines of a sentence.
const PROSE_INDENT: usize = 2;

/// Prints a line on stdout. Unlike `println!`, does not panic if stdout fails;
/// [`Exit::unless_output_is_lost`] reports the failure.
pub fn print(line: impl Display) {
    terminal::write(OutputStream::Out, safe(&format!("{line}\n")));
}

/// Prints sentences on stdout, like [`print()`]; a terminal breaks them between words.
pub fn print_prose(text: impl Display) {
    print_folded(text, PROSE_INDENT);
}

/// Prints lines on stdout, like [`print`]; a terminal breaks them between words and indents the
/// continuation lines.
fn print_folded(text: impl Display, indent: usize) {
    print(terminal::folded(OutputStream::Out, &text.to_string(), indent));
}

/// Prints a line on stderr. Unlike `eprintln!`, does not panic if stderr is closed. A terminal
/// breaks it between words.
pub fn eprint_line(line: impl Display) {
    let text = format!("{line}\n");
    terminal::write(
        OutputStream::Err,
        safe(&terminal::folded(OutputStream::Err, &text, PROSE_INDENT)),
    );
}

/// Escapes control characters: driver names and server answers must not control the terminal.
fn safe(text: &str) -> Vec<u8> {
    escape_lines(text).into_owned().into_bytes()
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Good => 0,
            Exit::Failed | Exit::Found => 1,
            Exit::WrongUse | Exit::Unable => 2,
        })
    }
}

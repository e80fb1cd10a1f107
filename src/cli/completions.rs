//! `pitwire completions`: what a shell needs to complete the commands and their options.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::{Cli, Exit};

/// Print the completions for a shell.
///
/// For bash: pitwire completions bash > ~/.local/share/bash-completion/completions/pitwire. The .deb
/// brings those for bash, zsh and fish along.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell that is to complete.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints them.
pub fn completions(args: &Completions) -> Exit {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "pitwire", &mut script);
    // That nobody reads it is no failure.
    let _ = std::io::stdout().write_all(&script);
    Exit::Good
}

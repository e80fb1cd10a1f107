//! `pitwire completions`: shell completions for the commands and their options.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::terminal::{self, OutputStream};
use crate::cli::{Cli, Exit};

/// Print the completions for a shell.
///
/// For bash: pitwire completions bash > ~/.local/share/bash-completion/completions/pitwire. The
/// .deb includes the completions for bash, zsh and fish.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// Shell to print the completions for.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the completions.
pub fn completions(args: &Completions) -> Exit {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "pitwire", &mut script);
    terminal::write(OutputStream::Out, script);
    Exit::Good
}

//! `pitwire check`: checks a configuration.

use crate::cli::settings::Settings;
use crate::cli::{Exit, eprint_line, print_prose};

/// Check the configuration of pitwire run, without starting anything.
///
/// Prints all mistakes at once, each with its position and how to correct it, and warns about
/// settings that work but are probably unintended. Also reads the files that settings name, such as
/// server.ca_file.
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    pub settings: Settings,
}

/// Prints the configuration file and all of its problems.
pub fn check(args: &Check) -> Exit {
    let mut loaded = match args.settings.load() {
        Ok(loaded) => loaded,
        Err(problems) => return Exit::WrongUse.because(problems),
    };
    let checked = loaded.check_files();
    for warning in &loaded.warnings {
        eprint_line(format_args!("warning: {warning}"));
    }
    if let Err(problems) = checked {
        return Exit::WrongUse.because(problems);
    }
    print_prose(args.settings.file());
    print_prose(
        "The configuration is good. pitwire doctor tests the server, the disk and the game.",
    );
    Exit::Good
}

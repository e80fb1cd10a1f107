//! `pitwire check`: checks a configuration.

use crate::cli::settings::Settings;
use crate::cli::{Exit, eprint_line, print};

/// Check the configuration of pitwire run, without starting anything.
///
/// Prints all mistakes at once, each with its position and how to correct it, and warns about
/// settings that work but are probably unintended.
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    pub settings: Settings,
}

/// Prints all problems of the configuration, or that it is good.
pub fn check(args: &Check) -> Exit {
    match args.settings.load() {
        Ok(loaded) => {
            loaded
                .warnings
                .iter()
                .for_each(|warning| eprint_line(format_args!("warning: {warning}")));
            print("The configuration is good.");
            Exit::Good
        }
        Err(problems) => Exit::WrongUse.because(problems),
    }
}

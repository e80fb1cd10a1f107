//! `pitwire check`: a configuration, looked over.

use crate::cli::settings::Settings;
use crate::cli::{Exit, complain, print};

/// Check the configuration that pitwire run would use, and start nothing.
///
/// All mistakes are told at once, each with its place and what to write, and so is what works but is
/// probably not meant.
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    pub settings: Settings,
}

/// Says what is wrong, or that nothing is.
pub fn check(args: &Check) -> Exit {
    match args.settings.load() {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| complain(format_args!("warning: {warning}")));
            print("The configuration is good.");
            Exit::Good
        }
        Err(problems) => {
            complain(problems);
            Exit::WrongUse
        }
    }
}

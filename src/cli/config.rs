//! `pitwire config`: the configuration, as it is or as it could be.

use crate::cli::settings::Settings;
use crate::cli::{Exit, complain, print};
use crate::config::{Config, to_toml};

/// Print the configuration in force, each value with where it comes from.
///
/// It is a TOML file, with the secrets left out. With --example it is one with all defaults, and what
/// each setting means.
#[derive(Debug, clap::Args)]
pub struct Print {
    /// Print all defaults, and what each setting means.
    #[arg(long)]
    pub example: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// Prints it.
pub fn config(args: &Print) -> Exit {
    if args.example {
        print(to_toml(&Config::default()));
        return Exit::Good;
    }
    match args.settings.load() {
        Ok(loaded) => {
            print(loaded.to_toml());
            Exit::Good
        }
        Err(problems) => {
            complain(problems);
            Exit::WrongUse
        }
    }
}

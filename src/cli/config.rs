//! `pitwire config`: prints the effective configuration, or an example with all defaults.

use crate::cli::settings::Settings;
use crate::cli::{Exit, print};
use crate::config::{Config, to_toml};

/// Print the effective configuration, and where each value comes from.
///
/// The output is a TOML file without the secrets. With --example it has all defaults, and explains
/// each setting.
#[derive(Debug, clap::Args)]
pub struct Print {
    /// Print all defaults, with an explanation of each setting.
    #[arg(long)]
    pub example: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// Prints the configuration.
pub fn config(args: &Print) -> Exit {
    if args.example {
        print(to_toml(&Config::default()));
        return Exit::Good;
    }
    match args.settings.load() {
        Ok(loaded) => {
            print(format_args!("# {}\n{}", args.settings.file(), loaded.to_toml()));
            Exit::Good
        }
        Err(problems) => Exit::WrongUse.because(problems),
    }
}

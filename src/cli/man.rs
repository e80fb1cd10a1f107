//! `pitwire man`: the manual pages, for packages.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::{Cli, Exit, complain};

/// Write a manual page for each command into a folder.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// The folder, which is made if it is not there.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Writes them.
pub fn man(args: &Man) -> Exit {
    let folder = &args.folder;
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    match written {
        Ok(()) => Exit::Good,
        Err(error) => {
            complain(format_args!("pitwire: {}: {error}", folder.display()));
            Exit::Failed
        }
    }
}

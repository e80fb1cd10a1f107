//! `pitwire man`: writes the manual pages, for packages.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::{Cli, Exit};

/// Write a manual page for each command into a folder.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Folder to write to; created if it does not exist.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Writes the manual pages.
pub fn man(args: &Man) -> Exit {
    let folder = &args.folder;
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    match written {
        Ok(()) => Exit::Good,
        Err(error) => Exit::Failed.because(format_args!("pitwire: {}: {error}", folder.display())),
    }
}

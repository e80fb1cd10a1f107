//! `pitwire autostart`: the agent starts when the user logs on, without administrator rights.
//!
//! The agent runs as the user, not as a system service: only the user's log-on session can read the
//! game's shared memory.

#[cfg(windows)]
#[path = "autostart/windows.rs"]
mod system;
#[cfg(unix)]
#[path = "autostart/linux.rs"]
mod system;

use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::cli::{Exit, print_prose};
use crate::config::{self, ConfigFile, Overrides, Problems};

/// Start the agent when you log on, or stop doing so.
///
/// On Windows this is an entry under the Run key of your part of the registry; no window opens, and
/// the log is written to pitwire.log in %LOCALAPPDATA%\pitwire. On Linux it is a systemd user unit
/// or, without systemd, an entry in the desktop's autostart folder.
///
/// The agent reads pitwire/pitwire.toml in ~/.config or %LOCALAPPDATA%, if the file exists; it must
/// be valid when you enable the start. These commands do not start or stop an agent now.
#[derive(Debug, clap::Args)]
pub struct Autostart {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Start the agent at each log-on
    Enable {
        /// Configuration file for the agent [default: as for pitwire run].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Stop starting the agent at log-on
    Disable,
    /// Show whether the agent starts at log-on, and by which command
    Status,
}

/// The command to start at log-on.
#[derive(Debug, PartialEq, Eq)]
struct Start {
    program: PathBuf,
    arguments: Vec<String>,
}

/// An existing log-on entry that starts the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    /// The command of the entry, followed by the path of its file if it has one.
    pub(super) entry: String,
    /// `None` if the entry has no command or cannot be read.
    pub(super) program: Option<PathBuf>,
}

impl Registered {
    /// Whether the program exists.
    pub(super) fn is_there(&self) -> bool {
        self.program.as_ref().is_some_and(|program| program.is_file())
    }
}

/// Finds the log-on entry that starts the agent, if there is one.
pub(super) fn registered() -> io::Result<Option<Registered>> {
    system::registered()
}

/// Runs `pitwire autostart`.
pub fn autostart(args: &Autostart) -> Exit {
    let done = match &args.action {
        Action::Enable { config } => match enable(config.as_deref()) {
            Ok(()) => return Exit::Good,
            Err(error @ EnableError::Configuration(_)) => return Exit::WrongUse.because(error),
            Err(EnableError::System(error)) => Err(error),
        },
        Action::Disable => {
            system::disable().map(|()| print_prose("The agent does not start at log-on."))
        }
        Action::Status => system::registered().map(|registered| match registered {
            Some(Registered { entry, .. }) => {
                print_prose(format_args!("The agent starts at log-on: {entry}"))
            }
            None => print_prose("The agent does not start at log-on."),
        }),
    };
    match done {
        Ok(()) => Exit::Good,
        Err(error) => Exit::Failed.because(format_args!("pitwire: {error}")),
    }
}

fn enable(config: Option<&Path>) -> Result<(), EnableError> {
    let mut arguments = vec!["run".to_owned()];
    // The agent starts with another working directory.
    let config = config.map(std::path::absolute).transpose()?;
    let file = ConfigFile::find(config.clone());
    // At log-on, an error message would have no reader. The environment is a different one then.
    config::load(file.path(), std::iter::empty(), &Overrides::default())?.check_files()?;
    if let Some(config) = config {
        arguments.extend(["--config".to_owned(), text(&config)?]);
    }
    system::enable(Start { program: std::env::current_exe()?, arguments })?;
    print_prose(format_args!("The agent will start at each log-on, with {file}"));
    Ok(())
}

/// Why the agent cannot be started at log-on.
#[derive(Debug, thiserror::Error)]
enum EnableError {
    #[error("{0}\nthe agent would not start; nothing was changed")]
    Configuration(#[from] Problems),
    #[error(transparent)]
    System(#[from] io::Error),
}

fn text(path: &Path) -> io::Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let text = format!("{}: this path is not valid UTF-8; choose another", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

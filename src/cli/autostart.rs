//! `pitwire autostart`: the agent starts when the user logs on, without administrator rights.
//!
//! It is a program of the user and no service of the system, since the game's shared memory belongs
//! to the session in which the user logged on.

#[cfg(windows)]
#[path = "autostart/windows.rs"]
mod system;
#[cfg(unix)]
#[path = "autostart/linux.rs"]
mod system;

use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::cli::{Exit, complain, print};

/// Start the agent whenever you log on, or stop doing so.
///
/// On Windows this is an entry under Run of the registry, for you alone; no window opens, and the log
/// is written to pitwire.log in %LOCALAPPDATA%\pitwire. On Linux it is a user unit of systemd, or,
/// where there is no systemd, an entry in the desktop's autostart folder.
///
/// The agent reads pitwire/pitwire.toml in ~/.config or %LOCALAPPDATA%, if it is there. What runs now
/// is neither started nor stopped.
#[derive(Debug, clap::Args)]
pub struct Autostart {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Start the agent at each log-on from now on
    Enable {
        /// Configuration file for the agent [default: as for pitwire run].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Do not start it any more
    Disable,
    /// Say whether it is started at log-on, and by what
    Status,
}

/// What is started at log-on.
#[derive(Debug, PartialEq, Eq)]
struct Start {
    program: PathBuf,
    arguments: Vec<String>,
}

/// What starts the agent at log-on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    /// The command as it stands there, and where that is.
    pub(super) what: String,
    /// `None` where what is there leads nowhere.
    pub(super) program: Option<PathBuf>,
}

impl Registered {
    /// Whether what is to be started can be.
    pub(super) fn is_there(&self) -> bool {
        self.program.as_ref().is_some_and(|program| program.is_file())
    }
}

/// Looks what starts the agent at log-on, if anything does.
pub(super) fn registered() -> io::Result<Option<Registered>> {
    system::registered()
}

/// Does what was asked for.
pub fn autostart(args: &Autostart) -> Exit {
    let done = match &args.action {
        Action::Enable { config } => enable(config.as_deref()),
        Action::Disable => system::disable().map(|()| print("The agent does not start at log-on.")),
        Action::Status => system::registered().map(|registered| match registered {
            Some(Registered { what, .. }) => {
                print(format_args!("The agent starts at log-on: {what}"))
            }
            None => print("The agent does not start at log-on."),
        }),
    };
    match done {
        Ok(()) => Exit::Good,
        Err(error) => {
            complain(format_args!("pitwire: {error}"));
            Exit::Failed
        }
    }
}

fn enable(config: Option<&Path>) -> io::Result<()> {
    let mut arguments = vec!["run".to_owned()];
    if let Some(config) = config {
        // The agent starts in another folder.
        let whole = std::path::absolute(config)?;
        if !whole.is_file() {
            let text = format!("--config {}: there is no such file", whole.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        arguments.extend(["--config".to_owned(), text(&whole)?]);
    }
    system::enable(Start { program: std::env::current_exe()?, arguments })?;
    print("The agent starts at each log-on from now on.");
    Ok(())
}

fn text(path: &Path) -> io::Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let text = format!("{}: this path is not text in UTF-8; choose another", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

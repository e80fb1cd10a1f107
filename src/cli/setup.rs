//! `pitwire setup`: asks what `pitwire run` needs to know and writes the configuration file.
//!
//! Each question has an option, so that the command also works without a terminal. A file that
//! exists keeps its comments and its other settings; the changes are shown first.

mod file;

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use console::Term;

use crate::cli::autostart::{self, Action, Autostart};
use crate::cli::terminal::{self, OutputStream};
use crate::cli::{Exit, PROSE_INDENT, doctor, eprint_line, print_prose};
use crate::config::{self, Config, ConfigFile, Overrides, Secret};

/// Maximum number of answers to one question; a program that types nonsense must come to an end.
const MAX_ANSWERS: usize = 10;

/// Maximum size of a token on standard input: more than a token or a JWT needs.
const MAX_TOKEN_BYTES: u64 = 64 << 10;

/// The file with the token, in the folder of the configuration file.
const TOKEN_FILE: &str = "server-token";

/// Set up pitwire: ask a few questions and write the configuration file.
///
/// Asks for the server and tries it, for its token, for the update rate, and whether to start at
/// log-on. A file that exists keeps its comments and its other settings: the changes are shown and
/// must be confirmed. The token is not shown and is stored in a file that only you can read.
///
/// Options replace the questions. Without a terminal, --server is required, and --yes to change a
/// file that exists.
#[derive(Debug, clap::Args)]
pub struct SetupCommand {
    /// Configuration file to write [default: pitwire/pitwire.toml in ~/.config or %LOCALAPPDATA%].
    #[arg(long, value_name = "FILE", env = "PITWIRE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address of the server: a dashboard, or NATS by nats:// or tls:// [default: ask].
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// File with the server's token; - reads the token from standard input [default: ask].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Rate limit for each source, in samples per second; 0 keeps all samples [default: ask].
    #[arg(long, value_name = "HZ")]
    pub rate: Option<String>,
    /// Whether the agent starts when you log on, yes or no [default: ask].
    #[arg(long, value_name = "YES|NO", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub autostart: Option<bool>,
    /// Ask nothing: keep what no option sets, and change a file that exists.
    #[arg(long)]
    pub yes: bool,
    /// Wait for Enter at the end, for a window that closes with the command.
    #[arg(long)]
    pub wait: bool,
}

/// Why the command wrote no configuration.
enum SetupError {
    WrongUse(String),
    Failed(String),
}

impl From<io::Error> for SetupError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Sets up the configuration, and the start at log-on.
pub async fn setup(args: SetupCommand) -> Exit {
    let waits = args.wait && io::stdin().is_terminal();
    let exit = match Dialogue::begin(args) {
        Ok(dialogue) => dialogue.run().await,
        Err(error) => Err(error),
    }
    .unwrap_or_else(|error| match error {
        SetupError::WrongUse(text) => Exit::WrongUse.because(text),
        SetupError::Failed(text) => Exit::Failed.because(format_args!("pitwire: {text}")),
    });
    if waits {
        eprint_line("Press Enter to close this window.");
        let _ = io::stdin().read_line(&mut String::new());
    }
    exit
}

struct Dialogue {
    args: SetupCommand,
    /// The configuration file, which may not exist yet.
    path: PathBuf,
    /// The text of the file; `None` if it does not exist.
    text: Option<String>,
    config: Config,
    /// Whether a person answers.
    asks: bool,
}

/// The token of the server.
enum TokenAnswer {
    /// As before, or none.
    Unchanged,
    InFile(PathBuf),
    Typed(String),
}

impl Dialogue {
    fn begin(args: SetupCommand) -> Result<Self, SetupError> {
        let path = match ConfigFile::find(args.config.clone()) {
            ConfigFile::Read(path) | ConfigFile::Missing(path) => std::path::absolute(path)?,
            ConfigFile::NoDefault(error) => {
                return Err(SetupError::WrongUse(format!("{error}; name a file with --config")));
            }
        };
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            let text =
                format!("--config: {}: setup writes TOML; name a .toml file", path.display());
            return Err(SetupError::WrongUse(text));
        }
        let text = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(SetupError::Failed(format!("cannot read {}: {error}", path.display())));
            }
        };
        let existing = text.as_ref().map(|_| path.as_path());
        let loaded = config::load(existing, std::iter::empty(), &Overrides::default());
        let config = loaded.map_err(|problems| SetupError::WrongUse(problems.to_string()))?.config;
        let asks = !args.yes && io::stdin().is_terminal() && io::stderr().is_terminal();
        Ok(Self { args, path, text, config, asks })
    }

    async fn run(self) -> Result<Exit, SetupError> {
        eprint_line(format_args!("configuration file: {}", self.path.display()));
        let mut overrides = Overrides::default();
        if self.args.server.is_none() && !self.asks && !self.args.yes {
            return Err(SetupError::WrongUse(
                "--server is missing: without a terminal, name the address of the server, such as \
                 --server http://localhost:5000"
                    .into(),
            ));
        }
        let token = self.server_and_token(&mut overrides).await?;
        let now = self.config.update_rate_hz;
        let rate = self.answer(
            ("update_rate_hz", "--rate", self.args.rate.as_deref()),
            "Samples per second of each source, 0 for all",
            &now.to_string(),
        )?;
        overrides.set("update_rate_hz", &rate, "--rate");
        let token_file = match &token {
            TokenAnswer::Unchanged => None,
            TokenAnswer::InFile(file) => Some(file.clone()),
            TokenAnswer::Typed(_) => Some(self.path.with_file_name(TOKEN_FILE)),
        };
        if let Some(file) = &token_file {
            overrides.set("server.token", "", "--token-file");
            overrides.set("server.token_file", &file.to_string_lossy(), "--token-file");
        }
        let new = self.load(&overrides)?;
        let changes = self.config.changes(&new);
        if let Some(text) = self.text.as_deref().filter(|_| !changes.is_empty()) {
            changes.iter().for_each(print_prose);
            self.confirm_change(text)?;
        }
        if let (TokenAnswer::Typed(token), Some(file)) = (&token, &token_file) {
            write(file, token)?;
        }
        if self.text.is_none() || !changes.is_empty() {
            let text = file::edited(self.text.as_deref(), &self.config, &new)
                .map_err(|error| SetupError::Failed(format!("{}: {error}", self.path.display())))?;
            write(&self.path, &text)?;
            print_prose(format_args!("wrote {}", self.path.display()));
        } else {
            print_prose("The configuration is unchanged.");
        }
        let exit = self.autostart()?;
        print_prose("Start the agent with pitwire run.");
        Ok(exit)
    }

    /// Asks for the server and its token until the server works or the user accepts it unchecked.
    async fn server_and_token(&self, overrides: &mut Overrides) -> Result<TokenAnswer, SetupError> {
        for _ in 0..MAX_ANSWERS {
            let url = self.answer(
                ("server.url", "--server", self.args.server.as_deref()),
                "Address of the dashboard server",
                self.config.server.url.as_str(),
            )?;
            let token = self.token()?;
            let mut trial = Overrides::default();
            trial.set("server.url", &url, "--server");
            match &token {
                TokenAnswer::Unchanged => {}
                TokenAnswer::InFile(file) => {
                    trial.set("server.token", "", "--token-file");
                    trial.set("server.token_file", &file.to_string_lossy(), "--token-file");
                }
                TokenAnswer::Typed(token) => {
                    trial.set("server.token_file", "", "--token-file");
                    trial.set("server.token", token, "the token");
                }
            }
            eprint_line(format_args!("trying {url} …"));
            let works = doctor::try_server(&self.load(&trial)?).await;
            let is_accepted = works
                || !self.asks
                || self.args.server.is_some()
                || self.is_yes("Use this server anyway?", false)?;
            if is_accepted {
                if !works {
                    eprint_line("pitwire saves the frames on this PC until the server works.");
                }
                overrides.set("server.url", &url, "--server");
                return Ok(token);
            }
        }
        Err(SetupError::Failed("no server was chosen; nothing was changed".into()))
    }

    fn token(&self) -> Result<TokenAnswer, SetupError> {
        let typed = match &self.args.token_file {
            Some(file) if file.as_os_str() == "-" => token_from_stdin()?,
            Some(file) => return Ok(TokenAnswer::InFile(std::path::absolute(file)?)),
            None if self.asks => {
                let has_token = self.config.server.token.reveal().is_some()
                    || self.config.server.token_file.is_some();
                let default = if has_token { "unchanged" } else { "none" };
                eprint(&format!("Token of the server, not shown [{default}]: "));
                Term::stderr().read_secure_line()?
            }
            None => return Ok(TokenAnswer::Unchanged),
        };
        Ok(match Secret::from(&*typed).reveal() {
            Some(token) => TokenAnswer::Typed(token.to_owned()),
            None => TokenAnswer::Unchanged,
        })
    }

    /// The value of a setting: that of its option, or the first answer that the configuration
    /// accepts.
    fn answer(
        &self,
        (key, option, given): (&str, &str, Option<&str>),
        question: &str,
        default: &str,
    ) -> Result<String, SetupError> {
        let check = |value: &str| {
            let mut overrides = Overrides::default();
            overrides.set(key, value, option);
            self.load(&overrides)
        };
        if let Some(given) = given {
            return check(given).map(|_| given.to_owned());
        }
        if !self.asks {
            return Ok(default.to_owned());
        }
        for _ in 0..MAX_ANSWERS {
            let answer = ask(&format!("{question} [{default}]: "))?;
            let answer = if answer.is_empty() { default } else { &answer };
            match check(answer) {
                Ok(_) => return Ok(answer.to_owned()),
                Err(SetupError::WrongUse(problem) | SetupError::Failed(problem)) => {
                    eprint_line(problem);
                }
            }
        }
        Err(SetupError::Failed(format!("no usable answer to {option}; nothing was changed")))
    }

    /// The configuration of the file with these settings.
    fn load(&self, overrides: &Overrides) -> Result<Config, SetupError> {
        let existing = self.text.as_ref().map(|_| self.path.as_path());
        let loaded = config::load(existing, std::iter::empty(), overrides);
        Ok(loaded.map_err(|problems| SetupError::WrongUse(problems.to_string()))?.config)
    }

    fn confirm_change(&self, before: &str) -> Result<(), SetupError> {
        let path = self.path.display();
        if self.asks && !self.is_yes(&format!("Change {path} like this?"), true)? {
            return Err(SetupError::Failed("nothing was changed".into()));
        }
        if !self.asks && !self.args.yes {
            return Err(SetupError::WrongUse(format!(
                "--yes is missing: {path} exists; the changes above were not made"
            )));
        }
        // An editor may have saved the file meanwhile.
        if fs::read_to_string(&self.path)? != before {
            return Err(SetupError::Failed(format!("{path} has changed; run pitwire setup again")));
        }
        Ok(())
    }

    fn is_yes(&self, question: &str, default: bool) -> Result<bool, SetupError> {
        let answer = ask(&format!("{question} [{}]: ", if default { "Y/n" } else { "y/N" }))?;
        Ok(match answer.chars().next() {
            Some(first) => first.eq_ignore_ascii_case(&'y'),
            None => default,
        })
    }

    /// Enables or disables the start at log-on, unless neither an option nor an answer says so.
    fn autostart(&self) -> Result<Exit, SetupError> {
        let is_enabled = autostart::registered().is_ok_and(|entry| entry.is_some());
        let wanted = match self.args.autostart {
            Some(wanted) => wanted,
            None if self.asks => self.is_yes("Start pitwire when you log on?", is_enabled)?,
            None => return Ok(Exit::Good),
        };
        let action = match (wanted, is_enabled) {
            (true, _) => Action::Enable { config: self.args.config.clone() },
            (false, true) => Action::Disable,
            (false, false) => return Ok(Exit::Good),
        };
        Ok(autostart::autostart(&Autostart { action }))
    }
}

/// Reads the token from standard input.
fn token_from_stdin() -> Result<String, SetupError> {
    let mut token = String::new();
    io::stdin().take(MAX_TOKEN_BYTES + 1).read_to_string(&mut token)?;
    if token.trim().is_empty() {
        let text = "--token-file: standard input is empty; write the token to it, or leave out the \
                    option to keep the token of the file";
        return Err(SetupError::WrongUse(text.into()));
    }
    if token.len() as u64 > MAX_TOKEN_BYTES {
        let text = format!(
            "--token-file: standard input has more than {MAX_TOKEN_BYTES} bytes; write only the \
             token to it"
        );
        return Err(SetupError::WrongUse(text));
    }
    Ok(token)
}

fn write(path: &Path, text: &str) -> Result<(), SetupError> {
    file::write_private(path, text)
        .map_err(|error| SetupError::Failed(format!("cannot write {}: {error}", path.display())))
}

/// Prints a question, after which the user types the answer on the same line.
fn eprint(text: &str) {
    // If the terminal is gone, reading from it fails too.
    let text = terminal::folded(OutputStream::Err, text, PROSE_INDENT);
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Reads an answer. The end of the input is an error.
fn ask(question: &str) -> Result<String, SetupError> {
    eprint(question);
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer)? == 0 {
        return Err(SetupError::Failed("the input has ended; nothing was changed".into()));
    }
    Ok(answer.trim().to_owned())
}

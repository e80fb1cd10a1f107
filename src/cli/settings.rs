//! The options that several subcommands share, and the configuration made from them.

use std::path::PathBuf;

use crate::cli::set_all;
use crate::config::{self, ConfigFile, Loaded, Overrides, Problems};

/// Command-line options that override the configuration.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// Configuration file: TOML, or the config.json of the original client [default: pitwire/pitwire.toml in ~/.config or %LOCALAPPDATA%, if it exists].
    #[arg(long, value_name = "FILE", env = "PITWIRE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address of the server: a dashboard, or NATS by nats:// or tls:// [default: http://localhost:5000].
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Folder of the queue [default: pitwire/queue in ~/.local/share or %LOCALAPPDATA%].
    #[arg(long, value_name = "DIR")]
    pub queue: Option<String>,
    /// Rate limit for each source, in samples per second; 0 keeps all samples [default: 2.0].
    #[arg(long, value_name = "HZ")]
    pub update_rate_hz: Option<String>,
    /// Format of the log, text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Any other setting, such as queue.durability=200ms; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Settings {
    /// These options, as overrides of the file and the environment.
    pub fn overrides(&self) -> Result<Overrides, String> {
        let mut overrides = Overrides::default();
        for (option, key, value) in [
            ("--server", "server.url", &self.server),
            ("--queue", "queue.path", &self.queue),
            ("--update-rate-hz", "update_rate_hz", &self.update_rate_hz),
            ("--log-format", "log.format", &self.log_format),
        ] {
            if let Some(value) = value {
                overrides.set(key, value, option);
            }
        }
        set_all(&mut overrides, &self.set)?;
        Ok(overrides)
    }

    /// Loads the configuration with these options. The error text lists all problems.
    pub fn load(&self) -> Result<Loaded, String> {
        self.try_load()?.map_err(|problems| problems.to_string())
    }

    /// Loads the configuration with these options, or returns its problems as a list. Fails only if
    /// the options are malformed.
    pub(crate) fn try_load(&self) -> Result<Result<Loaded, Problems>, String> {
        let overrides = self.overrides()?;
        Ok(config::load(self.file().path(), config::process_environment(), &overrides))
    }

    /// The configuration file that these options select.
    pub(crate) fn file(&self) -> ConfigFile {
        ConfigFile::find(self.config.clone())
    }
}

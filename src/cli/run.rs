//! `pitwire run`: the agent.

use std::path::PathBuf;

use crate::agent::{self, Until};
use crate::cli::{Exit, complain, log, print, priority, set_all};
use crate::config::{self, Config, Overrides};
use crate::metrics;

/// Run the agent: take samples, store them, bring them to the dashboard server.
///
/// Le Mans Ultimate and rFactor 2 are read when they run on this PC. Other samples come in as lines
/// on standard input and by HTTP POST to http://127.0.0.1:9185/v1/telemetry. The link to the
/// dashboard is printed on standard output, the log on standard error. How it stands is told at
/// http://127.0.0.1:9184, under /metrics, /healthz and /readyz.
///
/// Every setting has a default. Settings are read from the configuration file, from the environment
/// (PITWIRE_SERVER__URL for server.url) and from the options here; the later ones win.
///
/// Stop it with Ctrl-C: what is not sent yet stays queued and is sent the next time.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Configuration file: TOML, or the config.json of the original client [default: pitwire/pitwire.toml in ~/.config or %LOCALAPPDATA%, if it is there].
    #[arg(long, value_name = "FILE", env = "PITWIRE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address of the dashboard server [default: http://localhost:5000].
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Folder of the queue [default: pitwire/queue in ~/.local/share or %LOCALAPPDATA%].
    #[arg(long, value_name = "DIR")]
    pub queue: Option<String>,
    /// Samples a second to keep of a faster source; 0 keeps all [default: 2.0].
    #[arg(long, value_name = "HZ")]
    pub update_rate_hz: Option<String>,
    /// Any other setting, such as queue.durability=200ms; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// End when standard input and the file are read and everything queued is delivered.
    #[arg(long)]
    pub until_drained: bool,
}

impl Run {
    /// The settings given here, as overrides of the file and the environment.
    pub fn overrides(&self) -> Result<Overrides, String> {
        let mut overrides = Overrides::default();
        for (option, key, value) in [
            ("--server", "server.url", &self.server),
            ("--queue", "queue.path", &self.queue),
            ("--update-rate-hz", "update_rate_hz", &self.update_rate_hz),
        ] {
            if let Some(value) = value {
                overrides.set(key, value, option);
            }
        }
        set_all(&mut overrides, &self.set)?;
        Ok(overrides)
    }
}

/// Runs the agent until `shutdown` resolves.
pub async fn run(args: Run, shutdown: impl Future<Output = ()>) -> Exit {
    let config = match configure(&args) {
        Ok(config) => config,
        Err(text) => {
            complain(text);
            return Exit::WrongUse;
        }
    };
    let until = if args.until_drained { Until::Drained } else { Until::Shutdown };
    start(config, until, shutdown).await
}

fn configure(args: &Run) -> Result<Config, String> {
    let overrides = args.overrides()?;
    let file = config::file(args.config.clone());
    let loaded = config::load(file.as_deref(), config::process_environment(), &overrides)
        .map_err(|problems| problems.to_string())?;
    log::start(&loaded.config.log);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config)
}

/// Runs the agent with a configuration, printing each new dashboard link on stdout.
pub(super) async fn start(
    config: Config,
    until: Until,
    shutdown: impl Future<Output = ()>,
) -> Exit {
    priority::lower();
    let recorder = match metrics::install() {
        Ok(handle) => Some(handle),
        Err(error) => {
            tracing::error!(%error, "there will be no metrics");
            None
        }
    };
    let announce = |page: &str| print(format_args!("dashboard: {page}"));
    match agent::run(config, until, recorder, shutdown, announce).await {
        Ok(()) => Exit::Good,
        Err(error) => {
            complain(format_args!("pitwire: {error}"));
            Exit::Failed
        }
    }
}

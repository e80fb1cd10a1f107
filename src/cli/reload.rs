//! `pitwire reload`: makes a running agent reload its configuration.

use crate::cli::queue::access::on_this_pc;
use crate::cli::settings::Settings;
use crate::cli::{Exit, print_prose};
use crate::config::ConfigChange;
use crate::tools::AdminClient;

/// Make the running agent reload its configuration.
///
/// The agent reads the file, environment and options that it read at its start. If there is a
/// mistake in them, it is printed and nothing changes. Otherwise the changes are printed, including
/// changes that need a restart of the agent to take effect. On Linux, SIGHUP does the same.
///
/// The command finds the agent by metrics.listen in the same configuration, on this PC only. If that
/// configuration has a mistake, the mistake is printed and no agent is asked.
#[derive(Debug, clap::Args)]
pub struct ReloadCommand {
    /// Admin address of the agent, as the agent logs it [default: metrics.listen].
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    #[command(flatten)]
    pub settings: Settings,
}

/// Asks the agent to reload and prints the changes.
pub async fn reload(args: ReloadCommand) -> Exit {
    let changes = match ask(&args).await {
        Ok(changes) => changes,
        Err(text) => return Exit::Failed.because(text),
    };
    if changes.is_empty() {
        print_prose("The configuration is unchanged.");
    }
    changes.iter().for_each(print_prose);
    Exit::Good
}

async fn ask(args: &ReloadCommand) -> Result<Vec<ConfigChange>, String> {
    let address = match &args.admin {
        Some(admin) => admin.clone(),
        None => {
            let loaded = args.settings.load().map_err(|problems| {
                format!(
                    "{problems}\nthe agent keeps its configuration; correct the mistakes above, or \
                     name the agent's address with --admin"
                )
            })?;
            on_this_pc(loaded.config.metrics.listen).to_string()
        }
    };
    let client = AdminClient::new(&address).map_err(|error| error.to_string())?;
    client.post("/reload", "").await.map_err(|error| error.to_string())
}

//! `pitwire reload`: another configuration for the agent that runs.

use crate::cli::queue::access::on_this_pc;
use crate::cli::settings::Settings;
use crate::cli::{Exit, complain, print};
use crate::config::Config;
use crate::reload::Change;
use crate::tools::Client;

/// Have the agent that runs read its configuration anew.
///
/// It reads what it read at its start: the same file, environment and options. A mistake in it changes
/// nothing and is told. What changed is printed; what takes effect only when the agent is started
/// again stays as it was, and is named. On Linux SIGHUP does the same.
///
/// The agent is asked at metrics.listen, on this PC only.
#[derive(Debug, clap::Args)]
pub struct Reload {
    /// Address of the agent, as it logs it [default: metrics.listen].
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    #[command(flatten)]
    pub settings: Settings,
}

/// Asks it, and prints what changed.
pub async fn reload(args: Reload) -> Exit {
    let changes = match ask(&args).await {
        Ok(changes) => changes,
        Err(text) => {
            complain(text);
            return Exit::Failed;
        }
    };
    if changes.is_empty() {
        print("The configuration is as it was.");
    }
    changes.iter().for_each(print);
    Exit::Good
}

async fn ask(args: &Reload) -> Result<Vec<Change>, String> {
    let address = match &args.admin {
        Some(admin) => admin.clone(),
        // The agent says what is wrong with its configuration; here only the address is of interest.
        None => {
            let config = args.settings.load().map_or_else(|_| Config::default(), |l| l.config);
            on_this_pc(config.metrics.listen).to_string()
        }
    };
    let client = Client::new(&address).map_err(|error| error.to_string())?;
    client.post("/reload", "").await.map_err(|error| error.to_string())
}

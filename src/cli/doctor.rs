//! `pitwire doctor`: what is wrong, and what to do; one file a subject.
//!
//! Nothing is changed: neither the queue nor what a page shows that anybody looks at. What is tried on
//! the server goes into a session that was asked for just now, or two.

mod autostart;
mod bundle;
mod configuration;
mod disk;
mod finding;
mod game;
mod listening;
mod queue;
mod server;

use std::path::PathBuf;

use futures_util::future::join_all;

use self::bundle::Bundle;
use self::finding::{Finding, Report, Severity, to_json, to_text};
use crate::cli::settings::Settings;
use crate::cli::{Exit, complain, print};
use crate::config::Config;
use crate::remote_text::Secrets;

/// Find out what is wrong, and say what to do about it.
///
/// It looks at the configuration, the queue, the dashboard server, the game, the addresses to listen
/// on and the start at log-on, whether an agent runs or not. The server is asked for a new session or
/// two, with one frame in each; nobody has the link to them.
///
/// A finding a line: ok, note, warning or fault; below it what to do. It ends with 0 if nothing is
/// worse than a note, with 1 if there is a warning or a fault, and with 2 if it could not do its work.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    #[command(flatten)]
    pub settings: Settings,
    /// Print the findings as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Write a zip for whoever helps: findings, configuration, log and metrics, no secrets [default: none].
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

/// Looks at everything, and says what it found.
pub async fn doctor(args: Doctor) -> Exit {
    match examine(&args).await {
        Ok(exit) => exit,
        Err(why) => {
            complain(format_args!("pitwire: {why}"));
            Exit::Cannot
        }
    }
}

async fn examine(args: &Doctor) -> Result<Exit, String> {
    // Told before minutes are spent.
    let bundle = args.bundle.as_deref().map(Bundle::at).transpose()?;
    let loaded = args.settings.try_load()?;
    let config = loaded.as_ref().map(|loaded| &loaded.config);
    let secrets = config.map(Secrets::with_files_of).unwrap_or_default();
    let mut reports = vec![configuration::look(&loaded)];
    match &loaded {
        Ok(loaded) => reports.extend(look(&loaded.config).await),
        Err(_) => reports.extend(not_looked()),
    }
    let findings: Vec<_> = reports.into_iter().flat_map(|report| report.findings).collect();
    let findings: Vec<_> = findings.into_iter().map(|finding| finding.without(&secrets)).collect();
    match args.json {
        true => print(to_json(&findings)),
        false => print(to_text(&findings)),
    }
    if let Some(bundle) = bundle {
        let path = bundle.write(&args.settings, &loaded, &findings, &secrets).await?;
        complain(format_args!("written to {path}; look into it before you give it to others"));
    }
    let worst = findings.iter().map(|finding| finding.severity).max();
    Ok(if worst >= Some(Severity::Warning) { Exit::Found } else { Exit::Good })
}

/// All at the same time, as some wait for a network.
async fn look(config: &Config) -> Vec<Report> {
    let others = config.destinations.keys().map(|name| server::look_at_other(config, name));
    let (queue, server, others, game, listening, autostart) = tokio::join!(
        queue::look(config),
        server::look(config),
        join_all(others),
        game::look(&config.source.lmu),
        listening::look(config),
        autostart::look(),
    );
    [queue, server].into_iter().chain(others).chain([game, listening, autostart]).collect()
}

/// What is looked at as the configuration says cannot be without one.
fn not_looked() -> [Report; 5] {
    [queue::SUBJECT, server::SUBJECT, game::SUBJECT, listening::SUBJECT, autostart::SUBJECT].map(
        |subject| {
            let mut report = Report::new(subject);
            report.not_looked_at("the configuration does not say what to look at");
            report
        },
    )
}

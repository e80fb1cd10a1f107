//! `pitwire doctor`: finds problems and suggests what to do; one file per subject.
//!
//! The doctor changes neither the queue nor a page that someone watches: it tests the server with
//! one or two new sessions.

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
use std::time::Duration;

use futures_util::future::join_all;

use self::bundle::Bundle;
use self::finding::{DoctorFinding, DoctorReport, FindingSeverity, to_json, to_text};
use crate::cli::settings::Settings;
use crate::cli::terminal::HANGING_INDENT;
use crate::cli::{Exit, eprint_line, print, print_folded};
use crate::config::{Config, SERVER};
use crate::remote_text::Secrets;

/// How long the doctor waits for a disk, and for the verification of the whole queue.
pub(crate) const DOCTOR_DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum response that the doctor reads; `/metrics` and `/status` fit many times.
pub(crate) const MAX_DOCTOR_ANSWER_BYTES: usize = 1 << 20;

/// How long the doctor waits for an answer from a program on the agent's port.
pub(crate) const DOCTOR_LOCAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Find problems, and show what to do about them.
///
/// The doctor checks the configuration, the queue, the dashboard server, the game, the addresses to
/// listen on and the start at log-on, whether or not an agent is running. It requests one or two
/// new sessions from the server and sends one frame to each; no viewer has the links to them.
///
/// Each finding is a line with ok, note, warning or fault, followed by what to do. The command
/// exits with 0 if nothing is worse than a note, with 1 if there is a warning or a fault, and with
/// 2 if it could not do its work.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    #[command(flatten)]
    pub settings: Settings,
    /// Print the findings as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Write a zip for a support request: findings, configuration, log and metrics, no secrets [default: none].
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

/// Runs all checks and prints the findings.
pub async fn doctor(args: Doctor) -> Exit {
    match run_checks(&args).await {
        Ok(exit) => exit,
        Err(why) => {
            eprint_line(format_args!("pitwire: {why}"));
            Exit::Unable
        }
    }
}

async fn run_checks(args: &Doctor) -> Result<Exit, String> {
    // Fail early: the checks can take minutes.
    let bundle = args.bundle.as_deref().map(Bundle::at).transpose()?;
    let loaded = args.settings.try_load()?;
    let config = loaded.as_ref().map(|loaded| &loaded.config);
    let secrets = config.map(Secrets::with_files_of).unwrap_or_default();
    let mut reports = vec![configuration::look(&args.settings, &loaded).await];
    match &loaded {
        Ok(loaded) => reports.extend(look(&loaded.config).await),
        Err(_) => reports.extend(not_checked()),
    }
    let findings: Vec<_> = reports.into_iter().flat_map(|report| report.findings).collect();
    let findings: Vec<_> = findings.into_iter().map(|finding| finding.without(&secrets)).collect();
    if args.json {
        print(to_json(&findings));
    } else {
        print_findings(&findings);
    }
    if let Some(bundle) = bundle {
        let path = bundle.write(&args.settings, &loaded, &findings, &secrets).await?;
        eprint_line(format_args!("wrote {path}; review it before you share it"));
    }
    let worst = findings.iter().map(|finding| finding.severity).max();
    Ok(if worst >= Some(FindingSeverity::Warning) { Exit::Found } else { Exit::Good })
}

/// Prints the findings for people.
fn print_findings(findings: &[DoctorFinding]) {
    print_folded(to_text(findings), HANGING_INDENT);
}

/// Tries the server of a configuration and prints the findings. Returns whether the server has no fault.
pub(super) async fn try_server(config: &Config) -> bool {
    let findings = server::look(config, SERVER).await.findings;
    let secrets = Secrets::with_files_of(config);
    let findings: Vec<_> = findings.into_iter().map(|finding| finding.without(&secrets)).collect();
    print_findings(&findings);
    findings.iter().all(|finding| finding.severity < FindingSeverity::Fault)
}

/// Runs all checks concurrently, since some wait for the network.
async fn look(config: &Config) -> Vec<DoctorReport> {
    let names = config.destination_names();
    let (queue, servers, game, listening, autostart) = tokio::join!(
        queue::look(config),
        join_all(names.iter().map(|name| server::look(config, name))),
        game::look(&config.source.lmu),
        listening::look(config),
        autostart::look(),
    );
    [queue].into_iter().chain(servers).chain([game, listening, autostart]).collect()
}

/// Reports for the subjects that cannot be checked without a valid configuration.
fn not_checked() -> [DoctorReport; 5] {
    [queue::SUBJECT, server::SUBJECT, game::SUBJECT, listening::SUBJECT, autostart::SUBJECT].map(
        |subject| {
            let mut report = DoctorReport::new(subject);
            report.not_checked("the configuration is invalid");
            report
        },
    )
}

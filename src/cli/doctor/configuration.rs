//! Checks the configuration: its mistakes, the files that it names, and settings that are probably
//! unintended.

use super::{DoctorReport, disk};
use crate::cli::settings::Settings;
use crate::config::{Loaded, Problems};

/// The advice for a mistake; the message of the mistake names the correct values.
const CORRECT: &str = "correct it; pitwire check tests it again";

pub(super) async fn look(settings: &Settings, loaded: &Result<Loaded, Problems>) -> DoctorReport {
    let mut report = DoctorReport::new("configuration");
    let loaded = match loaded {
        Ok(loaded) => loaded.clone(),
        Err(problems) => {
            say(&mut report, problems);
            return report;
        }
    };
    match disk::in_time(|| with_files_checked(loaded)).await {
        Some((loaded, checked)) => {
            for warning in &loaded.warnings {
                report.warning(warning.to_string(), "change this setting if that is unintended");
            }
            match checked {
                Ok(()) if loaded.warnings.is_empty() => {
                    report.ok(format!("no mistakes found; {}", settings.file()));
                }
                Ok(()) => {}
                Err(problems) => say(&mut report, &problems),
            }
        }
        None => report.fault(
            "the files that it names cannot be read: their disk does not answer",
            "check that disk, or name files on another one",
        ),
    }
    report
}

fn with_files_checked(mut loaded: Loaded) -> (Loaded, Result<(), Problems>) {
    let checked = loaded.check_files();
    (loaded, checked)
}

fn say(report: &mut DoctorReport, Problems(problems): &Problems) {
    for problem in problems {
        report.fault(problem.to_string(), CORRECT);
    }
}

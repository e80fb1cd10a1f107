//! Checks the configuration: its mistakes, and settings that are probably unintended.

use super::Report;
use crate::config::{Loaded, Problems};

pub(super) fn look(loaded: &Result<Loaded, Problems>) -> Report {
    let mut report = Report::new("configuration");
    match loaded {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                report.warning(warning.to_string(), "correct it there if it is unintended");
            }
            if loaded.warnings.is_empty() {
                report.ok("no mistakes found");
            }
        }
        Err(Problems(problems)) => {
            for problem in problems {
                report.fault(problem.to_string(), "correct it there; pitwire check tests it again");
            }
        }
    }
    report
}
